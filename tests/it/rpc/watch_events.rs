use std::time::{Duration, Instant};

use chrono::TimeDelta;
use futures_util::FutureExt;
use kith::proto::v1 as pb;
use kith::proto::v1::{ErrorReason, EventKind};
use tonic::{Code, Status};

use super::{at_once, crowd, people};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::watching::{all_words, fill, from, now, sequences};
use crate::harness::{App, refused, until};

/// Longer than any test: no heartbeats, only events.
const RARELY: i64 = 300_000;
const STORED: &str = "SELECT count(*) AS value FROM events";

async fn refusal(app: &App, request: pb::WatchEventsRequest) -> Result<(), Status> {
    app.try_watch(request).await.map(drop)
}

fn kinds(kinds: &[EventKind]) -> Vec<i32> {
    kinds.iter().map(|kind| i32::from(*kind)).collect()
}

/// Deletes a user who has this many received requests: a commit of one event more.
async fn delete_user_with_requests_from(app: &App, count: i64) -> (i64, Vec<i64>) {
    let ann = app.user("ann").await;
    let others = crowd(app, count).await;
    at_once(others.iter().map(|other| {
        let (mut requests, from_user_id) = (app.requests(), *other);
        let request = pb::SendConnectionRequestRequest { from_user_id, to_user_id: ann, ..Default::default() };
        async move { requests.send_connection_request(request).await.unwrap() }
    }))
    .await;
    let before = app.revision().await;
    app.users().delete_user(pb::DeleteUserRequest { id: ann, ..Default::default() }).await.unwrap();
    (before, others)
}

/// The number of events in each message, and whether its commit continues; up to this revision.
async fn messages(app: &App, request: pb::WatchEventsRequest, until: i64) -> Vec<(usize, bool)> {
    let mut watching = app.watch(request).await;
    let mut messages = Vec::new();
    loop {
        let message = watching.next().await;
        messages.push((message.events.len(), message.continues));
        if message.revision == until {
            return messages;
        }
    }
}

cases! {
    async fn the_first_message_arrives_immediately_with_the_position(app: App) {
        people::<3>(&app).await;
        for (after_sequence, revision) in [(None, 3), (Some(0), 0), (Some(1), 1), (Some(3), 3)] {
            let request = pb::WatchEventsRequest { after_sequence, ..now(RARELY) };
            let first = app.try_watch(request).await.unwrap().next().await;
            assert_eq!((first.events.len(), first.revision, first.continues), (0, revision, false));
            let listed = app.events().list_events(pb::ListEventsRequest::default()).await.unwrap().into_inner();
            assert_eq!(first.epoch, listed.epoch);
            assert!(!first.epoch.is_empty());
        }
    }

    async fn a_watch_from_the_end_receives_only_new_events(app: App) {
        let [ann, bob] = people(&app).await;
        let mut watching = app.watch(now(RARELY)).await;
        app.clock.advance(TimeDelta::minutes(5));
        let id = app.send(ann, bob).await;
        let message = watching.next().await;
        let time = prost_types::Timestamp { seconds: app.clock.now().timestamp(), nanos: 0 };
        let sent = pb::Event {
            sequence: 3,
            time: Some(time),
            kind: EventKind::RequestCreated.into(),
            actor: pb::EventActor::User.into(),
            actor_user_id: ann,
            user_id: ann,
            other_user_id: bob,
            connection_request_id: id,
            principal: pb::EventPrincipal::Anonymous.into(),
            ..Default::default()
        };
        assert_eq!((message.events, message.revision, message.continues), (vec![sent], 3, false));
        app.accept(id, bob).await.unwrap();
        let message = watching.next().await;
        assert_eq!(all_words(&message.events), [format!("CONNECTION_CREATED {ann}-{bob} by {bob}")]);
    }

    async fn a_watch_from_any_position_receives_all_following_events_once(app: App) {
        let [ann, bob, cy] = people(&app).await;
        app.connect(ann, bob).await;
        app.connect(bob, cy).await;
        // Two commits of two events each.
        app.block(ann, bob).await;
        app.block(cy, bob).await;
        for after in 0..=11 {
            let end = app.revision().await;
            let mut watching = app.watch(from(after, RARELY)).await;
            let received = if after == end { vec![] } else { watching.until(end).await };
            assert_eq!(sequences(&received), (after + 1..=end).collect::<Vec<_>>());
            // And continues with new events.
            app.unblock(ann, bob).await;
            app.block(ann, bob).await;
            assert_eq!(sequences(&watching.until(end + 2).await), [end + 1, end + 2]);
        }
    }

    async fn each_commit_is_one_message(app: App) {
        let [ann, bob] = people(&app).await;
        app.connect(ann, bob).await;
        let mut live = app.watch(now(RARELY)).await;
        app.block(ann, bob).await;
        app.unblock(ann, bob).await;
        let block =
            [format!("CONNECTION_REMOVED (BLOCKED) {ann}-{bob} by {ann}"), format!("USER_BLOCKED {ann}-{bob} by {ann}")];
        for mut watching in [live, app.watch(from(4, RARELY)).await] {
            let message = watching.next().await;
            assert_eq!((all_words(&message.events), message.revision, message.continues), (block.to_vec(), 6, false));
            let message = watching.next().await;
            assert_eq!((message.events.len(), message.revision), (1, 7));
        }
        // From the middle of a commit: its remaining events.
        let message = app.watch(from(5, RARELY)).await.next().await;
        assert_eq!((all_words(&message.events), message.continues), (block[1..].to_vec(), false));
        live = app.watch(from(5, RARELY)).await;
        assert_eq!(sequences(&live.until(7).await), [6, 7]);
    }

    async fn a_commit_that_is_too_large_for_a_message_goes_on_in_the_next(app: App) {
        let mut everything = app.watch(now(RARELY)).await;
        let (before, others) = delete_user_with_requests_from(&app, 600).await;
        let end = before + 601;
        assert_eq!(app.revision().await, end);
        let all = everything.until(end).await;
        assert_eq!(sequences(&all), (1..=end).collect::<Vec<_>>());
        assert_eq!(messages(&app, from(before, RARELY), end).await, [(512, true), (89, false)]);
        // A watch that starts in the middle receives the rest.
        assert_eq!(messages(&app, from(before + 300, RARELY), end).await, [(301, false)]);
        // A selection that fits into the first message. The last message ends the commit nonetheless.
        let early = pb::WatchEventsRequest { user_ids: others[..2].to_vec(), ..from(before, RARELY) };
        assert_eq!(messages(&app, early, end).await, [(2, true), (0, false)]);
        let late = pb::WatchEventsRequest { user_ids: others[590..].to_vec(), ..from(before, RARELY) };
        assert_eq!(messages(&app, late, end - 1).await, [(10, false)]);
        let last = pb::WatchEventsRequest { kinds: kinds(&[EventKind::UserDeleted]), ..from(before, RARELY) };
        assert_eq!(messages(&app, last, end).await, [(1, false)]);
    }

    async fn a_large_commit_arrives_in_the_same_messages_live_and_later(app: App) {
        let ann = app.user("ann").await;
        let mut everything = app.watch(now(100)).await;
        let about_ann = pb::WatchEventsRequest { user_ids: vec![ann], ..now(100) };
        let mut about_ann = app.watch(about_ann).await;
        let as_ann = pb::WatchEventsRequest { viewer_user_id: ann, ..now(100) };
        let mut as_ann = app.watch(as_ann).await;
        // Every third event is about Ann, and none at the end.
        fill(&app.database, 900, &format!("CASE i % 3 WHEN 0 THEN {ann} ELSE 800 END"), true).await;
        fill(&app.database, 600, "800", false).await;
        let (mut received, mut ends) = (0, Vec::new());
        while received < 900 {
            let message = everything.next_events().await;
            received += message.events.len();
            ends.push(message.continues);
        }
        assert_eq!((received, ends.pop(), ends.contains(&false)), (900, Some(false), false));
        for watching in [&mut about_ann, &mut as_ann] {
            let mut received = Vec::new();
            loop {
                let message = watching.next().await;
                received.extend(sequences(&message.events));
                if received.len() == 300 && !message.continues {
                    break;
                }
            }
            assert_eq!(received, (2..902).step_by(3).collect::<Vec<_>>());
            assert_eq!(watching.until(1_501).await, []);
        }
        app.update(ann, "more").await;
        for watching in [&mut about_ann, &mut as_ann] {
            let message = watching.next_events().await;
            assert_eq!((sequences(&message.events), message.continues), (vec![1_502], false));
        }
    }

    async fn only_selected_events_are_received(app: App) {
        let [ann, bob, cy] = people(&app).await;
        app.connect(ann, bob).await;
        let id = app.send(cy, ann).await;
        app.reject(id, ann).await.unwrap();
        app.block(bob, cy).await;
        let end = app.revision().await;
        use EventKind::{ConnectionCreated, RequestCreated, RequestRejected, UserBlocked, UserCreated};
        for (user_ids, wanted, viewer_user_id, expected) in [
            (vec![], vec![], 0, vec![1, 2, 3, 4, 5, 6, 7, 8, 9]),
            (vec![ann], vec![], 0, vec![1, 4, 5, 6, 7, 8]),
            (vec![ann, bob], vec![], 0, vec![1, 2, 4, 5, 6, 7, 8, 9]),
            (vec![99], vec![], 0, vec![]),
            (vec![], vec![UserCreated, UserBlocked], 0, vec![1, 2, 3, 9]),
            (vec![cy], vec![UserCreated, RequestCreated], 0, vec![3, 6]),
            (vec![], vec![], ann, vec![1, 4, 5, 6, 7, 8]),
            (vec![], vec![], cy, vec![3, 6]),
            (vec![], vec![RequestRejected, ConnectionCreated], ann, vec![5, 8]),
            (vec![], vec![RequestRejected, UserBlocked], cy, vec![]),
            (vec![bob], vec![], cy, vec![]),
            (vec![ann], vec![], cy, vec![6]),
            (vec![], vec![], 99, vec![]),
        ] {
            let request = pb::WatchEventsRequest {
                user_ids: user_ids.clone(), kinds: kinds(&wanted), viewer_user_id, ..from(0, 100)
            };
            let received = app.watch(request).await.until(end).await;
            assert_eq!(sequences(&received), expected, "{user_ids:?} {wanted:?} {viewer_user_id}");
        }
    }

    async fn heartbeats_arrive_at_their_interval_with_the_position_of_the_feed(app: App) {
        let [ann, bob] = people(&app).await;
        let begun = Instant::now();
        let mut often = app.watch(pb::WatchEventsRequest { user_ids: vec![99], ..now(100) }).await;
        let mut rarely = app.watch(now(RARELY)).await;
        for _ in 0..5 {
            assert_eq!(often.next().await.revision, 2);
        }
        assert!(begun.elapsed() >= Duration::from_millis(490), "{:?}", begun.elapsed());
        assert!(rarely.message().now_or_never().is_none());
        let id = app.connect(ann, bob).await;
        assert_eq!(often.until(4).await, [], "read up to here, without an event");
        assert_eq!(rarely.next().await.events[0].connection_request_id, id);
    }

    async fn a_watcher_that_reads_past_events_receives_their_position(app: App) {
        let ann = app.user("ann").await;
        fill(&app.database, 3_000, "800", false).await;
        app.update(ann, "later").await;
        let request = pb::WatchEventsRequest { user_ids: vec![ann, 900], ..from(1, RARELY) };
        let message = app.watch(request).await.next().await;
        assert_eq!((sequences(&message.events), message.revision), (vec![3_002], 3_002));
    }

    async fn every_wrong_field_is_named(app: App) {
        let all = pb::WatchEventsRequest {
            after_sequence: Some(-1),
            epoch: "any".to_owned(),
            user_ids: vec![1, 0, 2, -3],
            kinds: vec![1, 0, 15, -1],
            viewer_user_id: -1,
            heartbeat_interval: Some(prost_types::Duration { seconds: 0, nanos: 99_999_999 }),
        };
        let details = refused(refusal(&app, all).await, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(fields(&details), [
            "after_sequence", "viewer_user_id", "user_ids[1]", "user_ids[3]", "kinds[1]", "kinds[2]", "kinds[3]",
            "heartbeat_interval",
        ]);
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 0), (300, 1), (i64::MAX, 0), (1, -1), (0, i32::MIN)] {
            let heartbeat_interval = Some(prost_types::Duration { seconds, nanos });
            let request = pb::WatchEventsRequest { heartbeat_interval, ..Default::default() };
            let details = refused(refusal(&app, request).await, Code::InvalidArgument, ErrorReason::InvalidFields);
            assert_eq!(fields(&details), ["heartbeat_interval"], "{seconds} s, {nanos} ns");
        }
        let request = pb::WatchEventsRequest { user_ids: (1..=1_001).collect(), ..Default::default() };
        let details = refused(refusal(&app, request).await, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(fields(&details), ["user_ids"]);
        for milliseconds in [100, RARELY] {
            app.watch(pb::WatchEventsRequest { user_ids: (1..=1_000).collect(), ..now(milliseconds) }).await;
        }
    }

    #[with(|settings| settings.sweep_interval = Duration::from_millis(20))]
    async fn a_position_before_deleted_events_is_refused(app: App) {
        people::<3>(&app).await;
        app.clock.advance(TimeDelta::days(31));
        let zoe = app.user("zoe").await;
        until("one event", async || app.database.number(STORED).await == 1).await;
        for after in [1, 2] {
            let refusal = refusal(&app, from(after, RARELY)).await;
            let details = refused(refusal, Code::OutOfRange, ErrorReason::CursorExpired);
            assert_eq!(details.error_info().unwrap().metadata["oldest_sequence"], "4");
        }
        // From the oldest stored event, and from just before it.
        for after in [0, 3] {
            let mut watching = app.try_watch(from(after, RARELY)).await.unwrap();
            assert_eq!(watching.next().await.revision, 3);
            assert_eq!(all_words(&watching.next().await.events), [format!("USER_CREATED {zoe} by operator")]);
        }
        // An empty feed still has a position to start from.
        app.clock.advance(TimeDelta::days(31));
        until("an empty feed", async || app.database.number(STORED).await == 0).await;
        let mut watches = Vec::new();
        for request in [from(0, RARELY), from(4, RARELY), now(RARELY)] {
            watches.push(app.try_watch(request).await.unwrap());
        }
        let fay = app.user("fay").await;
        for mut watching in watches {
            assert_eq!(watching.next().await.revision, 4);
            assert_eq!(all_words(&watching.next().await.events), [format!("USER_CREATED {fay} by operator")]);
        }
        refused(refusal(&app, from(3, RARELY)).await, Code::OutOfRange, ErrorReason::CursorExpired);
    }

    async fn a_position_in_another_feed_is_refused(app: App) {
        people::<3>(&app).await;
        let epoch = app.try_watch(now(RARELY)).await.unwrap().next().await.epoch;
        let other = "0123456789abcdef".to_owned();
        for request in [
            pb::WatchEventsRequest { epoch: other.clone(), ..now(RARELY) },
            pb::WatchEventsRequest { epoch: other.clone(), ..from(0, RARELY) },
            pb::WatchEventsRequest { epoch: other, ..from(3, RARELY) },
            pb::WatchEventsRequest { epoch: epoch.clone(), ..from(4, RARELY) },
            from(4, RARELY),
            from(i64::MAX, RARELY),
        ] {
            let details = refused(refusal(&app, request).await, Code::FailedPrecondition, ErrorReason::WrongEpoch);
            assert_eq!(details.error_info().unwrap().metadata["epoch"], epoch);
        }
        for request in [now(RARELY), from(0, RARELY), from(3, RARELY)] {
            app.watch(pb::WatchEventsRequest { epoch: epoch.clone(), ..request }).await;
        }
    }

    async fn the_shutdown_of_the_server_ends_a_watch_with_an_error(app: App) {
        let mut app = app;
        let ann = app.user("ann").await;
        let mut all = app.watch(from(0, RARELY)).await;
        assert_eq!(all.until(1).await.len(), 1);
        let mut none = app.watch(pb::WatchEventsRequest { viewer_user_id: ann, ..now(RARELY) }).await;
        app.stop();
        for watching in [&mut all, &mut none] {
            let end: Result<(), Status> = Err(watching.end().await);
            refused(end, Code::Unavailable, ErrorReason::ShuttingDown);
        }
    }

    #[with(|settings| settings.max_watchers = 2)]
    async fn as_many_may_watch_as_there_is_room_for(app: App) {
        let first = app.watch(now(100)).await;
        let _second = app.watch(now(RARELY)).await;
        refused(refusal(&app, now(RARELY)).await, Code::ResourceExhausted, ErrorReason::Overloaded);
        drop(first);
        // The service notices a moment later.
        until("a free slot", async || refusal(&app, now(RARELY)).await.is_ok()).await;
        until("a free slot", async || refusal(&app, now(RARELY)).await.is_ok()).await;
        // A refused watch does not hold a slot.
        for _ in 0..5 {
            until("a free slot", async || {
                refusal(&app, from(99, RARELY)).await.is_err_and(|status| status.code() == Code::FailedPrecondition)
            })
            .await;
        }
        let third = app.watch(now(100)).await;
        refused(refusal(&app, now(RARELY)).await, Code::ResourceExhausted, ErrorReason::Overloaded);
        drop(third);
    }

    #[with(|settings| settings.max_call_time = Duration::from_millis(200))]
    async fn a_watch_outlasts_any_other_call(app: App) {
        let mut watching = app.watch(now(100)).await;
        for _ in 0..8 {
            assert_eq!(watching.next().await.events, []);
        }
        app.user("ann").await;
        assert_eq!(watching.next_events().await.events.len(), 1);
    }
}
