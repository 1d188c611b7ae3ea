//! What the audit trail says about each request: the users and the connection request that it names, by id only.

use std::sync::Arc;

use tonic::Request;
use uuid::Uuid;

use crate::auth::rights::Governed;
use crate::proto::server as pb;
use crate::proto::server::get_user_request::Key;
use crate::telemetry::audit::Subject;
use crate::telemetry::call::Call;

/// A request with the ids that it names, beside the user who acts.
pub(super) trait Audited {
    /// The fields that have them.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test compares them with the protos"))]
    const FIELDS: &'static [&'static str];

    /// Adds the ids.
    fn name(&self, subject: &mut Subject);
}

/// Records for the audit trail what the request names.
pub(super) fn record<M: Governed + Audited>(request: &mut Request<M>) {
    if let Some(call) = request.extensions().get::<Arc<Call>>().cloned() {
        call.about(|| subject(request.get_mut()));
    }
}

fn subject<M: Governed + Audited>(request: &mut M) -> Subject {
    let acting = request.acting().map(|acting| *acting).filter(|acting| *acting != 0);
    let mut subject = Subject { acting, ..Subject::default() };
    subject.users.extend(request.also().filter(|also| *also != 0));
    request.name(&mut subject);
    subject
}

/// Each request with its fields, and the function that adds the value of each.
macro_rules! audited {
    ($($request:ident { $($add:ident $field:ident),* })+) => {
        $(impl Audited for pb::$request {
            const FIELDS: &'static [&'static str] = &[$(stringify!($field)),*];

            fn name(&self, _subject: &mut Subject) {
                $($add(_subject, &self.$field);)*
            }
        })+

        /// The fields of each request.
        #[cfg(test)]
        const ALL: &[(&str, &[&str])] = &[$((stringify!($request), <pb::$request as Audited>::FIELDS)),+];
    };
}

audited! {
    CreateUserRequest { profile user, key request_id }
    GetUserRequest { lookup key }
    BatchGetUsersRequest { users ids }
    ListUsersRequest {}
    UpdateUserRequest { profile user, key request_id }
    DeleteUserRequest { user id, key request_id }
    ImportUsersRequest { profile user, key request_id }
    ExportUserRequest { user id }
    SendConnectionRequestRequest { user to_user_id, key request_id }
    AcceptConnectionRequestRequest { request id, key request_id }
    RejectConnectionRequestRequest { request id, key request_id }
    RestoreConnectionRequestRequest { request id, key request_id }
    CancelConnectionRequestRequest { request id, key request_id }
    MarkConnectionRequestViewedRequest { request id, key request_id }
    MarkAllConnectionRequestsViewedRequest { key request_id }
    GetConnectionRequestRequest { request id }
    ListConnectionRequestsRequest {}
    ListConnectionsRequest {}
    RemoveConnectionRequest { user other_user_id, key request_id }
    GetConnectionStatusRequest { user other_user_id }
    BatchGetConnectionStatusesRequest { users other_user_ids }
    GetConnectionCountsRequest {}
    ListMutualConnectionsRequest { user other_user_id }
    BlockUserRequest { user other_user_id, key request_id }
    UnblockUserRequest { user other_user_id, key request_id }
    ListBlockedUsersRequest {}
    WatchEventsRequest { users user_ids }
    ListEventsRequest { users user_ids, user user_id, user other_user_id }
    ImportRelationsRequest {}
    ExportRelationsRequest {}
}

fn user(subject: &mut Subject, id: &i64) {
    subject.users.extend(Some(*id).filter(|id| *id != 0));
}

fn users(subject: &mut Subject, ids: &[i64]) {
    subject.users.extend(ids);
}

fn profile(subject: &mut Subject, profile: &Option<pb::User>) {
    profile.iter().for_each(|profile| user(subject, &profile.id));
}

/// A username and an external id are personal data, and left out.
fn lookup(subject: &mut Subject, key: &Option<Key>) {
    if let Some(Key::Id(id)) = key {
        user(subject, id);
    }
}

fn request(subject: &mut Subject, id: &i64) {
    subject.request = Some(*id);
}

/// Only a valid one: another text could be anything.
fn key(subject: &mut Subject, text: &str) {
    subject.key = Uuid::try_parse(text).ok();
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::{DescriptorProto, FileDescriptorSet};

    use super::*;
    use crate::auth::rights::RIGHTS;

    /// The names of the fields that have ids. Those of a oneof have the oneof's name.
    fn fields_with_ids(message: &DescriptorProto) -> Vec<&str> {
        let names_ids = |name: &str| ["id", "ids", "user"].into_iter().any(|end| name.rsplit('_').next() == Some(end));
        // External ids are personal data.
        let fields =
            message.field.iter().filter(|field| names_ids(field.name()) && !field.name().starts_with("external_id"));
        let name = |field: &prost_types::FieldDescriptorProto| match field.oneof_index {
            Some(index) if !field.proto3_optional() => usize::try_from(index).unwrap(),
            _ => usize::MAX,
        };
        fields
            .map(|field| {
                message.oneof_decl.get(name(field)).map_or(field.name.as_deref(), |oneof| oneof.name.as_deref())
            })
            .map(|name| name.expect("a name"))
            .collect()
    }

    #[test]
    fn every_field_with_an_id_is_in_the_trail() {
        let protos = FileDescriptorSet::decode(crate::proto::FILE_DESCRIPTOR_SET).unwrap();
        let kith = || protos.file.iter().filter(|file| file.package() == "kith.v1");
        for right in RIGHTS {
            let service =
                kith().flat_map(|file| &file.service).find(|service| service.name() == right.service).unwrap();
            let method = service.method.iter().find(|method| method.name() == right.method).unwrap();
            let request = method.input_type().rsplit('.').next().unwrap();
            let message = kith().flat_map(|file| &file.message_type).find(|it| it.name() == request).unwrap();
            let (_, recorded) = ALL.iter().find(|(name, _)| *name == request).expect("a request");
            let mut recorded: Vec<&str> = recorded.iter().copied().chain(right.acting).chain(right.also).collect();
            let mut expected = fields_with_ids(message);
            recorded.sort_unstable();
            expected.sort_unstable();
            assert_eq!(recorded, expected, "{request}");
        }
    }

    #[test]
    fn the_trail_has_ids_and_no_other_value() {
        let mut send = pb::SendConnectionRequestRequest {
            from_user_id: 1,
            to_user_id: 2,
            message: "canary".to_owned(),
            request_id: "canary".to_owned(),
        };
        let expected = Subject { acting: Some(1), users: vec![2], request: None, key: None };
        assert_eq!(subject(&mut send), expected);
        send.request_id = Uuid::from_u128(7).to_string();
        assert_eq!(subject(&mut send).key, Some(Uuid::from_u128(7)));
        let mut get = pb::GetUserRequest { key: Some(Key::Username("canary".to_owned())), ..Default::default() };
        assert_eq!(subject(&mut get), Subject::default());
        get.key = Some(Key::ExternalId("canary".to_owned()));
        assert_eq!(subject(&mut get), Subject::default());
        get.key = Some(Key::Id(7));
        assert_eq!(subject(&mut get).users, [7]);
        let mut list = pb::ListConnectionsRequest { user_id: 1, viewer_user_id: 2, ..Default::default() };
        assert_eq!(subject(&mut list), Subject { acting: Some(1), users: vec![2], ..Subject::default() });
    }
}
