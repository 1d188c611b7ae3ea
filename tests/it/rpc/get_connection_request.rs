use kith::proto::v1 as pb;
use kith::proto::v1::{ConnectionRequestState as State, ErrorReason};
use tonic::Code;

use super::{full_user, people};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::refused;

fn request(id: i64, user_id: i64) -> pb::GetConnectionRequestRequest {
    pb::GetConnectionRequestRequest { id, user_id, ..Default::default() }
}

cases! {
    async fn both_sides_and_an_operator_see_the_whole_request(app: App) {
        let (ann, bob) = (full_user(1, "ann"), full_user(2, "bob"));
        for user in [&ann, &bob] {
            let create = pb::CreateUserRequest { user: Some(user.clone()), request_id: String::new() };
            app.users().create_user(create).await.unwrap();
        }
        let send = pb::SendConnectionRequestRequest {
            from_user_id: 1, to_user_id: 2, message: "Hello".to_owned(), ..Default::default()
        };
        let sent = app.requests().send_connection_request(send).await.unwrap().into_inner();
        let id = sent.connection_request.as_ref().unwrap().id;
        for viewer in [1, 2, 0] {
            let response = app.requests().get_connection_request(request(id, viewer)).await.unwrap().into_inner();
            assert_eq!(response.revision, app.revision().await);
            let seen = response.connection_request.unwrap();
            assert_eq!((&seen.from_user, &seen.to_user), (&Some(ann.clone()), &Some(bob.clone())));
            assert_eq!((seen.message.as_str(), seen.state()), ("Hello", State::Pending));
            assert_eq!(Some(seen), sent.connection_request);
        }
    }

    async fn a_refusal_is_seen_by_the_receiver_and_an_operator_only(app: App) {
        let [ann, bob, cy] = people(&app).await;
        app.block(cy, ann).await;
        let (rejected, silenced) = (app.send(ann, bob).await, app.send(ann, cy).await);
        app.reject(rejected, bob).await.unwrap();
        for viewer in [bob, 0] {
            let seen = app.request(rejected, viewer).await.unwrap();
            assert_eq!((seen.state(), seen.rejected.is_some()), (State::Rejected, true));
        }
        refused(app.request(silenced, cy).await, Code::NotFound, ErrorReason::RequestNotFound);
        let seen = app.request(silenced, 0).await.unwrap();
        assert_eq!((seen.state(), seen.rejected), (State::Silenced, None));
        for id in [rejected, silenced] {
            let seen = app.request(id, ann).await.unwrap();
            assert_eq!((seen.state(), seen.rejected, seen.viewed), (State::Pending, None, None));
        }
    }

    async fn to_a_third_party_the_request_does_not_exist(app: App) {
        let [ann, bob, cy] = people(&app).await;
        let id = app.send(ann, bob).await;
        for (id, viewer) in [(id, cy), (id, 99), (id + 1, ann), (id + 1, 0), ((1 << 53) - 1, 0), (ann, ann)] {
            let details = refused(app.request(id, viewer).await, Code::NotFound, ErrorReason::RequestNotFound);
            assert_eq!(details.error_info().unwrap().metadata["connection_request_id"], id.to_string());
        }
    }

    async fn an_expired_request_does_not_exist(app: App) {
        let [ann, bob, cy, dee] = people(&app).await;
        let (pending, rejected) = (app.send(ann, bob).await, app.send(ann, cy).await);
        let connected = app.connect(ann, dee).await;
        app.reject(rejected, cy).await.unwrap();
        app.clock.advance(chrono::TimeDelta::days(180) - chrono::TimeDelta::microseconds(1));
        app.request(pending, ann).await.unwrap();
        app.clock.advance(chrono::TimeDelta::microseconds(1));
        for (id, viewer) in [(pending, ann), (pending, bob), (pending, 0), (rejected, ann), (rejected, cy)] {
            refused(app.request(id, viewer).await, Code::NotFound, ErrorReason::RequestNotFound);
        }
        assert_eq!(app.request(connected, ann).await.unwrap().state(), State::Connected);
    }

    async fn every_wrong_field_is_named(app: App) {
        let refusal = app.requests().get_connection_request(request(0, -1)).await;
        let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(fields(&details), ["id", "user_id"]);
    }
}
