//! Fingerprints of calls with a `request_id`, to return the stored response to a repeated call.

use prost::DecodeError;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::mutation::{Mutation, MutationResponse};
use super::user::{UserView, encode_id, encoded, id_of};
use crate::domain::command::{EncodedResponse, Idempotency};
use crate::domain::id::UserId;
use crate::domain::outcome::Executed;
use crate::store::Users;

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

fn encode<R: MutationResponse>(executed: &Executed) -> Option<EncodedResponse> {
    let mut message = R::of(executed)?;
    let response = message.encode_to_vec();
    for user in message.users() {
        *user = encode_id(id_of(user).ok()?);
    }
    message.texts().into_iter().for_each(String::clear);
    Some(EncodedResponse { response, without_profiles: message.encode_to_vec() })
}

/// A stored response. If one of its users was deleted, all have only their ids, and there are no texts between them:
/// [`Stored::without_profile`] returns these ids, [`Stored::with`] adds the profiles of those who are there.
pub struct Stored<R>(R);

impl<R: MutationResponse> Stored<R> {
    /// Decodes a response.
    ///
    /// # Errors
    ///
    /// If the bytes are not such a response.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        R::decode(bytes).map(Self)
    }

    /// Returns the ids of its users who have only an id.
    ///
    /// # Errors
    ///
    /// If one of them is not an encoded user.
    pub fn without_profile(&mut self) -> Result<Vec<UserId>, DecodeError> {
        let mut ids = Vec::new();
        for user in self.0.users() {
            let id = id_of(user)?;
            if *user == encode_id(id) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// Returns the response with these users. All others stay as they are.
    ///
    /// # Errors
    ///
    /// If one of its users is not an encoded user.
    pub fn with(mut self, users: &Users) -> Result<R, DecodeError> {
        for user in self.0.users() {
            if let Some(found) = users.get(&id_of(user)?) {
                *user = encoded(found, UserView::Full);
            }
        }
        Ok(self.0)
    }
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
        let executed = |outcome| Executed { revision: Sequence::new(9), epoch: "a".into(), outcome };
        let response = pb::DeleteUserResponse { revision: 9, epoch: "a".to_owned() };
        let bytes = response.encode_to_vec();
        let encoded = EncodedResponse { without_profiles: bytes.clone(), response: bytes };
        assert_eq!((call.encode)(&executed(Outcome::UserDeleted)), Some(encoded));
        assert_eq!((call.encode)(&executed(Outcome::AllViewed { marked: 1 })), None, "another method's");
    }
}
