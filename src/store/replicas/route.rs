//! Where a read runs: one pure rule.

use std::time::Duration;

use crate::domain::id::Sequence;

/// Which reads replicas may serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// Whether they serve reads without a `min_revision` too.
    pub(super) stale_ok: bool,
    /// How far a replica may be behind.
    pub(super) max_lag: Duration,
}

/// What is known of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Whether it responded to the last check, and nothing went wrong since.
    pub(super) is_well: bool,
    /// The newest revision that it was seen to have.
    pub(super) revision: Sequence,
    /// How far it is behind.
    pub(super) lag: Duration,
}

/// Where a read runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// On the primary, as without replicas.
    Primary,
    /// On the primary, because no replica can serve it.
    Instead,
    /// On the replica with this index.
    Replica(usize),
}

/// Chooses where a read runs that must reflect `min_revision`.
///
/// Replicas take turns. One that is known to have the revision comes before one that has to be waited for.
pub(super) fn choose(rule: Rule, min_revision: Sequence, replicas: &[Known], turn: usize) -> Choice {
    let Rule { stale_ok, max_lag } = rule;
    if replicas.is_empty() || (min_revision == Sequence::default() && !stale_ok) {
        return Choice::Primary;
    }
    let in_turn = (0..replicas.len()).map(|offset| (turn % replicas.len() + offset) % replicas.len());
    let usable: Vec<usize> =
        in_turn.filter(|index| replicas[*index].is_well && replicas[*index].lag <= max_lag).collect();
    let has_it = usable.iter().find(|index| replicas[**index].revision >= min_revision);
    has_it.or(usable.first()).map_or(Choice::Instead, |index| Choice::Replica(*index))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { stale_ok: false, max_lag: Duration::from_secs(1) };
    const STALE_OK: Rule = Rule { stale_ok: true, ..RULE };

    fn at(revision: i64) -> Known {
        Known { is_well: true, revision: Sequence::new(revision), lag: Duration::ZERO }
    }

    fn down() -> Known {
        Known { is_well: false, ..at(9) }
    }

    fn lagging(millis: u64) -> Known {
        Known { lag: Duration::from_millis(millis), ..at(9) }
    }

    #[test]
    fn a_read_runs_where_the_rule_says() {
        use Choice::{Instead, Primary, Replica};
        for (rule, min_revision, replicas, turn, expected) in [
            // Without replicas, everything is as before.
            (RULE, 0, vec![], 0, Primary),
            (STALE_OK, 5, vec![], 0, Primary),
            // Without a revision the caller may expect its own writes.
            (RULE, 0, vec![at(9)], 0, Primary),
            (STALE_OK, 0, vec![at(9)], 0, Replica(0)),
            // A replica that has the revision comes first, whoever's turn it is.
            (RULE, 5, vec![at(9), at(9)], 0, Replica(0)),
            (RULE, 5, vec![at(9), at(9)], 1, Replica(1)),
            (RULE, 5, vec![at(9), at(9)], 2, Replica(0)),
            (RULE, 5, vec![at(9), at(9)], usize::MAX, Replica(1)),
            (RULE, 5, vec![at(4), at(5), at(4)], 2, Replica(1)),
            // One that does not have it is waited for.
            (RULE, 5, vec![at(4), at(3)], 1, Replica(1)),
            // Those that fail or lag are left out, also if they have the revision.
            (RULE, 5, vec![down(), at(4)], 0, Replica(1)),
            (RULE, 5, vec![lagging(1_000), at(4)], 0, Replica(0)),
            (RULE, 5, vec![lagging(1_001), at(4)], 0, Replica(1)),
            (RULE, 5, vec![down(), lagging(1_001)], 0, Instead),
            (STALE_OK, 0, vec![down(), lagging(1_001)], 0, Instead),
            // Then those that need no replica still do not depend on them.
            (RULE, 0, vec![down()], 0, Primary),
        ] {
            let chosen = choose(rule, Sequence::new(min_revision), &replicas, turn);
            assert_eq!(chosen, expected, "{rule:?} {min_revision} {replicas:?} {turn}");
        }
    }
}
