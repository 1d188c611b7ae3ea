use kith::proto::v1 as pb;
use kith::proto::v1::{
    ConnectionRequestDirection as Direction, ConnectionRequestState as State, ErrorReason, SendConnectionRequestRequest,
};
use tonic::Code;

use super::{at_once, crowd, page_sizes, pages, people, wrong_tokens};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::{App, refused};

fn list(user_id: i64, direction: Direction, state: State) -> pb::ListConnectionRequestsRequest {
    let (direction, state) = (direction.into(), state.into());
    pb::ListConnectionRequestsRequest { user_id, direction, state, ..Default::default() }
}

fn of(user: i64, direction: Direction) -> pb::ListConnectionRequestsRequest {
    list(user, direction, State::Unspecified)
}

async fn ids(app: &App, request: pb::ListConnectionRequestsRequest) -> Vec<i64> {
    let pages = pages!(app.requests().list_connection_requests(request).connection_requests);
    pages.concat().iter().map(|request| request.id).collect()
}

cases! {
    async fn received_and_sent_requests_come_newest_first_and_whole(app: App) {
        let [ann, bob, cy, dee] = people(&app).await;
        let (one, two, three) = (app.send(bob, ann).await, app.send(cy, ann).await, app.send(ann, dee).await);
        assert_eq!(ids(&app, of(ann, Direction::Received)).await, [two, one]);
        assert_eq!(ids(&app, list(ann, Direction::Received, State::Pending)).await, [two, one]);
        assert_eq!(ids(&app, of(ann, Direction::Sent)).await, [three]);
        assert_eq!(ids(&app, of(dee, Direction::Sent)).await, [0; 0]);
        let response = app.requests().list_connection_requests(of(dee, Direction::Received)).await.unwrap();
        assert_eq!(response.into_inner().connection_requests, [app.request(three, dee).await.unwrap()]);
    }

    async fn a_request_moves_to_the_front_when_it_comes_into_a_state(app: App) {
        let [ann, bob, cy, dee] = people(&app).await;
        let (one, two, three) = (app.send(bob, ann).await, app.send(cy, ann).await, app.send(dee, ann).await);
        for id in [three, one] {
            app.reject(id, ann).await.unwrap();
        }
        assert_eq!(ids(&app, of(ann, Direction::Received)).await, [two]);
        assert_eq!(ids(&app, list(ann, Direction::Received, State::Rejected)).await, [one, three]);
        for id in [one, three] {
            app.restore(id, ann).await.unwrap();
        }
        assert_eq!(ids(&app, of(ann, Direction::Received)).await, [three, one, two]);
        app.accept(one, ann).await.unwrap();
        app.cancel(two, cy).await.unwrap();
        assert_eq!(ids(&app, of(ann, Direction::Received)).await, [three]);
    }

    async fn sent_requests_stay_where_they_are_whatever_their_receivers_do(app: App) {
        let [ann, bob, cy, dee, eve] = people(&app).await;
        app.block(eve, ann).await;
        let mut sent = vec![];
        for other in [bob, cy, dee, eve] {
            sent.push(app.send(ann, other).await);
        }
        app.reject(sent[1], cy).await.unwrap();
        app.reject(sent[0], bob).await.unwrap();
        app.restore(sent[0], bob).await.unwrap();
        app.mark_viewed(sent[2], dee).await.unwrap();
        let page = app.requests().list_connection_requests(of(ann, Direction::Sent)).await.unwrap().into_inner();
        let seen: Vec<_> = page.connection_requests.iter().map(|it| (it.id, it.state(), it.rejected, it.viewed)).collect();
        sent.reverse();
        assert_eq!(seen, sent.iter().map(|id| (*id, State::Pending, None, None)).collect::<Vec<_>>());
        assert_eq!(ids(&app, list(ann, Direction::Sent, State::Rejected)).await, [0; 0]);
    }

    #[with(|settings| settings.policy.disclose_rejections = true)]
    async fn where_rejections_are_disclosed_they_have_a_list(app: App) {
        let [ann, bob, cy, dee] = people(&app).await;
        let (one, two, three) = (app.send(ann, bob).await, app.send(ann, cy).await, app.send(ann, dee).await);
        app.reject(two, cy).await.unwrap();
        app.reject(one, bob).await.unwrap();
        assert_eq!(ids(&app, of(ann, Direction::Sent)).await, [three]);
        let paged = pb::ListConnectionRequestsRequest { page_size: 1, ..list(ann, Direction::Sent, State::Rejected) };
        assert_eq!(ids(&app, paged).await, [two, one]);
    }

    async fn the_unviewed_are_the_pending_ones_not_viewed(app: App) {
        let [ann, bob, cy, dee, eve] = people(&app).await;
        app.block(ann, eve).await;
        let (one, two, three) = (app.send(bob, ann).await, app.send(cy, ann).await, app.send(dee, ann).await);
        app.send(eve, ann).await;
        app.mark_viewed(two, ann).await.unwrap();
        let unviewed = pb::ListConnectionRequestsRequest { unviewed_only: true, ..of(ann, Direction::Received) };
        assert_eq!(ids(&app, unviewed.clone()).await, [three, one]);
        assert_eq!(ids(&app, pb::ListConnectionRequestsRequest { page_size: 1, ..unviewed }).await, [three, one]);
    }

    async fn expired_requests_are_gone_at_once(app: App) {
        let [ann, bob, cy] = people(&app).await;
        app.send(bob, ann).await;
        app.clock.advance(chrono::TimeDelta::days(90));
        let younger = app.send(cy, ann).await;
        app.clock.advance(chrono::TimeDelta::days(90));
        assert_eq!(ids(&app, of(ann, Direction::Received)).await, [younger]);
        assert_eq!(ids(&app, of(bob, Direction::Sent)).await, [0; 0]);
    }

    async fn nothing_is_repeated_or_skipped_while_others_write(app: App) {
        let [ann, bob, cy, dee, eve] = people(&app).await;
        let mut sent = vec![];
        for other in [bob, cy, dee] {
            sent.push(app.send(other, ann).await);
        }
        let first = pb::ListConnectionRequestsRequest { page_size: 1, ..of(ann, Direction::Received) };
        let page = app.requests().list_connection_requests(first.clone()).await.unwrap().into_inner();
        assert_eq!(page.connection_requests[0].id, sent[2]);
        app.send(eve, ann).await;
        app.cancel(sent[1], cy).await.unwrap();
        app.cancel(sent[2], dee).await.unwrap();
        let next = pb::ListConnectionRequestsRequest { page_token: page.next_page_token, ..first };
        let page = app.requests().list_connection_requests(next).await.unwrap().into_inner();
        assert_eq!((page.connection_requests[0].id, page.next_page_token.as_str()), (sent[0], ""));
    }

    async fn pages_have_their_limits(app: App) {
        let ann = app.user("ann").await;
        let senders = crowd(&app, 1_002).await;
        at_once(senders.into_iter().map(|from_user_id| {
            let mut requests = app.requests();
            let send = SendConnectionRequestRequest { from_user_id, to_user_id: ann, ..Default::default() };
            async move { requests.send_connection_request(send).await.unwrap() }
        }))
        .await;
        let received = of(ann, Direction::Received);
        for refusal in page_sizes!(app.requests().list_connection_requests(received.clone()).connection_requests) {
            let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
            assert_eq!(fields(&details), ["page_size"]);
        }
        let all = ids(&app, pb::ListConnectionRequestsRequest { page_size: 300, ..received }).await;
        assert_eq!(all.len(), 1_002);
        assert!(all.windows(2).all(|two| two[0] > two[1]), "newest first, none twice");
    }

    async fn tokens_cannot_be_altered_or_moved_to_another_list(app: App) {
        let [ann, bob, cy] = people(&app).await;
        app.send(bob, ann).await;
        app.send(cy, ann).await;
        let received = of(ann, Direction::Received);
        for result in wrong_tokens!(
            app.requests().list_connection_requests(received.clone()),
            others: [
                of(bob, Direction::Received),
                of(ann, Direction::Sent),
                list(ann, Direction::Received, State::Rejected),
                list(ann, Direction::Received, State::Pending),
                pb::ListConnectionRequestsRequest { unviewed_only: true, ..received.clone() },
            ]
        ) {
            let details = refused(result, Code::InvalidArgument, ErrorReason::InvalidPageToken);
            assert_eq!(fields(&details), ["page_token"]);
        }
    }

    async fn every_wrong_field_is_named(app: App) {
        let wrong = pb::ListConnectionRequestsRequest {
            user_id: 0, direction: 0, state: State::Connected.into(), unviewed_only: false, page_size: -1,
            page_token: "x".to_owned(), ..Default::default() };
        let ann = app.user("ann").await;
        let unviewed = |direction, state| {
            pb::ListConnectionRequestsRequest { unviewed_only: true, ..list(ann, direction, state) }
        };
        for (request, wrong) in [
            (wrong, vec!["user_id", "state", "direction", "page_size", "page_token"]),
            (pb::ListConnectionRequestsRequest { direction: 7, ..of(ann, Direction::Sent) }, vec!["direction"]),
            (pb::ListConnectionRequestsRequest { state: -7, ..of(ann, Direction::Sent) }, vec!["state"]),
            (unviewed(Direction::Sent, State::Pending), vec!["unviewed_only"]),
            (unviewed(Direction::Received, State::Rejected), vec!["unviewed_only"]),
        ] {
            let refusal = app.requests().list_connection_requests(request).await;
            let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
            let mut named = fields(&details);
            named.sort_unstable();
            let mut wrong = wrong;
            wrong.sort_unstable();
            assert_eq!(named, wrong);
        }
    }

    async fn the_user_must_exist(app: App) {
        for request in [of(99, Direction::Sent), of(99, Direction::Received), list(99, Direction::Sent, State::Rejected)] {
            let refusal = app.requests().list_connection_requests(request).await;
            let details = refused(refusal, Code::NotFound, ErrorReason::UserNotFound);
            assert_eq!(details.error_info().unwrap().metadata["user_id"], "99");
        }
    }
}
