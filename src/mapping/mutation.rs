//! Calls that change something: each request, its response, and which outcome the response is made of.

use prost::Message;

use crate::domain::outcome::Executed;
use crate::proto::server as pb;

/// A request that changes something.
pub trait Mutation: Message + Clone {
    /// The response to it.
    type Response: MutationResponse;

    /// The call's name, which no other call has.
    const CALL: &'static str;

    /// The request without its `request_id`.
    fn without_request_id(&self) -> Self;
}

/// The response to a [`Mutation`].
pub trait MutationResponse: Message + Default {
    /// The response that reports this outcome. `None` if the outcome is that of another call, which is a bug.
    fn of(executed: &Executed) -> Option<Self>;
}

macro_rules! mutations {
    ($($request:ident => $response:ident),+ $(,)?) => {$(
        impl Mutation for pb::$request {
            type Response = pb::$response;

            const CALL: &'static str = stringify!($request);

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

/// Makes each response from the one outcome that it reports: its fields but `revision`, which all have.
macro_rules! responses {
    ($($response:ident: $outcome:pat => { $($field:ident: $value:expr),* $(,)? })+) => {$(
        impl $crate::mapping::mutation::MutationResponse for pb::$response {
            fn of(executed: &$crate::domain::outcome::Executed) -> Option<Self> {
                let $outcome = &executed.outcome else { return None };
                Some(Self { $($field: $value,)* revision: executed.revision.get() })
            }
        }
    )+};
}
pub(super) use responses;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::command::RequestAction;
    use crate::domain::id::Sequence;
    use crate::domain::outcome::{Outcome, Transition};
    use crate::domain::view::Status;

    #[test]
    fn a_response_reports_the_outcome_of_its_own_call_only() {
        let transition = Transition { request: None, status: Status::Connected };
        let outcome = Outcome::RequestChanged(RequestAction::Accept, transition);
        let accepted = Executed { revision: Sequence::new(7), outcome };
        let response = pb::AcceptConnectionRequestResponse::of(&accepted).expect("its own");
        assert_eq!((response.status(), response.revision), (pb::ConnectionStatus::Connected, 7));
        assert_eq!(pb::RestoreConnectionRequestResponse::of(&accepted), None);
        assert_eq!(pb::SendConnectionRequestResponse::of(&accepted), None);
        assert_eq!(pb::DeleteUserResponse::of(&accepted), None);
    }
}
