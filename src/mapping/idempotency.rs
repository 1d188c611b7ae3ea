//! What a `request_id` stands for: one call with one body, and the answer that it got.

use prost::Message;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::domain::command::{Idempotency, Outcome};
use crate::proto::server as pb;

/// A request that changes something.
pub trait Mutation: Message + Clone {
    /// Tells this call from all others.
    const CALL: &'static str;

    /// The request without its `request_id`.
    fn without_request_id(&self) -> Self;
}

macro_rules! mutations {
    ($($request:ident),+ $(,)?) => {$(
        impl Mutation for pb::$request {
            const CALL: &'static str = stringify!($request);

            fn without_request_id(&self) -> Self {
                Self { request_id: String::new(), ..self.clone() }
            }
        }
    )+};
}

mutations!(
    CreateUserRequest,
    UpdateUserRequest,
    DeleteUserRequest,
    ImportUsersRequest,
    SendConnectionRequestRequest,
    AcceptConnectionRequestRequest,
    RejectConnectionRequestRequest,
    RestoreConnectionRequestRequest,
    CancelConnectionRequestRequest,
    MarkConnectionRequestViewedRequest,
    MarkAllConnectionRequestsViewedRequest,
    RemoveConnectionRequest,
    BlockUserRequest,
    UnblockUserRequest,
);

/// A digest of calls with their bodies: one for most, many for a stream.
#[derive(Clone, Debug, Default)]
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Adds a message. The messages' own lengths keep two streams with the same bytes apart.
    pub fn add<M: Mutation>(&mut self, message: &M) {
        self.0.update(M::CALL);
        self.0.update([0]);
        self.0.update(message.without_request_id().encode_length_delimited_to_vec());
    }

    /// The digest.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// How the answer `R` to `message` is kept under its request id.
pub fn idempotency<M: Mutation, R: Message + for<'a> From<&'a Outcome>>(id: Uuid, message: &M) -> Idempotency {
    let mut fingerprint = Fingerprint::default();
    fingerprint.add(message);
    Idempotency { id, fingerprint: fingerprint.finish(), encode: encode::<R> }
}

/// The answer's bytes.
pub fn encode<R: Message + for<'a> From<&'a Outcome>>(outcome: &Outcome) -> Vec<u8> {
    R::from(outcome).encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(message: &impl Mutation) -> [u8; 32] {
        let mut fingerprint = Fingerprint::default();
        fingerprint.add(message);
        fingerprint.finish()
    }

    #[test]
    fn a_digest_tells_calls_and_bodies_apart_but_not_request_ids() {
        let block = |user_id, request_id: &str| pb::BlockUserRequest {
            user_id,
            other_user_id: 2,
            request_id: request_id.to_owned(),
        };
        assert_eq!(digest(&block(1, "a")), digest(&block(1, "b")));
        assert_ne!(digest(&block(1, "a")), digest(&block(3, "a")));
        let unblock = pb::UnblockUserRequest { user_id: 1, other_user_id: 2, request_id: "a".to_owned() };
        assert_ne!(digest(&block(1, "a")), digest(&unblock));
    }
}
