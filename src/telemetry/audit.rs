//! The audit trail: who did what, as whom, with what outcome.
//!
//! It is the part of the log with the target `kith::audit`: one JSON object a line, whatever the format of the rest. It
//! has ids only, and nothing else of what callers send. A call has one line, when it ends; a stream has one when it
//! begins too.
//!
//! Its lines wait in a queue of their own and are written by a thread of their own, so that neither the level nor the
//! number of other lines loses one. A line that cannot be written is dropped all the same, rather than hold up calls. The
//! lines are numbered, so a gap shows each loss, and a line of the trail has the number of those that were lost.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tonic::Code;
use uuid::Uuid;

use super::call::Call;
use crate::auth::Principal;

/// The target of the lines.
pub(super) const TARGET: &str = "kith::audit";
/// The maximum number of users that a line names.
const USERS_MAX: usize = 100;

/// The number of the last line.
static LAST: AtomicU64 = AtomicU64::new(0);

/// What the audit trail says about one call, beside what its line in the log has.
#[derive(Debug)]
pub(super) struct Trail {
    /// Whether the call has a line whatever its outcome. Otherwise it has one if it is denied.
    always: bool,
    principal: OnceLock<Principal>,
    subject: OnceLock<Subject>,
    revision: OnceLock<i64>,
    has_ended: AtomicBool,
}

/// Whom and what a request names. Ids only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The user on whose behalf the call is made.
    pub acting: Option<i64>,
    /// Other users.
    pub users: Vec<i64>,
    /// The connection request.
    pub request: Option<i64>,
    /// The idempotency key, which the API names `request_id`.
    pub key: Option<Uuid>,
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A stream began.
    Began,
    /// The call did what it was to do.
    Succeeded,
    /// Its principal is not known, or may not make it.
    Denied,
    /// It failed for another reason.
    Failed,
    /// Its caller went away. A change may have been made.
    Abandoned,
    /// A stream ended.
    Ended,
}

impl Outcome {
    /// Returns the outcome of a call that failed.
    pub(super) fn of(code: Code) -> Self {
        if matches!(code, Code::Unauthenticated | Code::PermissionDenied) { Self::Denied } else { Self::Failed }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Began => "began",
            Self::Succeeded => "succeeded",
            Self::Denied => "denied",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
            Self::Ended => "ended",
        }
    }
}

impl Trail {
    pub(super) fn new(always: bool) -> Self {
        let (principal, subject, revision) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Self { always, principal, subject, revision, has_ended: AtomicBool::new(false) }
    }

    /// Each of these is set once. What is known first is what the call was decided by.
    pub(super) fn authenticated(&self, principal: &Principal) {
        _ = self.principal.set(principal.clone());
    }

    pub(super) fn about(&self, subject: Subject) {
        _ = self.subject.set(subject);
    }

    pub(super) fn changed(&self, revision: i64) {
        _ = self.revision.set(revision);
    }

    /// Writes the line of a stream that begins.
    pub(super) fn began(&self, call: &Call) {
        if self.always {
            self.line(call, Outcome::Began, None, None);
        }
    }

    /// Writes the line of the call's end. A call that has ended has no other.
    pub(super) fn ended(&self, call: &Call, outcome: Outcome, code: Option<Code>, reason: Option<&str>) {
        if (self.always || outcome == Outcome::Denied) && !self.has_ended.swap(true, Ordering::Relaxed) {
            self.line(call, outcome, code, reason);
        }
    }

    fn line(&self, call: &Call, outcome: Outcome, code: Option<Code>, reason: Option<&str>) {
        let principal = self.principal.get();
        let subject = self.subject.get();
        let users = subject.map(|subject| subject.users.as_slice()).filter(|users| !users.is_empty());
        tracing::info!(
            target: TARGET,
            number = LAST.fetch_add(1, Ordering::Relaxed) + 1,
            outcome = outcome.name(),
            principal = principal.map(tracing::field::display),
            principal_kind = principal.map(kind),
            acting_user_id = subject.and_then(|subject| subject.acting),
            method = call.short_method(),
            user_ids = users.map(|users| tracing::field::display(Ids(users))),
            user_ids_left_out = users.and_then(|users| users.len().checked_sub(USERS_MAX)).filter(|more| *more > 0),
            connection_request_id = subject.and_then(|subject| subject.request),
            idempotency_key = subject.and_then(|subject| subject.key).map(tracing::field::display),
            code = code.map(tracing::field::debug),
            reason,
            revision = self.revision.get(),
            ms = call.ms(),
            peer = call.peer(),
            request_id = call.request_id(),
            "call"
        );
    }
}

/// Writes a line that lines were lost.
pub(super) fn lost(lines: usize) {
    tracing::error!(target: TARGET, number = LAST.fetch_add(1, Ordering::Relaxed) + 1, lines, "lines were lost");
    tracing::error!(lines, "lines of the audit trail were lost");
}

fn kind(principal: &Principal) -> &'static str {
    match principal {
        Principal::Anonymous => "anonymous",
        Principal::Service(_) => "service",
        Principal::User(_) => "user",
    }
}

/// Ids in one text. The log has no lists.
struct Ids<'a>(&'a [i64]);

impl fmt::Display for Ids<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, id) in self.0.iter().take(USERS_MAX).enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator}{id}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_at_most_a_hundred_users() {
        assert_eq!(Ids(&[]).to_string(), "");
        assert_eq!(Ids(&[7]).to_string(), "7");
        let many: Vec<i64> = (1..=101).collect();
        let text = Ids(&many).to_string();
        assert!(text.starts_with("1,2,3,") && text.ends_with(",99,100"), "{text}");
    }

    #[test]
    fn only_a_principal_who_may_not_is_denied() {
        for code in (0..=16).map(Code::from_i32) {
            let denied = matches!(code, Code::Unauthenticated | Code::PermissionDenied);
            assert_eq!(Outcome::of(code) == Outcome::Denied, denied, "{code:?}");
        }
    }
}
