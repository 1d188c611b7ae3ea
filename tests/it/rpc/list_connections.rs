use kith::proto::v1 as pb;
use kith::proto::v1::{ErrorReason, MutualFilter};
use tonic::Code;

use super::{at_once, crowd, page_sizes, pages, people, wrong_tokens};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::{App, refused};

fn of(user_id: i64) -> pb::ListConnectionsRequest {
    pb::ListConnectionsRequest { user_id, ..Default::default() }
}

fn seen_by(user_id: i64, viewer_user_id: i64, mutual: MutualFilter) -> pb::ListConnectionsRequest {
    pb::ListConnectionsRequest { viewer_user_id, mutual: mutual.into(), ..of(user_id) }
}

/// The users at the other ends. The same for every page size.
async fn users(app: &App, request: pb::ListConnectionsRequest) -> Vec<i64> {
    let mut orders = vec![];
    for page_size in [0, 1, 2, 3] {
        let request = pb::ListConnectionsRequest { page_size, ..request.clone() };
        let pages = pages!(app.connections().list_connections(request).connections);
        orders.push(pages.concat().iter().map(|connection| connection.user.as_ref().unwrap().id).collect::<Vec<_>>());
    }
    assert!(orders.iter().all(|order| *order == orders[0]), "the page size changes the order: {orders:?}");
    orders.remove(0)
}

cases! {
    async fn connections_come_newest_first_and_whole(app: App) {
        let [ann, bob, cy, dee] = people(&app).await;
        assert_eq!(users(&app, of(ann)).await, [0; 0]);
        // The first request is accepted last.
        let first = app.send(ann, bob).await;
        app.connect(cy, ann).await;
        app.send(ann, dee).await;
        app.clock.advance(chrono::TimeDelta::minutes(5));
        app.accept(first, bob).await.unwrap();
        assert_eq!(users(&app, of(ann)).await, [bob, cy]);
        assert_eq!(users(&app, of(bob)).await, [ann]);
        let response = app.connections().list_connections(of(ann)).await.unwrap().into_inner();
        let newest = &response.connections[0];
        assert_eq!(newest.user.as_ref().unwrap().username, "bob");
        assert_eq!(newest.connection_request_id, first);
        assert_eq!(newest.connected.unwrap().seconds, app.clock.now().timestamp());
    }

    async fn with_a_viewer_the_shared_ones_come_first(app: App) {
        let [ann, bob, cy, dee, eve, fay, gus] = people(&app).await;
        for other in [bob, cy, dee, eve, fay] {
            app.connect(ann, other).await;
        }
        // The viewer shares bob and dee, and has sent eve a request, which is not a connection.
        for other in [bob, dee] {
            app.connect(gus, other).await;
        }
        app.send(gus, eve).await;
        use MutualFilter::{Any, Excluded, Only, Unspecified};
        for mutual in [Any, Unspecified] {
            assert_eq!(users(&app, seen_by(ann, gus, mutual)).await, [dee, bob, fay, eve, cy]);
            assert_eq!(users(&app, seen_by(ann, 0, mutual)).await, [fay, eve, dee, cy, bob]);
        }
        assert_eq!(users(&app, seen_by(ann, gus, Only)).await, [dee, bob]);
        assert_eq!(users(&app, seen_by(ann, gus, Excluded)).await, [fay, eve, cy]);
        // A viewer is not mutual with themselves, and shares all of their own list.
        assert_eq!(users(&app, seen_by(ann, bob, Any)).await, [fay, eve, dee, cy, bob]);
        for mutual in [Any, Only] {
            assert_eq!(users(&app, seen_by(ann, ann, mutual)).await, [fay, eve, dee, cy, bob]);
        }
        assert_eq!(users(&app, seen_by(ann, ann, Excluded)).await, [0; 0]);
    }

    async fn nothing_is_repeated_or_skipped_while_others_write(app: App) {
        let [ann, bob, cy, dee, eve] = people(&app).await;
        for other in [bob, cy, dee] {
            app.connect(ann, other).await;
        }
        let first = pb::ListConnectionsRequest { page_size: 1, ..of(ann) };
        let page = app.connections().list_connections(first.clone()).await.unwrap().into_inner();
        assert_eq!(page.connections[0].user.as_ref().unwrap().id, dee);
        app.connect(ann, eve).await;
        app.remove(ann, cy).await.unwrap();
        app.remove(dee, ann).await.unwrap();
        let next = pb::ListConnectionsRequest { page_token: page.next_page_token, ..first };
        let page = app.connections().list_connections(next).await.unwrap().into_inner();
        assert_eq!(page.connections[0].user.as_ref().unwrap().id, bob);
        assert_eq!(page.next_page_token, "");
    }

    async fn pages_have_their_limits(app: App) {
        let ann = app.user("ann").await;
        at_once(crowd(&app, 1_002).await.into_iter().map(|other| {
            let mut requests = app.requests();
            let send = move |from_user_id, to_user_id| {
                pb::SendConnectionRequestRequest { from_user_id, to_user_id, ..Default::default() }
            };
            async move {
                let sent = requests.send_connection_request(send(other, ann)).await.unwrap().into_inner();
                let id = sent.connection_request.unwrap().id;
                let accept = pb::AcceptConnectionRequestRequest { id, user_id: ann, request_id: String::new(), ..Default::default() };
                requests.accept_connection_request(accept).await.unwrap()
            }
        }))
        .await;
        for refusal in page_sizes!(app.connections().list_connections(of(ann)).connections) {
            let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
            assert_eq!(fields(&details), ["page_size"]);
        }
    }

    async fn tokens_cannot_be_altered_or_moved_to_another_list(app: App) {
        let [ann, bob, cy] = people(&app).await;
        app.connect(ann, bob).await;
        app.connect(ann, cy).await;
        for result in wrong_tokens!(
            app.connections().list_connections(of(ann)),
            others: [of(bob), seen_by(ann, bob, MutualFilter::Any), seen_by(ann, 0, MutualFilter::Any)]
        ) {
            let details = refused(result, Code::InvalidArgument, ErrorReason::InvalidPageToken);
            assert_eq!(fields(&details), ["page_token"]);
        }
        for result in wrong_tokens!(
            app.connections().list_connections(seen_by(ann, bob, MutualFilter::Excluded)),
            others: [
                seen_by(ann, cy, MutualFilter::Excluded),
                seen_by(ann, bob, MutualFilter::Only),
                seen_by(ann, bob, MutualFilter::Any),
            ]
        ) {
            refused(result, Code::InvalidArgument, ErrorReason::InvalidPageToken);
        }
    }

    async fn every_wrong_field_is_named(app: App) {
        let ann = app.user("ann").await;
        let all = pb::ListConnectionsRequest {
            user_id: 0, viewer_user_id: -1, mutual: 9, page_size: -1, page_token: "x".to_owned(), ..Default::default() };
        for (request, mut expected) in [
            (all, vec!["user_id", "viewer_user_id", "mutual", "page_size", "page_token"]),
            (seen_by(ann, 0, MutualFilter::Only), vec!["viewer_user_id"]),
            (seen_by(ann, 0, MutualFilter::Excluded), vec!["viewer_user_id"]),
        ] {
            let refusal = app.connections().list_connections(request).await;
            let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
            let mut named = fields(&details);
            named.sort_unstable();
            expected.sort_unstable();
            assert_eq!(named, expected);
        }
    }

    async fn the_user_and_the_viewer_must_exist(app: App) {
        let [ann, bob] = people(&app).await;
        app.connect(ann, bob).await;
        use MutualFilter::{Any, Excluded, Only};
        for request in [of(99), seen_by(99, ann, Any), seen_by(ann, 99, Any), seen_by(ann, 99, Only),
            seen_by(ann, 99, Excluded)]
        {
            let refusal = app.connections().list_connections(request).await;
            let details = refused(refusal, Code::NotFound, ErrorReason::UserNotFound);
            assert_eq!(details.error_info().unwrap().metadata["user_id"], "99");
        }
    }
}
