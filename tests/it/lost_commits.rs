//! Does everybody learn of the commits that a failover of PostgreSQL loses, and nobody of one that loses none?

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kith::proto::v1::get_user_request::Key;
use kith::proto::v1::{self as pb, ErrorReason};
use kith::store::Repair;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::check::check;
use crate::harness::clients::Clients;
use crate::harness::database::Database;
use crate::harness::process::Kith;
use crate::harness::replicated::{Node, urls};
use crate::harness::watching::{from, sequences};
use crate::harness::{Engine, available, refused, until};

const READ_WRITE: &str = "&target_session_attrs=read-write";

/// A primary and a standby that is cut off from it, and servers that know both.
struct World {
    primary: Node,
    standby: Node,
    servers: Vec<Kith>,
}

impl World {
    /// With two users, whom the standby has.
    async fn new() -> (Self, i64, i64) {
        let primary = Node::primary().await;
        let standby = primary.standby().await;
        let url = urls(&[&primary, &standby], READ_WRITE);
        let servers = vec![Kith::serve(&url, &[]).await, Kith::serve(&url, &[]).await];
        let clients = servers[0].clients();
        let (ann, bob) = (clients.user("ann").await, clients.user("bob").await);
        primary.wait_for(&standby).await;
        (Self { primary, standby, servers }, ann, bob)
    }

    async fn cut_off(&self) {
        self.standby.stop_streaming().await;
        let senders = "(SELECT count(*) FROM pg_stat_replication)";
        until("the end of the stream", async || self.primary.value(senders).await == "0").await;
    }

    /// Fails over to the standby. Another server writes there, and only then do the others see anything of it.
    ///
    /// Returns the server that wrote.
    async fn fail_over(&mut self, write: impl AsyncFn(&Clients)) -> Kith {
        self.servers.iter().for_each(|server| server.signal("STOP"));
        self.primary.kill();
        self.standby.promote().await;
        let new = Kith::serve(&self.standby.url(), &[]).await;
        write(&new.clients()).await;
        self.servers.iter().for_each(|server| server.signal("CONT"));
        new
    }
}

/// The bio of a user, with the position of the answer.
async fn bio(clients: &Clients, id: i64, min_revision: i64, epoch: &str) -> Result<(String, i64, String), Status> {
    let min_revision_epoch = epoch.to_owned();
    let get = pb::GetUserRequest { key: Some(Key::Id(id)), min_revision, min_revision_epoch, ..Default::default() };
    let response = available(async || clients.users().get_user(get.clone()).await).await?.into_inner();
    Ok((response.user.expect("a user").bio, response.revision, response.epoch))
}

/// The common sequence and the epoch of an error.
fn wrong_epoch(status: Status) -> (Option<i64>, String) {
    let details = refused(Err::<(), _>(status), Code::FailedPrecondition, ErrorReason::WrongEpoch);
    let metadata = &details.error_info().expect("an ErrorInfo").metadata;
    (metadata.get("common_sequence").map(|common| common.parse().expect("a number")), metadata["epoch"].clone())
}

async fn is_in_order(node: &Node) {
    let report = check(&Database::at(&node.url(), Engine::Postgres), Repair::Nothing).await;
    assert!(report.is_clean(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_commit_whose_number_is_used_again_is_told_before_any_new_event() {
    let (mut world, ann, bob) = World::new().await;
    let clients: Vec<_> = world.servers.iter().map(Kith::clients).collect();
    let (mut told, mut spared) = (Vec::new(), Vec::new());
    for clients in &clients {
        told.push(clients.watch(from(0, 60_000)).await);
        // It is told nothing after event 2 and before the failover.
        spared.push(clients.watch(pb::WatchEventsRequest { user_ids: vec![bob], ..from(0, 60_000) }).await);
    }
    world.cut_off().await;
    clients[0].update(ann, "lost").await;
    for watching in &mut told {
        assert_eq!(sequences(&watching.until(3).await), [1, 2, 3]);
    }
    for watching in &mut spared {
        assert_eq!(sequences(&watching.until(2).await), [2]);
    }
    let mut old = String::new();
    for clients in &clients {
        let (read, revision, epoch) = bio(clients, ann, 3, "").await.expect("a user");
        assert_eq!((read.as_str(), revision), ("lost", 3));
        old = epoch;
    }
    // A page that has the lost event, or not.
    let list = pb::ListEventsRequest { page_size: 1, after_sequence: 2, epoch: old.clone(), ..Default::default() };
    clients[0].update(ann, "lost too").await;
    let page = clients[0].events().list_events(list.clone()).await.expect("a page").into_inner();
    let next = pb::ListEventsRequest { page_token: page.next_page_token, ..list.clone() };
    let users = pb::ListUsersRequest { page_size: 1, ..Default::default() };
    let page = clients[0].users().list_users(users.clone()).await.expect("a page").into_inner();
    let next_users = pb::ListUsersRequest { page_token: page.next_page_token, ..users };

    // Both lost numbers are used again.
    let write = async |clients: &Clients| {
        clients.update(bob, "new").await;
        clients.update(bob, "newer").await;
    };
    let new = world.fail_over(write).await;
    let table = new.clients().list_events(pb::ListEventsRequest::default()).await;
    assert_eq!((sequences(&table), table[2].user_id), (vec![1, 2, 3, 4], bob));
    for watching in &mut told {
        let lost = loop {
            match watching.message().await {
                Ok(message) => assert!(message.events.iter().all(|event| event.user_id == ann), "{message:?}"),
                Err(status) => break wrong_epoch(status),
            }
        };
        assert_eq!(lost.0, Some(2));
        assert_ne!(lost.1, old);
    }
    for watching in &mut spared {
        let message = watching.next_events().await;
        assert_eq!(message.events, table[2..3]);
        assert_ne!(message.epoch, old);
    }
    // No server answers from before.
    for clients in clients.iter().chain([&new.clients()]) {
        let (read, _, epoch) = bio(clients, ann, 0, "").await.expect("a user");
        assert_eq!(read, "");
        assert_ne!(epoch, old);
        assert_eq!(bio(clients, bob, 0, "").await.expect("a user").0, "newer");
        // A revision of the lost epoch is good if nothing up to it was lost.
        assert_eq!(bio(clients, ann, 2, &old).await.expect("a user").0, "");
        for lost in [3, 4] {
            assert_eq!(wrong_epoch(bio(clients, ann, lost, &old).await.expect_err("lost")), (Some(2), epoch.clone()));
        }
        assert_eq!(wrong_epoch(bio(clients, ann, 1, "unknown").await.expect_err("unknown")), (None, epoch.clone()));
        // So is a cursor, and a page token.
        let resumed =
            clients.watch(pb::WatchEventsRequest { epoch: old.clone(), ..from(2, 60_000) }).await.until(4).await;
        assert_eq!(resumed, table[2..]);
        let listed = clients.events().list_events(list.clone()).await.expect("a page").into_inner();
        assert_eq!((listed.events, listed.epoch), (table[2..3].to_vec(), epoch.clone()));
        let lost = clients.try_watch(pb::WatchEventsRequest { epoch: old.clone(), ..from(3, 60_000) }).await;
        let lost = lost.err().expect("lost");
        assert_eq!(wrong_epoch(lost), (Some(2), epoch.clone()));
        let lost = clients.events().list_events(next.clone()).await.expect_err("lost");
        assert_eq!(wrong_epoch(lost), (Some(2), epoch.clone()));
        let lost = clients.users().list_users(next_users.clone()).await.expect_err("lost");
        assert_eq!(wrong_epoch(lost), (Some(2), epoch));
    }
    is_in_order(&world.standby).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_has_what_was_lost_makes_the_write_again() {
    let (mut world, ann, _) = World::new().await;
    let clients = world.servers[0].clients();
    world.cut_off().await;
    clients.update(ann, "lost").await;
    assert_eq!(bio(&clients, ann, 3, "").await.expect("a user").0, "lost");
    world.servers.iter().for_each(|server| server.signal("STOP"));
    world.primary.kill();
    world.standby.promote().await;
    // No server has written there yet.
    world.servers[0].signal("CONT");
    let user = pb::User { id: ann, bio: "lost".to_owned(), ..Default::default() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["bio".to_owned()] });
    let update = pb::UpdateUserRequest { user: Some(user), update_mask, ..Default::default() };
    let updated = available(async || clients.users().update_user(update.clone()).await).await.expect("an update");
    assert_eq!(updated.into_inner().revision, 3);
    assert_eq!(world.standby.value(&format!("(SELECT bio FROM users WHERE id = {ann})")).await, "lost");
    let events = clients.events().list_events(pb::ListEventsRequest::default()).await.expect("events").into_inner();
    assert_eq!(sequences(&events.events), [1, 2, 3]);
    is_in_order(&world.standby).await;
}

/// What a consumer has, that follows the feed and does what the errors say.
struct Copy {
    events: Vec<pb::Event>,
    /// The common sequences of the errors.
    lost: Vec<i64>,
}

/// Follows the feed from its beginning to the goal, once it is set, at one server after the other.
fn follow(servers: Vec<Clients>, mut goal: watch::Receiver<Option<i64>>) -> JoinHandle<Copy> {
    tokio::spawn(async move {
        let (mut copy, mut epoch) = (Copy { events: Vec::new(), lost: Vec::new() }, String::new());
        let mut servers = servers.iter().cycle();
        loop {
            let at = copy.events.len() as i64;
            let request = pb::WatchEventsRequest { epoch: epoch.clone(), ..from(at, 100) };
            let server = servers.next().expect("a server");
            let status = match server.try_watch(request).await {
                Err(status) => status,
                Ok(mut watching) => loop {
                    let message = tokio::select! {
                        message = watching.message() => message,
                        // The goal may have been reached before.
                        _ = goal.changed() => continue,
                    };
                    let message = match message {
                        Ok(message) => message,
                        Err(status) => break status,
                    };
                    for event in message.events {
                        assert_eq!(event.sequence, copy.events.len() as i64 + 1, "a gap, or an event twice");
                        copy.events.push(event);
                    }
                    epoch = message.epoch;
                    if goal.borrow().is_some_and(|goal| copy.events.len() as i64 == goal) {
                        return copy;
                    }
                },
            };
            let info = status.get_error_details().error_info().cloned();
            if info.is_some_and(|info| info.reason == "WRONG_EPOCH") {
                let (common, newest) = wrong_epoch(status);
                let common = common.expect("a common sequence");
                copy.lost.push(common);
                copy.events.truncate(usize::try_from(common).expect("a length"));
                epoch = newest;
            } else {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                sleep(Duration::from_millis(20)).await;
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_thousand_lost_commits_every_copy_is_equal_to_the_table() {
    let (mut world, ann, bob) = World::new().await;
    let clients: Vec<_> = world.servers.iter().map(Kith::clients).collect();
    let (goal, reached) = watch::channel(None);
    let copies = [&clients[..1], &clients[1..]].map(|servers| follow(servers.to_vec(), reached.clone()));
    world.cut_off().await;
    join_all(clients.iter().zip(["one", "other"]).map(async |(clients, name)| {
        for number in 0..500 {
            clients.update(ann, &format!("lost {number} by {name}")).await;
        }
    }))
    .await;
    let mut last = clients[1].watch(from(1_001, 60_000)).await;
    assert_eq!(last.next_events().await.events[0].sequence, 1_002);
    // The new primary passes the lost numbers before the old servers look.
    let new = world
        .fail_over(async |clients| {
            join_all((0..1_100).map(async |number| clients.update(bob, &format!("new {number}")).await)).await;
        })
        .await;
    assert_eq!(wrong_epoch(last.end().await).0, Some(2));
    let table = new.clients().list_events(pb::ListEventsRequest::default()).await;
    goal.send_replace(Some(table.len() as i64));
    for copy in copies {
        let Copy { events, lost } = copy.await.expect("a copy");
        assert_eq!(lost, [2]);
        assert!(events == table, "it differs from the table");
    }
    for clients in &clients {
        assert_eq!(bio(clients, ann, 0, "").await.expect("a user").0, "");
    }
    is_in_order(&world.standby).await;
}

/// Updates a user again and again, each time until it is known to be done. Returns how often.
fn write(clients: Vec<Clients>, id: i64, mut stop: watch::Receiver<bool>) -> JoinHandle<usize> {
    tokio::spawn(async move {
        for number in 0.. {
            if *stop.borrow_and_update() {
                return number;
            }
            let user = Some(pb::User { id, bio: format!("of {id}: {number}"), ..Default::default() });
            let update_mask = Some(prost_types::FieldMask { paths: vec!["bio".to_owned()] });
            let request_id = Uuid::new_v4().to_string();
            let request = pb::UpdateUserRequest { user, update_mask, request_id, ..Default::default() };
            let mut servers = clients.iter().cycle();
            loop {
                match servers.next().expect("a server").users().update_user(request.clone()).await {
                    Ok(_) => break,
                    Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
                }
                sleep(Duration::from_millis(10)).await;
            }
        }
        0
    })
}

/// Promotes the standby so often, each time after the primary was killed, while writers write and consumers follow.
async fn promotions(rounds: usize) {
    let (World { mut primary, mut standby, servers }, ann, bob) = World::new().await;
    let clients: Arc<[Clients]> = servers.iter().map(Kith::clients).collect();
    let (goal, reached) = watch::channel(None);
    let (stop, stopped) = watch::channel(false);
    let copies: Vec<_> = (0..3).map(|_| follow(clients.to_vec(), reached.clone())).collect();
    let writers = [ann, bob].map(|id| (id, write(clients.to_vec(), id, stopped.clone())));
    for _ in 0..rounds {
        primary.synchronous(true).await;
        let before = clients[0].list_events(pb::ListEventsRequest { after_sequence: 1, ..Default::default() });
        let before = before.await.len();
        let grows =
            async || standby.value("(SELECT last_sequence FROM feed)").await.parse::<usize>().unwrap() > before + 20;
        until("some commits", grows).await;
        primary.kill();
        standby.promote().await;
        standby.rejoin(&mut primary).await;
        std::mem::swap(&mut primary, &mut standby);
    }
    stop.send_replace(true);
    let mut written = Vec::new();
    for (id, writer) in writers {
        written.push((id, writer.await.expect("a writer")));
    }
    let reading = Kith::serve(&primary.url(), &[]).await;
    let table = reading.clients().list_events(pb::ListEventsRequest::default()).await;
    for (id, times) in written {
        let updates = table.iter().filter(|event| event.user_id == id && event.kind() == pb::EventKind::UserUpdated);
        assert_eq!(updates.count(), times, "an acknowledged write is lost, or made twice");
    }
    goal.send_replace(Some(table.len() as i64));
    for copy in copies {
        let Copy { events, lost } = copy.await.expect("a copy");
        assert_eq!(lost, [0_i64; 0]);
        assert!(events == table, "it differs from the table");
    }
    let epochs = "(SELECT count(DISTINCT timeline) || ' of ' || count(*) FROM epochs)";
    assert_eq!(primary.value(epochs).await, format!("{0} of {0}", rounds + 1));
    is_in_order(&primary).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promotions_that_lose_nothing_are_noticed_by_nobody() {
    // `KITH_TEST_PROMOTIONS=20` takes about a minute.
    let rounds = std::env::var("KITH_TEST_PROMOTIONS").map_or(3, |rounds| rounds.parse().expect("a number"));
    promotions(rounds).await;
}
