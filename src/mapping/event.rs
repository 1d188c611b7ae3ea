//! Events: requests to selections and positions in the feed, events to messages.

use std::time::Duration;

use super::invalid::{Fields, Invalid};
use super::page::Page;
use super::timestamp;
use crate::domain::caller::Caller;
use crate::domain::event::{Actor, Cause, Event, EventKind};
use crate::domain::id::{PairKey, UserId};
use crate::domain::selection::Selection;
use crate::feed::{Cursor, Message};
use crate::proto::server as pb;

/// Default interval between heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Minimum interval between heartbeats.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
/// Maximum interval between heartbeats.
const HEARTBEAT_MAX: Duration = Duration::from_secs(300);

/// Parses a watch: the selected events, the start position and the heartbeat interval.
pub fn watch(request: &pb::WatchEventsRequest, caller: &Caller) -> Result<(Selection, Cursor, Duration), Invalid> {
    let mut fields = Fields::default();
    let after = request.after_sequence.map(|after| fields.revision("after_sequence", after));
    let selection = fields.selection(caller, request.viewer_user_id, &request.user_ids, &request.kinds);
    let heartbeat = request.heartbeat_interval.as_ref().map_or(HEARTBEAT, |interval| fields.heartbeat(*interval));
    fields.finish((selection, Cursor { after, epoch: epoch(&request.epoch) }, heartbeat))
}

/// Parses a list of events: the selected events, the start position and the page.
pub fn list(
    request: &pb::ListEventsRequest,
    caller: &Caller,
    key: &[u8],
) -> Result<(Selection, Cursor, Page), Invalid> {
    let mut fields = Fields::default();
    let after = fields.revision("after_sequence", request.after_sequence);
    let mut selection = fields.selection(caller, request.viewer_user_id, &request.user_ids, &request.kinds);
    if request.user_id != 0 || request.other_user_id != 0 {
        let (one, other) = fields.two_users(("user_id", request.user_id), ("other_user_id", request.other_user_id));
        selection.pair = PairKey::of(one, other);
    }
    let page = fields.page(request, key);
    let after = Some(page.cursor.last.unwrap_or(after));
    fields.finish((selection, Cursor { after, epoch: epoch(&request.epoch) }, page))
}

fn epoch(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

impl Fields {
    fn selection(&mut self, caller: &Caller, viewer: i64, users: &[i64], kinds: &[i32]) -> Selection {
        let viewer = caller.viewer(self.optional_user_id("viewer_user_id", viewer));
        let users = if users.is_empty() { Vec::new() } else { self.user_ids("user_ids", users) };
        let mut chosen = std::collections::HashSet::new();
        for (index, number) in kinds.iter().enumerate() {
            let field = format!("kinds[{index}]");
            match event_kind(self.known(&field, *number)) {
                Some(kind) => _ = chosen.insert(kind),
                None if *number == 0 => self.violation(field, "must be an event kind other than UNSPECIFIED"),
                // `known` has already added a violation.
                None => {}
            }
        }
        Selection { viewer, users: users.into_iter().collect(), kinds: chosen, pair: None }
    }

    fn heartbeat(&mut self, interval: prost_types::Duration) -> Duration {
        // prost's conversion overflows, and accepts negative nanoseconds.
        let seconds = u64::try_from(interval.seconds).ok();
        let nanos = u32::try_from(interval.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
        let given = seconds.zip(nanos).map(|(seconds, nanos)| Duration::new(seconds, nanos));
        given.filter(|given| (HEARTBEAT_MIN..=HEARTBEAT_MAX).contains(given)).unwrap_or_else(|| {
            self.violation("heartbeat_interval", "must be 0.1 s to 300 s");
            HEARTBEAT
        })
    }
}

fn event_kind(kind: pb::EventKind) -> Option<EventKind> {
    EventKind::ALL.iter().copied().find(|known| pb::EventKind::from(*known) == kind)
}

impl From<EventKind> for pb::EventKind {
    fn from(kind: EventKind) -> Self {
        match kind {
            EventKind::RequestCreated => Self::RequestCreated,
            EventKind::RequestViewed => Self::RequestViewed,
            EventKind::RequestSilenced => Self::RequestSilenced,
            EventKind::RequestRejected => Self::RequestRejected,
            EventKind::RequestRestored => Self::RequestRestored,
            EventKind::RequestCancelled => Self::RequestCancelled,
            EventKind::RequestExpired => Self::RequestExpired,
            EventKind::ConnectionCreated => Self::ConnectionCreated,
            EventKind::ConnectionRemoved => Self::ConnectionRemoved,
            EventKind::UserBlocked => Self::UserBlocked,
            EventKind::UserUnblocked => Self::UserUnblocked,
            EventKind::UserCreated => Self::UserCreated,
            EventKind::UserUpdated => Self::UserUpdated,
            EventKind::UserDeleted => Self::UserDeleted,
        }
    }
}

impl From<Option<Cause>> for pb::EventCause {
    fn from(cause: Option<Cause>) -> Self {
        match cause {
            None => Self::Unspecified,
            Some(Cause::Blocked) => Self::Blocked,
            Some(Cause::Unblocked) => Self::Unblocked,
            Some(Cause::Cooldown) => Self::Cooldown,
            Some(Cause::Crossed) => Self::Crossed,
            Some(Cause::UserDeleted) => Self::UserDeleted,
        }
    }
}

impl From<&Event> for pb::Event {
    fn from(event: &Event) -> Self {
        let (actor, actor_user) = match event.actor {
            Actor::User(user) => (pb::EventActor::User, user.get()),
            Actor::Operator => (pb::EventActor::Operator, 0),
            Actor::System => (pb::EventActor::System, 0),
        };
        Self {
            sequence: event.sequence.get(),
            time: Some(timestamp(event.time)),
            kind: pb::EventKind::from(event.kind).into(),
            cause: pb::EventCause::from(event.cause).into(),
            actor: actor.into(),
            actor_user_id: actor_user,
            user_id: event.user.get(),
            other_user_id: event.other.map_or(0, UserId::get),
            connection_request_id: event.request.map_or(0, |request| request.get()),
            silenced: event.silenced,
        }
    }
}

/// Converts a message of the feed to a watcher.
pub fn message(message: &Message, epoch: &str) -> pb::WatchEventsResponse {
    pb::WatchEventsResponse {
        events: message.events.iter().map(Into::into).collect(),
        revision: message.revision.get(),
        epoch: epoch.to_owned(),
        continues: message.continues,
    }
}
