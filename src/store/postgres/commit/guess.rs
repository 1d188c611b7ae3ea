//! The commit of a send by itself, without loading: there is hardly ever something between the two yet, and the rest of
//! what decides it is kept. The save makes sure.

use super::save::Saves;
use super::{Decided, Failure, Kept, Line, NotSaved, Replies, UnderWay, Writer};
use crate::domain::command::{Batch, Member, Needs};
use crate::domain::ledger::{self, Snapshot};
use crate::store::feed::new_batch_id;
use crate::store::row::FeedHead;

impl Writer {
    /// Commits a batch of a single send in one flight, on condition that the two have nothing yet. Otherwise, and where
    /// that does not decide it, nothing is changed, and nothing answered.
    pub(super) async fn guess(
        &self,
        line: &mut Line,
        needs: &Needs,
        batch: &Batch,
    ) -> Result<Option<Replies>, Failure> {
        let Some(pair) = needs.pairs.first().filter(|_| batch.is_one_send()) else { return Ok(None) };
        // While another batch is saved there is time to load.
        let Ok(_settled) = self.settled.try_lock() else { return Ok(None) };
        let Some((before, snapshot)) = self.kept.snapshot(needs) else { return Ok(None) };
        if !batch.full_senders(needs, &snapshot.members).is_empty() {
            return Ok(None);
        }
        let (replies, changes) = ledger::run(batch, snapshot);
        if changes.requests_created.is_empty() {
            // A refusal is told only of what was loaded.
            return Ok(None);
        }
        line.saving = None;
        let wire = self.wire(line).await?;
        let mut under_way = UnderWay(Some(&wire.lost));
        let batch_id = new_batch_id();
        let outcome = Saves::if_nothing(&before, &changes, batch_id, *pair, needs).save(&wire.conn).await;
        if !matches!(outcome, Err(NotSaved::Lost(_))) {
            under_way.0 = None;
        }
        self.kept.conclude(outcome, Decided { before, replies, changes }, batch_id)
    }
}

impl Kept {
    /// These users and nothing between them, as of the head that is known, if all of that is kept.
    fn snapshot(&self, needs: &Needs) -> Option<(FeedHead, Snapshot)> {
        let head = self.counts.head()?;
        let (users, _) = self.users.find(needs.users.iter().copied(), &head.mark());
        let member = |user| {
            let counted = self.counts.get(user)?;
            Some(Member { user: users.get(&user)?.clone(), counts: counted.counts, sends: counted.sends })
        };
        let members = needs.users.iter().map(|id| member(*id)).collect::<Option<_>>()?;
        let snapshot = Snapshot { head: head.head, members, ..Snapshot::default() };
        Some((head, snapshot))
    }
}
