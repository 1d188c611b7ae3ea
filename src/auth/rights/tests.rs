use std::sync::Arc;

use prost::Message;

use super::*;
use crate::auth::principal::{Service, Source};
use crate::proto::FILE_DESCRIPTOR_SET;

const ANN: i64 = 7;
const BOB: i64 = 8;

fn service(scopes: &[Scope]) -> Principal {
    Principal::Service(Arc::new(Service::new(Source::File, "billing", scopes.iter().copied().collect())))
}

fn ann() -> Principal {
    Principal::User(UserId::new(ANN))
}

fn descriptors() -> FileDescriptorSet {
    FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("the descriptors of the protos")
}

#[test]
fn every_method_has_a_row_and_every_row_names_fields_of_its_request() {
    assert_eq!(missing(&descriptors(), RIGHTS), Vec::<String>::new());
}

#[test]
fn a_method_without_a_row_and_a_field_that_is_not_there_are_found() {
    let mut rights = RIGHTS.to_vec();
    let removed = rights.remove(0);
    let position = rights.iter().position(|right| right.method == "BlockUser").expect("a row");
    rights[position].acting = Some("actor");
    let expected = [format!("{}.{}", removed.service, removed.method), "BlockService.BlockUser: actor".to_owned()];
    let mut found = missing(&descriptors(), &rights);
    found.sort_by_key(|found| found.contains(':'));
    assert_eq!(found, expected);
}

#[test]
fn a_service_needs_the_scope_of_the_row_and_as_an_operator_that_of_the_operator() {
    fn needed<M: Governed + Clone>(request: &M) -> Vec<Scope> {
        let allowed = |scope: &Scope| authorize(&service(&[*scope]), &mut request.clone()).is_ok();
        Scope::ALL.into_iter().filter(allowed).collect()
    }
    let update = |user_id| pb::UpdateUserRequest { user_id, ..Default::default() };
    assert_eq!(needed(&update(ANN)), [Scope::Write, Scope::Admin]);
    assert_eq!(needed(&update(0)), [Scope::Users, Scope::Admin]);
    let watch = |viewer_user_id| pb::WatchEventsRequest { viewer_user_id, ..Default::default() };
    assert_eq!(needed(&watch(ANN)), [Scope::Read, Scope::Admin]);
    assert_eq!(needed(&watch(0)), [Scope::Events, Scope::Admin]);
    let get = |user_id| pb::GetConnectionRequestRequest { id: 1, user_id, ..Default::default() };
    assert_eq!(needed(&get(ANN)), [Scope::Read, Scope::Admin]);
    assert_eq!(needed(&get(0)), [Scope::Admin]);
    assert_eq!(needed(&pb::CreateUserRequest::default()), [Scope::Users, Scope::Admin]);
    assert_eq!(needed(&pb::GetUserRequest::default()), [Scope::Read, Scope::Admin]);
    // The acting user is required: the mapping says so, to whom may call.
    assert_eq!(needed(&pb::BlockUserRequest::default()), [Scope::Write, Scope::Admin]);
    assert_eq!(
        authorize(&service(&[Scope::Read]), &mut pb::BlockUserRequest::default()),
        Err(Denied::ScopeMissing(Scope::Write))
    );
    assert_eq!(authorize(&Principal::Anonymous, &mut get(0)), Ok(()));
}

#[test]
fn a_service_and_anybody_keep_the_request_as_it_is() {
    for principal in [Principal::Anonymous, service(&[Scope::Admin])] {
        let request = pb::ListConnectionsRequest { user_id: BOB, ..Default::default() };
        let mut authorized = request.clone();
        assert_eq!(authorize(&principal, &mut authorized), Ok(()));
        assert_eq!(authorized, request);
    }
}

#[test]
fn a_user_acts_as_themself_only() {
    let user = UserId::new(ANN);
    for (named, expected) in [
        (0, Ok(())),
        (ANN, Ok(())),
        (BOB, Err(Denied::ActsForAnother { field: "from_user_id", user })),
        (-1, Err(Denied::ActsForAnother { field: "from_user_id", user })),
    ] {
        let mut send = pb::SendConnectionRequestRequest { from_user_id: named, to_user_id: BOB, ..Default::default() };
        assert_eq!(authorize(&ann(), &mut send), expected, "{named}");
        if expected.is_ok() {
            assert_eq!((send.from_user_id, send.to_user_id), (ANN, BOB));
        }
    }
    let list = |user_id, viewer_user_id| pb::ListConnectionsRequest { user_id, viewer_user_id, ..Default::default() };
    let another = |field| Err(Denied::ActsForAnother { field, user });
    assert_eq!(authorize(&ann(), &mut list(ANN, BOB)), another("viewer_user_id"));
    assert_eq!(authorize(&ann(), &mut list(BOB, ANN)), another("user_id"));
    assert_eq!(authorize(&ann(), &mut list(0, ANN)), Ok(()));
    let mut own = list(0, 0);
    assert_eq!(authorize(&ann(), &mut own), Ok(()));
    assert_eq!((own.user_id, own.viewer_user_id), (ANN, 0));
    assert_eq!(authorize(&ann(), &mut pb::CreateUserRequest::default()), Err(Denied::OperatorsOnly));
    assert_eq!(authorize(&ann(), &mut pb::ListUsersRequest::default()), Err(Denied::OperatorsOnly));
}

#[test]
fn a_user_sees_every_field_of_themself_and_basic_ones_of_others() {
    use pb::UserView::{Basic, Full, Id, Unspecified};
    use pb::get_user_request::Key;

    let get = |key, view: pb::UserView| {
        let mut request = pb::GetUserRequest { key: Some(key), user_view: view.into(), ..Default::default() };
        authorize(&ann(), &mut request).map(|()| request.user_view())
    };
    let denied = Err(Denied::ViewForOperatorsOnly("user_view"));
    for (key, view, expected) in [
        (Key::Id(ANN), Unspecified, Ok(Unspecified)),
        (Key::Id(ANN), Full, Ok(Full)),
        (Key::Id(BOB), Unspecified, Ok(Basic)),
        (Key::Id(BOB), Basic, Ok(Basic)),
        (Key::Id(BOB), Id, Ok(Id)),
        (Key::Id(BOB), Full, denied),
        // Whose name it is, is known only after a read.
        (Key::Username("ann".to_owned()), Unspecified, Ok(Basic)),
        (Key::Username("ann".to_owned()), Full, denied),
    ] {
        assert_eq!(get(key.clone(), view), expected, "{key:?} {view:?}");
    }
    // The mapping says that it is unknown.
    let mut unknown = pb::BatchGetUsersRequest { user_view: 99, ..Default::default() };
    assert_eq!((authorize(&ann(), &mut unknown), unknown.user_view), (Ok(()), 99));
}
