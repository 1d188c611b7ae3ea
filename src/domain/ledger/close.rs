//! The changes of a decided batch: the difference between the loaded and the current values.

use super::{Changes, Ledger, Tracked};
use crate::domain::id::UserId;
use crate::domain::pair::Side;

impl Ledger {
    pub(super) fn close(self) -> Changes {
        let counts = self.counts.into_values().collect();
        let mut changes = Changes { head: self.head, counts, ..self.changes };
        for (id, Tracked { before, now }) in self.users {
            changes.members.extend(now.clone().filter(|now| before.as_ref() != Some(now)));
            match (before, now, self.created.get(&id)) {
                (before, Some(now), Some(position)) => {
                    // The batch deleted the loaded user and created a new one with the same id.
                    changes.users_deleted.extend(before.map(|before| before.user.id));
                    changes.users_created.push((now.user, *position));
                }
                (Some(before), None, _) => changes.users_deleted.push(before.user.id),
                (Some(before), Some(now), None) if before.user != now.user => {
                    if before.user.username.key() != now.user.username.key() {
                        changes.users_renamed.push(id);
                    }
                    changes.users_updated.push(now.user);
                }
                (Some(_), Some(_), None) | (None, _, _) => {}
            }
        }
        for (key, Tracked { before, now }) in self.pairs {
            let sides = before.sides().into_iter().zip(now.sides());
            match (before.request, now.request) {
                (before, now) if before == now => {}
                (None, Some(now)) => changes.requests_created.push(now),
                (Some(before), Some(now)) if before.id != now.id => changes.requests_replaced.push(now),
                (Some(before), Some(now)) if before.position != now.position => changes.requests_updated.push(now),
                (Some(_), Some(now)) => changes.requests_viewed.push(now),
                (_, None) => changes.requests_deleted.push(key),
            }
            for ((user, before), (_, now)) in sides {
                let other = key.other_than(user);
                let Side { block, cooldown, ended } = before;
                difference(user, other, block, now.block, &mut changes.blocks_put, &mut changes.blocks_deleted);
                let (put, deleted) = (&mut changes.cooldowns_put, &mut changes.cooldowns_deleted);
                difference(user, other, cooldown, now.cooldown, put, deleted);
                difference(user, other, ended, now.ended, &mut changes.ended_put, &mut changes.ended_deleted);
            }
        }
        changes
    }
}

/// Adds a row of `user` about `other` to those to insert or replace, or to those to delete, if it changed.
fn difference<T: Copy + PartialEq>(
    user: UserId,
    other: UserId,
    before: Option<T>,
    now: Option<T>,
    put: &mut Vec<(UserId, UserId, T)>,
    deleted: &mut Vec<(UserId, UserId)>,
) {
    match (before, now) {
        (Some(_), None) => deleted.push((user, other)),
        (before, Some(now)) if before != Some(now) => put.push((user, other, now)),
        (_, Some(_)) | (None, None) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::command::{Command, RequestAction, UserAction};
    use crate::domain::id::RequestId;
    use crate::domain::ledger::tests::{ANN, BOB, NEWEST, day, key, nth, profile, request, run, send, snapshot};
    use crate::domain::pair::{Block, Ended, Message, Request, RequestState};
    use crate::domain::user::Profile;

    fn import(id: UserId, username: &str) -> Command {
        Command::ImportUser(Box::new(Profile { id: Some(id), ..profile(username) }))
    }

    fn act(id: i64, user: UserId, action: RequestAction) -> Command {
        Command::ActOnRequest(RequestId::new(id), user, action)
    }

    #[test]
    fn users_are_saved_by_what_became_of_them() {
        let described = || Box::new(Profile { id: Some(ANN), location: "Bonn".parse().unwrap(), ..profile("Ann") });
        let new = UserId::new(4);
        // For each: the users created, each with its position; updated; renamed; deleted; and those to cache.
        let none = Vec::new;
        for (commands, created, updated, renamed, deleted, cached) in [
            ([import(ANN, "ann"), import(ANN, "ann")], vec![], none(), none(), none(), none()),
            ([import(ANN, "ann"), import(ANN, "eve")], vec![], vec![ANN], vec![ANN], none(), vec![ANN]),
            ([import(ANN, "ann"), Command::ImportUser(described())], vec![], vec![ANN], none(), none(), vec![ANN]),
            ([import(new, "eve"), import(new, "fay")], vec![(new, nth(1))], none(), none(), none(), vec![new]),
            ([import(new, "eve"), Command::DeleteUser(new)], vec![], none(), none(), none(), none()),
            ([import(ANN, "eve"), Command::DeleteUser(ANN)], vec![], none(), none(), vec![ANN], none()),
            ([Command::DeleteUser(ANN), import(ANN, "ann")], vec![(ANN, nth(2))], none(), none(), vec![ANN], vec![ANN]),
        ] {
            let (_, changes) = run(snapshot(&[]), commands.clone());
            let of_created: Vec<_> =
                changes.users_created.iter().map(|(user, position)| (user.id, *position)).collect();
            assert_eq!(of_created, created, "{commands:?}");
            assert_eq!(changes.users_updated.iter().map(|user| user.id).collect::<Vec<_>>(), updated, "{commands:?}");
            assert_eq!((changes.users_renamed, changes.users_deleted), (renamed, deleted), "{commands:?}");
            assert_eq!(changes.members.iter().map(|member| member.user.id).collect::<Vec<_>>(), cached, "{commands:?}");
        }
    }

    #[test]
    fn a_user_whose_counts_alone_changed_is_cached_and_not_saved() {
        let (_, changes) = run(snapshot(&[]), [send(ANN, BOB)]);
        let mut cached: Vec<_> = changes.members.iter().map(|member| member.user.id).collect();
        cached.sort_unstable();
        assert_eq!((cached, changes.users_updated), (vec![ANN, BOB], vec![]));
    }

    #[test]
    fn requests_are_saved_by_what_became_of_them() {
        let none = || Vec::<(i64, i64)>::new();
        let (cancel, view, reject) = (RequestAction::Cancel, RequestAction::MarkViewed, RequestAction::Reject);
        let accept = RequestAction::Accept(Message::default());
        let view_and = |action| [act(7, BOB, view.clone()), act(7, BOB, action)];
        let (first, second) = (nth(1).get(), nth(2).get());
        // For each: the ids and positions of the requests created, replaced, updated and viewed; and the pairs without one.
        for (before, commands, [created, replaced, updated, viewed], deleted) in [
            (None, [send(ANN, BOB), act(first, BOB, accept)], [vec![(first, second)], none(), none(), none()], vec![]),
            (None, [send(ANN, BOB), act(first, ANN, cancel.clone())], [none(), none(), none(), none()], vec![]),
            (
                Some(7),
                [act(7, ANN, cancel.clone()), send(ANN, BOB)],
                [none(), vec![(second, second)], none(), none()],
                vec![],
            ),
            (Some(7), view_and(reject), [none(), none(), vec![(7, second)], none()], vec![]),
            (Some(7), view_and(view.clone()), [none(), none(), none(), vec![(7, 7)]], vec![]),
            (
                Some(7),
                [act(7, BOB, view.clone()), act(7, ANN, cancel)],
                [none(), none(), none(), none()],
                vec![key(ANN, BOB)],
            ),
        ] {
            let before: Vec<_> = before.map(|id| request(id, ANN, BOB, RequestState::Pending)).into_iter().collect();
            let (_, changes) = run(snapshot(&before), commands.clone());
            let named = |requests: &[Request]| -> Vec<_> {
                requests.iter().map(|request| (request.id.get(), request.position.get())).collect()
            };
            assert_eq!(named(&changes.requests_created), created, "created by {commands:?}");
            assert_eq!(named(&changes.requests_replaced), replaced, "replaced by {commands:?}");
            assert_eq!(named(&changes.requests_updated), updated, "updated by {commands:?}");
            assert_eq!(named(&changes.requests_viewed), viewed, "viewed by {commands:?}");
            assert_eq!(changes.requests_deleted, deleted, "deleted by {commands:?}");
        }
    }

    #[test]
    fn the_sides_of_a_pair_are_saved_if_they_changed() {
        let (block, unblock) = (UserAction::Block, UserAction::Unblock);
        let on = |user, other, action| Command::ActOnUser(user, other, action);
        let old = Block { created: day(-1), position: NEWEST };
        let new = |position| Block { created: day(0), position };
        for (commands, put, deleted) in [
            // Ann blocks Bob already.
            ([on(ANN, BOB, block), on(ANN, BOB, block)], vec![], vec![]),
            ([on(BOB, ANN, block), on(ANN, BOB, block)], vec![(BOB, ANN, new(nth(1)))], vec![]),
            ([on(ANN, BOB, unblock), on(ANN, BOB, block)], vec![(ANN, BOB, new(nth(2)))], vec![]),
            ([on(ANN, BOB, block), on(ANN, BOB, unblock)], vec![], vec![(ANN, BOB)]),
            ([on(BOB, ANN, block), on(BOB, ANN, unblock)], vec![], vec![]),
        ] {
            let mut before = snapshot(&[]);
            before.add_side(ANN, BOB, Side { block: Some(old), ..Side::default() });
            let (_, changes) = run(before, commands.clone());
            assert_eq!((changes.blocks_put, changes.blocks_deleted), (put, deleted), "{commands:?}");
        }
    }

    #[test]
    fn cooldowns_and_ended_requests_are_saved_by_the_user_whom_they_affect() {
        let reject = act(7, BOB, RequestAction::Reject);
        let (_, changes) = run(snapshot(&[request(7, ANN, BOB, RequestState::Pending)]), [reject]);
        assert_eq!((changes.cooldowns_put, changes.cooldowns_deleted), (vec![(ANN, BOB, day(0))], vec![]));
        let ended = Ended { since: day(-1), count: 1 };
        let both = || {
            let mut before = snapshot(&[request(7, ANN, BOB, RequestState::Rejected)]);
            let side = Side { cooldown: Some(day(-1)), ended: Some(ended), ..Side::default() };
            before.add_side(ANN, BOB, side);
            before
        };
        let (_, changes) = run(both(), [act(7, BOB, RequestAction::Restore)]);
        assert_eq!((changes.cooldowns_put, changes.cooldowns_deleted), (vec![], vec![(ANN, BOB)]));
        assert_eq!((changes.ended_put, changes.ended_deleted), (vec![], vec![]));
        let (_, changes) = run(both(), [act(7, ANN, RequestAction::Cancel)]);
        assert_eq!((changes.cooldowns_put, changes.cooldowns_deleted), (vec![], vec![]));
        assert_eq!(changes.ended_put, [(ANN, BOB, Ended { count: 2, ..ended })]);
        let (_, changes) = run(both(), [Command::DeleteUser(BOB)]);
        assert_eq!((changes.cooldowns_deleted, changes.ended_deleted), (vec![(ANN, BOB)], vec![(ANN, BOB)]));
    }
}
