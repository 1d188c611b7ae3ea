//! The changes of a decided batch: the difference between the loaded and the current values.

use super::{Changes, CountsChange, Ledger, Tracked};
use crate::domain::counts::Counts;

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
            match (before.request, now.request) {
                (before, now) if before == now => {}
                (None, Some(now)) => changes.requests_created.push(now),
                (Some(before), Some(now)) if before.id != now.id => changes.requests_replaced.push(now),
                (Some(before), Some(now)) if before.position != now.position => changes.requests_updated.push(now),
                (Some(_), Some(now)) => changes.requests_viewed.push(now),
                (_, None) => changes.requests_deleted.push(key),
            }
            for (user, before, now) in
                [(key.low(), before.low_block, now.low_block), (key.high(), before.high_block, now.high_block)]
            {
                let other = key.other_than(user);
                match (before, now) {
                    (Some(_), None) => changes.blocks_deleted.push((user, other)),
                    (before, Some(block)) if before != now => changes.blocks_put.push((user, other, block)),
                    (_, Some(_)) | (None, None) => {}
                }
            }
        }
        changes
    }
}
