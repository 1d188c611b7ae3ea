//! Exports of users: requests to queries, what is stored to items.

use super::invalid::{Fields, Invalid};
use super::timestamp;
use crate::domain::caller::Caller;
use crate::domain::counts::{Counts, SendWindow};
use crate::domain::epoch::Position;
use crate::domain::id::UserId;
use crate::domain::pair::{Block, Ended};
use crate::domain::query::Record;
use crate::domain::view::Viewer;
use crate::proto::server as pb;
use crate::proto::server::export_user_response::Item;

/// Parses an export: the user, the viewer and the minimum revision.
pub fn export(request: &pb::ExportUserRequest, caller: &Caller) -> Result<(UserId, Viewer, Position), Invalid> {
    let mut fields = Fields::default();
    let user = fields.user_id("id", request.id);
    let viewer = caller.viewer(fields.optional_user_id("user_id", request.user_id));
    let min_revision = fields.min_revision(request.min_revision, &request.min_revision_epoch);
    fields.finish((user, viewer, min_revision))
}

/// Converts the counts of a user. `sends` is what only operators receive.
pub fn counts(counts: Counts, sends: Option<SendWindow>) -> Item {
    let Counts { requests_sent, requests_received, requests_unviewed, connections } = counts;
    let SendWindow { since, count } = sends.unwrap_or_default();
    Item::Counts(pb::ExportedCounts {
        requests_sent,
        requests_received,
        requests_unviewed,
        connections,
        sends: count,
        sends_since: since.map(timestamp),
    })
}

/// Converts a record as the viewer may see it. `None` if they may not, or if it is not an item of its own.
pub fn record(record: Record, viewer: Viewer) -> Option<Item> {
    if let Viewer::User(user) = viewer {
        // Others' calls, and what others did to the user, are theirs.
        let Record::Response { caller: _, id, created, actor } = record else { return None };
        let own = actor.filter(|actor| *actor == user)?;
        let created = Some(timestamp(created));
        return Some(Item::StoredResponse(pb::StoredResponse {
            request_id: id,
            created,
            actor_user_id: own.get(),
            caller: String::new(),
        }));
    }
    Some(match record {
        // Part of the counts.
        Record::Sends(_) => return None,
        Record::BlockOf { by, block: Block { created, position: _ } } => {
            Item::BlockOfUser(pb::BlockOfUser { user_id: by.get(), created: Some(timestamp(created)) })
        }
        Record::Cooldown { from, to, since } => Item::Cooldown(pb::Cooldown {
            from_user_id: from.get(),
            to_user_id: to.get(),
            since: Some(timestamp(since)),
        }),
        Record::Ended { from, to, ended: Ended { since, count } } => Item::EndedRequests(pb::EndedRequests {
            from_user_id: from.get(),
            to_user_id: to.get(),
            since: Some(timestamp(since)),
            requests: count,
        }),
        Record::Response { caller, id, created, actor } => Item::StoredResponse(pb::StoredResponse {
            request_id: id,
            created: Some(timestamp(created)),
            actor_user_id: actor.map_or(0, UserId::get),
            caller,
        }),
    })
}

/// Counts an item in the totals.
pub fn count(totals: &mut pb::ExportTotals, item: &Item) {
    let number = match item {
        Item::ConnectionRequest(_) => &mut totals.connection_requests,
        Item::Block(_) => &mut totals.blocks,
        Item::BlockOfUser(_) => &mut totals.blocks_of_user,
        Item::Cooldown(_) => &mut totals.cooldowns,
        Item::EndedRequests(_) => &mut totals.ended_requests,
        Item::StoredResponse(_) => &mut totals.stored_responses,
        Item::Event(_) => &mut totals.events,
        Item::User(_) | Item::Counts(_) | Item::Totals(_) => return,
    };
    *number += 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Time;
    use crate::domain::id::Sequence;

    const ANN: UserId = UserId::new(1);
    const BOB: UserId = UserId::new(2);

    #[test]
    fn an_export_names_a_user_and_optionally_a_viewer() {
        for (id, user_id, min_revision, expected) in [
            (1, 0, 0, Ok((ANN, Viewer::Operator, 0))),
            (1, 1, 7, Ok((ANN, Viewer::User(ANN), 7))),
            (1, 2, 0, Ok((ANN, Viewer::User(BOB), 0))),
            (0, -1, -1, Err(vec!["id", "user_id", "min_revision"])),
        ] {
            let request = pb::ExportUserRequest { id, user_id, min_revision, ..Default::default() };
            let parsed = export(&request, &Caller::Operator);
            let parsed = parsed.map(|(user, viewer, min)| (user, viewer, min.sequence.get()));
            let fields = |invalid: Invalid| invalid.violations.into_iter().map(|violation| violation.field).collect();
            let expected: Result<_, Vec<String>> =
                expected.map_err(|fields| fields.into_iter().map(str::to_owned).collect());
            assert_eq!(parsed.map_err(fields), expected, "{request:?}");
        }
    }

    #[test]
    fn a_user_receives_only_records_of_their_own_calls() {
        let (since, position) = (Time::UNIX_EPOCH, Sequence::new(9));
        let response = |actor| {
            let (caller, id) = ("service:billing".to_owned(), "7".to_owned());
            Record::Response { caller, id, created: since, actor }
        };
        let all = [
            (Record::BlockOf { by: BOB, block: Block { created: since, position } }, true, false),
            (Record::Cooldown { from: ANN, to: BOB, since }, true, false),
            (Record::Cooldown { from: BOB, to: ANN, since }, true, false),
            (Record::Ended { from: ANN, to: BOB, ended: Ended { since, count: 2 } }, true, false),
            (Record::Sends(SendWindow::default()), false, false),
            (response(None), true, false),
            (response(Some(BOB)), true, false),
            (response(Some(ANN)), true, true),
        ];
        for (stored, to_operator, to_user) in all {
            assert_eq!(record(stored.clone(), Viewer::Operator).is_some(), to_operator, "{stored:?}");
            let seen = record(stored.clone(), Viewer::User(ANN));
            assert_eq!(seen.is_some(), to_user, "{stored:?}");
            if let Some(Item::StoredResponse(response)) = seen {
                assert_eq!((response.caller.as_str(), response.actor_user_id), ("", 1));
            }
        }
    }
}
