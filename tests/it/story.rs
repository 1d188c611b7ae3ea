//! A user's feed is a story about what that user can read.
//!
//! After every step of a random history, for every user: what their feed says, put together, is what their lists,
//! statuses and counts say; nothing ends that did not begin.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use kith::proto::v1 as pb;
use kith::proto::v1::{ErrorReason, UserStatus};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tonic::Code;

use crate::harness::app::options;
use crate::harness::story::Story;
use crate::harness::watching::{all_words, from};
use crate::harness::{App, Engine, refused};
use crate::history::sweep;
use crate::totals;
use crate::{cases, on_each_engine};

const USERS: i64 = 6;
const STEPS: usize = 160;

/// A user's feed as far as it was read.
struct Reader {
    place: i64,
    story: Story,
}

impl Reader {
    /// Reads on, and compares with everything that the user can read.
    async fn compare(&mut self, app: &App, exists: bool, step: &str) {
        let (user, end) = (self.story.user(), app.revision().await);
        let request = pb::ListEventsRequest { viewer_user_id: user, after_sequence: self.place, ..Default::default() };
        for event in app.list_events(request).await {
            self.story.apply(&event).unwrap_or_else(|wrong| panic!("{step}, user {user}: {wrong}"));
        }
        self.place = end;
        if !exists {
            assert_eq!(self.story, Story::of(user), "{step}: what is left of user {user}");
            return;
        }
        assert_eq!(self.story.told(), Story::read(app, user).await.told(), "{step}: user {user}");
        assert_eq!(self.story.counts(), app.counts(user).await, "{step}: counts of user {user}");
        let others: Vec<_> = (1..=USERS).collect();
        let request = pb::BatchGetConnectionStatusesRequest {
            user_id: user,
            other_user_ids: others.clone(),
            ..Default::default()
        };
        let statuses = app.connections().batch_get_connection_statuses(request).await.expect("statuses").into_inner();
        let read: Vec<_> =
            statuses.statuses.iter().map(|status| (status.status(), status.connection_request_id)).collect();
        let told: Vec<_> = others.iter().map(|other| self.story.status(*other)).collect();
        assert_eq!(told, read, "{step}: statuses of user {user}");
    }
}

struct World {
    app: App,
    rng: StdRng,
    users: BTreeMap<i64, UserStatus>,
}

impl World {
    async fn new(engine: Engine, seed: u64, disclose: bool) -> Self {
        let app = App::with_options(engine, options(), |settings| {
            (settings.policy.max_sends_per_hour, settings.policy.max_sends_per_pair) = (None, None);
            settings.policy.event_retention = None;
            (settings.policy.disclose_rejections, settings.policy.disclose_views) = (disclose, disclose);
            settings.sweep_interval = std::time::Duration::from_secs(3_600);
        })
        .await;
        let mut world = Self { app, rng: StdRng::seed_from_u64(seed), users: BTreeMap::new() };
        for id in 1..=USERS {
            world.create(id).await;
        }
        world
    }

    async fn create(&mut self, id: i64) {
        self.app.create(id).await.expect("a user");
        self.users.insert(id, UserStatus::Approved);
    }

    /// A random step, refused or not. Returns what it was.
    async fn step(&mut self) -> String {
        let everybody: Vec<i64> = (1..=USERS).collect();
        let (one, other) = {
            let two: Vec<_> = everybody.sample(&mut self.rng, 2).copied().collect();
            (two[0], two[1])
        };
        let id = self.request_of(one).await;
        let dice = self.rng.random_range(0..100);
        match dice {
            0..34 => _ = self.app.try_send(one, other).await,
            34..42 => _ = self.app.accept(id, one).await,
            42..54 => _ = self.app.reject(id, one).await,
            54..58 => _ = self.app.restore(id, one).await,
            58..68 => _ = self.app.cancel(id, one).await,
            68..73 => _ = self.app.mark_viewed(id, one).await,
            73..76 => _ = self.app.remove(one, other).await,
            76..83 => {
                let block = pb::BlockUserRequest { user_id: one, other_user_id: other, ..Default::default() };
                _ = self.app.blocks().block_user(block).await;
            }
            83..93 => {
                let unblock = pb::UnblockUserRequest { user_id: one, other_user_id: other, ..Default::default() };
                _ = self.app.blocks().unblock_user(unblock).await;
            }
            93..95 => self.app.clock.advance(TimeDelta::days([15, 31, 100, 181][self.rng.random_range(0..4)])),
            95..97 if self.users.contains_key(&one) => self.moderate(one).await,
            _ if self.users.remove(&one).is_some() => {
                self.app.users().delete_user(pb::DeleteUserRequest { id: one, ..Default::default() }).await.unwrap();
            }
            _ => self.create(one).await,
        }
        sweep(&self.app).await;
        format!("{dice} by {one}, with {other} or request {id}")
    }

    async fn moderate(&mut self, id: i64) {
        let status = match self.users[&id] {
            UserStatus::Approved => UserStatus::Blocked,
            _ => UserStatus::Approved,
        };
        self.users.insert(id, status);
        self.app.moderate(id, &format!("user-{id}"), status).await;
    }

    /// Any request of this user, also one that they cannot see.
    async fn request_of(&mut self, user: i64) -> i64 {
        let query = format!(
            "SELECT CAST(id AS text) AS value FROM connection_requests WHERE from_user_id = {user} OR to_user_id = {user}"
        );
        let ids: Vec<_> = self.app.database.values(&query).await.into_iter().flatten().collect();
        ids.choose(&mut self.rng).map_or(1, |id| id.parse().expect("an id"))
    }
}

on_each_engine! {
    async fn what_a_users_feed_says_is_what_they_can_read(engine: Engine) {
        for (seed, disclose) in [(1, false), (2, true)] {
            let mut world = World::new(engine, seed, disclose).await;
            let mut readers: Vec<_> =
                (1..=USERS).map(|user| Reader { place: 0, story: Story::of(user) }).collect();
            for number in 0..STEPS {
                let what = world.step().await;
                let step = format!("seed {seed}, step {number}, {what}");
                for (reader, user) in readers.iter_mut().zip(1..) {
                    let exists = world.users.contains_key(&user);
                    reader.compare(&world.app, exists, &step).await;
                    if number % 50 == 10 && exists {
                        // Another consumer begins with the lists, and knows no more than they say.
                        reader.story = Story::read(&world.app, user).await;
                    }
                }
            }
            totals::compare(&world.app).await;
            let end = world.app.revision().await;
            for reader in &readers {
                // From the start, and by a watch.
                let user = reader.story.user();
                let request = pb::WatchEventsRequest { viewer_user_id: user, ..from(0, 100) };
                let mut whole = Story::of(user);
                for event in world.app.watch(request).await.until(end).await {
                    whole.apply(&event).unwrap_or_else(|wrong| panic!("seed {seed}, user {user}: {wrong}"));
                }
                assert_eq!(whole.told(), reader.story.told(), "seed {seed}, user {user}");
            }
        }
    }
}

cases! {
    // Complaint: a request that was sent during a block stays without effect for ever, and nobody knows why.
    async fn a_request_sent_during_a_block_is_pending_when_the_block_ends(app: App) {
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        app.block(bob, ann).await;
        let id = app.send(ann, bob).await;
        assert_eq!(app.status(bob, ann).await, pb::ConnectionStatus::Blocked);
        refused(app.request(id, bob).await.map(tonic::Response::new), Code::NotFound, ErrorReason::RequestNotFound);
        app.unblock(bob, ann).await;
        assert_eq!(app.status(bob, ann).await, pb::ConnectionStatus::RequestReceived);
        assert_eq!(app.counts(bob).await, [0, 1, 1, 0]);
        let bobs = app.list_events(pb::ListEventsRequest { viewer_user_id: bob, ..Default::default() }).await;
        assert_eq!(all_words(&bobs)[1..], [
            format!("USER_BLOCKED {bob}-{ann} by {bob}"),
            format!("USER_UNBLOCKED {bob}-{ann} by {bob}"),
            format!("REQUEST_CREATED (UNBLOCKED) {ann}-{bob} by {bob}"),
        ]);
        // Nobody rejected anything: cancelled and sent again, it reaches its receiver.
        app.cancel(id, ann).await.expect("cancelled");
        let again = app.send(ann, bob).await;
        app.accept(again, bob).await.expect("a connection");
    }

    // Complaint: after an unblock the blocker reads that they rejected what they never saw.
    async fn a_block_rejects_nothing(app: App) {
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        let id = app.send(ann, bob).await;
        app.block(bob, ann).await;
        app.cancel(id, ann).await.expect("cancelled");
        app.unblock(bob, ann).await;
        assert_eq!(app.status(bob, ann).await, pb::ConnectionStatus::None);
        app.send(ann, bob).await;
        assert_eq!(app.status(bob, ann).await, pb::ConnectionStatus::RequestReceived);
    }

    #[with(|settings| settings.policy.max_sends_per_pair = None)]
    // Complaint: whoever is blocked, or was rejected, can ring the other's feed by sending and cancelling in turn.
    async fn who_is_silenced_rings_nobody(app: App) {
        let (ann, bob, eve) = (app.user("ann").await, app.user("bob").await, app.user("eve").await);
        app.block(bob, ann).await;
        let rejected = app.send(eve, bob).await;
        app.reject(rejected, bob).await.expect("rejected");
        app.cancel(rejected, eve).await.expect("cancelled");
        let place = app.revision().await;
        for sender in [ann, eve] {
            for _ in 0..5 {
                let id = app.send(sender, bob).await;
                app.cancel(id, sender).await.expect("cancelled");
            }
            app.send(sender, bob).await;
        }
        app.users().delete_user(pb::DeleteUserRequest { id: eve, ..Default::default() }).await.expect("deleted");
        app.clock.advance(TimeDelta::days(181));
        sweep(&app).await;
        let request = pb::ListEventsRequest { viewer_user_id: bob, after_sequence: place, ..Default::default() };
        assert_eq!(all_words(&app.list_events(request).await), [""; 0]);
    }

    // Complaint: with rejections disclosed, the first send to somebody who blocks says that it is rejected.
    #[with(|settings| (settings.policy.disclose_rejections, settings.policy.disclose_views) = (true, true))]
    async fn disclosure_discloses_no_silence(app: App) {
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        app.block(bob, ann).await;
        let sent = app.try_send(ann, bob).await.expect("a request").into_inner().connection_request.expect("a request");
        assert_eq!((sent.state(), sent.rejected, sent.viewed), (pb::ConnectionRequestState::Pending, None, None));
        let truth = app.request(sent.id, 0).await.expect("a request");
        assert_eq!(truth.state(), pb::ConnectionRequestState::Silenced, "operators see the truth");
        let anns = app.list_events(pb::ListEventsRequest { viewer_user_id: ann, ..Default::default() }).await;
        assert_eq!(all_words(&anns)[1..], [format!("REQUEST_CREATED {ann}-{bob} by {ann}")]);
        assert!(anns.iter().all(|event| !event.silenced));
    }

    // Complaint: whoever gets an id that was used before reads what its last owner was told.
    async fn a_user_with_an_id_that_was_used_before_reads_nothing_of_its_last_owner(app: App) {
        for id in [1, 2] {
            app.create(id).await.expect("a user");
        }
        let request_id = "7b1d3c0e-4a52-4c6f-9b0a-2f8d1e6c5a43".to_owned();
        let (from_user_id, to_user_id, message) = (1, 2, "to the first".to_owned());
        let send = pb::SendConnectionRequestRequest { from_user_id, to_user_id, message, request_id };
        let first = app.requests().send_connection_request(send.clone()).await.expect("sent").into_inner();
        app.reject(first.connection_request.expect("a request").id, 2).await.expect("rejected");
        let place = app.revision().await;
        app.users().delete_user(pb::DeleteUserRequest { id: 1, ..Default::default() }).await.expect("deleted");
        app.create(1).await.expect("a user");
        let begun = app.revision().await;
        let all = pb::ListEventsRequest { viewer_user_id: 1, ..Default::default() };
        for request in [
            all.clone(),
            pb::ListEventsRequest { after_sequence: 1, ..all.clone() },
            pb::ListEventsRequest { after_sequence: place, ..all.clone() },
            pb::ListEventsRequest { page_size: 1, ..all.clone() },
        ] {
            assert_eq!(all_words(&app.list_events(request.clone()).await), ["USER_CREATED 1 by operator"], "{request:?}");
        }
        let pair = pb::ListEventsRequest { user_id: 1, other_user_id: 2, ..all };
        assert_eq!(app.list_events(pair).await, []);
        for after in [0, 1, place] {
            let watch = pb::WatchEventsRequest { viewer_user_id: 1, ..from(after, 100) };
            let told = app.watch(watch).await.until(begun).await;
            assert_eq!(all_words(&told), ["USER_CREATED 1 by operator"], "after {after}");
        }
        // The call is executed anew: there is no answer, no cooldown and no limit of the first owner.
        let again = app.requests().send_connection_request(send).await.expect("sent").into_inner();
        assert_eq!(again.revision, begun + 1);
        assert_eq!(app.request(again.revision, 2).await.expect("a request").state(), pb::ConnectionRequestState::Pending);
        // Of the other user, who still exists, all is still there.
        let theirs = pb::ListEventsRequest { viewer_user_id: 2, ..Default::default() };
        assert_eq!(app.list_events(theirs).await.len(), 6);
    }

    // Complaint: an answer that is repeated shows the profile of somebody who was deleted.
    async fn a_repeated_answer_has_no_profile_of_a_deleted_user(app: App) {
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        let request_id = "7b1d3c0e-4a52-4c6f-9b0a-2f8d1e6c5a43".to_owned();
        let (from_user_id, to_user_id) = (ann, bob);
        let send = pb::SendConnectionRequestRequest { from_user_id, to_user_id, request_id, ..Default::default() };
        let first = app.requests().send_connection_request(send.clone()).await.expect("sent").into_inner();
        app.update(ann, "changed since").await;
        app.users().delete_user(pb::DeleteUserRequest { id: bob, ..Default::default() }).await.expect("deleted");
        let again = app.requests().send_connection_request(send).await.expect("the answer").into_inner();
        let (first, again) = (first.connection_request.expect("a request"), again.connection_request.expect("a request"));
        assert_eq!(again.to_user, Some(pb::User { id: bob, ..Default::default() }));
        let from = first.from_user.clone().map(|user| pb::User { bio: "changed since".to_owned(), ..user });
        assert_eq!(again, pb::ConnectionRequest { from_user: from, to_user: again.to_user.clone(), ..first });
        // Nor is it stored.
        for name in ["bob"] {
            let hex: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
            let as_hex = match app.database.engine {
                Engine::Sqlite => "lower(hex(response))",
                Engine::Postgres => "encode(response, 'hex')",
            };
            let found = format!("SELECT count(*) AS value FROM request_ids WHERE {as_hex} LIKE '%{hex}%'");
            assert_eq!(app.database.number(&found).await, 0, "{name}");
        }
    }

    // Complaint: a block of somebody who is deleted stays in the blocker's list.
    async fn a_block_of_a_deleted_user_ends_in_the_blockers_feed(app: App) {
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        app.block(bob, ann).await;
        app.users().delete_user(pb::DeleteUserRequest { id: ann, ..Default::default() }).await.expect("deleted");
        let bobs = app.list_events(pb::ListEventsRequest { viewer_user_id: bob, ..Default::default() }).await;
        assert_eq!(all_words(&bobs).last().unwrap(), &format!("USER_UNBLOCKED (USER_DELETED) {bob}-{ann} by operator"));
    }
}
