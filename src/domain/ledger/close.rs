//! The changes of a decided batch: the difference between the loaded and the current values.

use super::{Changes, CountsChange, Ledger, Tracked};
use crate::domain::counts::Counts;
use crate::domain::pair::Side;

impl Ledger {
    fn counts(&self) -> Vec<CountsChange> {
        let all = self.counts.iter();
        let all = all.map(|(user, (change, sends))| CountsChange { user: *user, change: *change, sends: *sends });
        all.filter(|change| change.change != Counts::default() || change.sends.is_some()).collect()
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
                (Some(before), Some(now), None) if before.user != now.user => changes.users_updated.push(now.user),
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
                let (Side { block, cooldown }, Side { block: block_now, cooldown: cooldown_now }) = (before, now);
                match (block, block_now) {
                    (Some(_), None) => changes.blocks_deleted.push((user, other)),
                    (before, Some(now)) if before != Some(now) => changes.blocks_put.push((user, other, now)),
                    (_, Some(_)) | (None, None) => {}
                }
                match (cooldown, cooldown_now) {
                    (Some(_), None) => changes.cooldowns_deleted.push((user, other)),
                    (before, Some(now)) if before != Some(now) => changes.cooldowns_put.push((user, other, now)),
                    (_, Some(_)) | (None, None) => {}
                }
            }
        }
        changes
    }
}
