//! Whether writes succeed, judged by what became of them.
//!
//! A probe alone cannot tell: on a full disk it finds room where the commits of calls do not.

/// The number of looks without a commit after which a server whose commits failed tries a probe: 10 s. By then clients that
/// follow health have left it, so only the probe can tell.
const QUIET: u32 = 5;

/// What the commits since the last look say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Succeed,
    Fail,
    /// A probe has to find out.
    Unclear,
}

/// The judgement so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Writes {
    /// The numbers of stored and of failed batches at the last look.
    seen: (u64, u64),
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Succeeding,
    /// Some batches failed.
    InDoubt,
    /// Most batches failed. Since then there were this many looks without a commit.
    Failing { quiet: u32 },
}

impl Writes {
    /// Judges by the numbers of stored and of failed batches since the start, which it is to be told at each look.
    ///
    /// One failed batch is no reason to take a server out, but for a probe. With `is_away`, the last one failed because no
    /// primary was there: a probe knows then, and a server is back as soon as a primary is.
    pub(super) fn judge(&mut self, (stored, failed): (u64, u64), is_away: bool) -> Verdict {
        let new = (stored.saturating_sub(self.seen.0), failed.saturating_sub(self.seen.1));
        self.seen = (stored, failed);
        self.state = match (new, self.state) {
            _ if is_away => State::InDoubt,
            ((0, 0), State::Failing { quiet }) => State::Failing { quiet: quiet + 1 },
            ((0, 0), state) => state,
            ((stored, failed), State::Failing { .. }) if failed > stored => State::Failing { quiet: 0 },
            ((stored, failed), _) if failed > stored && failed > 1 => State::Failing { quiet: 0 },
            ((_, 0), _) => State::Succeeding,
            _ => State::InDoubt,
        };
        match self.state {
            State::Succeeding => Verdict::Succeed,
            State::Failing { quiet } if quiet < QUIET => Verdict::Fail,
            State::InDoubt | State::Failing { .. } => Verdict::Unclear,
        }
    }

    /// Takes the result of a probe into account.
    pub(super) fn probed(&mut self, succeeded: bool) {
        if succeeded {
            self.state = State::Succeeding;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Judges by the numbers of new batches at each look. Probes have this result.
    fn judge(looks: &[(u64, u64)], probes: bool, is_away: bool) -> Vec<bool> {
        let (mut writes, mut seen) = (Writes::default(), (0, 0));
        let look = |&(stored, failed): &(u64, u64)| {
            seen = (seen.0 + stored, seen.1 + failed);
            match writes.judge(seen, is_away) {
                Verdict::Succeed => true,
                Verdict::Fail => false,
                Verdict::Unclear => {
                    writes.probed(probes);
                    probes
                }
            }
        };
        looks.iter().map(look).collect()
    }

    #[test]
    fn writes_succeed_unless_most_of_them_fail() {
        let nothing = (0, 0);
        for (looks, probes, expected) in [
            (&[nothing, (5, 0), nothing][..], false, &[true, true, true][..]),
            (&[(0, 1), nothing], true, &[true, true]),
            (&[(0, 1), nothing, nothing], false, &[false, false, false]),
            (&[(0, 1), (1, 0)], false, &[false, true]),
            (&[(5, 3), (1, 1)], true, &[true, true]),
            (&[(5, 3), nothing, (1, 0)], false, &[false, false, true]),
            (&[(3, 5)], true, &[false]),
            // A disk that is full, where few commits succeed. A probe would.
            (&[(1, 9), (0, 1), (0, 9), (2, 3), (9, 0)], true, &[false, false, false, false, true]),
            // Its clients go elsewhere, come back too early, and once more.
            (
                &[(0, 9), nothing, nothing, nothing, nothing, nothing, (0, 2), nothing],
                true,
                &[false, false, false, false, false, true, false, false],
            ),
            (&[(0, 9), nothing, nothing, nothing, nothing, nothing, nothing], false, &[false; 7]),
        ] {
            assert_eq!(judge(looks, probes, false), expected, "{looks:?}, probes {probes}");
        }
    }

    #[test]
    fn a_probe_decides_while_no_primary_was_there() {
        let looks = [(0, 9), (0, 0), (0, 0)];
        assert_eq!(judge(&looks, true, true), [true; 3]);
        assert_eq!(judge(&looks, false, true), [false; 3]);
    }
}
