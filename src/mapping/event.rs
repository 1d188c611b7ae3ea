//! Events: requests to selections and positions in the feed, events to messages.

use std::time::Duration;

use super::invalid::{Fields, Invalid};
use super::page::Page;
use super::timestamp;
use crate::domain::caller::Caller;
use crate::domain::epoch::Position;
use crate::domain::event::{Actor, Cause, Event, EventKind, PrincipalKind};
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
    fields.finish((selection, Cursor { after, epoch: request.epoch.as_str().into(), is_signed: false }, heartbeat))
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
    // A token is a cursor too: the position after the previous page, in the epoch of that page.
    let cursor = match &page.seen {
        Some(Position { epoch, sequence }) => Cursor { after: Some(*sequence), epoch: epoch.clone(), is_signed: true },
        None => Cursor { after: Some(after), epoch: request.epoch.as_str().into(), is_signed: false },
    };
    fields.finish((selection, cursor, page))
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
            Some(Cause::Imported) => Self::Imported,
        }
    }
}

impl From<Option<PrincipalKind>> for pb::EventPrincipal {
    fn from(principal: Option<PrincipalKind>) -> Self {
        match principal {
            None => Self::Unspecified,
            Some(PrincipalKind::Anonymous) => Self::Anonymous,
            Some(PrincipalKind::Service) => Self::Service,
            Some(PrincipalKind::User) => Self::User,
            Some(PrincipalKind::System) => Self::System,
        }
    }
}

impl From<&Event> for pb::Event {
    fn from(event: &Event) -> Self {
        let Event { sequence, time, kind, cause, actor, user, other, request, silenced, principal } = *event;
        let (actor, actor_user) = match actor {
            Actor::User(user) => (pb::EventActor::User, user.get()),
            Actor::Operator => (pb::EventActor::Operator, 0),
            Actor::System => (pb::EventActor::System, 0),
        };
        Self {
            sequence: sequence.get(),
            time: Some(timestamp(time)),
            kind: pb::EventKind::from(kind).into(),
            cause: pb::EventCause::from(cause).into(),
            actor: actor.into(),
            actor_user_id: actor_user,
            user_id: user.get(),
            other_user_id: other.map_or(0, UserId::get),
            connection_request_id: request.map_or(0, |request| request.get()),
            silenced,
            principal: pb::EventPrincipal::from(principal).into(),
        }
    }
}

/// Converts a message of the feed to a watcher.
pub fn message(message: &Message) -> pb::WatchEventsResponse {
    pb::WatchEventsResponse {
        events: message.events.iter().map(Into::into).collect(),
        revision: message.revision.get(),
        epoch: message.epoch.to_string(),
        continues: message.continues,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Time;
    use crate::domain::epoch::Epoch;
    use crate::domain::id::{RequestId, Sequence};
    use crate::domain::view::Viewer;
    use crate::mapping::page;

    const ANN: UserId = UserId::new(1);
    const BOB: UserId = UserId::new(2);

    fn fields(invalid: &Invalid) -> Vec<&str> {
        invalid.violations.iter().map(|violation| violation.field.as_str()).collect()
    }

    #[test]
    fn a_watch_is_parsed_with_all_its_fields() {
        let (selection, cursor, heartbeat) =
            watch(&pb::WatchEventsRequest::default(), &Caller::Operator).expect("valid");
        assert!(selection.is_everything());
        assert_eq!((cursor, heartbeat), (Cursor::default(), Duration::from_secs(15)));
        let request = pb::WatchEventsRequest {
            after_sequence: Some(7),
            epoch: "abc".to_owned(),
            viewer_user_id: 1,
            user_ids: vec![1, 2],
            kinds: EventKind::ALL.iter().map(|kind| pb::EventKind::from(*kind).into()).collect(),
            heartbeat_interval: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
        };
        let (selection, cursor, heartbeat) = watch(&request, &Caller::Operator).expect("valid");
        let (users, kinds) = ([ANN, BOB].into(), EventKind::ALL.iter().copied().collect());
        assert_eq!(selection, Selection { viewer: Viewer::User(ANN), users, kinds, pair: None });
        let expected = Cursor { after: Some(Sequence::new(7)), epoch: "abc".into(), is_signed: false };
        assert_eq!((cursor, heartbeat), (expected, Duration::from_secs(2)));
    }

    #[test]
    fn heartbeats_come_every_100_milliseconds_to_300_seconds() {
        const MILLISECOND: i32 = 1_000_000;
        for (seconds, nanos, expected) in [
            (0, 100 * MILLISECOND, Some(Duration::from_millis(100))),
            (0, 100 * MILLISECOND - 1, None),
            (1, 999_999_999, Some(Duration::new(1, 999_999_999))),
            (300, 0, Some(Duration::from_secs(300))),
            (300, 1, None),
            (0, 0, None),
            (1, -1, None),
            (-1, 0, None),
            (0, 1_000_000_000, None),
            (i64::MAX, i32::MAX, None),
        ] {
            let heartbeat_interval = Some(prost_types::Duration { seconds, nanos });
            let request = pb::WatchEventsRequest { heartbeat_interval, ..Default::default() };
            match (watch(&request, &Caller::Operator), expected) {
                (Ok((_, _, heartbeat)), Some(expected)) => assert_eq!(heartbeat, expected),
                (Err(invalid), None) => assert_eq!(fields(&invalid), ["heartbeat_interval"]),
                (parsed, _) => panic!("{seconds} s {nanos} ns: {parsed:?}"),
            }
        }
    }

    #[test]
    fn an_invalid_kind_is_one_violation() {
        let kinds = vec![pb::EventKind::UserCreated.into(), 0, 999];
        let invalid = watch(&pb::WatchEventsRequest { kinds, ..Default::default() }, &Caller::Operator);
        assert_eq!(fields(&invalid.expect_err("invalid")), ["kinds[1]", "kinds[2]"]);
    }

    #[test]
    fn a_list_has_a_pair_if_one_of_its_users_is_set() {
        for (user_id, other_user_id, expected) in [
            (0, 0, Ok(None)),
            (1, 2, Ok(PairKey::of(ANN, BOB))),
            (1, 0, Err("other_user_id")),
            (0, 2, Err("user_id")),
            (1, 1, Err("other_user_id")),
        ] {
            let request = pb::ListEventsRequest { user_id, other_user_id, ..Default::default() };
            let listed = list(&request, &Caller::Operator, b"key").map(|(selection, ..)| selection.pair);
            let expected = expected.map_err(|field| vec![field.to_owned()]);
            assert_eq!(listed.map_err(|invalid| fields(&invalid).into_iter().map(str::to_owned).collect()), expected);
        }
    }

    #[test]
    fn a_list_continues_at_its_page_token() {
        let epoch: Epoch = "abc".into();
        let mut request = pb::ListEventsRequest { after_sequence: 7, epoch: "abc".to_owned(), ..Default::default() };
        let (_, cursor, _) = list(&request, &Caller::Operator, b"key").expect("valid");
        assert_eq!(cursor, Cursor { after: Some(Sequence::new(7)), epoch: epoch.clone(), is_signed: false });
        // In the epoch of the previous page, which may be later than that of the first one.
        let after = Position { epoch: "later".into(), sequence: Sequence::new(9) };
        request.page_token = page::token(&request, page::Cursor::default(), &after, b"key");
        let (_, cursor, _) = list(&request, &Caller::Operator, b"key").expect("valid");
        let Position { epoch, sequence } = after;
        assert_eq!(cursor, Cursor { after: Some(sequence), epoch, is_signed: true });
    }

    #[test]
    fn an_event_has_all_values() {
        let time = Time::from_timestamp(7, 5_000).expect("a time");
        let event = Event {
            sequence: Sequence::new(9),
            time,
            kind: EventKind::RequestCancelled,
            cause: Some(Cause::UserDeleted),
            actor: Actor::User(BOB),
            user: ANN,
            other: Some(BOB),
            request: Some(RequestId::new(5)),
            silenced: true,
            principal: Some(PrincipalKind::Service),
        };
        let expected = pb::Event {
            sequence: 9,
            time: Some(timestamp(time)),
            kind: pb::EventKind::RequestCancelled.into(),
            cause: pb::EventCause::UserDeleted.into(),
            actor: pb::EventActor::User.into(),
            actor_user_id: 2,
            user_id: 1,
            other_user_id: 2,
            connection_request_id: 5,
            silenced: true,
            principal: pb::EventPrincipal::Service.into(),
        };
        assert_eq!(pb::Event::from(&event), expected);
        for (actor, expected) in [(Actor::Operator, pb::EventActor::Operator), (Actor::System, pb::EventActor::System)]
        {
            let event = Event { actor, cause: None, other: None, request: None, principal: None, ..event.clone() };
            let event = pb::Event::from(&event);
            assert_eq!((event.actor(), event.actor_user_id), (expected, 0));
            assert_eq!((event.cause(), event.other_user_id), (pb::EventCause::Unspecified, 0));
            assert_eq!((event.connection_request_id, event.principal()), (0, pb::EventPrincipal::Unspecified));
        }
        let expected =
            pb::WatchEventsResponse { events: vec![expected], revision: 12, epoch: "abc".to_owned(), continues: true };
        let (revision, epoch) = (Sequence::new(12), "abc".into());
        let sent = Message { events: vec![event], revision, epoch, continues: true };
        assert_eq!(message(&sent), expected);
    }

    #[test]
    fn kinds_causes_and_principals_have_the_names_of_the_domain() {
        for kind in EventKind::ALL {
            let name = format!("EVENT_KIND_{}", kind.name());
            assert_eq!(pb::EventKind::from(*kind).as_str_name(), name);
        }
        for cause in Cause::ALL {
            let name = format!("EVENT_CAUSE_{}", cause.name());
            assert_eq!(pb::EventCause::from(Some(*cause)).as_str_name(), name);
        }
        for principal in PrincipalKind::ALL {
            let name = format!("EVENT_PRINCIPAL_{}", principal.name());
            assert_eq!(pb::EventPrincipal::from(Some(*principal)).as_str_name(), name);
        }
    }
}
