//! Fields that are invalid, or taken, for reasons that only the stored users show.

use crate::domain::decide::Rejection;
use crate::domain::outcome::RefusalReason;

/// Why another external id is invalid.
pub const EXTERNAL_ID_FIXED: &str = "must be unset, or the one that the user has, which never changes";
/// Why an empty username is invalid.
pub const USERNAME_NEEDED: &str = "must be set: the user has no external_id";
/// Why an unset id is invalid.
pub const NO_ID_LEFT: &str = "must be set: there are no ids left to assign";

/// Returns why a row of an import is refused, the field, and what is wrong with it. `None` if the rejection is of another
/// kind, and ends the import.
pub fn refusal(rejection: &Rejection) -> Option<(RefusalReason, &'static str, String)> {
    let invalid = |field, description: &str| Some((RefusalReason::InvalidFields, field, description.to_owned()));
    match rejection {
        Rejection::UsernameTaken(_) => {
            Some((RefusalReason::UsernameTaken, "user.username", "another user has this name".to_owned()))
        }
        Rejection::ExternalIdExists { user, external_id: _ } => {
            Some((RefusalReason::UserExists, "user.external_id", format!("user {user} has this external id")))
        }
        Rejection::ExternalIdFixed(_) => invalid("user.external_id", EXTERNAL_ID_FIXED),
        Rejection::UsernameNeeded(_) => invalid("user.username", USERNAME_NEEDED),
        Rejection::NoIdLeft => invalid("user.id", NO_ID_LEFT),
        Rejection::UserNotFound(_)
        | Rejection::UserNotApproved(_)
        | Rejection::UserExists(_)
        | Rejection::NotTheUser(_)
        | Rejection::Conflict { .. }
        | Rejection::RequestNotFound(_)
        | Rejection::NotTheReceiver(_)
        | Rejection::NotTheSender(_)
        | Rejection::BlockedByYou { .. }
        | Rejection::NotBlocked { .. }
        | Rejection::NotConnected { .. }
        | Rejection::AlreadyConnected(_)
        | Rejection::AlreadyAccepted(_)
        | Rejection::RequestPending(_)
        | Rejection::LimitReached { .. }
        | Rejection::RequestIdReused(_) => None,
    }
}
