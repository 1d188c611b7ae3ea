//! When does a new epoch of the feed begin, and who finds out?

use kith::clock::Clock;
use kith::progress::Progress;
use kith::proto::v1 as pb;
use kith::store::{self, Bulk, Repair, Servers};

use crate::check::check;
use crate::harness::database::Database;
use crate::harness::process::Kith;
use crate::harness::watching::sequences;
use crate::harness::{App, Engine, until};

/// The warning of a server that cannot read the timeline.
const BLIND: &str = "cannot read the timeline of the database; a failover that loses commits is not noticed";

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_know_the_lineage_too() {
    let database = Database::migrated(Engine::Postgres).await;
    let known = async || epochs(&database).await.into_iter().map(|(.., known)| known).collect::<Vec<_>>();
    assert_eq!(known().await, [false]);
    let bulk = Bulk::begin(&database.url(), &Clock::system()).await.expect("an import");
    bulk.commit(&Progress::default()).await.expect("a commit");
    assert_eq!(known().await, [true]);
    store::restore_epoch(&database.url(), Servers::Refused).await.expect("a new epoch");
    assert_eq!(known().await, [true, true]);
    is_in_order(&database).await;
}

/// Lets a function of PostgreSQL fail with this code, as in an engine that does not have it.
async fn refuse(database: &Database, function: &str, code: &str) {
    let body = format!("BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{code}'; END");
    database.execute(&format!("CREATE FUNCTION public.{function} LANGUAGE plpgsql AS $$ {body} $$")).await;
    database.execute(&format!("ALTER DATABASE {} SET search_path = public, pg_catalog", database.name())).await;
}

/// A server on this database writes, reads and watches.
async fn works(database: &Database) -> Kith {
    let kith = Kith::serve(&database.url, &[]).await;
    let clients = kith.clients();
    let mut watching = clients.watch(pb::WatchEventsRequest::default()).await;
    let ann = clients.user("ann").await;
    assert_eq!(sequences(&watching.next_events().await.events), [1]);
    assert_eq!(clients.counts(ann).await, [0; 4]);
    kith
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_does_not_tell_its_timeline_is_used_with_a_warning() {
    // Not supported, as in Aurora; no log is written for this role; no such function; no right to call it.
    for code in ["0A000", "55000", "42883", "42501"] {
        let database = Database::migrated(Engine::Postgres).await;
        refuse(&database, "pg_current_wal_lsn() RETURNS pg_lsn", code).await;
        let kith = works(&database).await;
        until("a warning", async || kith.log().contains(BLIND)).await;
        let epochs = epochs(&database).await;
        assert_eq!((epochs.len(), epochs[0].2), (1, false), "{code}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeline_without_its_cluster_is_enough() {
    let database = Database::migrated(Engine::Postgres).await;
    refuse(&database, "pg_control_system(OUT system_identifier bigint)", "42501").await;
    let kith = works(&database).await;
    let lineage = "SELECT timeline || ' of ' || coalesce(system_identifier::text, 'any') AS value FROM feed";
    assert_eq!(database.values(lineage).await, [Some("1 of any".to_owned())]);
    assert!(!kith.log().contains(BLIND), "{}", kith.log());
    is_in_order(&database).await;
}
