//! What each kind of principal may do: one table, with a row for each RPC.
//!
//! A user acts and reads as themself only. A service acts for any user, with the scope of the row; where it acts for no
//! user, as an operator, it may need another scope. `docs/security.md` has the same table, and a test compares the two.

use prost_types::FileDescriptorSet;

use super::principal::{Principal, Scope};
use crate::domain::id::UserId;
use crate::proto::server as pb;

/// Who may call one RPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// The name of the service, such as `UserService`.
    pub service: &'static str,
    /// The name of the RPC.
    pub method: &'static str,
    /// What a service needs.
    pub scope: Scope,
    /// The field of the request that names the user who acts or views.
    pub acting: Option<&'static str>,
    /// What a service needs that leaves this field out, and so calls as an operator. `None`: the same, or the field is
    /// required.
    pub operator: Option<Scope>,
    /// Another field that may name only the user who acts or views.
    pub also: Option<&'static str>,
    /// The field of the request that says how much of each user the response contains.
    pub view: Option<&'static str>,
    /// Whether users may call it.
    pub users: bool,
}

/// A request, with its row of the table and the fields that the row names.
pub trait Governed {
    /// The row.
    const RIGHT: Right;

    /// The field [`Right::acting`].
    fn acting(&mut self) -> Option<&mut i64> {
        None
    }

    /// The field [`Right::also`].
    fn also(&self) -> Option<i64> {
        None
    }

    /// The field [`Right::view`].
    fn view(&mut self) -> Option<&mut i32> {
        None
    }

    /// Whether the response contains this user and no other.
    fn is_about(&self, _user: UserId) -> bool {
        false
    }
}

/// Why a principal may not make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The service does not have this scope.
    ScopeMissing(Scope),
    /// The principal is a user, and only services may call this RPC.
    OperatorsOnly,
    /// The principal is a user, and the field of the request asks for more of other users than they may see.
    ViewForOperatorsOnly(&'static str),
    /// The principal is this user, and the field of the request names another.
    ActsForAnother {
        /// The field.
        field: &'static str,
        /// The principal.
        user: UserId,
    },
}

/// `as FIELD` names the acting user, and lets users call. `or SCOPE` is what a service needs that leaves it out.
/// `by users` lets users call an RPC that has no such field. `whole` says when the response has only the user themself.
macro_rules! rights {
    ($($service:ident {
        $($method:ident($request:ident): $scope:ident
            $(by $users:ident)?
            $(as $acting:ident $(or $operator:ident)? $(also $also:ident)?)?
            $(, view $view:ident $(, whole $is_about:expr)?)?;)+
    })+) => {
        /// The table.
        pub const RIGHTS: &[Right] = &[$($(<pb::$request as Governed>::RIGHT),+),+];

        $($(impl Governed for pb::$request {
            const RIGHT: Right = Right {
                service: stringify!($service),
                method: stringify!($method),
                scope: Scope::$scope,
                acting: rights!(@name $($acting)?),
                operator: rights!(@scope $($($operator)?)?),
                also: rights!(@name $($($also)?)?),
                view: rights!(@name $($view)?),
                users: rights!(@any $($acting)? $($users)?),
            };

            $(fn acting(&mut self) -> Option<&mut i64> {
                Some(&mut self.$acting)
            }

            $(fn also(&self) -> Option<i64> {
                Some(self.$also)
            })?)?

            $(fn view(&mut self) -> Option<&mut i32> {
                Some(&mut self.$view)
            }

            $(fn is_about(&self, user: UserId) -> bool {
                let is_about: fn(&Self, UserId) -> bool = $is_about;
                is_about(self, user)
            })?)?
        })+)+
    };
    (@name) => { None };
    (@name $name:ident) => { Some(stringify!($name)) };
    (@scope) => { None };
    (@scope $scope:ident) => { Some(Scope::$scope) };
    (@any) => { false };
    (@any $($name:ident)+) => { true };
}

rights! {
    UserService {
        CreateUser(CreateUserRequest): Users;
        GetUser(GetUserRequest): Read by users, view user_view,
            whole |request, user| request.key == Some(pb::get_user_request::Key::Id(user.get()));
        BatchGetUsers(BatchGetUsersRequest): Read by users, view user_view;
        ListUsers(ListUsersRequest): Read, view user_view;
        UpdateUser(UpdateUserRequest): Write as user_id or Users;
        DeleteUser(DeleteUserRequest): Users;
        ImportUsers(ImportUsersRequest): Users;
        ExportUser(ExportUserRequest): Users as user_id;
    }
    ConnectionRequestService {
        SendConnectionRequest(SendConnectionRequestRequest): Write as from_user_id;
        AcceptConnectionRequest(AcceptConnectionRequestRequest): Write as user_id;
        RejectConnectionRequest(RejectConnectionRequestRequest): Write as user_id;
        RestoreConnectionRequest(RestoreConnectionRequestRequest): Write as user_id;
        CancelConnectionRequest(CancelConnectionRequestRequest): Write as user_id;
        MarkConnectionRequestViewed(MarkConnectionRequestViewedRequest): Write as user_id;
        MarkAllConnectionRequestsViewed(MarkAllConnectionRequestsViewedRequest): Write as user_id;
        GetConnectionRequest(GetConnectionRequestRequest): Read as user_id or Admin, view user_view;
        ListConnectionRequests(ListConnectionRequestsRequest): Read as user_id, view user_view;
    }
    ConnectionService {
        ListConnections(ListConnectionsRequest): Read as user_id also viewer_user_id, view user_view;
        RemoveConnection(RemoveConnectionRequest): Write as user_id;
        GetConnectionStatus(GetConnectionStatusRequest): Read as user_id;
        BatchGetConnectionStatuses(BatchGetConnectionStatusesRequest): Read as user_id;
        GetConnectionCounts(GetConnectionCountsRequest): Read as user_id;
        ListMutualConnections(ListMutualConnectionsRequest): Read as user_id, view user_view;
    }
    BlockService {
        BlockUser(BlockUserRequest): Write as user_id;
        UnblockUser(UnblockUserRequest): Write as user_id;
        ListBlockedUsers(ListBlockedUsersRequest): Read as user_id, view user_view;
    }
    EventService {
        WatchEvents(WatchEventsRequest): Read as viewer_user_id or Events;
        ListEvents(ListEventsRequest): Read as viewer_user_id or Events;
    }
    ImportService {
        ImportRelations(ImportRelationsRequest): Admin;
        ExportRelations(ExportRelationsRequest): Admin;
    }
}

/// Checks whether the principal may make the call, and restricts a user's request to what they may see.
///
/// A user's request that leaves the acting user out acts as them. If it leaves the view out, it is BASIC.
///
/// # Errors
///
/// If the principal may not make the call.
pub fn authorize<M: Governed>(principal: &Principal, request: &mut M) -> Result<(), Denied> {
    match principal {
        Principal::Anonymous => Ok(()),
        Principal::Service(service) => {
            let named = request.acting().is_none_or(|acting| *acting != 0);
            let needed = M::RIGHT.operator.filter(|_| !named).unwrap_or(M::RIGHT.scope);
            if service.scopes.allow(needed) { Ok(()) } else { Err(Denied::ScopeMissing(needed)) }
        }
        Principal::User(user) => {
            if !M::RIGHT.users {
                return Err(Denied::OperatorsOnly);
            }
            act_as(*user, request)?;
            restrict_view(*user, request)
        }
    }
}

/// Requires that the request names no other user as the one who acts or views, and fills this one in.
fn act_as<M: Governed>(user: UserId, request: &mut M) -> Result<(), Denied> {
    let is_other = |id: i64| id != 0 && id != user.get();
    let another = |field: Option<&'static str>| Denied::ActsForAnother { field: field.unwrap_or_default(), user };
    if request.also().is_some_and(is_other) {
        return Err(another(M::RIGHT.also));
    }
    match request.acting() {
        Some(acting) if is_other(*acting) => Err(another(M::RIGHT.acting)),
        Some(acting) => {
            *acting = user.get();
            Ok(())
        }
        None => Ok(()),
    }
}

/// Requires that the request does not ask for every field of other users. Without a view it asks for BASIC.
fn restrict_view<M: Governed>(user: UserId, request: &mut M) -> Result<(), Denied> {
    if request.is_about(user) {
        return Ok(());
    }
    let Some(view) = request.view() else { return Ok(()) };
    if *view == i32::from(pb::UserView::Full) {
        return Err(Denied::ViewForOperatorsOnly(M::RIGHT.view.unwrap_or_default()));
    }
    if *view == i32::from(pb::UserView::Unspecified) {
        *view = pb::UserView::Basic.into();
    }
    Ok(())
}

/// Returns the RPCs of Kith's services that have no row, and the fields of rows that are in no request.
///
/// A server with any of them must not start: the table would not be what is enforced.
pub fn missing(protos: &FileDescriptorSet, rights: &[Right]) -> Vec<String> {
    let kith = || protos.file.iter().filter(|file| file.package() == "kith.v1");
    let services = kith().flat_map(|file| &file.service);
    let methods = services.flat_map(|service| service.method.iter().map(move |method| (service.name(), method)));
    let mut missing = Vec::new();
    for (service, method) in methods {
        let name = format!("{service}.{}", method.name());
        let Some(right) = rights.iter().find(|right| (right.service, right.method) == (service, method.name())) else {
            missing.push(name);
            continue;
        };
        let request = method.input_type().rsplit('.').next();
        let message = kith().flat_map(|file| &file.message_type).find(|message| Some(message.name()) == request);
        let has = |field: &&str| message.is_some_and(|message| message.field.iter().any(|it| it.name() == *field));
        let named = [right.acting, right.also, right.view].into_iter().flatten();
        missing.extend(named.filter(|field| !has(field)).map(|field| format!("{name}: {field}")));
    }
    missing
}

#[cfg(test)]
mod tests;
