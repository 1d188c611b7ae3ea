use kith::proto::v1 as pb;
use kith::proto::v1::{ConnectionRequestDirection, ConnectionStatus, ErrorReason, get_user_request::Key};
use tonic::Code;

use super::{people, repeated};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::{App, refused};

fn request(id: i64) -> pb::DeleteUserRequest {
    pb::DeleteUserRequest { id, request_id: String::new() }
}

async fn requests(app: &App, user_id: i64, direction: ConnectionRequestDirection) -> Vec<i64> {
    let list = pb::ListConnectionRequestsRequest { user_id, direction: direction.into(), ..Default::default() };
    let response = app.requests().list_connection_requests(list).await.unwrap().into_inner();
    response.connection_requests.iter().map(|request| request.id).collect()
}

async fn mutual(app: &App, user_id: i64, other_user_id: i64) -> (Vec<i64>, i64) {
    let list = pb::ListMutualConnectionsRequest { user_id, other_user_id, ..Default::default() };
    let response = app.connections().list_mutual_connections(list).await.unwrap().into_inner();
    (response.users.iter().map(|user| user.id).collect(), response.total)
}

async fn connections(app: &App, user_id: i64) -> usize {
    let list = pb::ListConnectionsRequest { user_id, ..Default::default() };
    app.connections().list_connections(list).await.unwrap().into_inner().connections.len()
}

async fn blocked(app: &App, user_id: i64) -> usize {
    let list = pb::ListBlockedUsersRequest { user_id, ..Default::default() };
    app.blocks().list_blocked_users(list).await.unwrap().into_inner().blocks.len()
}

cases! {
    async fn every_trace_of_the_user_goes(app: App) {
        use ConnectionRequestDirection::{Received, Sent};
        let [ann, bob, cy, dee, eve, fay, gus] = people(&app).await;
        // Ann is deleted: connected to bob and cy; requests from dee, to eve, and one that fay rejected; blocked by gus and blocking gus.
        app.connect(ann, bob).await;
        app.connect(cy, ann).await;
        app.connect(bob, cy).await;
        let received = app.send(dee, ann).await;
        let sent = app.send(ann, eve).await;
        let rejected = app.send(ann, fay).await;
        app.reject(rejected, fay).await.unwrap();
        app.block(ann, gus).await;
        app.block(gus, ann).await;
        assert_eq!(mutual(&app, bob, cy).await, (vec![ann], 1));
        assert_eq!(app.counts(ann).await, [2, 1, 1, 2]);

        let response = app.users().delete_user(request(ann)).await.unwrap().into_inner();
        assert_eq!(response.revision, app.revision().await);

        let get = app.users().get_user(pb::GetUserRequest { key: Some(Key::Id(ann)), ..Default::default() }).await;
        refused(get, Code::NotFound, ErrorReason::UserNotFound);
        for (user, counts) in [
            (bob, [0, 0, 0, 1]), (cy, [0, 0, 0, 1]), (dee, [0; 4]), (eve, [0; 4]), (fay, [0; 4]), (gus, [0; 4]),
        ] {
            assert_eq!(app.counts(user).await, counts);
            assert_eq!(app.status(user, ann).await, ConnectionStatus::None);
            assert_eq!(app.status(ann, user).await, ConnectionStatus::None);
        }
        for (id, viewer) in [(received, dee), (sent, eve), (rejected, fay), (received, 0), (sent, 0), (rejected, 0)] {
            refused(app.request(id, viewer).await, Code::NotFound, ErrorReason::RequestNotFound);
        }
        assert_eq!(requests(&app, dee, Sent).await, [0; 0]);
        assert_eq!(requests(&app, eve, Received).await, [0; 0]);
        assert_eq!(requests(&app, fay, Received).await, [0; 0]);
        assert_eq!((connections(&app, bob).await, connections(&app, cy).await), (1, 1));
        assert_eq!(mutual(&app, bob, cy).await, (vec![], 0));
        assert_eq!(blocked(&app, gus).await, 0);
        for table in ["connection_requests", "blocks"] {
            let (one, other) =
                if table == "blocks" { ("user_id", "other_user_id") } else { ("from_user_id", "to_user_id") };
            let left = format!("SELECT count(*) AS value FROM {table} WHERE {ann} IN ({one}, {other})");
            assert_eq!(app.database.number(&left).await, 0, "{table}");
        }
    }

    async fn a_user_with_the_same_id_and_name_begins_anew(app: App) {
        let [ann, bob] = people(&app).await;
        app.connect(ann, bob).await;
        app.block(bob, ann).await;
        app.users().delete_user(request(ann)).await.unwrap();
        let user = pb::User { id: ann, username: "ann".to_owned(), ..Default::default() };
        app.users().create_user(pb::CreateUserRequest { user: Some(user), ..Default::default() }).await.unwrap();
        assert_eq!(app.counts(ann).await, [0; 4]);
        assert_eq!(app.status(bob, ann).await, ConnectionStatus::None);
        app.connect(bob, ann).await;
    }

    async fn the_id_must_be_right(app: App) {
        for id in [0, -1] {
            let wrong = pb::DeleteUserRequest { id, request_id: "mine".to_owned() };
            let details =
                refused(app.users().delete_user(wrong).await, Code::InvalidArgument, ErrorReason::InvalidFields);
            assert_eq!(fields(&details), ["id", "request_id"]);
        }
    }

    async fn a_user_who_does_not_exist_or_was_deleted_is_not_found(app: App) {
        let ann = app.user("ann").await;
        app.users().delete_user(request(ann)).await.unwrap();
        for id in [ann, 99] {
            let details = refused(app.users().delete_user(request(id)).await, Code::NotFound, ErrorReason::UserNotFound);
            assert_eq!(details.error_info().unwrap().metadata["user_id"], id.to_string());
        }
    }

    async fn a_repetition_returns_the_first_response(app: App) {
        let [ann, bob] = people(&app).await;
        let (_, reused) = repeated!(
            app.users().delete_user(request(ann)),
            other: request(bob),
            meanwhile: app.user("ann").await
        );
        refused(reused, Code::InvalidArgument, ErrorReason::RequestIdReused);
        assert_eq!(app.counts(bob).await, [0; 4]);
    }
}
