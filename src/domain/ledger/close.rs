//! The changes of a decided batch: the difference between the loaded and the current values.

use super::{Changes, CountsChange, Ledger, Tracked};
use crate::domain::id::UserId;
use crate::domain::pair::Side;

impl Ledger {
    fn counts(&self) -> Vec<CountsChange> {
        let all = self.counts.iter();
        all.map(|(user, (change, sends))| CountsChange { user: *user, change: *change, sends: *sends }).collect()
    }

    pub(super) fn close(self) -> Changes {
        let counts = self.counts();
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
