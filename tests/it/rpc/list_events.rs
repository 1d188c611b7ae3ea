use std::time::Duration;

use chrono::TimeDelta;
use kith::proto::v1 as pb;
use kith::proto::v1::{ErrorReason, EventKind};
use tonic::{Code, Status};

use super::{crowd, page_sizes, pages, people, wrong_tokens};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::watching::{all_words, fill, from, sequences};
use crate::harness::{App, refused, until};

type Request = pb::ListEventsRequest;

const STORED: &str = "SELECT count(*) AS value FROM events";

async fn list(app: &App, request: Request) -> Result<pb::ListEventsResponse, Status> {
    app.events().list_events(request).await.map(tonic::Response::into_inner)
}

fn after(after_sequence: i64) -> Request {
    Request { after_sequence, ..Default::default() }
}

fn between(user_id: i64, other_user_id: i64) -> Request {
    Request { user_id, other_user_id, ..Default::default() }
}

/// The sequences of the events. The same for every page size.
async fn positions(app: &App, request: Request) -> Vec<i64> {
    let mut orders = vec![];
    for page_size in [0, 1, 2, 3] {
        let request = Request { page_size, ..request.clone() };
        let pages = pages!(app.events().list_events(request).events);
        orders.push(sequences(&pages.concat()));
    }
    assert!(orders.iter().all(|order| *order == orders[0]), "the page size changes the order: {orders:?}");
    orders.remove(0)
}

cases! {
    async fn events_come_oldest_first_and_whole(app: App) {
        let [ann, bob] = people(&app).await;
        app.clock.advance(TimeDelta::minutes(5));
        let id = app.send(ann, bob).await;
        app.mark_viewed(id, bob).await.unwrap();
        app.reject(id, bob).await.unwrap();
        app.restore(id, bob).await.unwrap();
        app.cancel(id, ann).await.unwrap();
        let page = list(&app, Request::default()).await.unwrap();
        assert_eq!(all_words(&page.events), [
            format!("USER_CREATED {ann} by operator"),
            format!("USER_CREATED {bob} by operator"),
            format!("REQUEST_CREATED {ann}-{bob} by {ann}"),
            format!("REQUEST_VIEWED {ann}-{bob} by {bob}"),
            format!("REQUEST_REJECTED {ann}-{bob} by {bob}"),
            format!("REQUEST_RESTORED {ann}-{bob} by {bob}"),
            format!("REQUEST_CANCELLED {ann}-{bob} by {ann}"),
        ]);
        assert_eq!(sequences(&page.events), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((page.revision, page.next_page_token.as_str()), (7, ""));
        assert!(page.events[2..].iter().all(|event| event.connection_request_id == id));
        assert!(page.events[..2].iter().all(|event| event.connection_request_id == 0 && event.actor_user_id == 0));
        let seconds = page.events.iter().map(|event| event.time.unwrap().seconds);
        let now = app.clock.now().timestamp();
        assert_eq!(seconds.collect::<Vec<_>>(), [now - 300, now - 300, now, now, now, now, now]);
        // The same as a watch.
        assert_eq!(app.watch(from(0, 1_000)).await.until(7).await, page.events);
    }

    async fn only_selected_events_are_listed(app: App) {
        let [ann, bob, cy] = people(&app).await;
        app.connect(ann, bob).await;
        let id = app.send(cy, ann).await;
        app.reject(id, ann).await.unwrap();
        app.block(bob, cy).await;
        app.remove(bob, ann).await.unwrap();
        use EventKind::{ConnectionCreated, ConnectionRemoved, RequestRejected, UserCreated};
        let of = |user_ids: &[i64]| Request { user_ids: user_ids.to_vec(), ..Default::default() };
        let seen_by = |viewer_user_id| Request { viewer_user_id, ..Default::default() };
        let only = |kinds: &[EventKind], request| {
            Request { kinds: kinds.iter().map(|kind| i32::from(*kind)).collect(), ..request }
        };
        for (request, expected) in [
            (Request::default(), vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
            (after(8), vec![9, 10]),
            (after(10), vec![]),
            (of(&[ann]), vec![1, 4, 5, 6, 7, 8, 10]),
            (of(&[cy, ann]), vec![1, 3, 4, 5, 6, 7, 8, 9, 10]),
            (of(&[99]), vec![]),
            (only(&[UserCreated], Request::default()), vec![1, 2, 3]),
            (only(&[ConnectionCreated, ConnectionRemoved], of(&[bob])), vec![5, 10]),
            (between(ann, bob), vec![4, 5, 10]),
            (between(bob, ann), vec![4, 5, 10]),
            (between(bob, cy), vec![9]),
            (Request { after_sequence: 4, ..between(ann, bob) }, vec![5, 10]),
            (only(&[ConnectionRemoved], between(ann, bob)), vec![10]),
            (Request { user_ids: vec![cy], ..between(ann, bob) }, vec![]),
            (between(98, 99), vec![]),
            (seen_by(ann), vec![1, 4, 5, 6, 7, 8, 10]),
            (seen_by(cy), vec![3, 6]),
            (only(&[RequestRejected], seen_by(cy)), vec![]),
            (Request { viewer_user_id: cy, ..between(bob, cy) }, vec![]),
            (Request { viewer_user_id: bob, ..between(bob, cy) }, vec![9]),
            (Request { viewer_user_id: cy, ..between(ann, bob) }, vec![]),
            (seen_by(99), vec![]),
        ] {
            assert_eq!(positions(&app, request.clone()).await, expected, "{request:?}");
        }
    }

    async fn the_last_page_has_the_position_to_continue_from(app: App) {
        let [ann, bob] = people(&app).await;
        app.connect(ann, bob).await;
        let filtered = Request { user_ids: vec![ann], page_size: 2, ..Default::default() };
        let first = list(&app, filtered.clone()).await.unwrap();
        assert_eq!((sequences(&first.events), first.revision), (vec![1, 3], 4));
        let second = Request { page_token: first.next_page_token, ..filtered.clone() };
        app.user("cy").await;
        let last = list(&app, second).await.unwrap();
        // After the last matching event.
        assert_eq!((sequences(&last.events), last.revision, last.next_page_token.as_str()), (vec![4], 5, ""));
        app.block(ann, bob).await;
        let rest = list(&app, Request { after_sequence: last.revision, epoch: last.epoch.clone(), ..filtered }).await;
        assert_eq!(sequences(&rest.unwrap().events), [6, 7]);
        let watched = app.watch(from(last.revision, 1_000)).await.until(7).await;
        assert_eq!(sequences(&watched), [6, 7]);
    }

    async fn a_page_of_a_long_feed_may_be_short_and_is_not_the_last(app: App) {
        let [ann, bob] = people(&app).await;
        fill(&app.database, 11_000, "800", false).await;
        app.connect(ann, bob).await;
        fill(&app.database, 11_000, "800 + i % 2", false).await;
        app.remove(ann, bob).await.unwrap();
        let end = app.revision().await;
        let kinds = [EventKind::ConnectionCreated, EventKind::ConnectionRemoved, EventKind::UserCreated];
        let request = Request { kinds: kinds.map(i32::from).to_vec(), page_size: 3, ..Default::default() };
        let pages = pages!(app.events().list_events(request).events);
        let lengths: Vec<_> = pages.iter().map(Vec::len).collect();
        assert_eq!(sequences(&pages.concat()), [1, 2, 11_004, end]);
        assert!(lengths.len() >= 3 && lengths[0] == 2, "a page looks at so many events and no more: {lengths:?}");
        // Selections with an index find their events quickly, however many others lie between.
        let request = Request { user_ids: vec![ann], page_size: 10, ..Default::default() };
        let pages = pages!(app.events().list_events(request).events);
        assert_eq!(pages.iter().map(|page| sequences(page)).collect::<Vec<_>>(), [vec![1, 11_003, 11_004, end]]);
        let pages = pages!(app.events().list_events(Request { page_size: 1_000, ..between(bob, ann) }).events);
        assert_eq!(pages.len(), 1);
        // An empty page: all examined events are about others.
        let nobody = Request { user_ids: vec![98, 99], ..Default::default() };
        let pages = pages!(app.events().list_events(nobody).events);
        assert!(pages.len() >= 3 && pages.concat().is_empty());
    }

    async fn pages_have_their_limits(app: App) {
        crowd(&app, 1_002).await;
        for refusal in page_sizes!(app.events().list_events(Request::default()).events) {
            let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
            assert_eq!(fields(&details), ["page_size"]);
        }
        let all = pages!(app.events().list_events(Request { page_size: 1_000, ..Default::default() }).events);
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [1_000, 2]);
        for page_size in [1_000, 1_002, 334, 512, 513, 501] {
            let pages = pages!(app.events().list_events(Request { page_size, ..after(1) }).events);
            assert_eq!(sequences(&pages.concat()), (2..=1_002).collect::<Vec<_>>());
        }
    }

    async fn tokens_cannot_be_altered_or_moved_to_another_list(app: App) {
        let [ann, bob] = people(&app).await;
        app.connect(ann, bob).await;
        app.block(ann, bob).await;
        let epoch = list(&app, Request::default()).await.unwrap().epoch;
        let base = Request { viewer_user_id: ann, ..Default::default() };
        for result in wrong_tokens!(
            app.events().list_events(base.clone()),
            others: [
                after(0),
                Request { viewer_user_id: bob, ..Default::default() },
                Request { after_sequence: 1, ..base.clone() },
                Request { epoch, ..base.clone() },
                Request { user_ids: vec![ann], ..base.clone() },
                Request { kinds: vec![EventKind::UserBlocked.into()], ..base.clone() },
                Request { user_id: ann, other_user_id: bob, ..base },
            ]
        ) {
            let details = refused(result, Code::InvalidArgument, ErrorReason::InvalidPageToken);
            assert_eq!(fields(&details), ["page_token"]);
        }
    }

    async fn every_wrong_field_is_named(app: App) {
        let all = Request {
            after_sequence: -1,
            epoch: "any".to_owned(),
            user_ids: vec![-1, 7],
            kinds: vec![99],
            viewer_user_id: -1,
            user_id: -1,
            other_user_id: 0,
            page_size: -1,
            page_token: "x".to_owned(),
            min_revision: -1,
            min_revision_epoch: "any".to_owned(),
        };
        let details = refused(list(&app, all).await, Code::InvalidArgument, ErrorReason::InvalidFields);
        let mut named = fields(&details);
        named.sort_unstable();
        assert_eq!(named, [
            "after_sequence", "kinds[0]", "min_revision", "other_user_id", "page_size", "page_token", "user_id",
            "user_ids[0]", "viewer_user_id",
        ]);
        for (request, field) in [(between(1, 0), "other_user_id"), (between(0, 1), "user_id")] {
            let details = refused(list(&app, request).await, Code::InvalidArgument, ErrorReason::InvalidFields);
            assert_eq!(fields(&details), [field], "both or none");
        }
        let details = refused(list(&app, between(7, 7)).await, Code::InvalidArgument, ErrorReason::SelfRequest);
        assert_eq!(fields(&details), ["other_user_id"]);
    }

    #[with(|settings| settings.sweep_interval = Duration::from_millis(20))]
    async fn a_position_before_deleted_events_is_refused(app: App) {
        let [ann, bob, _] = people(&app).await;
        let first = list(&app, Request { page_size: 1, ..Default::default() }).await.unwrap();
        app.clock.advance(TimeDelta::days(31));
        let id = app.connect(ann, bob).await;
        until("two events", async || app.database.number(STORED).await == 2).await;
        for request in [
            after(1),
            after(2),
            Request { after_sequence: 2, ..between(ann, bob) },
            Request { after_sequence: 2, viewer_user_id: ann, ..Default::default() },
            Request { page_size: 1, page_token: first.next_page_token, ..Default::default() },
        ] {
            let details = refused(list(&app, request).await, Code::OutOfRange, ErrorReason::CursorExpired);
            assert_eq!(details.error_info().unwrap().metadata["oldest_sequence"], "4");
        }
        // 0 starts at the oldest stored event, as does a list without a position.
        for request in [Request::default(), after(3), between(ann, bob), Request { user_ids: vec![bob], ..after(0) }] {
            assert_eq!(positions(&app, request).await, [4, 5]);
        }
        app.clock.advance(TimeDelta::days(31));
        until("an empty feed", async || app.database.number(STORED).await == 0).await;
        for request in [Request::default(), after(5), between(ann, bob)] {
            let page = list(&app, request).await.unwrap();
            assert_eq!((page.events.len(), page.revision, page.next_page_token.as_str()), (0, 5, ""));
        }
        // Deleting events does not change the state.
        assert_eq!(app.request(id, ann).await.unwrap().id, id);
    }

    async fn a_position_in_another_feed_is_refused(app: App) {
        people::<3>(&app).await;
        let epoch = list(&app, Request::default()).await.unwrap().epoch;
        let other = "0123456789abcdef".to_owned();
        for request in [
            Request { epoch: other.clone(), ..Default::default() },
            Request { epoch: other, ..after(3) },
            Request { epoch: epoch.clone(), ..after(4) },
            after(4),
            after(i64::MAX),
            Request { after_sequence: 4, ..between(1, 2) },
        ] {
            let details = refused(list(&app, request).await, Code::FailedPrecondition, ErrorReason::WrongEpoch);
            assert_eq!(details.error_info().unwrap().metadata["epoch"], epoch);
        }
        assert_eq!(list(&app, Request { epoch, ..after(3) }).await.unwrap().events, []);
    }
}
