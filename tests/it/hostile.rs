//! Clients that mean harm, by raw frames. While they do, the calls of an honest client succeed and the memory of the
//! server is bounded; afterwards the server is as before.
//!
//! `make hostile` measures what they cost the honest client.

mod attacks;
mod client;
mod measured;
mod process;

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};

use kith::proto::v1 as pb;
use rustls::version::TLS13;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

use self::client::connected;
use self::process::Usage;
use crate::harness::certificates::{Authority, TlsFiles, connect};
use crate::harness::clients::Clients;
use crate::harness::process::Kith;
use crate::harness::raw::RawChannel;
use crate::harness::watching::fill;
use crate::harness::{Database, Engine, until};
use crate::large_pages::large_users;

/// Memory that an attack may take, in MiB. A test server has a debug build, and answers of 256 MiB would be allowed.
const GROWTH_MAX: u64 = 96;
/// The flow-control window of a connection, which its client can fill, in MiB.
const WINDOW: u64 = 16;
/// The same where answers wait to be read: a quarter of the maximum for each of three connections, and their windows.
const UNREAD_MAX: u64 = 3 * (16 + WINDOW) + GROWTH_MAX;
/// The same where requests are not complete: a quarter of 128 MiB for each of two connections, and their windows. Without
/// a limit it would be more than 450.
const UNFINISHED_MAX: u64 = 2 * (32 + WINDOW) + GROWTH_MAX;

/// A server under attack.
pub struct Siege {
    kith: Kith,
    _database: Database,
}

impl Siege {
    pub async fn lay(flags: &[&str]) -> Self {
        Self::lay_to(Database::migrated(Engine::Sqlite).await, flags).await
    }

    /// The same with this database.
    async fn lay_to(database: Database, flags: &[&str]) -> Self {
        let kith = Kith::serve(&database.url, flags).await;
        Self { kith, _database: database }
    }

    /// Attacks, and calls honestly meanwhile. Returns whether the server closed a hostile connection.
    async fn attack<F>(&self, growth_max: u64, attack: fn(String) -> F) -> bool
    where
        F: Future<Output = bool> + Send + 'static,
    {
        self.attack_beside(growth_max, attack, honest(self.kith.fresh_clients())).await
    }

    async fn attack_beside<F>(&self, growth_max: u64, attack: fn(String) -> F, honest: impl AsyncFn(usize)) -> bool
    where
        F: Future<Output = bool> + Send + 'static,
    {
        const CALLS_MIN: usize = 20;
        // Whatever is allocated once is there.
        for number in 0..CALLS_MIN {
            honest(number).await;
        }
        let before = Usage::of(&self.kith);
        before.forget_peak();
        let over = AtomicBool::new(false);
        let hostile = async {
            let cut = tokio::spawn(attack(self.kith.address.clone())).await.expect("an attack");
            over.store(true, Ordering::Relaxed);
            cut
        };
        let calls = async {
            let mut number = CALLS_MIN;
            while !over.load(Ordering::Relaxed) || number < 2 * CALLS_MIN {
                honest(number).await;
                number += 1;
            }
        };
        let (cut, ()) = tokio::join!(hostile, calls);
        let growth = Usage::of(&self.kith).peak_mib().saturating_sub(before.resident_mib());
        assert!(growth <= growth_max, "its memory grew by {growth} MiB");
        until("its connections end", async || Usage::of(&self.kith).descriptors() <= before.descriptors()).await;
        honest(0).await;
        let log = self.kith.log();
        assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
        cut
    }
}

/// An honest client: reads and writes, all of which succeed.
fn honest(clients: Clients) -> impl AsyncFn(usize) {
    async move |number: usize| {
        let id = i64::try_from(number).expect("few") + 1_000_000;
        let user = pb::User { id, username: format!("honest-{id}"), ..Default::default() };
        let row = pb::ImportUsersRequest { user: Some(user), ..Default::default() };
        clients.users().import_users(tokio_stream::iter([row])).await.expect("an import");
        clients.update(id, "honest").await;
        let page = pb::ListConnectionRequestsRequest { user_id: id, direction: 1, ..Default::default() };
        clients.requests().list_connection_requests(page).await.expect("a page");
        assert_eq!(clients.counts(id).await, [0; 4]);
    }
}

/// Declares attacks for which the server closes the connection, and that leave one line in the log.
macro_rules! cut {
    ($($name:ident: $words:literal),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let siege = Siege::lay(&[]).await;
            assert!(siege.attack(GROWTH_MAX, attacks::$name).await, "the server lets it go on");
            until("it is logged", async || siege.kith.log().contains("demands too much")).await;
            let log = siege.kith.log();
            let lines: Vec<_> = log.lines().filter(|line| line.contains("demands too much")).collect();
            assert!(lines.len() == 1 && lines[0].contains($words), "{log}");
        }
    )+};
}

cut! {
    pings: "too many control frames",
    pings_with_some_calls: "too many control frames",
    settings: "too many control frames",
    priorities: "too many control frames",
    unknown_frames: "too many control frames",
    empty_data: "excessive load",
    window_updates: "too many WINDOW_UPDATE frames",
    bytewise_windows: "too many WINDOW_UPDATE frames",
    continuations: "excessive load",
    rapid_resets: "excessive load",
    resets_of_accepted_calls: "too many calls that were reset",
    resets_of_nothing: "too many calls that were reset",
    errors_that_need_resets: "excessive load",
    too_many_calls: "excessive load",
    header_bombs: "excessive load",
}

/// Declares attacks that the server bears.
macro_rules! borne {
    ($($name:ident),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let siege = Siege::lay(&[]).await;
            assert!(!siege.attack(GROWTH_MAX, attacks::$name).await, "the server closes the connection");
        }
    )+};
}

borne!(gzip_bombs, repeated_masks, silence, late_messages);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_requests() {
    let siege = Siege::lay(&["--max-call-time=5s"]).await;
    siege.attack(UNFINISHED_MAX, attacks::unfinished_requests).await;
}

/// Declares attacks by answers that are not read. Their time ends, so that what is unread does not stay.
macro_rules! unread {
    ($($name:ident),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let siege = Siege::lay(&["--max-unsent-mib=64"]).await;
            large_users(&siege.kith.clients()).await;
            siege.attack(UNREAD_MAX, attacks::$name).await;
        }
    )+};
}

unread!(unread_pages, unread_users);

/// Each is sent as much as HTTP/2 takes, and more than its default maximum: 400 KB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_watches() {
    /// More than 1 MB for each watch.
    const EVENTS: i64 = 40_000;
    /// For 200 watches. With the default of HTTP/2 they take more than 80 MiB.
    const WATCHES_MAX: u64 = 48;
    let database = Database::migrated(Engine::Sqlite).await;
    fill(&database, EVENTS, "800", true).await;
    let siege = Siege::lay_to(database, &["--event-retention=0"]).await;
    let call = honest(siege.kith.fresh_clients());
    for number in 0..20 {
        call(number).await;
    }
    let before = Usage::of(&siege.kith);
    before.forget_peak();
    let watches = attacks::open_watches(&siege.kith.address).await;
    // Until the server has all that it takes.
    let mut idle = 0;
    until("the server does nothing more", async || {
        idle = if Usage::is_idle(&siege.kith) { idle + 1 } else { 0 };
        idle == 50
    })
    .await;
    let growth = Usage::of(&siege.kith).peak_mib().saturating_sub(before.resident_mib());
    println!("its memory grew by {growth} MiB");
    assert!(growth <= WATCHES_MAX, "its memory grew by {growth} MiB");
    call(20).await;
    drop(watches);
    until("its connections end", async || Usage::of(&siege.kith).descriptors() <= before.descriptors()).await;
}

/// The same over TLS, where a connection costs more before it says anything.
macro_rules! with_tls {
    ($($name:ident),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let authority = Authority::new();
            let files = TlsFiles::new(&authority, &authority.sign());
            let siege = Siege::lay(&files.flags().each_ref().map(String::as_str)).await;
            let call = async |_| {
                let stream = connect(&siege.kith.address, authority.client(None, &[&TLS13])).await.expect("a handshake");
                let mut channel = RawChannel::over(stream).await.expect("HTTP/2");
                channel.post("/kith.v1.UserService/GetUser", pb::GetUserRequest::default()).await;
            };
            siege.attack_beside(GROWTH_MAX, attacks::$name, call).await;
        }
    )+};
}

with_tls!(stalled_handshakes, handshakes_for_nothing);

/// So it cannot attack again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_attacks_connects_slowly() {
    let siege = Siege::lay(&[]).await;
    assert!(attacks::continuations(siege.kith.address.clone()).await, "the server lets it go on");
    let mut open = Vec::new();
    until("further connections are refused", async || {
        open.push(connected(&siege.kith.address).await);
        siege.kith.log().contains("others of its address demanded too much")
    })
    .await;
    let mut last = open.pop().expect("at least one");
    assert_eq!(last.read(&mut [0]).await.expect("the end"), 0, "it is closed, and not only slow");
    // They come from another address.
    honest(siege.kith.fresh_clients())(0).await;
}

/// A gateway with 1,000 calls at a time, whose callers give up 30 % of them at any time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_gateway_that_cancels_is_no_attack() {
    const ROUNDS: usize = 5;
    const CALLS: usize = 1_000;
    let siege = Siege::lay(&[]).await;
    let clients = siege.kith.clients();
    clients.create(1).await.expect("a user");
    for _ in 0..ROUNDS {
        let mut calls = JoinSet::new();
        for number in 0..CALLS {
            let clients = clients.clone();
            calls.spawn(async move {
                let key = Some(pb::get_user_request::Key::Id(1));
                let mut users = clients.users();
                let call = users.get_user(pb::GetUserRequest { key, ..Default::default() });
                if number % 10 >= 3 {
                    return call.await.map(drop);
                }
                tokio::select! {
                    // It may have been answered before.
                    answered = call => answered.map(drop),
                    () = yield_times(number) => Ok(()),
                }
            });
        }
        while let Some(call) = calls.join_next().await {
            call.expect("a call").expect("a user");
        }
    }
    let log = siege.kith.log();
    assert!(!log.contains("WARN"), "{log}");
}

async fn yield_times(times: usize) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}
