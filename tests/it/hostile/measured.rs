//! What hostile clients cost an honest one, measured: `make hostile`.
//!
//! The hostile client is a process of the lowest priority, so that on one machine it takes no time from the server that
//! a client elsewhere would not take.

use std::env;
use std::future::Future;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::process::Usage;
use super::{Siege, attacks, honest};
use crate::harness::until;
use crate::large_pages::large_users;

type Attack = fn(String) -> Pin<Box<dyn Future<Output = bool> + Send>>;

macro_rules! attacks {
    ($($name:ident),+ $(,)?) => {
        const ATTACKS: &[(&str, Attack)] = &[$((stringify!($name), |address| Box::pin(attacks::$name(address)))),+];
    };
}

attacks!(
    pings,
    pings_with_some_calls,
    settings,
    priorities,
    unknown_frames,
    empty_data,
    window_updates,
    bytewise_windows,
    continuations,
    header_bombs,
    rapid_resets,
    resets_of_accepted_calls,
    resets_of_nothing,
    errors_that_need_resets,
    too_many_calls,
    gzip_bombs,
    repeated_masks,
    patient_silence,
    unfinished_requests,
    never_read_pages,
    never_read_users,
    never_read_watches,
);

/// Callers that are honest, at once.
const CALLERS: usize = 4;

/// Times of rounds of honest calls.
struct Times(Vec<Duration>);

impl Times {
    async fn measured(siege: &Siege, seconds: Duration, first: usize) -> Self {
        let callers = (0..CALLERS).map(|caller| async move {
            let round = honest(siege.kith.fresh_clients());
            let (begun, mut times) = (Instant::now(), Vec::new());
            while begun.elapsed() < seconds {
                let start = Instant::now();
                round(first + caller * 100_000 + times.len()).await;
                times.push(start.elapsed());
            }
            times
        });
        let mut times = futures_util::future::join_all(callers).await.concat();
        times.sort();
        Self(times)
    }

    fn milliseconds(&self, percent: usize) -> f64 {
        self.0[(self.0.len() - 1) * percent / 100].as_secs_f64() * 1_000.0
    }
}

fn seconds() -> Duration {
    Duration::from_secs(env::var("KITH_HOSTILE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10))
}

/// The hostile client, which attacks again and again until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the table starts it"]
async fn attacker() {
    let (Ok(name), Ok(address)) = (env::var("KITH_HOSTILE_ATTACK"), env::var("KITH_HOSTILE_ADDRESS")) else { return };
    let (_, attack) = ATTACKS.iter().find(|(attack, _)| *attack == name).expect("an attack");
    loop {
        attack(address.clone()).await;
    }
}

fn attacking(name: &str, address: &str) -> Child {
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(env::current_exe().expect("this program"));
    command.args(["--exact", "--ignored", "hostile::measured::attacker"]);
    command.envs([("KITH_HOSTILE_ATTACK", name), ("KITH_HOSTILE_ADDRESS", address)]);
    command.stdout(Stdio::null()).spawn().expect("nice runs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures: make hostile"]
async fn table() {
    println!("| attack | p50 before | during | p99 before | during | MiB before | peak | after |");
    println!("|---|---|---|---|---|---|---|---|");
    for (name, _) in ATTACKS {
        let siege = Siege::lay(&[]).await;
        large_users(&siege.kith.clients()).await;
        let open = Usage::of(&siege.kith).descriptors();
        Times::measured(&siege, Duration::from_secs(1), 0).await;
        let calm = Times::measured(&siege, seconds(), 1_000_000).await;
        let before = Usage::of(&siege.kith);
        before.forget_peak();
        let mut attacker = attacking(name, &siege.kith.address);
        let attacked = Times::measured(&siege, seconds(), 2_000_000).await;
        attacker.kill().expect("it runs");
        attacker.wait().expect("it ends");
        let peak = Usage::of(&siege.kith).peak_mib();
        until("its connections end", async || Usage::of(&siege.kith).descriptors() <= open).await;
        let after = Usage::of(&siege.kith);
        println!(
            "| {name} | {:.2} ms | {:.2} ms | {:.2} ms | {:.2} ms | {} | {peak} | {} |",
            calm.milliseconds(50),
            attacked.milliseconds(50),
            calm.milliseconds(99),
            attacked.milliseconds(99),
            before.resident_mib(),
            after.resident_mib(),
        );
    }
}
