//! `kith.v1.EventService`.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use tonic::{Request, Response, Status};

use super::{Core, Leaving, caller};
use crate::domain::epoch::Position;
use crate::feed::{Feed, FeedError, Message, Watcher};
use crate::mapping::event as mapping;
use crate::mapping::page::{self, Cursor};
use crate::proto::server as pb;
use crate::proto::server::event_service_server::EventService;
use crate::telemetry::call::{Call, Stream as OpenStream};

/// Implements [`EventService`].
#[derive(Clone)]
pub struct Events {
    /// The state that all services share.
    pub core: Core,
    /// The feed.
    pub feed: Feed,
}

#[tonic::async_trait]
impl EventService for Events {
    type WatchEventsStream = Pin<Box<dyn Stream<Item = Result<pb::WatchEventsResponse, Status>> + Send>>;

    async fn watch_events(
        &self,
        request: Request<pb::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let caller = caller(&request)?;
        let (selection, cursor, heartbeat) = mapping::watch(request.get_ref(), &caller)?;
        let leaving = request.extensions().get().cloned();
        let call = request.extensions().get::<Arc<Call>>().cloned();
        let watcher = self.feed.watch(&caller, selection, cursor, heartbeat).await?;
        let call = call.map(OpenStream::new);
        Ok(Response::new(Box::pin(stream::unfold(Some(Watch { watcher, call, leaving }), next))))
    }

    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        let key = self.core.store.token_key();
        let caller = caller(&request)?;
        let (selection, cursor, page) = mapping::list(request.get_ref(), &caller, key)?;
        let listed = self
            .core
            .read(&request, page.min_revision, |store| {
                let (feed, caller, selection, cursor) =
                    (self.feed.clone(), caller.clone(), selection.clone(), cursor.clone());
                Box::pin(async move { feed.list(store, &caller, &selection, &cursor, page.size).await })
            })
            .await?;
        let next = listed
            .next
            .map(|sequence| Position { epoch: listed.epoch.clone(), sequence })
            .map(|after| page::token(request.get_ref(), Cursor::default(), &after, key));
        Ok(Response::new(pb::ListEventsResponse {
            events: listed.events.iter().map(Into::into).collect(),
            next_page_token: next.unwrap_or_default(),
            revision: listed.revision.get(),
            epoch: listed.epoch.to_string(),
        }))
    }
}

/// One call of `WatchEvents`.
struct Watch {
    watcher: Watcher,
    /// What the log says about it, which the server stores in the request's extensions.
    call: Option<OpenStream>,
    leaving: Option<Leaving>,
}

impl Watch {
    /// Returns the next message, or the error of a shutdown when the connection is to be closed.
    async fn message(&mut self) -> Result<Message, FeedError> {
        match &mut self.leaving {
            Some(Leaving(leaving)) => tokio::select! {
                biased;
                // An error: the connection is already closed.
                _ = leaving.wait_for(|leaving| *leaving) => Err(FeedError::ShuttingDown),
                message = self.watcher.next() => message,
            },
            None => self.watcher.next().await,
        }
    }
}

/// Returns the stream's next message. The stream ends after an error.
///
/// The call was already logged as successful when the stream began, so a later error is logged here. A shutdown is not
/// logged: it would add a line for each watcher.
async fn next(watch: Option<Watch>) -> Option<(Result<pb::WatchEventsResponse, Status>, Option<Watch>)> {
    let mut watch = watch?;
    Some(match watch.message().await {
        Ok(message) => (Ok(mapping::message(&message)), Some(watch)),
        Err(FeedError::ShuttingDown) => (Err(FeedError::ShuttingDown.into()), None),
        Err(error) => {
            let status = Status::from(error);
            watch.call.iter().for_each(|call| call.failed(&status));
            (Err(status), None)
        }
    })
}
