//! Conversions from errors to `tonic::Status`. No other module creates a status for a caller.
//!
//! A status never contains SQL, text of a driver, a path or a panic message. The message of an internal error is fixed.
//! Its cause is the source of the status: the log has it, and tonic does not send it.

use std::error::Error;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::auth::limits::{self, AtLimit};
use crate::auth::rights::Denied;
use crate::auth::{FAILURES_MAX, Unauthenticated};
use crate::committer::CommitError;
use crate::domain::decide::{Limit, Rejection};
use crate::domain::epoch::Epoch;
use crate::domain::id::{Sequence, UserId};
use crate::domain::text::ExternalId;
use crate::feed::FeedError;
use crate::mapping::invalid::{Invalid, Kind};
use crate::mapping::user::{EXTERNAL_ID_FIXED, NO_ID_LEFT, USERNAME_NEEDED};
use crate::metrics::refusals::{Cause, Refused};
use crate::proto::v1::ErrorReason;
use crate::store::StoreError;

/// The `domain` of every `google.rpc.ErrorInfo`.
const DOMAIN: &str = "kith";
/// Retry delay that a `google.rpc.RetryInfo` gives unless a better one is known.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Maximum number of violations that the message of a status lists. Its details contain the others too.
const VIOLATIONS_IN_MESSAGE: usize = 5;

/// Returns the name of a reason as clients receive it: the enum value's name without its prefix.
pub fn name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
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

/// Returns a status with the default retry delay.
fn retryable<const N: usize>(
    code: Code,
    reason: ErrorReason,
    message: impl Into<String>,
    metadata: [(&str, String); N],
) -> Status {
    let mut details = details(reason, metadata);
    details.set_retry_info(Some(RETRY_DELAY));
    Status::with_error_details(code, message, details)
}

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        let (mut details, message) = match invalid.kind {
            Kind::Fields => (details(ErrorReason::InvalidFields, []), "the request has invalid fields"),
            Kind::SelfRequest(user) => {
                (details(ErrorReason::SelfRequest, [("user_id", user.to_string())]), "both users are the same")
            }
            Kind::PageToken => {
                (details(ErrorReason::InvalidPageToken, []), "invalid page token; omit it to start at the first page")
            }
        };
        let mut message = message.to_owned();
        for (index, violation) in invalid.violations.iter().enumerate() {
            details.add_bad_request_violation(&violation.field, &violation.description);
            let separator = if index == 0 { ": " } else { "; " };
            if index < VIOLATIONS_IN_MESSAGE {
                message.extend([separator, &violation.field, " ", &violation.description]);
            }
        }
        Self::with_error_details(Code::InvalidArgument, message, details)
    }
}

/// Returns the status of a call with a field that is invalid for a reason that only the stored data shows.
fn invalid(message: impl Into<String>, field: &str, description: &str) -> Status {
    let mut details = details(ErrorReason::InvalidFields, []);
    details.add_bad_request_violation(field, description);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

impl From<Rejection> for Status {
    fn from(rejection: Rejection) -> Self {
        use ErrorReason as Reason;
        let request = |id: crate::domain::id::RequestId| [("connection_request_id", id.to_string())];
        let user = |id: UserId| [("user_id", id.to_string())];
        let both = |one: UserId, other: UserId| [("user_id", one.to_string()), ("other_user_id", other.to_string())];
        match rejection {
            Rejection::UserNotFound(id) => {
                status(Code::NotFound, Reason::UserNotFound, format!("user {id} does not exist"), user(id))
            }
            Rejection::UserNotApproved(id) => status(
                Code::FailedPrecondition,
                Reason::UserNotApproved,
                format!("user {id} is not approved: blocked by a moderator or unregistered"),
                user(id),
            ),
            Rejection::UserExists(id) => {
                status(Code::AlreadyExists, Reason::UserExists, format!("user {id} already exists"), user(id))
            }
            Rejection::ExternalIdExists { user: id, external_id } => status(
                Code::AlreadyExists,
                Reason::UserExists,
                format!("user {id} has the external id {external_id}"),
                [("user_id", id.to_string()), ("external_id", external_id)],
            ),
            Rejection::ExternalIdFixed(id) => {
                invalid(format!("user {id} has another external id"), "user.external_id", EXTERNAL_ID_FIXED)
            }
            Rejection::UsernameNeeded(id) => {
                invalid(format!("user {id} needs a username"), "user.username", USERNAME_NEEDED)
            }
            Rejection::UsernameTaken(name) => status(
                Code::AlreadyExists,
                Reason::UsernameTaken,
                format!("username {name} is already taken"),
                [("username", name)],
            ),
            Rejection::NoIdLeft => {
                invalid("cannot assign a user id: there are none left; set user.id", "user.id", NO_ID_LEFT)
            }
            Rejection::NotTheUser(id) => status(
                Code::PermissionDenied,
                Reason::NotTheUser,
                format!("only user {id} may do this, or an operator"),
                user(id),
            ),
            Rejection::Conflict { user: id, changed } => status(
                Code::Aborted,
                Reason::Conflict,
                format!("user {id} was changed at revision {changed}, after expected_revision; read the user again"),
                [("user_id", id.to_string()), ("revision", changed.to_string())],
            ),
            Rejection::RequestNotFound(id) => status(
                Code::NotFound,
                Reason::RequestNotFound,
                format!("connection request {id} does not exist, or the user is neither its sender nor its receiver"),
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
                format!("user {user} has blocked user {other}; unblock user {other} first"),
                both(user, other),
            ),
            Rejection::NotBlocked { user, other } => status(
                Code::NotFound,
                Reason::NotBlocked,
                format!("user {user} has not blocked user {other}"),
                both(user, other),
            ),
            Rejection::NotConnected { user, other } => status(
                Code::NotFound,
                Reason::NotConnected,
                format!("users {user} and {other} are not connected"),
                both(user, other),
            ),
            Rejection::AlreadyConnected(id) => {
                status(Code::AlreadyExists, Reason::AlreadyConnected, "the users are already connected", request(id))
            }
            Rejection::AlreadyAccepted(id) => status(
                Code::FailedPrecondition,
                Reason::AlreadyConnected,
                format!("connection request {id} is already accepted; to end the connection, remove it"),
                request(id),
            ),
            Rejection::RequestPending(id) => status(
                Code::AlreadyExists,
                Reason::RequestPending,
                format!("connection request {id} to this user is already pending"),
                request(id),
            ),
            Rejection::LimitReached { limit, user, maximum, retry_after } => {
                limit_reached(limit, user, maximum, retry_after.and_then(|delay| delay.to_std().ok()))
            }
            Rejection::RequestIdReused(id) => {
                let metadata = [("request_id", id.to_string())];
                let mut details = details(Reason::RequestIdReused, metadata);
                details.add_bad_request_violation(
                    "request_id",
                    "must be new: this one was used for a different call within the last 24 hours",
                );
                Self::with_error_details(
                    Code::InvalidArgument,
                    "the request_id was used for a different call; use a new one",
                    details,
                )
            }
        }
    }
}

fn limit_reached(limit: Limit, user: UserId, maximum: i64, retry_after: Option<Duration>) -> Status {
    let metadata =
        [("limit", limit.name().to_owned()), ("maximum", maximum.to_string()), ("user_id", user.to_string())];
    let mut details = details(ErrorReason::LimitReached, metadata);
    details.set_retry_info(Some(retry_after.unwrap_or(RETRY_DELAY)));
    let message = format!("user {user} has reached the limit of {maximum} for {}", limit.name());
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

impl From<CommitError> for Status {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Rejected(rejection) => rejection.into(),
            CommitError::Overloaded => overloaded(Cause::Queue),
            CommitError::Unavailable(cause) => {
                let mut status = unavailable();
                status.set_source(Arc::new(cause));
                status
            }
            CommitError::ReadOnly => status(
                Code::FailedPrecondition,
                ErrorReason::ReadOnly,
                "this server only reads; send writes to one that was started without --read-only",
                [],
            ),
            CommitError::OutcomeUnknown(cause) => {
                let message = "the change may or may not be committed; retry with the same request_id to find out";
                let mut status = retryable(Code::Unavailable, ErrorReason::OutcomeUnknown, message, []);
                status.set_source(Arc::new(cause));
                status
            }
            CommitError::Internal => internal_error(),
        }
    }
}

impl From<StoreError> for Status {
    /// Converts the error of a read, which becomes the source of the status.
    ///
    /// An error of a commit is not converted: the committer logs it.
    fn from(error: StoreError) -> Self {
        let mut status = match &error {
            StoreError::Overloaded => return overloaded(Cause::Reads),
            StoreError::Unavailable(_)
            | StoreError::Away(_)
            | StoreError::OutcomeUnknown(_)
            | StoreError::Refused(_) => unavailable(),
            StoreError::Corrupt { .. } | StoreError::Internal(_) => internal_error(),
        };
        status.set_source(Arc::new(error));
        status
    }
}

impl From<FeedError> for Status {
    fn from(error: FeedError) -> Self {
        match error {
            FeedError::Expired { oldest: Some(oldest) } => status(
                Code::OutOfRange,
                ErrorReason::CursorExpired,
                format!(
                    "events before {oldest} are no longer retained; list the current state and resume after its revision"
                ),
                [("oldest_sequence", oldest.to_string())],
            ),
            FeedError::Expired { oldest: None } => status(
                Code::OutOfRange,
                ErrorReason::CursorExpired,
                "events after the cursor are no longer retained; list the current state and resume after its revision",
                [],
            ),
            FeedError::WrongEpoch { epoch, common } => wrong_epoch(&epoch, common),
            FeedError::TooManyWatchers => overloaded(Cause::Watches),
            FeedError::ShuttingDown => retryable(
                Code::Unavailable,
                ErrorReason::ShuttingDown,
                "the server is shutting down; resume on another server",
                [],
            ),
            FeedError::Unresponsive => unavailable(),
            FeedError::Store(error) => error.into(),
        }
    }
}

impl From<Unauthenticated> for Status {
    fn from(error: Unauthenticated) -> Self {
        let (reason, message) = match error {
            Unauthenticated::TooManyFailures(retry_after) => return too_many_failures(retry_after),
            Unauthenticated::Missing => (
                ErrorReason::CredentialsMissing,
                "the call has no credential; send a token or an API key in the header authorization: Bearer …"
                    .to_owned(),
            ),
            Unauthenticated::Invalid(cause) => {
                (ErrorReason::CredentialsInvalid, format!("the credential is not valid: {cause}"))
            }
        };
        refused(Cause::Credentials, status(Code::Unauthenticated, reason, message, []))
    }
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        use ErrorReason::{ActsForAnotherUser, OperatorsOnly, ScopeMissing};
        const CODE: Code = Code::PermissionDenied;
        let status = match denied {
            Denied::ScopeMissing(scope) => {
                let message = format!("the call needs the scope {}, which the service does not have", scope.name());
                status(CODE, ScopeMissing, message, [("scope", scope.name().to_owned())])
            }
            Denied::OperatorsOnly => status(CODE, OperatorsOnly, "only services may make this call", []),
            Denied::ViewForOperatorsOnly(field) => {
                let message =
                    format!("only services see every field of other users; leave out {field}, or ask for BASIC");
                status(CODE, OperatorsOnly, message, [("field", field.to_owned())])
            }
            Denied::ActsForAnother { field, user } => {
                let message = format!("{field} names another user; user {user} acts and reads only as themself");
                let metadata = [("field", field.to_owned()), ("user_id", user.to_string())];
                status(CODE, ActsForAnotherUser, message, metadata)
            }
        };
        refused(Cause::Rights, status)
    }
}

/// Returns the status of a call whose token is not verified for now.
fn too_many_failures(retry_after: Duration) -> Status {
    let message = format!("the address sends more than {FAILURES_MAX} invalid tokens a second, this connection too");
    let metadata = [("limit", "invalid_tokens".to_owned()), ("maximum", FAILURES_MAX.to_string())];
    let mut details = details(ErrorReason::RateLimited, metadata);
    details.set_retry_info(Some(retry_after));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

impl From<AtLimit> for Status {
    fn from(AtLimit { limit, maximum, retry_after }: AtLimit) -> Self {
        let message = match limit {
            limits::Limit::Reads => format!("the caller makes more than {maximum} reads a second"),
            limits::Limit::Writes => format!("the caller makes more than {maximum} writes a second"),
            limits::Limit::InFlight => format!("the caller has {maximum} calls in flight, the maximum"),
            limits::Limit::Watches => format!("the caller has {maximum} watches open, the maximum"),
            limits::Limit::Imports => format!("the caller runs {maximum} imports, the maximum"),
        };
        let metadata = [("limit", limit.name().to_owned()), ("maximum", maximum.to_string())];
        let mut details = details(ErrorReason::RateLimited, metadata);
        details.set_retry_info(Some(retry_after.unwrap_or(RETRY_DELAY)));
        refused(Cause::RateLimit, Self::with_error_details(Code::ResourceExhausted, message, details))
    }
}

/// Returns the status of a read whose `min_revision` the database has not reached.
pub fn revision_not_reached(reached: Sequence) -> Status {
    let message = format!("the database is at revision {reached}, below min_revision; retry later");
    let metadata = [("revision", reached.to_string())];
    retryable(Code::Unavailable, ErrorReason::RevisionNotReached, message, metadata)
}

/// Returns the status of a call that is refused for want of room. The cause is its source.
///
/// Each is made once: under overload, a refusal must cost little time.
pub fn overloaded(cause: Cause) -> Status {
    static STATUSES: LazyLock<[Status; Cause::ALL.len()]> = LazyLock::new(|| {
        Cause::ALL.map(|cause| {
            let message = "the server is overloaded and changed nothing; retry later";
            refused(cause, retryable(Code::ResourceExhausted, ErrorReason::Overloaded, message, []))
        })
    });
    STATUSES[cause as usize].clone()
}

/// Adds the cause of a refusal to its status, for the log and the metrics.
fn refused(cause: Cause, mut status: Status) -> Status {
    status.set_source(Arc::new(Refused(cause)));
    status
}

/// Returns the status of a call whose cursor, page token or `min_revision` includes events that this feed does not have.
///
/// `common` is the last event up to which none was lost, if that is known.
pub fn wrong_epoch(newest: &Epoch, common: Option<Sequence>) -> Status {
    let (code, reason) = (Code::FailedPrecondition, ErrorReason::WrongEpoch);
    let epoch = ("epoch", newest.to_string());
    match common {
        Some(common) => status(
            code,
            reason,
            format!("events after {common} were lost; discard what followed it, and resume after it in the new epoch"),
            [epoch, ("common_sequence", common.to_string())],
        ),
        None => status(
            code,
            reason,
            "the position or its epoch is not part of this feed: it is from another database, or was lost; \
             list the current state again",
            [epoch],
        ),
    }
}

/// Returns the status of a call while the database cannot be reached.
pub fn unavailable() -> Status {
    retryable(Code::Unavailable, ErrorReason::DatabaseUnavailable, "the database is unavailable; retry later", [])
}

/// Returns the status of an internal error. Its cause is logged, but not sent.
pub fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Status {
    let mut status = internal_error();
    status.set_source(cause.into().into());
    status
}

fn internal_error() -> Status {
    status(Code::Internal, ErrorReason::InternalFault, "internal error; its cause is in the server's log", [])
}

/// Returns the status of a call whose request tonic could not read, by the status that tonic made.
///
/// `None` if that one is right as it is.
pub fn unread(foreign: &Status, bytes_max: usize) -> Option<Status> {
    // The connection or the stream broke while the request was read.
    if foreign.source().is_some() {
        let mut status = caller_gone();
        status.set_source(Arc::new(foreign.clone()));
        return Some(status);
    }
    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum; tonic makes no other code for a request")]
    match foreign.code() {
        // The size before and after decompression.
        Code::OutOfRange | Code::ResourceExhausted => Some(message_too_large(bytes_max)),
        Code::Internal => Some(undecodable()),
        _ => None,
    }
}

/// Returns the status of a call whose caller went away before its end. Only the log has it.
pub fn caller_gone() -> Status {
    Status::cancelled("the call ended before it was complete")
}

/// Returns the status of a request with a message of more than `bytes_max`.
///
/// It is the only one of its code without a retry delay: a retry fails as well.
fn message_too_large(bytes_max: usize) -> Status {
    status(
        Code::ResourceExhausted,
        ErrorReason::MessageTooLarge,
        format!("a message of the request is larger than {bytes_max} bytes; nothing of it was read"),
        [("maximum", bytes_max.to_string())],
    )
}

/// Returns the status of a request whose bytes are not a message of its method.
fn undecodable() -> Status {
    let mut details = details(ErrorReason::InvalidFields, []);
    details.add_bad_request_violation("", "the bytes are not a valid protobuf message for this call");
    Status::with_error_details(Code::InvalidArgument, "the request could not be decoded", details)
}

/// Returns the status of a call whose answer was not read before its deadline. The log has the cause.
pub fn answer_not_read() -> Status {
    let mut status = deadline_passed();
    let cause: Box<dyn Error + Send + Sync> = "the caller did not read the answer in time".into();
    status.set_source(cause.into());
    status
}

/// Returns the status of a call whose deadline has passed.
pub fn deadline_passed() -> Status {
    let message = "the deadline has passed; to find out whether a change was committed, retry with the same request_id";
    status(Code::DeadlineExceeded, ErrorReason::DeadlinePassed, message, [])
}

/// Returns the status of a call for a user id that does not exist.
pub fn user_not_found(id: UserId) -> Status {
    Rejection::UserNotFound(id).into()
}

/// Returns the status of a call for an external id that does not exist.
pub fn external_id_not_found(id: &ExternalId) -> Status {
    let id = id.as_str();
    let metadata = [("external_id", id.to_owned())];
    status(Code::NotFound, ErrorReason::UserNotFound, format!("no user has the external id {id}"), metadata)
}

/// Returns the status of a call for a username that does not exist.
pub fn username_not_found(name: &str) -> Status {
    let metadata = [("username", name.to_owned())];
    status(Code::NotFound, ErrorReason::UserNotFound, format!("no user has the username {name}"), metadata)
}
