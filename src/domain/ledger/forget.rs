//! The progress of the sweep that erases deleted users from the events.
//!
//! It handles one deletion after the other, in the order of the feed. Only events up to a deletion are changed, so a user
//! who was created again with the same id remains in the later ones.

use super::{ForgetStep, Head};
use crate::domain::id::Sequence;

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ForgetProgress {
    /// The new [`Head::forgotten`].
    pub(super) forgotten: Sequence,
    /// The new [`Head::forgetting`].
    pub(super) forgetting: Sequence,
    /// Whether there may be more to forget now.
    pub(super) more: bool,
}

/// Determines the new positions after a step.
pub(super) fn forget_progress(step: &ForgetStep, head: &Head) -> ForgetProgress {
    match *step {
        // The positions stay valid: it is still the same deletion.
        ForgetStep::Passed { until, waits: true } => {
            ForgetProgress { forgotten: until, forgetting: head.forgetting, more: false }
        }
        ForgetStep::Passed { until, waits: false } => {
            ForgetProgress { forgotten: until, forgetting: Sequence::default(), more: until < head.sequence }
        }
        ForgetStep::Deletion { event, searched, user: _, named: _ } if searched < event => {
            ForgetProgress { forgotten: head.forgotten, forgetting: searched, more: true }
        }
        ForgetStep::Deletion { event, searched: _, user: _, named: _ } => {
            ForgetProgress { forgotten: event, forgetting: Sequence::default(), more: event < head.sequence }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::UserId;

    #[test]
    fn a_deletion_is_passed_only_after_all_events_up_to_it() {
        let sequence = Sequence::new;
        let deletion = |event, searched| ForgetStep::Deletion {
            event: sequence(event),
            user: UserId::new(7),
            named: Vec::new(),
            searched: sequence(searched),
        };
        let passed = |until, waits| ForgetStep::Passed { until: sequence(until), waits };
        let head = |forgotten, forgetting| Head {
            sequence: sequence(90),
            forgotten: sequence(forgotten),
            forgetting: sequence(forgetting),
            ..Head::default()
        };
        for (step, before, (forgotten, forgetting, more)) in [
            // Nothing was deleted up to 50, and up to the newest event.
            (passed(50, false), head(0, 0), (50, 0, true)),
            (passed(90, false), head(50, 0), (90, 0, false)),
            // A deletion whose time has not come, perhaps because the setting was changed.
            (passed(69, true), head(50, 0), (69, 0, false)),
            (passed(69, true), head(69, 40), (69, 40, false)),
            // A deletion that takes several steps.
            (deletion(70, 40), head(69, 0), (69, 40, true)),
            (deletion(70, 69), head(69, 40), (69, 69, true)),
            (deletion(70, 70), head(69, 69), (70, 0, true)),
            (deletion(90, 90), head(89, 0), (90, 0, false)),
        ] {
            let expected = ForgetProgress { forgotten: sequence(forgotten), forgetting: sequence(forgetting), more };
            assert_eq!(forget_progress(&step, &before), expected, "{step:?}");
        }
    }
}
