//! `--retry`.

use uuid::Uuid;

use super::Client;
use crate::harness::Engine;
use crate::harness::printer::Printer;
use crate::harness::process::{Kith, command};
use crate::on_each_engine;

on_each_engine! {
    async fn a_call_waits_for_a_server_that_is_restarted_and_is_made_once(engine: Engine) {
        let Client { kith, database } = Client::start(engine, &[]).await;
        let address = kith.address.clone();
        kith.crash().await;
        let mut call = Printer::start(command(&["user", "create", "ann", "--retry", "-o", "jsonl", "--server", &address]));
        call.says("cannot connect").await;
        let listen = format!("--listen={address}");
        let _kith = Kith::start(command(&[&*listen, &format!("--database-url={}", database.url)])).await;
        assert_eq!(call.line().await["user"]["id"], 1);
        let stored = database.values("SELECT id AS value FROM request_ids").await;
        assert!(matches!(&stored[..], [Some(id)] if Uuid::parse_str(id).is_ok()), "{stored:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_retries_make_a_request_id_and_a_given_one_is_kept() {
    let client = Client::start(Engine::Sqlite, &[]).await;
    let stored = async || client.database.values("SELECT id AS value FROM request_ids").await;
    client.prints(&["user", "create", "ann"]).await;
    assert!(stored().await.is_empty());
    let given = Uuid::new_v4().to_string();
    let request = serde_json::json!({"user": {"username": "bob"}, "request_id": given}).to_string();
    client.prints(&["call", "CreateUser", &request, "--retry"]).await;
    assert_eq!(stored().await, [Some(given)]);
    // A read has none to set.
    client.prints(&["user", "list", "--retry"]).await;
}
