//! The RPCs. Each parses its request, asks the committer or the store, and replies; nothing else happens here.

pub mod block;
pub mod connection;
pub mod connection_request;
mod import;
pub mod user;

use std::sync::Arc;

use prost::Message;
use tonic::{Response, Status};
use uuid::Uuid;

use crate::clock::Clock;
use crate::committer::Committer;
use crate::domain::Time;
use crate::domain::command::{Command, Outcome, Reply, Submission};
use crate::domain::id::Sequence;
use crate::domain::policy::Policy;
use crate::error;
use crate::mapping::page::{self, Cursor, Page, Paged};
use crate::mapping::replay::{Mutation, replay_key};
use crate::store::{Slice, Store};

/// What every RPC works with.
#[derive(Clone)]
pub struct Core {
    /// Where everything is read.
    pub store: Arc<dyn Store>,
    /// The one way to write.
    pub committer: Committer,
    /// The rules' settings.
    pub policy: Arc<Policy>,
    /// The time.
    pub clock: Clock,
}

impl Core {
    /// Carries out a command and replies; the same reply again when its request id was used before.
    async fn write<M, R>(
        &self,
        message: &M,
        (command, request_id): (Command, Option<Uuid>),
    ) -> Result<Response<R>, Status>
    where
        M: Mutation,
        R: Message + Default + for<'a> From<&'a Outcome>,
    {
        let replay = request_id.map(|id| replay_key::<M, R>(id, message));
        let reply = self.committer.submit(Submission { command, replay }).await?;
        answer(reply)
    }

    /// Requests sent at this time or before have expired; with a lifetime switched off, none have.
    fn expired(&self) -> Time {
        self.policy.expired_before(self.clock.now()).unwrap_or(Time::UNIX_EPOCH)
    }
}

fn answer<R: Message + Default + for<'a> From<&'a Outcome>>(reply: Reply) -> Result<Response<R>, Status> {
    match reply {
        Reply::Fresh(outcome) => Ok(Response::new(R::from(&outcome))),
        Reply::Replayed(bytes) => R::decode(bytes.as_slice()).map(Response::new).map_err(|cause| {
            tracing::error!(error = &cause as &dyn std::error::Error, "a kept answer cannot be read");
            error::internal()
        }),
    }
}

/// One row more than the page has tells whether there is a next one.
fn slice(page: &Page) -> Slice {
    let limit = i64::try_from(page.size).unwrap_or(i64::MAX).saturating_add(1);
    Slice { before: page.cursor.before, limit }
}

/// Cuts the rows to the page, and answers the token for the next one, if there is one.
fn cut<R: Paged, T>(
    rows: &mut Vec<T>,
    page: &Page,
    request: &R,
    key: &[u8],
    position: impl Fn(&T) -> Sequence,
) -> String {
    if rows.len() <= page.size {
        return String::new();
    }
    rows.truncate(page.size);
    let before = rows.last().map(position);
    page::token(request, Cursor { section: page.cursor.section, before }, key)
}
