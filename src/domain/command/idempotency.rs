//! Calls that are safe to repeat, and their stored responses.

use uuid::Uuid;

use crate::domain::Time;
use crate::domain::caller::Caller;
use crate::domain::id::UserId;
use crate::domain::outcome::Executed;

/// Makes a call safe to repeat: its id, a digest of it, and the encoding of its response.
#[derive(Clone, Copy, Debug)]
pub struct Idempotency {
    /// The caller's `request_id`.
    pub id: Uuid,
    /// A digest of the method and the rest of the request. The same id with another digest is rejected.
    pub fingerprint: [u8; 32],
    /// Encodes the response. A repeated call returns the same bytes.
    ///
    /// Returns `None` if the outcome belongs to another kind of command.
    pub encode: fn(&Executed) -> Option<EncodedResponse>,
}

/// An encoded response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedResponse {
    /// The response itself.
    pub response: Vec<u8>,
    /// The response with only the ids of its users, and without the texts that they wrote to each other.
    pub without_profiles: Vec<u8>,
}

/// The key of a stored response: the caller and their `request_id`.
///
/// Two callers may use the same `request_id` for different calls.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey {
    /// The [key](Caller::key) of the caller.
    pub caller: String,
    /// Their `request_id`.
    pub id: Uuid,
}

impl IdempotencyKey {
    /// Creates the key for a `request_id` of this caller.
    pub fn new(caller: &Caller, id: Uuid) -> Self {
        Self { caller: caller.key().into_owned(), id }
    }
}

/// A response stored under a caller's `request_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotentResponse {
    /// The caller and the `request_id` of the call.
    pub key: IdempotencyKey,
    /// The digest of the call.
    pub fingerprint: [u8; 32],
    /// The encoded response. Once one of its users was deleted, both parts are the one without profiles.
    pub encoded: EncodedResponse,
    /// When the command was executed.
    pub created: Time,
    /// The user on whose behalf the command was executed, if it names one. The response is deleted with them.
    pub actor: Option<UserId>,
    /// The users whose profiles the response has, and its actor. With one of them its profiles and texts are deleted.
    pub users: (Option<UserId>, Option<UserId>),
}

/// How long a response is stored.
pub const RESPONSE_RETENTION: chrono::TimeDelta = chrono::TimeDelta::hours(24);

impl IdempotentResponse {
    /// Removes what it has of a user who is deleted. Returns whether anything of it remains.
    pub fn forget(&mut self, user: UserId) -> bool {
        let Self { key: _, fingerprint: _, encoded, created: _, actor, users } = self;
        if users.0 == Some(user) || users.1 == Some(user) {
            encoded.response.clone_from(&encoded.without_profiles);
        }
        *actor != Some(user)
    }

    /// Returns whether the response is still valid at `now`.
    pub fn is_current(&self, now: Time) -> bool {
        self.created > now - RESPONSE_RETENTION
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: UserId = UserId::new(1);
    const BOB: UserId = UserId::new(2);
    const CY: UserId = UserId::new(3);

    #[test]
    fn a_stored_response_is_current_for_24_hours() {
        let key = IdempotencyKey::new(&Caller::System, Uuid::from_u128(7));
        assert_eq!(key.caller, "system");
        let created = Time::UNIX_EPOCH;
        let encoded = EncodedResponse { response: vec![1, 2], without_profiles: vec![1] };
        let (actor, users) = (Some(ANN), (Some(ANN), Some(BOB)));
        let mut response = IdempotentResponse { key, fingerprint: [0; 32], encoded, created, actor, users };
        let end = created + chrono::TimeDelta::hours(24);
        assert!(response.is_current(created) && response.is_current(end - chrono::TimeDelta::microseconds(1)));
        assert!(!response.is_current(end));
        // Whoever is deleted takes their profile with them; the actor takes the whole response.
        assert!(response.forget(CY) && response.encoded.response == [1, 2]);
        assert!(response.forget(BOB) && response.encoded.response == [1]);
        assert!(!response.forget(ANN));
    }
}
