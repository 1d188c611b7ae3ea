//! Does the time of a call tell a sender whether their receiver refused them? `make timing` asks.
//!
//! Two senders on one server: the receiver of one refused them, that of the other did not. Their calls alternate, and the
//! medians of each must differ by less than [`MOST`]. A machine that does other things makes them differ too, so this is
//! no part of `make test`.

use std::time::{Duration, Instant};

use kith::domain::policy::Policy;
use kith::proto::v1 as pb;
use kith::proto::v1::ConnectionRequestDirection;

use crate::harness::App;
use crate::harness::clients::Clients;
use crate::on_each_engine;

/// The maximum difference of two medians, as a part of the smaller one.
const MOST: f64 = 0.02;
/// Calls of each sender before those that are measured.
const WARM_UP: usize = 200;

/// What a receiver did to one of the two senders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Block,
    Rejection,
    /// A rejection, after which the sender cancelled and sent again.
    Cooldown,
}

/// A sender, their receiver, and the request between them.
struct Side {
    clients: Clients,
    sender: i64,
    receiver: i64,
    request: i64,
}

/// The number of samples of each call of each sender; `None` without `KITH_TEST_TIMING`.
fn samples() -> Option<usize> {
    let samples = std::env::var("KITH_TEST_TIMING").ok()?;
    Some(samples.parse().expect("KITH_TEST_TIMING is a number of samples"))
}

macro_rules! calls {
    ($($name:ident: |$side:ident| $call:expr;)+) => {
        /// The calls that a sender can make. Each leaves everything as it was but the request's id.
        const CALLS: &[&str] = &[$(stringify!($name)),+];

        /// Makes one call. Returns the time that it took.
        async fn call(name: &str, side: &mut Side) -> Duration {
            match name {
                $(stringify!($name) => {
                    let $side = side;
                    $call
                })+
                other => panic!("no call {other}"),
            }
        }
    };
}

/// The time of a call, whatever it answers.
macro_rules! time {
    ($client:expr, $method:ident($request:ident { $($field:ident: $value:expr),* $(,)? })) => {{
        #[allow(clippy::needless_update, reason = "some requests have no more fields than are given")]
        let request = pb::$request { $($field: $value,)* ..Default::default() };
        let (mut client, started) = ($client, Instant::now());
        let answer = client.$method(request).await;
        let time = started.elapsed();
        drop(answer);
        time
    }};
}

calls! {
    send_again: |side| time!(side.clients.requests(), send_connection_request(SendConnectionRequestRequest { to_user_id: side.receiver }));
    get_request: |side| time!(side.clients.requests(), get_connection_request(GetConnectionRequestRequest { id: side.request }));
    list_sent: |side| time!(side.clients.requests(), list_connection_requests(ListConnectionRequestsRequest {
        direction: ConnectionRequestDirection::Sent.into(),
    }));
    status: |side| time!(side.clients.connections(), get_connection_status(GetConnectionStatusRequest { other_user_id: side.receiver }));
    statuses: |side| time!(side.clients.connections(), batch_get_connection_statuses(BatchGetConnectionStatusesRequest {
        other_user_ids: vec![side.receiver, side.sender],
    }));
    counts: |side| time!(side.clients.connections(), get_connection_counts(GetConnectionCountsRequest {}));
    connections: |side| time!(side.clients.connections(), list_connections(ListConnectionsRequest { user_id: side.receiver }));
    mutual: |side| time!(side.clients.connections(), list_mutual_connections(ListMutualConnectionsRequest { other_user_id: side.receiver }));
    blocks: |side| time!(side.clients.blocks(), list_blocked_users(ListBlockedUsersRequest {}));
    events: |side| time!(side.clients.events(), list_events(ListEventsRequest { after_sequence: side.request }));
    user: |side| time!(side.clients.users(), get_user(GetUserRequest { key: Some(pb::get_user_request::Key::Id(side.receiver)) }));
    users: |side| time!(side.clients.users(), batch_get_users(BatchGetUsersRequest { ids: vec![side.receiver, side.sender] }));
    accept: |side| time!(side.clients.requests(), accept_connection_request(AcceptConnectionRequestRequest { id: side.request }));
    remove: |side| time!(side.clients.connections(), remove_connection(RemoveConnectionRequest { other_user_id: side.receiver }));
    unblock: |side| time!(side.clients.blocks(), unblock_user(UnblockUserRequest { other_user_id: side.receiver }));
    view_all: |side| time!(side.clients.requests(), mark_all_connection_requests_viewed(MarkAllConnectionRequestsViewedRequest {}));
    cancel: |side| {
        let time = time!(side.clients.requests(), cancel_connection_request(CancelConnectionRequestRequest { id: side.request }));
        side.request = side.clients.send(side.sender, side.receiver).await;
        time
    };
    send: |side| {
        side.clients.cancel(side.request, side.sender).await.expect("a request");
        let time = time!(side.clients.requests(), send_connection_request(SendConnectionRequestRequest { to_user_id: side.receiver }));
        side.request = side.clients.status_and_request(side.receiver).await;
        time
    };
}

impl Clients {
    /// The request between the caller and another user.
    async fn status_and_request(&self, other_user_id: i64) -> i64 {
        let request = pb::GetConnectionStatusRequest { other_user_id, ..Default::default() };
        self.connections().get_connection_status(request).await.expect("a status").into_inner().connection_request_id
    }
}

/// Without limits, which the samples would reach.
fn policy() -> Policy {
    Policy { max_sends_per_hour: None, max_sends_per_pair: None, ..Policy::default() }
}

/// Makes the receiver of a sender refuse them, or not.
async fn prepare(app: &App, clients: &Clients, (sender, receiver): (i64, i64), refusal: Option<Refusal>) -> Side {
    let mut request = clients.send(sender, receiver).await;
    match refusal {
        None => {}
        Some(Refusal::Block) => app.block(receiver, sender).await,
        Some(Refusal::Rejection) => _ = app.reject(request, receiver).await.expect("a rejection"),
        Some(Refusal::Cooldown) => {
            app.reject(request, receiver).await.expect("a rejection");
            clients.cancel(request, sender).await.expect("a request");
            request = clients.send(sender, receiver).await;
        }
    }
    Side { clients: clients.clone(), sender, receiver, request }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

on_each_engine! {
    async fn the_time_of_a_call_does_not_tell_a_refusal(engine: Engine) {
        let Some(samples) = samples() else { return };
        let app = App::with(engine, |settings| settings.policy = policy()).await;
        for id in 1..=4 {
            app.create(id).await.expect("a user");
        }
        let (ann, cy) = (app.as_user(1, policy()).await, app.as_user(3, policy()).await);
        let mut different = Vec::new();
        println!("| {engine:?} | refusal | refused, µs | not refused, µs | difference |\n|---|---|--:|--:|--:|");
        for refusal in [Refusal::Block, Refusal::Rejection, Refusal::Cooldown] {
            let mut sides =
                [prepare(&app, &ann, (1, 2), Some(refusal)).await, prepare(&app, &cy, (3, 4), None).await];
            for name in CALLS {
                // A rejected request that is sent again is one within a cooldown.
                if refusal == Refusal::Rejection && ["send", "cancel"].contains(name) {
                    continue;
                }
                let mut times = [Vec::with_capacity(samples), Vec::with_capacity(samples)];
                for sample in 0..WARM_UP + samples {
                    // Who is first alternates too.
                    for turn in [sample % 2, 1 - sample % 2] {
                        let time = call(name, &mut sides[turn]).await;
                        times[turn].extend((sample >= WARM_UP).then_some(time));
                    }
                }
                let [refused, other] = times.map(median);
                let difference = (refused - other) / refused.min(other);
                println!("| {name} | {refusal:?} | {refused:.1} | {other:.1} | {:+.1} % |", difference * 100.0);
                different.extend((difference.abs() >= MOST).then(|| format!("{name} after a {refusal:?}")));
            }
            // The next refusal begins anew.
            for side in &sides {
                side.clients.cancel(side.request, side.sender).await.expect("a request");
            }
            if refusal == Refusal::Block {
                app.unblock(2, 1).await;
            }
            app.database.execute("DELETE FROM cooldowns").await;
        }
        assert!(different.is_empty(), "medians that differ by {} % or more: {different:?}", MOST * 100.0);
    }
}
