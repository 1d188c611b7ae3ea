//! A refusal stays private: whatever the receiver does, the sender lives in the same world.
//!
//! The same script of a sender's calls runs in several worlds, each on a database of its own. In each the receiver
//! acts in another way, and does as much about strangers as makes the number of events the same; so every answer of
//! the script must be the same to the byte: ids, times and revisions too.

use std::collections::BTreeMap;
use std::fmt::Debug;

use chrono::TimeDelta;
use kith::proto::v1 as pb;
use kith::proto::v1::{ConnectionRequestDirection as Direction, ConnectionRequestState as State};
use kith::server::Settings;
use tonic::{Response, Status};
use tonic_types::StatusExt;

use crate::cases;
use crate::harness::app::without_epochs;
use crate::harness::watching::{all_words, from};
use crate::harness::{App, Engine};

/// What the receiver does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum World {
    Ignores,
    Views,
    Rejects,
    BlockedBefore,
    BlocksAfter,
    RejectsAndBlocks,
    /// Not a refusal: shows that the script would notice.
    Accepts,
}

const REFUSALS: [World; 5] =
    [World::Views, World::Rejects, World::BlockedBefore, World::BlocksAfter, World::RejectsAndBlocks];

/// The events that a receiver's action makes, padded to this with what strangers do.
const EVENTS: i64 = 3;

/// A sender, a receiver, and strangers for the receiver to act upon.
struct Script {
    app: App,
    ann: i64,
    bob: i64,
    eve: i64,
    strangers: std::ops::Range<i64>,
    seen: Vec<String>,
}

impl Script {
    async fn new(engine: Engine, change: fn(&mut Settings)) -> Self {
        let app = App::with(engine, change).await;
        let (ann, bob, eve) = (app.user("ann").await, app.user("bob").await, app.user("eve").await);
        for stranger in 10..30 {
            let user = pb::User { id: stranger, username: format!("stranger-{stranger}"), ..Default::default() };
            app.users().create_user(pb::CreateUserRequest { user: Some(user), ..Default::default() }).await.unwrap();
        }
        Self { app, ann, bob, eve, strangers: 10..30, seen: Vec::new() }
    }

    /// Blocks strangers until as many events were written as in the other worlds.
    async fn pad(&mut self, before: i64) {
        while self.app.revision().await < before + EVENTS {
            self.app.block(self.bob, self.strangers.next().unwrap()).await;
        }
        assert_eq!(self.app.revision().await, before + EVENTS, "the worlds run apart");
    }

    /// What the receiver does before the request, and after it.
    async fn before(&mut self, world: World) {
        let revision = self.app.revision().await;
        if world == World::BlockedBefore {
            self.app.block(self.bob, self.ann).await;
        }
        self.pad(revision).await;
    }

    async fn after(&mut self, world: World, id: i64) {
        let (app, revision) = (&self.app, self.app.revision().await);
        match world {
            World::Ignores | World::BlockedBefore => {}
            World::Views => _ = app.mark_viewed(id, self.bob).await.unwrap(),
            World::Rejects => _ = app.reject(id, self.bob).await.unwrap(),
            World::BlocksAfter => app.block(self.bob, self.ann).await,
            World::RejectsAndBlocks => {
                app.reject(id, self.bob).await.unwrap();
                app.block(self.bob, self.ann).await;
            }
            World::Accepts => _ = app.accept(id, self.bob).await.unwrap(),
        }
        self.pad(revision).await;
    }

    /// Notes an answer whole, and how far the events have come.
    async fn note<T: Debug>(&mut self, call: &str, answer: Result<Response<T>, Status>) {
        let revision = self.app.revision().await;
        let answer = answer.map(Response::into_inner).map_err(|status| {
            let details = status.get_error_details();
            let info = details.error_info().cloned().expect("an ErrorInfo");
            let metadata: BTreeMap<_, _> = info.metadata.into_iter().collect();
            let rest = (details.retry_info().cloned(), details.bad_request().cloned());
            (status.code(), status.message().to_owned(), info.reason, metadata, rest)
        });
        // Each database has an epoch of its own.
        self.seen.push(without_epochs(&format!("{} {call} at {revision}: {answer:?}", self.seen.len())));
    }

    async fn send(&mut self, to: i64) -> i64 {
        let answer = self.app.try_send(self.ann, to).await;
        let id = answer.as_ref().ok().and_then(|sent| Some(sent.get_ref().connection_request.as_ref()?.id));
        self.note("send", answer).await;
        id.unwrap_or_default()
    }

    async fn cancel(&mut self, id: i64) {
        let answer = self.app.cancel(id, self.ann).await;
        self.note("cancel", answer).await;
    }

    /// Everything that the sender can read about themselves and the receiver.
    async fn look(&mut self, id: i64) {
        let (ann, bob, eve) = (self.ann, self.bob, self.eve);
        let (mut requests, mut connections) = (self.app.requests(), self.app.connections());
        let get = pb::GetConnectionRequestRequest { id, user_id: ann, ..Default::default() };
        self.note("get", requests.get_connection_request(get).await).await;
        for direction in [Direction::Sent, Direction::Received] {
            for state in [State::Unspecified, State::Pending, State::Rejected] {
                let list = pb::ListConnectionRequestsRequest {
                    user_id: ann,
                    direction: direction.into(),
                    state: state.into(),
                    page_size: 1,
                    ..Default::default()
                };
                let mut answer = requests.list_connection_requests(list).await;
                if let Ok(page) = &mut answer {
                    // Each database signs with a secret of its own; that there is a next page shows.
                    let more = !page.get_ref().next_page_token.is_empty();
                    page.get_mut().next_page_token = more.to_string();
                }
                self.note("list", answer).await;
            }
        }
        for other_user_id in [bob, eve] {
            let status = pb::GetConnectionStatusRequest { user_id: ann, other_user_id, ..Default::default() };
            self.note("status", connections.get_connection_status(status).await).await;
            let mutual = pb::ListMutualConnectionsRequest { user_id: ann, other_user_id, ..Default::default() };
            self.note("mutual", connections.list_mutual_connections(mutual).await).await;
        }
        let statuses = pb::BatchGetConnectionStatusesRequest {
            user_id: ann,
            other_user_ids: vec![eve, bob, ann],
            ..Default::default()
        };
        self.note("statuses", connections.batch_get_connection_statuses(statuses).await).await;
        let counts = pb::GetConnectionCountsRequest { user_id: ann, ..Default::default() };
        self.note("counts", connections.get_connection_counts(counts).await).await;
        for (user_id, viewer_user_id) in [(ann, 0), (ann, bob), (bob, ann)] {
            let list = pb::ListConnectionsRequest { user_id, viewer_user_id, ..Default::default() };
            self.note("connections", connections.list_connections(list).await).await;
        }
        let blocked = pb::ListBlockedUsersRequest { user_id: ann, ..Default::default() };
        self.note("blocked", self.app.blocks().list_blocked_users(blocked).await).await;
        self.look_at_the_feed().await;
    }

    /// What the feed tells the sender, whole and by pages, alone and of the receiver.
    async fn look_at_the_feed(&mut self) {
        let (ann, bob) = (self.ann, self.bob);
        let all = pb::ListEventsRequest { viewer_user_id: ann, page_size: 1_000, ..Default::default() };
        for request in [
            pb::ListEventsRequest { page_size: 2, ..all.clone() },
            pb::ListEventsRequest { user_id: ann, other_user_id: bob, ..all.clone() },
            pb::ListEventsRequest { user_ids: vec![bob], ..all.clone() },
            all,
        ] {
            let mut answer = self.app.events().list_events(request).await;
            if let Ok(page) = &mut answer {
                // Each database has a secret of its own.
                let page = page.get_mut();
                page.next_page_token = (!page.next_page_token.is_empty()).to_string();
            }
            self.note("events", answer).await;
        }
    }

    /// What a watch of the feed tells the sender, from the start and message by message.
    async fn watch_the_feed(&mut self) {
        let end = self.app.revision().await;
        let mut watching = self.app.watch(pb::WatchEventsRequest { viewer_user_id: self.ann, ..from(0, 100) }).await;
        let mut messages = Vec::new();
        loop {
            let message = watching.next().await;
            // How often nothing is told is a matter of time.
            let last = message.revision >= end;
            if !message.events.is_empty() {
                messages.push(message);
            }
            if last {
                break;
            }
        }
        self.note("watch", Ok(Response::new(messages))).await;
    }

    /// Everything that the sender can try that is not theirs to do.
    async fn try_what_is_not_theirs(&mut self, id: i64) {
        let (ann, bob) = (self.ann, self.bob);
        for answer in [
            self.app.accept(id, ann).await.map(|answer| answer.map(|answer| format!("{answer:?}"))),
            self.app.reject(id, ann).await.map(|answer| answer.map(|answer| format!("{answer:?}"))),
            self.app.restore(id, ann).await.map(|answer| answer.map(|answer| format!("{answer:?}"))),
            self.app.mark_viewed(id, ann).await.map(|answer| answer.map(|answer| format!("{answer:?}"))),
            self.app.remove(ann, bob).await.map(|answer| answer.map(|answer| format!("{answer:?}"))),
        ] {
            self.note("not theirs", answer).await;
        }
        let all = pb::MarkAllConnectionRequestsViewedRequest { user_id: ann, ..Default::default() };
        self.note("mark all", self.app.requests().mark_all_connection_requests_viewed(all).await).await;
        let unblock = pb::UnblockUserRequest { user_id: ann, other_user_id: bob, ..Default::default() };
        self.note("unblock", self.app.blocks().unblock_user(unblock).await).await;
    }

    async fn block_and_unblock(&mut self) {
        let (user_id, other_user_id) = (self.ann, self.bob);
        let block = pb::BlockUserRequest { user_id, other_user_id, ..Default::default() };
        self.note("block", self.app.blocks().block_user(block).await).await;
        let unblock = pb::UnblockUserRequest { user_id, other_user_id, ..Default::default() };
        self.note("unblock", self.app.blocks().unblock_user(unblock).await).await;
    }

    fn wait(&self, days: i64) {
        self.app.clock.advance(TimeDelta::days(days));
    }
}

/// All that the sender sees in a world.
async fn seen(engine: Engine, world: World, change: fn(&mut Settings)) -> Vec<String> {
    let mut script = Script::new(engine, change).await;
    let (bob, eve) = (script.bob, script.eve);
    script.before(world).await;
    let id = script.send(bob).await;
    script.look(id).await;
    script.wait(1);
    script.after(world, id).await;
    script.look(id).await;
    script.send(bob).await;
    script.send(eve).await;
    script.try_what_is_not_theirs(id).await;
    script.look(id).await;
    // Takes it back and asks again, within what may be a wait and after it.
    for days in [1, 10, 31] {
        script.wait(days);
        let open = script.app.revision().await;
        script.cancel(id).await;
        script.look(id).await;
        script.cancel(id).await;
        let again = script.send(bob).await;
        assert!(world == World::Accepts || again > open);
        script.look(again).await;
        script.send(bob).await;
        script.try_what_is_not_theirs(again).await;
        script.cancel(again).await;
    }
    // Blocks and changes their mind; then lets a request lie until it expires.
    let open = script.send(bob).await;
    script.block_and_unblock().await;
    script.look(open).await;
    let open = script.send(bob).await;
    for days in [179, 1] {
        script.wait(days);
        script.look(open).await;
    }
    script.try_what_is_not_theirs(open).await;
    let last = script.send(bob).await;
    script.look(last).await;
    script.watch_the_feed().await;
    // Deletes the account; whoever else looks afterwards finds nothing.
    let delete = pb::DeleteUserRequest { id: script.ann, request_id: String::new() };
    let deleted = script.app.users().delete_user(delete).await;
    // The blocks of the account end too, each with its event, so the revision is another one.
    script.seen.push(format!("delete: {:?}", deleted.map(|_| "deleted")));
    let all = pb::ListEventsRequest { viewer_user_id: script.ann, page_size: 1_000, ..Default::default() };
    script.seen.push(format!("events: {:?}", all_words(&script.app.list_events(all).await)));
    script.seen
}

async fn compare(engine: Engine, change: fn(&mut Settings)) {
    let expected = seen(engine, World::Ignores, change).await;
    for world in REFUSALS {
        let found = seen(engine, world, change).await;
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected, "in the world in which the receiver {world:?}");
        }
        assert_eq!(found.len(), expected.len());
    }
}

cases! {
    async fn who_is_blocked_sees_a_connection_end_and_no_more(app: App) {
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        let told = async |after| app.list_events(pb::ListEventsRequest { viewer_user_id: ann, ..after }).await;
        let after = async || pb::ListEventsRequest { after_sequence: app.revision().await, ..Default::default() };
        app.connect(ann, bob).await;
        let place = after().await;
        app.remove(bob, ann).await.unwrap();
        let removed = all_words(&told(place).await);
        assert_eq!(removed, [format!("CONNECTION_REMOVED {ann}-{bob} by {bob}")]);
        app.connect(ann, bob).await;
        let place = after().await;
        app.block(bob, ann).await;
        app.unblock(bob, ann).await;
        assert_eq!(all_words(&told(place).await), removed);
        // Who blocks is told of it.
        let bobs = app.list_events(pb::ListEventsRequest { viewer_user_id: bob, ..Default::default() }).await;
        assert_eq!(all_words(&bobs)[6..], [
            format!("CONNECTION_REMOVED (BLOCKED) {ann}-{bob} by {bob}"),
            format!("USER_BLOCKED {bob}-{ann} by {bob}"),
            format!("USER_UNBLOCKED {bob}-{ann} by {bob}"),
        ]);
    }
}

macro_rules! on_each_engine {
    ($($name:ident($change:expr))+) => {$(
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                compare(Engine::Sqlite, $change).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                compare(Engine::Postgres, $change).await;
            }
        }
    )+};
}

on_each_engine! {
    a_sender_cannot_tell_a_refusal(|_| {})
    a_sender_cannot_tell_a_refusal_by_their_limits(|settings| {
        settings.policy.max_sent_requests = Some(1);
        settings.policy.max_connections = Some(1);
        settings.policy.max_sends_per_hour = Some(1);
    })
    a_sender_cannot_tell_a_refusal_without_a_cooldown(|settings| settings.policy.cooldown = None)
    a_sender_cannot_tell_a_refusal_that_outlasts_a_request(|settings| {
        settings.policy.cooldown = Some(TimeDelta::days(400));
        settings.policy.lifetime = Some(TimeDelta::days(20));
    })
}

/// The comparison is worth something: an acceptance shows, and so do rejections where they are disclosed. A block never
/// shows, whatever is disclosed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_script_notices_what_is_told() {
    let disclose: fn(&mut Settings) = |settings| settings.policy.disclose_rejections = true;
    let ignored = seen(Engine::Sqlite, World::Ignores, |_| {}).await;
    assert_ne!(seen(Engine::Sqlite, World::Accepts, |_| {}).await, ignored);
    assert_eq!(seen(Engine::Sqlite, World::Ignores, disclose).await, ignored);
    assert_ne!(seen(Engine::Sqlite, World::Rejects, disclose).await, ignored);
    for blocked in [World::BlockedBefore, World::BlocksAfter] {
        assert_eq!(seen(Engine::Sqlite, blocked, disclose).await, ignored, "{blocked:?}");
    }
}
