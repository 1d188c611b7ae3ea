//! Does each read that returns users return as much of them as it is asked for, whatever was cached before?

use std::collections::BTreeMap;

use kith::proto::v1 as pb;
use kith::proto::v1::get_user_request::Key;
use kith::proto::v1::{ConnectionRequestDirection, ErrorReason, UserView};
use tonic::Code;

use crate::cases;
use crate::harness::{App, refused};
use crate::rpc::full_user;

const ANN: i64 = 1;
const BOB: i64 = 2;
const CY: i64 = 3;
const DEE: i64 = 4;

/// The users that each read returns with this view.
async fn reads(
    app: &App,
    everybody: &BTreeMap<i64, pb::User>,
    request: i64,
    view: UserView,
) -> BTreeMap<&'static str, Vec<pb::User>> {
    let user_view = view.into();
    let (mut users, mut requests, mut connections) = (app.users(), app.requests(), app.connections());
    let by = |key| pb::GetUserRequest { key: Some(key), user_view, ..Default::default() };
    let by_id = users.get_user(by(Key::Id(BOB))).await.unwrap().into_inner().user;
    let by_name = users.get_user(by(Key::Username("Bob".to_owned()))).await.unwrap().into_inner().user;
    let external_id = everybody[&BOB].external_id.clone();
    let by_external_id = users.get_user(by(Key::ExternalId(external_id.clone()))).await.unwrap().into_inner().user;
    let keys = pb::BatchGetUsersRequest { external_ids: vec![external_id], user_view, ..Default::default() };
    let ids = pb::BatchGetUsersRequest { ids: vec![ANN, BOB], user_view, ..Default::default() };
    let all = pb::ListUsersRequest { user_view, ..Default::default() };
    let one = pb::GetConnectionRequestRequest { id: request, user_id: ANN, user_view, ..Default::default() };
    let direction = ConnectionRequestDirection::Received.into();
    let received = pb::ListConnectionRequestsRequest { user_id: ANN, direction, user_view, ..Default::default() };
    let connected = pb::ListConnectionsRequest { user_id: ANN, user_view, ..Default::default() };
    let mutual = pb::ListMutualConnectionsRequest { user_id: ANN, other_user_id: CY, user_view, ..Default::default() };
    let blocked = pb::ListBlockedUsersRequest { user_id: ANN, user_view, ..Default::default() };
    let both = |request: pb::ConnectionRequest| [request.from_user, request.to_user].into_iter().flatten();
    let one = requests.get_connection_request(one).await.unwrap().into_inner().connection_request.unwrap();
    let received = requests.list_connection_requests(received).await.unwrap().into_inner().connection_requests;
    let connected = connections.list_connections(connected).await.unwrap().into_inner().connections;
    let blocked = app.blocks().list_blocked_users(blocked).await.unwrap().into_inner().blocks;
    BTreeMap::from([
        ("by id", by_id.into_iter().collect()),
        ("by name", by_name.into_iter().collect()),
        ("by external id", by_external_id.into_iter().collect()),
        ("batch by external ids", users.batch_get_users(keys).await.unwrap().into_inner().users),
        ("batch", users.batch_get_users(ids).await.unwrap().into_inner().users),
        ("all", users.list_users(all).await.unwrap().into_inner().users),
        ("request", both(one).collect()),
        ("requests", received.into_iter().flat_map(both).collect()),
        ("connections", connected.into_iter().flat_map(|connection| connection.user).collect()),
        ("mutual", connections.list_mutual_connections(mutual).await.unwrap().into_inner().users),
        ("blocks", blocked.into_iter().flat_map(|block| block.user).collect()),
    ])
}

/// What a view leaves of a full user.
fn part(user: pb::User, view: UserView) -> pb::User {
    let pb::User { id, username, real_name, avatar, status, external_id, .. } = user;
    match view {
        UserView::Unspecified | UserView::Full => {
            pb::User { id, username, real_name, avatar, status, external_id, ..user }
        }
        UserView::Basic => pb::User { id, username, real_name, avatar, status, external_id, ..Default::default() },
        UserView::Id => pb::User { id, external_id, ..Default::default() },
    }
}

cases! {
    async fn each_read_returns_as_much_of_its_users_as_it_is_asked_for(app: App) {
        let mut everybody = BTreeMap::new();
        for (id, name) in [(ANN, "Ann"), (BOB, "Bob"), (CY, "Cy"), (DEE, "Dee")] {
            everybody.insert(id, full_user(id, name));
            let create = pb::CreateUserRequest { user: Some(full_user(id, name)), ..Default::default() };
            app.users().create_user(create).await.unwrap();
        }
        app.connect(ANN, BOB).await;
        app.connect(BOB, CY).await;
        app.block(ANN, DEE).await;
        let request = app.send(CY, ANN).await;
        let returned = BTreeMap::from([
            ("by id", vec![BOB]),
            ("by name", vec![BOB]),
            ("by external id", vec![BOB]),
            ("batch by external ids", vec![BOB]),
            ("batch", vec![ANN, BOB]),
            ("all", vec![DEE, CY, BOB, ANN]),
            ("request", vec![CY, ANN]),
            ("requests", vec![CY, ANN]),
            ("connections", vec![BOB]),
            ("mutual", vec![BOB]),
            ("blocks", vec![DEE]),
        ]);
        for round in 0..2 {
            // Each view before and after each other, from an empty cache and from a full one.
            for view in [UserView::Basic, UserView::Unspecified, UserView::Id, UserView::Full, UserView::Basic] {
                let expected = |ids: &Vec<i64>| ids.iter().map(|id| part(everybody[id].clone(), view)).collect();
                let expected: BTreeMap<_, Vec<_>> = returned.iter().map(|(read, ids)| (*read, expected(ids))).collect();
                assert_eq!(reads(&app, &everybody, request, view).await, expected, "{view:?}, round {round}");
            }
            // Everybody changes, and the next round shows it.
            for user in everybody.values_mut() {
                user.avatar = "https://example.com/new.png".to_owned();
                let update_mask = Some(prost_types::FieldMask { paths: vec!["avatar".to_owned()] });
                let update = pb::UpdateUserRequest { user: Some(user.clone()), update_mask, ..Default::default() };
                app.users().update_user(update).await.unwrap();
            }
        }
    }

    async fn a_page_token_is_of_one_view(app: App) {
        app.user("ann").await;
        app.user("bob").await;
        let page = |user_view: UserView, page_token: &str| pb::ListUsersRequest {
            page_size: 1, page_token: page_token.to_owned(), user_view: user_view.into(), ..Default::default()
        };
        let token = app.users().list_users(page(UserView::Id, "")).await.unwrap().into_inner().next_page_token;
        let refusal = app.users().list_users(page(UserView::Basic, &token)).await;
        refused(refusal, Code::InvalidArgument, ErrorReason::InvalidPageToken);
        assert_eq!(app.users().list_users(page(UserView::Id, &token)).await.unwrap().into_inner().users.len(), 1);
    }
}
