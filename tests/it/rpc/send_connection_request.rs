use kith::proto::v1 as pb;
use kith::proto::v1::{ConnectionRequestState as State, ConnectionStatus, ErrorReason, UserStatus};
use tonic::Code;

use crate::cases;
use crate::harness::app::fields;
use crate::harness::{refused, until};

fn request(from_user_id: i64, to_user_id: i64) -> pb::SendConnectionRequestRequest {
    pb::SendConnectionRequestRequest { from_user_id, to_user_id, ..Default::default() }
}

cases! {
    async fn it_returns_the_full_request(app: App) {
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        let send = pb::SendConnectionRequestRequest { message: "Hello\n\tBob 👋".to_owned(), ..request(ann, bob) };
        let response = app.requests().send_connection_request(send).await.unwrap().into_inner();
        assert_eq!(response.status(), ConnectionStatus::RequestSent);
        let sent = response.connection_request.unwrap();
        assert_eq!(sent.id, response.revision);
        assert_eq!(sent.message, "Hello\n\tBob 👋");
        assert_eq!(sent.state(), State::Pending);
        let names = |user: &Option<pb::User>| user.as_ref().map(|user| (user.id, user.username.clone()));
        assert_eq!(names(&sent.from_user), Some((ann, "ann".to_owned())));
        assert_eq!(names(&sent.to_user), Some((bob, "bob".to_owned())));
        let created = sent.created.unwrap();
        assert_eq!(created.seconds, app.clock.now().timestamp());
        assert_eq!((sent.viewed, sent.rejected, sent.accepted), (None, None, None));
        assert_eq!((app.counts(ann).await, app.counts(bob).await), ([1, 0, 0, 0], [0, 1, 1, 0]));
        assert_eq!(app.status(bob, ann).await, ConnectionStatus::RequestReceived);
    }

    async fn a_crossing_request_connects(app: App) {
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        let first = app.send(ann, bob).await;
        let send = pb::SendConnectionRequestRequest { message: "me too".to_owned(), ..request(bob, ann) };
        let response = app.requests().send_connection_request(send).await.unwrap().into_inner();
        let connected = response.connection_request.clone().unwrap();
        assert_eq!((connected.id, connected.state()), (first, State::Connected));
        assert_eq!((connected.message.as_str(), connected.reply.as_str()), ("", "me too"));
        assert_eq!(app.request(first, ann).await.unwrap().reply, "me too");
        assert_eq!(response.status(), ConnectionStatus::Connected);
        assert_eq!((app.counts(ann).await, app.counts(bob).await), ([0, 0, 0, 1], [0, 0, 0, 1]));
    }

    async fn a_receiver_who_rejected_the_sender_is_connected_by_a_send(app: App) {
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        let first = app.send(ann, bob).await;
        app.reject(first, bob).await.unwrap();
        let connected = app.try_send(bob, ann).await.unwrap().into_inner().connection_request.unwrap();
        assert_eq!((connected.id, connected.state(), connected.rejected), (first, State::Connected, None));
        assert_eq!((app.counts(ann).await, app.counts(bob).await), ([0, 0, 0, 1], [0, 0, 0, 1]));
    }

    async fn neither_a_blocked_sender_nor_the_receiver_sees_the_block(app: App) {
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        app.block(bob, ann).await;
        let response = app.try_send(ann, bob).await.unwrap().into_inner();
        assert_eq!(response.status(), ConnectionStatus::RequestSent);
        let sent = response.connection_request.unwrap();
        assert_eq!((sent.state(), sent.rejected, sent.viewed), (State::Pending, None, None));
        assert_eq!((app.counts(ann).await, app.counts(bob).await), ([1, 0, 0, 0], [0; 4]));
        let truth = app.request(sent.id, 0).await.unwrap();
        assert_eq!((truth.state(), truth.viewed), (State::Silenced, None));
        refused(app.try_send(ann, bob).await, Code::AlreadyExists, ErrorReason::RequestPending);
    }

    #[with(|settings| settings.policy.max_connections = Some(1))]
    async fn both_must_have_room_for_a_connection(app: App) {
        let (ann, bob, cy) = (app.user("ann").await, app.user("bob").await, app.user("cy").await);
        app.connect(ann, bob).await;
        for (from, to) in [(ann, cy), (cy, ann)] {
            let details = refused(app.try_send(from, to).await, Code::ResourceExhausted, ErrorReason::LimitReached);
            let metadata = &details.error_info().unwrap().metadata;
            assert_eq!((metadata["limit"].as_str(), metadata["maximum"].as_str()), ("connections", "1"));
            assert_eq!(metadata["user_id"], ann.to_string());
        }
    }

    async fn every_wrong_field_is_named_and_nothing_changes(app: App) {
        let before = app.revision().await;
        let send = pb::SendConnectionRequestRequest {
            message: "\0".to_owned(),
            request_id: "mine".to_owned(),
            ..request(0, -1)
        };
        let refusal = app.requests().send_connection_request(send).await;
        let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(fields(&details), ["from_user_id", "to_user_id", "message", "request_id"]);
        assert_eq!(app.revision().await, before);
    }

    async fn nobody_sends_to_themselves(app: App) {
        let ann = app.user("ann").await;
        let details = refused(app.try_send(ann, ann).await, Code::InvalidArgument, ErrorReason::SelfRequest);
        assert_eq!(fields(&details), ["to_user_id"]);
    }

    async fn both_users_must_exist(app: App) {
        let ann = app.user("ann").await;
        for (from, to) in [(ann, 99), (99, ann)] {
            let details = refused(app.try_send(from, to).await, Code::NotFound, ErrorReason::UserNotFound);
            assert_eq!(details.error_info().unwrap().metadata["user_id"], "99");
        }
    }

    async fn both_users_must_be_approved(app: App) {
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        for status in [UserStatus::Blocked, UserStatus::Unregistered] {
            app.moderate(bob, "bob", status).await;
            for (from, to) in [(ann, bob), (bob, ann)] {
                refused(app.try_send(from, to).await, Code::FailedPrecondition, ErrorReason::UserNotApproved);
            }
        }
    }

    async fn a_send_to_a_user_whom_the_sender_blocks_is_refused(app: App) {
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        app.block(ann, bob).await;
        refused(app.try_send(ann, bob).await, Code::FailedPrecondition, ErrorReason::BlockedByYou);
    }

    async fn a_send_is_refused_after_a_connection_or_a_pending_request(app: App) {
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        let id = app.send(ann, bob).await;
        let details = refused(app.try_send(ann, bob).await, Code::AlreadyExists, ErrorReason::RequestPending);
        assert_eq!(details.error_info().unwrap().metadata["connection_request_id"], id.to_string());
        app.accept(id, bob).await.unwrap();
        let details = refused(app.try_send(ann, bob).await, Code::AlreadyExists, ErrorReason::AlreadyConnected);
        assert_eq!(details.error_info().unwrap().metadata["connection_request_id"], id.to_string());
    }

    #[with(|settings| settings.policy.max_sent_requests = Some(2))]
    async fn open_requests_have_a_limit(app: App) {
        let ann = app.user("ann").await;
        for name in ["bob", "cy"] {
            let other = app.user(name).await;
            app.send(ann, other).await;
        }
        let dee = app.user("dee").await;
        let details = refused(app.try_send(ann, dee).await, Code::ResourceExhausted, ErrorReason::LimitReached);
        let metadata = &details.error_info().unwrap().metadata;
        assert_eq!((metadata["limit"].as_str(), metadata["maximum"].as_str()), ("sent_requests", "2"));
        assert_eq!(metadata["user_id"], ann.to_string());
    }

    #[with(|settings| settings.policy.max_sends_per_hour = Some(2))]
    async fn sends_have_a_rate_and_the_error_says_when_to_retry(app: App) {
        let ann = app.user("ann").await;
        let others = [app.user("bob").await, app.user("cy").await, app.user("dee").await];
        app.send(ann, others[0]).await;
        app.clock.advance(chrono::TimeDelta::minutes(20));
        let second = app.send(ann, others[1]).await;
        app.cancel(second, ann).await.unwrap();
        let details = refused(app.try_send(ann, others[2]).await, Code::ResourceExhausted, ErrorReason::LimitReached);
        assert_eq!(details.error_info().unwrap().metadata["limit"], "sends_per_hour");
        let pause = details.retry_info().unwrap().retry_delay.unwrap();
        assert_eq!(pause, std::time::Duration::from_secs(40 * 60));
        app.clock.advance(chrono::TimeDelta::minutes(40));
        app.send(ann, others[2]).await;
    }

    #[with(|settings| settings.policy.max_sends_per_pair = Some(3))]
    async fn sends_to_the_same_user_have_a_limit_whatever_became_of_them(app: App) {
        let users = [app.user("ann").await, app.user("bob").await, app.user("cy").await, app.user("dee").await];
        let [ann, bob, cy, dee] = users;
        // The receivers reject, accept and block in between: that changes nothing.
        for round in 0..3 {
            let ids = [app.send(ann, bob).await, app.send(ann, cy).await, app.send(ann, dee).await];
            app.clock.advance(chrono::TimeDelta::days(1));
            match round {
                0 => _ = app.reject(ids[0], bob).await.expect("rejected"),
                1 => app.block(bob, ann).await,
                _ => {}
            }
            app.accept(ids[1], cy).await.expect("a connection");
            app.remove(cy, ann).await.expect("no connection");
            app.cancel(ids[0], ann).await.expect("cancelled");
            app.cancel(ids[2], ann).await.expect("cancelled");
        }
        for receiver in [bob, cy, dee] {
            let refusal = app.try_send(ann, receiver).await;
            let details = refused(refusal, Code::ResourceExhausted, ErrorReason::LimitReached);
            let metadata = &details.error_info().unwrap().metadata;
            assert_eq!((metadata["limit"].as_str(), metadata["maximum"].as_str()), ("sends_per_pair", "3"));
            let pause = details.retry_info().unwrap().retry_delay.unwrap();
            assert_eq!(pause, std::time::Duration::from_secs(27 * 24 * 60 * 60), "{receiver}");
        }
        // In the other direction nothing was sent.
        app.send(dee, ann).await;
        app.block(dee, ann).await;
        app.unblock(dee, ann).await;
        app.clock.advance(chrono::TimeDelta::days(27));
        for receiver in [bob, cy, dee] {
            app.send(ann, receiver).await;
        }
    }

    #[with(|settings| {
        settings.policy.max_sends_per_pair = Some(3);
        settings.policy.lifetime = Some(chrono::TimeDelta::days(7));
        settings.sweep_interval = std::time::Duration::from_millis(20);
    })]
    async fn requests_that_expire_count_with_those_that_ended_before(app: App) {
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        for _ in 0..2 {
            let id = app.send(ann, bob).await;
            app.cancel(id, ann).await.expect("cancelled");
        }
        app.send(ann, bob).await;
        app.clock.advance(chrono::TimeDelta::days(7));
        let swept = "SELECT count(*) AS value FROM connection_requests";
        until("the sweep", async || app.database.number(swept).await == 0).await;
        refused(app.try_send(ann, bob).await, Code::ResourceExhausted, ErrorReason::LimitReached);
    }

    #[with(|settings| settings.policy.max_sent_requests = Some(1))]
    async fn the_first_reason_in_the_documented_order_is_returned(app: App) {
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        let request_id = "7b1d3c0e-4a52-4c6f-9b0a-2f8d1e6c5a43".to_owned();
        let send = async |from, to, message: &str| {
            let (message, request_id) = (message.to_owned(), request_id.clone());
            let send = pb::SendConnectionRequestRequest { message, request_id, ..request(from, to) };
            app.requests().send_connection_request(send).await
        };
        send(ann, bob, "").await.unwrap();
        refused(send(99, 99, "\0").await, Code::InvalidArgument, ErrorReason::InvalidFields);
        refused(send(99, 99, "").await, Code::InvalidArgument, ErrorReason::SelfRequest);
        refused(send(ann, 99, "").await, Code::InvalidArgument, ErrorReason::RequestIdReused);
        // At the limit. The state of the pair is checked first.
        refused(app.try_send(ann, bob).await, Code::AlreadyExists, ErrorReason::RequestPending);
        app.block(bob, ann).await;
        refused(app.try_send(bob, ann).await, Code::FailedPrecondition, ErrorReason::BlockedByYou);
        app.moderate(ann, "ann", UserStatus::Blocked).await;
        refused(app.try_send(bob, ann).await, Code::FailedPrecondition, ErrorReason::UserNotApproved);
        refused(app.try_send(ann, 99).await, Code::NotFound, ErrorReason::UserNotFound);
    }

    async fn a_repetition_returns_the_first_response(app: App) {
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        let request_id = "7b1d3c0e-4a52-4c6f-9b0a-2f8d1e6c5a43".to_owned();
        let send = pb::SendConnectionRequestRequest { request_id, ..request(ann, bob) };
        let first = app.requests().send_connection_request(send.clone()).await.unwrap().into_inner();
        app.accept(first.connection_request.as_ref().unwrap().id, bob).await.unwrap();
        let again = app.requests().send_connection_request(send.clone()).await.unwrap().into_inner();
        assert_eq!(again, first);
        let other = pb::SendConnectionRequestRequest { message: "other".to_owned(), ..send.clone() };
        let refusal = app.requests().send_connection_request(other).await;
        refused(refusal, Code::InvalidArgument, ErrorReason::RequestIdReused);
        app.clock.advance(chrono::TimeDelta::hours(24));
        let forgotten = app.requests().send_connection_request(send).await;
        refused(forgotten, Code::AlreadyExists, ErrorReason::AlreadyConnected);
    }

    async fn a_repetition_returns_the_first_response_after_the_request_is_gone(app: App) {
        let (ann, bob, cyd) = (app.user("ann").await, app.user("bob").await, app.user("cyd").await);
        app.send(cyd, bob).await;
        let request_id = "7b1d3c0e-4a52-4c6f-9b0a-2f8d1e6c5a43".to_owned();
        let send = pb::SendConnectionRequestRequest { request_id, ..request(ann, bob) };
        let first = app.requests().send_connection_request(send.clone()).await.unwrap().into_inner();
        app.cancel(first.connection_request.as_ref().unwrap().id, ann).await.unwrap();
        let before = app.revision().await;
        let again = app.requests().send_connection_request(send.clone()).await.unwrap().into_inner();
        assert_eq!(again, first);
        let other = pb::SendConnectionRequestRequest { to_user_id: cyd, ..send };
        let refusal = app.requests().send_connection_request(other).await;
        refused(refusal, Code::InvalidArgument, ErrorReason::RequestIdReused);
        assert_eq!(app.status(ann, bob).await, ConnectionStatus::None);
        assert_eq!(app.revision().await, before);
    }
}
