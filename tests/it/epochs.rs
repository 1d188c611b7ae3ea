//! When does a new epoch of the feed begin, and who finds out?

use kith::store::Repair;

use crate::check::check;
use crate::harness::database::Database;
use crate::harness::{App, Engine};

/// The epochs as text, in order, each with its first sequence and whether it has a lineage.
async fn epochs(database: &Database) -> Vec<(String, i64, bool)> {
    let columns = "SELECT epoch || ' ' || first_sequence || ' ' || coalesce(CAST(timeline AS text), '-') AS value \
                   FROM epochs ORDER BY number";
    let row = |value: Option<String>| {
        let value = value.expect("a row");
        let mut parts = value.split(' ');
        let mut next = || parts.next().expect("a column").to_owned();
        (next(), next().parse().expect("a sequence"), next() != "-")
    };
    database.values(columns).await.into_iter().map(row).collect()
}

/// Pretends that the newest epoch began on another timeline, as after a failover.
pub async fn fail_over(database: &Database) {
    database
        .execute(
            "UPDATE epochs SET timeline = 700 + number; UPDATE feed SET timeline = (SELECT max(timeline) FROM epochs)",
        )
        .await;
}

async fn is_in_order(database: &Database) {
    let report = check(database, Repair::Nothing).await;
    assert!(report.is_clean(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_on_another_timeline_begins_an_epoch_once() {
    let app = App::start(Engine::Postgres).await;
    let first = epochs(&app.database).await;
    assert_eq!((first.len(), first[0].1), (1, 1));
    app.user("ann").await;
    // The first commit names the lineage of the epoch that the migration made.
    let adopted = epochs(&app.database).await;
    assert_eq!(adopted, [(first[0].0.clone(), 1, true)]);
    let system =
        "SELECT (system_identifier = (SELECT system_identifier FROM pg_control_system()))::int AS value FROM feed";
    assert_eq!(app.database.number(system).await, 1);
    is_in_order(&app.database).await;

    let other = app.another(|_| {}).await;
    other.user("bob").await;
    assert_eq!(epochs(&app.database).await, adopted);
    let last = app.revision().await;
    fail_over(&app.database).await;
    // Two servers find it; one begins the epoch.
    let (_, _) = tokio::join!(app.user("cy"), other.user("dan"));
    app.user("eve").await;
    other.user("fay").await;
    let begun = epochs(&app.database).await;
    assert_eq!(begun.len(), 2);
    assert_eq!((&begun[0], begun[1].1, begun[1].2), (&adopted[0], last + 1, true));
    assert_ne!(begun[1].0, begun[0].0);
    let head = "SELECT epoch AS value FROM feed";
    assert_eq!(app.database.values(head).await, [Some(begun[1].0.clone())]);
    is_in_order(&app.database).await;
}
