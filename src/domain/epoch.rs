//! Epochs of the feed, and the rule that says which positions of clients are still part of it.
//!
//! A database that is restored from a backup, or that becomes the primary without the last commits of the previous one,
//! gives the sequences of lost events to other events. So a sequence alone is no position. Before the first such event a
//! new epoch begins, and the database stores each epoch with the first sequence that was written in it. A position of an
//! earlier epoch is valid up to where the next epoch begins.

use std::fmt;
use std::sync::Arc;

use super::id::Sequence;

/// The name of an epoch: random, and opaque to clients. Cheap to clone.
///
/// The empty name stands for an epoch that a client did not name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// Returns the text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a client named this epoch.
    pub fn is_named(&self) -> bool {
        !self.0.is_empty()
    }
}

impl From<&str> for Epoch {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for Epoch {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A position in the feed: all events of the epoch up to a sequence, as a response reflected them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The epoch that the sequence belongs to. From a client it may be unnamed: then the newest one is meant.
    pub epoch: Epoch,
    /// The sequence of the last event.
    pub sequence: Sequence,
}

impl From<Sequence> for Position {
    /// A sequence of the newest epoch.
    fn from(sequence: Sequence) -> Self {
        Self { epoch: Epoch::default(), sequence }
    }
}

impl Position {
    /// Moves forward to the position of a later response, unless that is an earlier one of the same epoch.
    pub fn advance(&mut self, to: Self) {
        if self.epoch != to.epoch || self.sequence < to.sequence {
            *self = to;
        }
    }
}

/// The database in which an epoch began: a PostgreSQL cluster and its timeline.
///
/// A promotion begins a new timeline. A cluster that was set up separately has another system identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// The identifier of the cluster. `None` if the role may not read it.
    pub system_identifier: Option<i64>,
    /// The timeline.
    pub timeline: i64,
}

impl Lineage {
    /// Whether both are the same, as far as the identifiers are known.
    pub fn is_same(self, other: Self) -> bool {
        let same_system = match (self.system_identifier, other.system_identifier) {
            (Some(one), Some(other)) => one == other,
            (None, _) | (_, None) => true,
        };
        same_system && self.timeline == other.timeline
    }
}

/// A change of the newest epoch, to be saved with the first commit on another lineage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EpochChange {
    /// A new epoch begins.
    Begun {
        /// Its name.
        epoch: Epoch,
        /// The first sequence that is written in it.
        first: Sequence,
        /// Where it begins.
        lineage: Lineage,
    },
    /// The newest epoch had no lineage yet.
    Adopted(Lineage),
}

impl EpochChange {
    /// Returns the change that a commit makes on a connection of this lineage; `None` if it makes none.
    ///
    /// `newest` is the lineage of the newest epoch, `last` the newest sequence, and `epoch` the name of a new epoch. A
    /// database without lineages, such as a SQLite file, changes its epoch only by `kith restore-epoch`.
    pub fn of(
        newest: Option<Lineage>,
        connection: Option<Lineage>,
        last: Sequence,
        epoch: impl FnOnce() -> Epoch,
    ) -> Option<Self> {
        let lineage = connection?;
        match newest {
            None => Some(Self::Adopted(lineage)),
            Some(newest) if newest.is_same(lineage) => None,
            Some(_) => Some(Self::Begun { epoch: epoch(), first: last.next(), lineage }),
        }
    }
}

/// An epoch, and the first sequence that was written in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: Epoch,
    /// The first sequence.
    pub first: Sequence,
}

/// The epochs of a feed, oldest first. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History(Arc<[EpochStart]>);

/// Whether a position is part of the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All events up to it are part of the feed.
    Good,
    /// Events up to it were lost.
    Wrong {
        /// The last sequence up to which all events are part of the feed.
        common: Sequence,
    },
    /// The feed has no such epoch: the position is of another database, or the epoch was lost as a whole.
    Unknown,
}

impl History {
    /// Returns the epochs up to the newest one with this name.
    ///
    /// The list may have been read after the head that names the newest epoch, so later epochs are left out. If it does not
    /// have that epoch, nothing is known of earlier ones.
    pub fn until(mut epochs: Vec<EpochStart>, newest: &Epoch) -> Self {
        let known = epochs.iter().rposition(|start| start.epoch == *newest);
        epochs.truncate(known.map_or(0, |index| index + 1));
        Self(epochs.into())
    }

    /// Judges a position that a client received in this epoch.
    ///
    /// It is good if the epoch is the newest one, or if the sequence lies before the first one of all later epochs. Whether
    /// the newest epoch has reached the sequence is not judged here.
    pub fn judge(&self, epoch: &Epoch, sequence: Sequence) -> Verdict {
        let Some(index) = self.0.iter().rposition(|start| start.epoch == *epoch) else { return Verdict::Unknown };
        match self.0[index + 1..].iter().map(|later| later.first).min() {
            Some(first) if sequence >= first => Verdict::Wrong { common: first.previous() },
            Some(_) | None => Verdict::Good,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(starts: &[(&str, i64)], newest: &str) -> History {
        let start = |(epoch, first): &(&str, i64)| EpochStart { epoch: (*epoch).into(), first: Sequence::new(*first) };
        History::until(starts.iter().map(start).collect(), &newest.into())
    }

    #[test]
    fn a_position_is_good_up_to_where_the_next_epoch_begins() {
        let one = &[("a", 1)][..];
        let two = &[("a", 1), ("b", 91)];
        let many = &[("a", 1), ("b", 91), ("c", 91), ("d", 200)];
        // Sequences never decrease in one database. If they did, no lost event may be taken for a common one.
        let decreasing = &[("a", 1), ("b", 91), ("c", 80)];
        for (starts, newest, epoch, sequence, expected) in [
            (one, "a", "a", 0, "good"),
            (one, "a", "a", 1_000, "good"),
            (one, "a", "b", 0, "unknown"),
            (one, "a", "", 0, "unknown"),
            (two, "b", "b", 500, "good"),
            (two, "b", "b", 3, "good"),
            (two, "b", "a", 90, "good"),
            (two, "b", "a", 0, "good"),
            (two, "b", "a", 91, "90"),
            (two, "b", "a", 500, "90"),
            // Two began without an event in between.
            (many, "d", "a", 90, "good"),
            (many, "d", "a", 95, "90"),
            (many, "d", "b", 90, "good"),
            (many, "d", "b", 91, "90"),
            (many, "d", "c", 199, "good"),
            (many, "d", "c", 200, "199"),
            (many, "d", "d", 300, "good"),
            (decreasing, "c", "a", 85, "79"),
            (decreasing, "c", "a", 79, "good"),
            (decreasing, "c", "b", 80, "79"),
            // Read after the head: the later epoch is left out.
            (two, "a", "a", 500, "good"),
            (two, "a", "b", 91, "unknown"),
            // The head has an epoch that the list does not have: another program wrote it.
            (two, "x", "a", 1, "unknown"),
            (two, "x", "x", 1, "unknown"),
        ] {
            let verdict = match history(starts, newest).judge(&epoch.into(), Sequence::new(sequence)) {
                Verdict::Good => "good".to_owned(),
                Verdict::Wrong { common } => common.to_string(),
                Verdict::Unknown => "unknown".to_owned(),
            };
            assert_eq!(verdict, expected, "{epoch} {sequence} in {starts:?}, of which {newest} is the newest");
        }
    }

    #[test]
    fn an_epoch_begins_on_another_lineage_and_the_first_lineage_is_adopted() {
        let of = |system_identifier: i64, timeline| {
            Some(Lineage { system_identifier: (system_identifier > 0).then_some(system_identifier), timeline })
        };
        let begun = |lineage: Option<Lineage>| {
            let (epoch, first) = ("new".into(), Sequence::new(8));
            lineage.map(|lineage| EpochChange::Begun { epoch, first, lineage })
        };
        for (newest, connection, expected) in [
            (None, None, None),
            (None, of(7, 1), of(7, 1).map(EpochChange::Adopted)),
            // A connection that does not tell its lineage changes nothing.
            (of(7, 1), None, None),
            (of(7, 1), of(7, 1), None),
            (of(7, 1), of(7, 2), begun(of(7, 2))),
            // Back on an earlier timeline, which lost what was written since.
            (of(7, 2), of(7, 1), begun(of(7, 1))),
            (of(7, 1), of(8, 1), begun(of(8, 1))),
            // The role may not read the identifier, or could not when the epoch began.
            (of(7, 1), of(0, 1), None),
            (of(0, 1), of(7, 1), None),
            (of(0, 1), of(7, 2), begun(of(7, 2))),
        ] {
            let change = EpochChange::of(newest, connection, Sequence::new(7), || "new".into());
            assert_eq!(change, expected, "{newest:?} {connection:?}");
        }
    }
}
