//! Fingerprints of calls with a `request_id`, to return the stored response to a repeated call.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::mutation::{Mutation, MutationResponse};
use crate::domain::command::Idempotency;
use crate::domain::outcome::Executed;

/// A digest of the requests of one call. A stream has many requests, other calls have one.
#[derive(Clone, Debug, Default)]
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Adds a request.
    ///
    /// The digest includes the length of each request, so that different streams with the same bytes differ.
    pub fn add<M: Mutation>(&mut self, request: &M) {
        self.0.update(M::NAME);
        self.0.update([0]);
        self.0.update(request.without_request_id().encode_length_delimited_to_vec());
    }

    /// Returns the idempotency data of the call with this digest.
    pub fn idempotency<M: Mutation>(self, id: Uuid) -> Idempotency {
        Idempotency { id, fingerprint: self.finish(), encode: encode::<M::Response> }
    }

    /// Returns the digest.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// Returns the idempotency data of a call with one request.
pub fn idempotency<M: Mutation>(id: Uuid, request: &M) -> Idempotency {
    let mut fingerprint = Fingerprint::default();
    fingerprint.add(request);
    fingerprint.idempotency::<M>(id)
}

fn encode<R: MutationResponse>(executed: &Executed) -> Option<Vec<u8>> {
    R::of(executed).map(|response| response.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::domain::id::Sequence;
    use crate::domain::outcome::Outcome;
    use crate::proto::server as pb;

    fn digest(message: &impl Mutation) -> [u8; 32] {
        let mut fingerprint = Fingerprint::default();
        fingerprint.add(message);
        fingerprint.finish()
    }

    fn sends() -> impl Strategy<Value = pb::SendConnectionRequestRequest> {
        // Few values, so that two are often the same.
        (0..3_i64, 0..3_i64, "[ab]{0,2}", ".{0,9}").prop_map(|(from_user_id, to_user_id, message, request_id)| {
            pb::SendConnectionRequestRequest { from_user_id, to_user_id, message, request_id }
        })
    }

    fn imports() -> impl Strategy<Value = Vec<pb::ImportUsersRequest>> {
        let row = ("[ab]{0,2}", ".{0,9}").prop_map(|(username, request_id)| {
            let user = Some(pb::User { username, ..Default::default() });
            pb::ImportUsersRequest { user, request_id }
        });
        vec(row, 0..3)
    }

    proptest! {
        #[test]
        fn digests_are_the_same_for_the_same_body_only(one in sends(), other in sends()) {
            let is_same = one.without_request_id() == other.without_request_id();
            prop_assert_eq!(digest(&one) == digest(&other), is_same);
        }

        #[test]
        fn streams_have_the_same_digest_for_the_same_rows_only(one in imports(), other in imports()) {
            let digest = |rows: &[pb::ImportUsersRequest]| {
                let mut fingerprint = Fingerprint::default();
                rows.iter().for_each(|row| fingerprint.add(row));
                fingerprint.finish()
            };
            let bodies = |rows: &[pb::ImportUsersRequest]| -> Vec<_> {
                rows.iter().map(Mutation::without_request_id).collect()
            };
            prop_assert_eq!(digest(&one) == digest(&other), bodies(&one) == bodies(&other));
        }
    }

    #[test]
    fn a_digest_depends_on_the_method_and_the_body_but_not_on_the_request_id() {
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

    #[test]
    fn the_response_of_the_call_is_stored() {
        let request = pb::DeleteUserRequest { id: 1, request_id: String::new() };
        let call = idempotency(Uuid::from_u128(7), &request);
        assert_eq!((call.id, call.fingerprint), (Uuid::from_u128(7), digest(&request)));
        let executed = |outcome| Executed { revision: Sequence::new(9), outcome };
        let response = pb::DeleteUserResponse { revision: 9 };
        assert_eq!((call.encode)(&executed(Outcome::UserDeleted)), Some(response.encode_to_vec()));
        assert_eq!((call.encode)(&executed(Outcome::AllViewed { marked: 1 })), None, "another method's");
    }
}
