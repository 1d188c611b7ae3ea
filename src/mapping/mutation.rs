//! The methods that write: each request with its response, and each response with its outcome.

use bytes::Bytes;
use prost::{DecodeError, Message};

use super::user::{basic_of, id_of};
use crate::domain::id::UserId;
use crate::domain::outcome::Executed;
use crate::proto::server as pb;

/// The request of a method that writes.
pub trait Mutation: Message + Clone {
    /// The response of the method.
    type Response: MutationResponse;

    /// A name that is unique to the method. It is part of the fingerprint.
    const NAME: &'static str;

    /// Returns the request without its `request_id`.
    fn without_request_id(&self) -> Self;
}

/// The response of a [`Mutation`].
pub trait MutationResponse: Message + Default {
    /// Creates the response from the outcome of the command.
    ///
    /// `None` if the outcome belongs to another method, which is a bug.
    fn of(executed: &Executed) -> Option<Self>;

    /// Returns the users inside the response, each as an encoded message.
    fn users(&mut self) -> Vec<&mut Bytes> {
        Vec::new()
    }

    /// Returns the texts that one of these users wrote to the other.
    fn texts(&mut self) -> Vec<&mut String> {
        Vec::new()
    }
}

/// Reduces the users inside a response, except this one, to the basic view.
///
/// # Errors
///
/// If one of them is not an encoded user.
pub fn reduce<R: MutationResponse>(response: &mut R, except: UserId) -> Result<(), DecodeError> {
    for user in response.users() {
        if id_of(user)? != except {
            *user = basic_of(user)?;
        }
    }
    Ok(())
}

macro_rules! mutations {
    ($($request:ident => $response:ident),+ $(,)?) => {$(
        impl Mutation for pb::$request {
            type Response = pb::$response;

            const NAME: &'static str = stringify!($request);

            fn without_request_id(&self) -> Self {
                Self { request_id: String::new(), ..self.clone() }
            }
        }
    )+};
}

mutations!(
    CreateUserRequest => CreateUserResponse,
    UpdateUserRequest => UpdateUserResponse,
    DeleteUserRequest => DeleteUserResponse,
    ImportUsersRequest => ImportUsersResponse,
    SendConnectionRequestRequest => SendConnectionRequestResponse,
    AcceptConnectionRequestRequest => AcceptConnectionRequestResponse,
    RejectConnectionRequestRequest => RejectConnectionRequestResponse,
    RestoreConnectionRequestRequest => RestoreConnectionRequestResponse,
    CancelConnectionRequestRequest => CancelConnectionRequestResponse,
    MarkConnectionRequestViewedRequest => MarkConnectionRequestViewedResponse,
    MarkAllConnectionRequestsViewedRequest => MarkAllConnectionRequestsViewedResponse,
    RemoveConnectionRequest => RemoveConnectionResponse,
    BlockUserRequest => BlockUserResponse,
    UnblockUserRequest => UnblockUserResponse,
);

/// Implements [`MutationResponse`] for each response by its outcome. The `revision` and its `epoch` are set for all of them.
///
/// `users` returns the users inside the response, and `texts` what they wrote to each other.
macro_rules! responses {
    ($(
        $response:ident: $outcome:pat => { $($field:ident: $value:expr),* $(,)? }
        $(, users: |$this:ident| $users:expr)?
        $(, texts: |$same:ident| $texts:expr)?
    )+) => {$(
        impl $crate::mapping::mutation::MutationResponse for pb::$response {
            fn of(executed: &$crate::domain::outcome::Executed) -> Option<Self> {
                let $outcome = &executed.outcome else { return None };
                Some(Self { $($field: $value,)* revision: executed.revision.get(), epoch: executed.epoch.to_string() })
            }

            $(fn users(&mut self) -> Vec<&mut bytes::Bytes> {
                let $this = self;
                $users
            })?

            $(fn texts(&mut self) -> Vec<&mut String> {
                let $same = self;
                $texts
            })?
        }
    )+};
}
pub(super) use responses;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::Time;
    use crate::domain::command::RequestAction;
    use crate::domain::id::Sequence;
    use crate::domain::outcome::{Outcome, Transition};
    use crate::domain::pair::Message;
    use crate::domain::user::Profile;
    use crate::domain::view::Status;
    use crate::mapping::user::{UserView, encoded};
    use crate::store::CachedUser;

    #[test]
    fn all_users_of_a_response_but_one_are_reduced_to_the_basic_view() {
        let user = |id: i64| {
            let (username, email) = ("ann".parse().expect("a name"), "ann@example.com".parse().expect("an address"));
            let profile = Profile { username, email, email_isvalid: true, ..Profile::default() };
            CachedUser::from(Arc::new(profile.into_user(UserId::new(id), None, Time::UNIX_EPOCH)))
        };
        let (ann, bob) = (user(1), user(2));
        let [from_user, to_user] = [&ann, &bob].map(|user| encoded(user, UserView::Full));
        let request = pb::ConnectionRequest { from_user, to_user, ..Default::default() };
        let sent = pb::SendConnectionRequestResponse { connection_request: Some(request), ..Default::default() };
        for (caller, views) in
            [(ann.id, [UserView::Full, UserView::Basic]), (bob.id, [UserView::Basic, UserView::Full])]
        {
            let mut response = sent.clone();
            reduce(&mut response, caller).expect("users");
            let expected = [encoded(&ann, views[0]), encoded(&bob, views[1])];
            assert_eq!(response.users(), expected.iter().collect::<Vec<_>>(), "{caller}");
        }
    }

    #[test]
    fn a_response_is_created_from_the_outcome_of_its_own_method_only() {
        let transition = Transition { request: None, status: Status::Connected };
        let outcome = Outcome::RequestChanged(RequestAction::Accept(Message::default()), transition);
        let accepted = Executed { revision: Sequence::new(7), epoch: "a".into(), outcome };
        let response = pb::AcceptConnectionRequestResponse::of(&accepted).expect("its own");
        assert_eq!((response.status(), response.revision), (pb::ConnectionStatus::Connected, 7));
        assert_eq!(pb::RestoreConnectionRequestResponse::of(&accepted), None);
        assert_eq!(pb::SendConnectionRequestResponse::of(&accepted), None);
        assert_eq!(pb::DeleteUserResponse::of(&accepted), None);
    }
}
