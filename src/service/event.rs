//! `kith.v1.EventService`.

use std::pin::Pin;

use futures_util::{Stream, stream};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::{Core, caller};
use crate::error;
use crate::feed::{Feed, Lost, Watcher};
use crate::mapping::event as mapping;
use crate::mapping::page::{self, Cursor};
use crate::proto::server as pb;
use crate::proto::server::event_service_server::EventService;

/// The method as the log names it.
const WATCH: &str = "/kith.v1.EventService/WatchEvents";

/// The RPCs on the feed.
#[derive(Clone)]
pub struct Events {
    /// What every service works with.
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
        let (selection, place, heartbeat) = mapping::watch(request.get_ref(), &caller(&request)?)?;
        let started = Instant::now();
        let watcher = self.feed.watch(selection, place, heartbeat).await?;
        Ok(Response::new(Box::pin(stream::unfold(Some(Watch { watcher, started }), next))))
    }

    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        let key = self.core.store.token_key();
        let (selection, place, page) = mapping::list(request.get_ref(), &caller(&request)?, key)?;
        let read = || self.feed.list(&selection, &place, page.size);
        let part = self.core.read(&request, page.min_revision, read).await?;
        let next = part
            .next
            .map(|after| page::token(request.get_ref(), Cursor { last: Some(after), ..Cursor::default() }, key));
        Ok(Response::new(pb::ListEventsResponse {
            events: part.events.iter().map(Into::into).collect(),
            next_page_token: next.unwrap_or_default(),
            revision: part.revision.get(),
            epoch: part.epoch,
        }))
    }
}

/// One call of `WatchEvents`.
struct Watch {
    watcher: Watcher,
    started: Instant,
}

/// The stream's next message; after an error, its end. The call itself succeeded long before, so its error is logged
/// here. A shutdown is none: it would be logged for every watcher.
async fn next(watch: Option<Watch>) -> Option<(Result<pb::WatchEventsResponse, Status>, Option<Watch>)> {
    let mut watch = watch?;
    Some(match watch.watcher.next().await {
        Ok(message) => (Ok(mapping::message(&message, watch.watcher.epoch())), Some(watch)),
        Err(Lost::ShuttingDown) => (Err(Lost::ShuttingDown.into()), None),
        Err(lost) => {
            let status = Status::from(lost);
            error::log(WATCH, &status, watch.started.elapsed());
            (Err(status), None)
        }
    })
}
