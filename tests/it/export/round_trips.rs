//! What comes back from an export: random communities go to the other engine and are exported again.

use std::fs;

use kith::proto::v1 as pb;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use super::{exported, parts, url};
use crate::harness::clients::Clients;
use crate::harness::process::{Kith, run};
use crate::harness::{Database, Engine};
use crate::on_each_engine;
use crate::rpc::full_user;

const USERS: i64 = 12;
const CHANGES: usize = 250;

/// Makes users, and random changes between them. Many are refused, such as an acceptance of what is not there.
async fn live(clients: &Clients, random: &mut StdRng) {
    let mut old = full_user(1, "ann");
    // Kith stores any date on which a user joined.
    old.date_joined = Some(prost_types::Timestamp { seconds: -1, nanos: 5_000 });
    let row = pb::ImportUsersRequest { user: Some(old), request_id: String::new() };
    clients.users().import_users(tokio_stream::iter([row])).await.expect("a user");
    let nameless = pb::User { id: 2, external_id: "u-2 \u{e9}".to_owned(), ..Default::default() };
    let create = pb::CreateUserRequest { user: Some(nameless), request_id: String::new() };
    clients.users().create_user(create).await.expect("a user");
    for id in 3..=USERS {
        clients.create(id).await.expect("a user");
    }
    let mut requests = vec![(0, 1, 2)];
    for _ in 0..CHANGES {
        let kind = random.random_range(0..14);
        let (request, from, to) = requests[random.random_range(0..requests.len())];
        let sides = (random.random_range(1..=USERS), random.random_range(1..=USERS));
        // What is done to a request, by the users of it.
        let (one, other) = if (4..=10).contains(&kind) { (from, to) } else { sides };
        match kind {
            0..=3 => {
                let message = ["", "Hi", "Hello \u{1f44b}\n\"you\""][random.random_range(0..3)].to_owned();
                let send = pb::SendConnectionRequestRequest {
                    from_user_id: one,
                    to_user_id: other,
                    message,
                    ..Default::default()
                };
                let sent = clients.requests().send_connection_request(send).await;
                requests.extend(
                    sent.ok().and_then(|sent| sent.into_inner().connection_request).map(|it| (it.id, one, other)),
                );
            }
            4 | 5 => {
                let reply = ["", "Yes"][random.random_range(0..2)].to_owned();
                let accept =
                    pb::AcceptConnectionRequestRequest { id: request, user_id: other, reply, ..Default::default() };
                _ = clients.requests().accept_connection_request(accept).await;
            }
            6 | 7 => _ = clients.reject(request, other).await,
            8 => _ = clients.cancel(request, one).await,
            9 => _ = clients.mark_viewed(request, other).await,
            10 => _ = clients.restore(request, other).await,
            11 => _ = clients.remove(one, other).await,
            12 if one != other => clients.block(one, other).await,
            _ => {
                let unblock = pb::UnblockUserRequest { user_id: one, other_user_id: other, ..Default::default() };
                _ = clients.blocks().unblock_user(unblock).await;
            }
        }
    }
    // One that was restored: its position is neither its id nor that of an answer.
    let (from, to) = (USERS + 1, USERS + 2);
    for id in [from, to] {
        clients.create(id).await.expect("a user");
    }
    let request = clients.send(from, to).await;
    clients.reject(request, to).await.expect("rejected");
    clients.restore(request, to).await.expect("restored");
}

/// The rows without the numbers that a new database assigns, in an order that does not depend on these.
fn without_numbers(rows: &str) -> Vec<String> {
    let mut lines: Vec<_> = rows
        .lines()
        .map(|line| {
            let mut row: serde_json::Map<_, _> = serde_json::from_str(line).expect("an object");
            if row["type"] != "user" {
                row.remove("id");
            }
            row.remove("position");
            row.remove("sha256");
            serde_json::Value::Object(row).to_string()
        })
        .collect();
    lines.sort();
    lines
}

async fn succeeds(args: &[&str], database: &Database) {
    let url = url(database);
    let ended = run(&[args, &[&url]].concat()).await;
    assert!(ended.status.success(), "{ended:#?}");
}

on_each_engine! {
    async fn a_community_comes_back_from_the_other_engine_as_it_was(engine: Engine) {
        let other_engine = match engine {
            Engine::Sqlite => Engine::Postgres,
            Engine::Postgres => Engine::Sqlite,
        };
        let directory = TempDir::with_prefix("kith-test-").expect("a directory");
        let mut all = String::new();
        for seed in 0..2 {
            let database = Database::migrated(engine).await;
            let kith = Kith::serve(&database.url, &["--max-sends-per-hour=0", "--max-sends-per-pair=0"]).await;
            live(&kith.clients(), &mut StdRng::seed_from_u64(seed)).await;
            kith.crash().await;
            let file = exported(&database, &[]).await;
            all += &file;
            let name = directory.path().join(format!("{seed}.ndjson")).display().to_string();
            fs::write(&name, &file).expect("written");
            let (header, rows) = parts(&file);

            let kept = Database::migrated(other_engine).await;
            succeeds(&["import", &name, "--keep-ids"], &kept).await;
            let again = exported(&kept, &[]).await;
            assert_eq!(parts(&again).1, rows, "seed {seed}");
            succeeds(&["check"], &kept).await;
            let revision = |header: &str| serde_json::from_str::<serde_json::Value>(header).expect("JSON")["revision"].clone();
            assert_eq!(revision(parts(&again).0), revision(header));

            let renumbered = Database::migrated(other_engine).await;
            succeeds(&["import", &name], &renumbered).await;
            assert_eq!(without_numbers(parts(&exported(&renumbered, &[]).await).1), without_numbers(rows), "seed {seed}");
            succeeds(&["check"], &renumbered).await;
        }
        for state in ["PENDING", "REJECTED", "SILENCED", "WITHDRAWN"] {
            assert!(all.contains(state), "no community has anything that is {state}");
        }
    }
}
