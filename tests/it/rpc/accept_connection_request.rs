use kith::proto::v1 as pb;
use kith::proto::v1::{ConnectionRequestState as State, ConnectionStatus, ErrorReason, UserStatus};
use tonic::Code;

use super::{people, repeated};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::refused;

fn request(id: i64, user_id: i64) -> pb::AcceptConnectionRequestRequest {
    pb::AcceptConnectionRequestRequest { id, user_id, request_id: String::new(), ..Default::default() }
}

cases! {
    async fn the_two_are_connected_and_the_request_is_viewed(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        app.clock.advance(chrono::TimeDelta::minutes(5));
        let before = app.revision().await;
        let response = app.accept(id, bob).await.unwrap().into_inner();
        assert_eq!((response.status(), response.revision), (ConnectionStatus::Connected, before + 1));
        let seen = response.connection_request.unwrap();
        assert_eq!((seen.id, seen.state(), seen.rejected), (id, State::Connected, None));
        assert_eq!(seen.accepted.unwrap().seconds, app.clock.now().timestamp());
        assert_eq!(seen.viewed, seen.accepted);
        assert_eq!(seen.created.unwrap().seconds, seen.accepted.unwrap().seconds - 300);
        assert_eq!((app.counts(ann).await, app.counts(bob).await), ([0, 0, 0, 1], [0, 0, 0, 1]));
        for (one, other) in [(ann, bob), (bob, ann)] {
            assert_eq!(app.status(one, other).await, ConnectionStatus::Connected);
        }
        assert_eq!(app.request(id, bob).await.unwrap(), seen);
    }

    async fn a_reply_is_stored_and_both_can_read_it(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        let accept = |reply: &str| pb::AcceptConnectionRequestRequest { reply: reply.to_owned(), ..request(id, bob) };
        let long = app.requests().accept_connection_request(accept(&"é".repeat(501))).await;
        assert_eq!(fields(&refused(long, Code::InvalidArgument, ErrorReason::InvalidFields)), ["reply"]);
        let longest = "é".repeat(500);
        let accepted = app.requests().accept_connection_request(accept(&longest)).await.unwrap().into_inner();
        assert_eq!(accepted.connection_request.unwrap().reply, longest);
        // The first acceptance counts.
        app.requests().accept_connection_request(accept("again")).await.unwrap();
        for viewer in [ann, bob, 0] {
            assert_eq!(app.request(id, viewer).await.unwrap().reply, longest);
        }
    }

    async fn a_view_that_was_before_stays(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        let viewed = app.mark_viewed(id, bob).await.unwrap().into_inner().connection_request.unwrap().viewed;
        app.clock.advance(chrono::TimeDelta::minutes(5));
        let seen = app.accept(id, bob).await.unwrap().into_inner().connection_request.unwrap();
        assert_eq!(seen.viewed, viewed);
    }

    async fn a_rejected_request_can_be_accepted(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        app.reject(id, bob).await.unwrap();
        let seen = app.accept(id, bob).await.unwrap().into_inner().connection_request.unwrap();
        assert_eq!((seen.state(), seen.rejected), (State::Connected, None));
        assert_eq!((app.counts(ann).await, app.counts(bob).await), ([0, 0, 0, 1], [0, 0, 0, 1]));
    }

    async fn accepting_twice_changes_nothing(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        let first = app.accept(id, bob).await.unwrap().into_inner();
        app.clock.advance(chrono::TimeDelta::minutes(5));
        assert_eq!(app.accept(id, bob).await.unwrap().into_inner(), first);
        assert_eq!(app.revision().await, first.revision);
    }

    async fn only_the_receiver_accepts_and_nobody_else_learns_of_the_request(app: App) {
        let [ann, bob, cy] = people(&app).await;
        let id = app.send(ann, bob).await;
        let details = refused(app.accept(id, ann).await, Code::PermissionDenied, ErrorReason::NotTheReceiver);
        assert_eq!(details.error_info().unwrap().metadata["connection_request_id"], id.to_string());
        for (id, user) in [(id, cy), (id, 99), (id + 1, bob), (ann, bob)] {
            let details = refused(app.accept(id, user).await, Code::NotFound, ErrorReason::RequestNotFound);
            assert_eq!(details.error_info().unwrap().metadata["connection_request_id"], id.to_string());
        }
        assert_eq!(app.counts(bob).await, [0, 1, 1, 0]);
    }

    async fn a_cancelled_or_expired_request_is_not_found(app: App) {
        let [ann, bob, cy] = people(&app).await;
        let cancelled = app.send(ann, bob).await;
        app.reject(cancelled, bob).await.unwrap();
        app.cancel(cancelled, ann).await.unwrap();
        refused(app.accept(cancelled, bob).await, Code::NotFound, ErrorReason::RequestNotFound);
        let expired = app.send(ann, cy).await;
        app.clock.advance(chrono::TimeDelta::days(180));
        refused(app.accept(expired, cy).await, Code::NotFound, ErrorReason::RequestNotFound);
    }

    async fn every_wrong_field_is_named(app: App) {
        let wrong = pb::AcceptConnectionRequestRequest { request_id: "mine".to_owned(), ..request(0, -1) };
        let refusal = app.requests().accept_connection_request(wrong).await;
        let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(fields(&details), ["id", "user_id", "request_id"]);
    }

    async fn both_must_be_approved(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        for (user, name) in [(ann, "ann"), (bob, "bob")] {
            for status in [UserStatus::Blocked, UserStatus::Unregistered] {
                app.moderate(user, name, status).await;
                let details =
                    refused(app.accept(id, bob).await, Code::FailedPrecondition, ErrorReason::UserNotApproved);
                assert_eq!(details.error_info().unwrap().metadata["user_id"], user.to_string());
            }
            app.moderate(user, name, UserStatus::Approved).await;
        }
        app.accept(id, bob).await.unwrap();
    }

    async fn a_block_of_ones_own_is_in_the_way(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        app.reject(id, bob).await.unwrap();
        app.block(bob, ann).await;
        refused(app.accept(id, bob).await, Code::FailedPrecondition, ErrorReason::BlockedByYou);
        app.unblock(bob, ann).await;
        app.accept(id, bob).await.unwrap();
    }

    async fn a_silenced_request_does_not_exist_for_its_receiver(app: App) {
        let [ann, bob] = people(&app).await;
        let waiting = app.send(ann, bob).await;
        app.block(bob, ann).await;
        refused(app.accept(waiting, bob).await, Code::NotFound, ErrorReason::RequestNotFound);
        refused(app.reject(waiting, bob).await, Code::NotFound, ErrorReason::RequestNotFound);
        refused(app.cancel(waiting, bob).await, Code::NotFound, ErrorReason::RequestNotFound);
        app.unblock(bob, ann).await;
        app.accept(waiting, bob).await.unwrap();
    }

    #[with(|settings| settings.policy.max_connections = Some(1))]
    async fn both_must_have_room_for_a_connection(app: App) {
        let [ann, bob, cy, dee] = people(&app).await;
        let first = app.send(ann, bob).await;
        let second = app.send(cy, bob).await;
        let third = app.send(ann, dee).await;
        app.accept(first, bob).await.unwrap();
        for (id, receiver, full) in [(second, bob, bob), (third, dee, ann)] {
            let refusal = app.accept(id, receiver).await;
            let details = refused(refusal, Code::ResourceExhausted, ErrorReason::LimitReached);
            let metadata = &details.error_info().unwrap().metadata;
            assert_eq!((metadata["limit"].as_str(), metadata["maximum"].as_str()), ("connections", "1"));
            assert_eq!(metadata["user_id"], full.to_string());
        }
        app.accept(first, bob).await.unwrap();
        app.remove(ann, bob).await.unwrap();
        app.accept(second, bob).await.unwrap();
    }

    async fn a_repetition_returns_the_first_response(app: App) {
        let [ann, bob, cy] = people(&app).await;
        let id = app.send(ann, bob).await;
        let other = app.send(cy, bob).await;
        let (first, reused) = repeated!(
            app.requests().accept_connection_request(request(id, bob)),
            other: request(other, bob),
            meanwhile: app.remove(bob, ann).await.unwrap()
        );
        assert_eq!(first.status(), ConnectionStatus::Connected);
        refused(reused, Code::InvalidArgument, ErrorReason::RequestIdReused);
        assert_eq!(app.counts(bob).await, [0, 1, 1, 0]);
    }
}
