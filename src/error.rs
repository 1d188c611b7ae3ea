//! The one place that makes a `tonic::Status` for what went wrong.
//!
//! No caller receives SQL, a driver's text, a path or a panic's message. An internal error is a fixed sentence. Its cause
//! is the status's source, which tonic does not send, and which [`log`] writes.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::committer::CommitError;
use crate::domain::decide::{Limit, Rejection};
use crate::domain::id::{Sequence, UserId};
use crate::feed::Lost;
use crate::mapping::invalid::{Invalid, Kind};
use crate::proto::v1::ErrorReason;
use crate::store::StoreError;

const DOMAIN: &str = "kith";
/// How long to wait before another try, where nothing better is known.
const PAUSE: Duration = Duration::from_secs(1);

/// The published name of a reason: that of the enum's value, without its prefix.
pub fn name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}

/// Logs a failed call, once, with the cause that its caller does not receive.
pub fn log(method: &str, status: &Status, elapsed: Duration) {
    let (code, ms, error) = (status.code(), elapsed.as_secs_f64() * 1_000.0, status.source());
    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum; all others are the caller's fault or nobody's")]
    match code {
        Code::Unknown | Code::Internal | Code::DataLoss => tracing::error!(method, ?code, ms, error, "call failed"),
        Code::Unavailable | Code::DeadlineExceeded => tracing::warn!(method, ?code, ms, error, "call failed"),
        _ => tracing::debug!(method, ?code, ms, error, "call failed"),
    }
}

fn details<const N: usize>(reason: ErrorReason, metadata: [(&str, String); N]) -> ErrorDetails {
    let metadata: Vec<(String, String)> = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    ErrorDetails::with_error_info(
        name(reason),
        DOMAIN,
        metadata.into_iter().collect::<std::collections::HashMap<_, _>>(),
    )
}

fn status<const N: usize>(
    code: Code,
    reason: ErrorReason,
    message: impl Into<String>,
    metadata: [(&str, String); N],
) -> Status {
    Status::with_error_details(code, message, details(reason, metadata))
}

fn retry<const N: usize>(
    code: Code,
    reason: ErrorReason,
    message: impl Into<String>,
    metadata: [(&str, String); N],
) -> Status {
    let mut details = details(reason, metadata);
    details.set_retry_info(Some(PAUSE));
    Status::with_error_details(code, message, details)
}

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        let (mut details, message) = match invalid.kind {
            Kind::Fields => (details(ErrorReason::InvalidFields, []), "the request has invalid fields"),
            Kind::SelfRequest(user) => {
                (details(ErrorReason::SelfRequest, [("user_id", user.to_string())]), "the two users are the same")
            }
            Kind::PageToken => (
                details(ErrorReason::InvalidPageToken, []),
                "the page token is not one of this list; start again without one",
            ),
        };
        let mut message = message.to_owned();
        for (place, violation) in invalid.violations.iter().enumerate() {
            details.add_bad_request_violation(&violation.field, &violation.description);
            let mark = if place == 0 { ": " } else { "; " };
            if place < 5 {
                message.extend([mark, &violation.field, " ", &violation.description]);
            }
        }
        Self::with_error_details(Code::InvalidArgument, message, details)
    }
}

impl From<Rejection> for Status {
    fn from(rejection: Rejection) -> Self {
        use ErrorReason as Reason;
        let request = |id: crate::domain::id::RequestId| [("connection_request_id", id.to_string())];
        let user = |id: UserId| [("user_id", id.to_string())];
        let both = |one: UserId, other: UserId| [("user_id", one.to_string()), ("other_user_id", other.to_string())];
        match rejection {
            Rejection::UserNotFound(id) => {
                status(Code::NotFound, Reason::UserNotFound, format!("there is no user {id}"), user(id))
            }
            Rejection::UserNotApproved(id) => status(
                Code::FailedPrecondition,
                Reason::UserNotApproved,
                format!("user {id} is blocked by a moderator or unregistered"),
                user(id),
            ),
            Rejection::UserExists(id) => {
                status(Code::AlreadyExists, Reason::UserExists, format!("there is a user {id} already"), user(id))
            }
            Rejection::UsernameTaken(name) => status(
                Code::AlreadyExists,
                Reason::UsernameTaken,
                format!("another user has the name {name}"),
                [("username", name)],
            ),
            Rejection::NoIdLeft => {
                let mut details = details(Reason::InvalidFields, []);
                details
                    .add_bad_request_violation("user.id", "must be given: the largest id is in use, none follows it");
                Self::with_error_details(Code::InvalidArgument, "no id is left to assign", details)
            }
            Rejection::RequestNotFound(id) => status(
                Code::NotFound,
                Reason::RequestNotFound,
                format!("there is no connection request {id} that the user takes part in"),
                request(id),
            ),
            Rejection::NotTheReceiver(id) => status(
                Code::PermissionDenied,
                Reason::NotTheReceiver,
                format!("only the receiver of connection request {id} may do this"),
                request(id),
            ),
            Rejection::NotTheSender(id) => status(
                Code::PermissionDenied,
                Reason::NotTheSender,
                format!("only the sender of connection request {id} may do this"),
                request(id),
            ),
            Rejection::BlockedByYou { user, other } => status(
                Code::FailedPrecondition,
                Reason::BlockedByYou,
                format!("user {user} blocks user {other}, and must unblock first"),
                both(user, other),
            ),
            Rejection::NotBlocked { user, other } => status(
                Code::NotFound,
                Reason::NotBlocked,
                format!("user {user} does not block user {other}"),
                both(user, other),
            ),
            Rejection::NotConnected { user, other } => status(
                Code::NotFound,
                Reason::NotConnected,
                format!("users {user} and {other} are not connected"),
                both(user, other),
            ),
            Rejection::AlreadyConnected(id) => {
                status(Code::AlreadyExists, Reason::AlreadyConnected, "the two users are connected", request(id))
            }
            Rejection::AlreadyAccepted(id) => status(
                Code::FailedPrecondition,
                Reason::AlreadyConnected,
                format!("connection request {id} was accepted, and the two users are connected"),
                request(id),
            ),
            Rejection::RequestPending(id) => status(
                Code::AlreadyExists,
                Reason::RequestPending,
                format!("connection request {id} is still there"),
                request(id),
            ),
            Rejection::LimitReached { limit, user, maximum, retry_after } => {
                limit_reached(limit, user, maximum, retry_after.and_then(|pause| pause.to_std().ok()))
            }
            Rejection::RequestIdReused(id) => {
                let metadata = [("request_id", id.to_string())];
                let mut details = details(Reason::RequestIdReused, metadata);
                details.add_bad_request_violation("request_id", "was used for another call within the last 24 hours");
                Self::with_error_details(Code::InvalidArgument, "the request_id was used for another call", details)
            }
        }
    }
}

fn limit_reached(limit: Limit, user: UserId, maximum: i64, retry_after: Option<Duration>) -> Status {
    let metadata =
        [("limit", limit.name().to_owned()), ("maximum", maximum.to_string()), ("user_id", user.to_string())];
    let mut details = details(ErrorReason::LimitReached, metadata);
    details.set_retry_info(Some(retry_after.unwrap_or(PAUSE)));
    let message = format!("user {user} has reached the limit {} = {maximum}", limit.name());
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

impl From<CommitError> for Status {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Rejected(rejection) => rejection.into(),
            CommitError::Overloaded => overloaded(),
            CommitError::Unavailable => unavailable(),
            CommitError::OutcomeUnknown => retry(
                Code::Unavailable,
                ErrorReason::OutcomeUnknown,
                "the change may or may not have been made; retry with the same request_id to learn which",
                [],
            ),
            CommitError::Internal => fault(),
        }
    }
}

impl From<StoreError> for Status {
    /// For a read, with the error as the source. A commit's error is logged once for its batch by the committer.
    fn from(error: StoreError) -> Self {
        let mut status = match &error {
            StoreError::Overloaded => overloaded(),
            StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_) | StoreError::Refused(_) => unavailable(),
            StoreError::Corrupt { .. } | StoreError::Internal(_) => fault(),
        };
        status.set_source(Arc::new(error));
        status
    }
}

impl From<Lost> for Status {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Expired { oldest } => status(
                Code::OutOfRange,
                ErrorReason::CursorExpired,
                format!("events before {oldest} are kept no longer; list what was missed, and go on from its revision"),
                [("oldest_sequence", oldest.to_string())],
            ),
            Lost::WrongEpoch { epoch } => status(
                Code::FailedPrecondition,
                ErrorReason::WrongEpoch,
                "the place is from another database or from before a restore; list everything anew",
                [("epoch", epoch)],
            ),
            Lost::TooMany => overloaded(),
            Lost::ShuttingDown => {
                retry(Code::Unavailable, ErrorReason::ShuttingDown, "the server ends; resume on another one", [])
            }
            Lost::Silent => unavailable(),
            Lost::Store(error) => error.into(),
        }
    }
}

/// The database has not reached the revision that the caller asks for.
pub fn revision_not_reached(reached: Sequence) -> Status {
    let message = format!("the database is at revision {reached}, which is before min_revision");
    let metadata = [("revision", reached.to_string())];
    retry(Code::Unavailable, ErrorReason::RevisionNotReached, message, metadata)
}

fn overloaded() -> Status {
    retry(Code::ResourceExhausted, ErrorReason::Overloaded, "there is more to do than can be held; retry later", [])
}

fn unavailable() -> Status {
    retry(Code::Unavailable, ErrorReason::DatabaseUnavailable, "the database does not answer; retry later", [])
}

/// A bug, with its cause for the log.
pub fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Status {
    let mut status = fault();
    status.set_source(cause.into().into());
    status
}

fn fault() -> Status {
    status(Code::Internal, ErrorReason::InternalFault, "an internal fault; the service's log has its cause", [])
}

/// The request's bytes are not a message of this call.
pub fn undecodable() -> Status {
    let mut details = details(ErrorReason::InvalidFields, []);
    details.add_bad_request_violation("", "the bytes are not a protobuf message of this call");
    Status::with_error_details(Code::InvalidArgument, "the request cannot be decoded", details)
}

/// The call's time ran out.
pub fn deadline_passed() -> Status {
    let message = "the call's time ran out; a change may still be made, retry with the same request_id to learn";
    status(Code::DeadlineExceeded, ErrorReason::DeadlinePassed, message, [])
}

/// A user that was asked for does not exist.
pub fn user_not_found(id: UserId) -> Status {
    Rejection::UserNotFound(id).into()
}

/// No user has the name that was asked for.
pub fn username_not_found(name: &str) -> Status {
    let metadata = [("username", name.to_owned())];
    status(Code::NotFound, ErrorReason::UserNotFound, format!("there is no user {name}"), metadata)
}
