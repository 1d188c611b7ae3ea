//! `kith demo` fills an empty database with something to look at.

use crate::harness::process::{Kith, run};
use crate::harness::{Database, Engine};
use crate::on_each_engine;

/// What the program says that it made, the same each time and on each engine.
const MADE: &str = "has 200 users, ";

on_each_engine! {
    async fn an_empty_database_gets_a_community_in_which_everything_happens(engine: Engine) {
        // Without tables: the program makes them.
        let database = Database::empty(engine).await;
        let url = format!("--database-url={}", database.url);
        let made = run(&["demo", &url]).await;
        assert!(made.status.success() && made.output.contains(MADE) && !made.log.contains("leapt"), "{made:#?}");
        let checked = run(&["check", &url]).await;
        assert!(checked.status.success(), "{checked:#?}");
        for state in ["PENDING", "REJECTED", "SILENCED", "CONNECTED"] {
            let rows = format!("SELECT count(*) AS value FROM connection_requests WHERE state = '{state}'");
            assert!(database.number(&rows).await >= 3, "{state}");
        }
        let kinds = database.number("SELECT count(DISTINCT kind) AS value FROM events").await;
        assert!(kinds >= 9, "{kinds}");

        // A second time it changes nothing, and says why.
        let again = run(&["demo", &url]).await;
        assert_eq!(again.status.code(), Some(1));
        assert!(again.log.contains("is not empty: it is at revision ") && again.output.is_empty(), "{again:#?}");

        let kith = Kith::serve(&database.url, &[]).await;
        for (verb, least) in [
            (&["user", "list", "--all"][..], 201),
            (&["connection", "list", "ann"], 8),
            (&["request", "list", "ann"], 2),
            (&["connection", "mutual", "ann", "bob"], 2),
            (&["status", "ann", "bob"], 10),
        ] {
            let listed = run(&[verb, &["--server", &kith.address]].concat()).await;
            assert!(listed.status.success() && listed.output.lines().count() >= least, "{listed:#?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_community_is_the_same_on_both_engines() {
    let mut made = Vec::new();
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let database = Database::empty(engine).await;
        let output = run(&["demo", &format!("--database-url={}", database.url)]).await.output;
        let (_, summary) = output.split_once(MADE).unwrap_or_else(|| panic!("{output}"));
        let rows = "SELECT id || ' ' || from_user_id || ' ' || to_user_id || ' ' || state || ' ' || message AS value \
                    FROM connection_requests ORDER BY id";
        made.push((summary.to_owned(), database.values(rows).await));
    }
    assert_eq!(made[0], made[1]);
}
