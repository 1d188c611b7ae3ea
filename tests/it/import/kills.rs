//! An import that is killed leaves nothing, and the next one does all.

use std::time::Instant;

use tokio::time::sleep;

use super::{Files, state};
use crate::harness::Database;
use crate::harness::process::{Kith, command, run};
use crate::on_each_engine;

/// The kills of each engine in `make test`. `make import-kills` sets more.
const KILLS: u32 = 3;
const KILLS_VARIABLE: &str = "KITH_TEST_IMPORT_KILLS";

/// A graph that takes some time: users in a ring, each with some of the next ones.
fn graph(users: i64) -> String {
    let mut rows = String::new();
    for id in 1..=users {
        rows += &format!("{{\"type\":\"user\",\"id\":{id},\"username\":\"user-{id}\"}}\n");
    }
    for (id, step) in (1..=users).flat_map(|id| (1..=5).map(move |step| (id, step))) {
        let other = (id + step * 7 - 1) % users + 1;
        let day = 1 + (id * 7 + step) % 28;
        rows += &match step {
            1 => format!(
                "{{\"type\":\"block\",\"user\":{id},\"other\":{other},\"created\":\"2022-03-{day:02}T00:00:00Z\"}}\n"
            ),
            _ => format!(
                "{{\"type\":\"connection\",\"from\":{id},\"to\":{other},\"created\":\"2021-03-{day:02}T00:00:00Z\"}}\n"
            ),
        };
    }
    rows
}

on_each_engine! {
    async fn an_import_that_is_killed_is_done_by_the_next(engine: Engine) {
        let kills = std::env::var(KILLS_VARIABLE).map_or(KILLS, |kills| kills.parse().expect("a number"));
        let files = Files::new();
        let path = files.rows("graph.ndjson", &graph(2_000)).display().to_string();
        let arguments = |database: &Database| {
            ["import".to_owned(), path.clone(), format!("--database-url={}", database.url)]
        };
        let whole = Database::migrated(engine).await;
        let begun = Instant::now();
        let ended = run(&arguments(&whole).each_ref().map(String::as_str)).await;
        assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
        let (took, expected) = (begun.elapsed(), state(&whole).await);
        let mut cut = 0;
        for kill in 0..kills {
            let database = Database::migrated(engine).await;
            let arguments = arguments(&database);
            let arguments = arguments.each_ref().map(String::as_str);
            // It never listens.
            let killed = Kith::start_early(command(&arguments), "127.0.0.1:1".to_owned());
            sleep(took * kill / kills).await;
            killed.signal("KILL");
            let ended = killed.wait().await;
            cut += u32::from(ended.status.code() != Some(0));
            if ended.status.code() != Some(0) {
                // `kith check` needs no server to have recovered the file.
                let url = format!("--database-url={}", database.url);
                let checked = run(&["check", &url]).await;
                assert_eq!(checked.status.code(), Some(0), "{checked:#?}");
                let left = database.number("SELECT count(*) AS value FROM users").await;
                assert!([0, 2_000].contains(&left), "{left} users are left");
            }
            let ended = run(&arguments).await;
            assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
            assert_eq!(state(&database).await, expected);
        }
        assert!(cut > 0, "no import was killed");
    }
}
