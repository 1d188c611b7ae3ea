//! One fault each. The comment of a test says what an operator would have to have done, or what broke.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use kith::proto::v1 as pb;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;

use super::load::Load;
use super::prometheus::Prometheus;
use super::trial::{CRITICAL, Trial, WARNING, serve};
use crate::harness::certificates::{Authority, TlsFiles};
use crate::harness::clients::Clients;
use crate::harness::disk::Disk;
use crate::harness::own_postgres::{OwnPostgres, PASSWORD};
use crate::harness::process::Kith;
use crate::harness::proxy::{Cut, Proxy};
use crate::harness::replicated::Node;
use crate::harness::{Database, Engine, database, postgres, until};

/// Declares trials: tests that run only when they are asked for.
macro_rules! trials {
    ($($(#[$doc:meta])* async fn $name:ident() $body:block)+) => {
        $(
            $(#[$doc])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "takes minutes: make alerts-trial"]
            async fn $name() $body
        )+
    };
}

/// A task that ends when this is dropped.
struct Fault(JoinHandle<()>);

impl Drop for Fault {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Takes the lock of the feed's head again and again, each time for this long, and leaves it a moment for others.
async fn held_head(url: &str, time: Duration) -> Fault {
    let client = database::connect(url).await;
    Fault(tokio::spawn(async move {
        loop {
            client.batch_execute("BEGIN; SELECT 1 FROM feed WHERE id = 1 FOR UPDATE").await.expect("the lock");
            tokio::time::sleep(time).await;
            client.batch_execute("COMMIT").await.expect("an end");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }))
}

/// Stops the processes of PostgreSQL that serve reads, again and again, for most of a second.
async fn halting_reads(url: &str) -> Fault {
    const READERS: &str = "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE application_name = 'kith' \
        AND datname = current_database() AND state = 'idle' \
        AND query NOT ILIKE '%commit%' AND query NOT ILIKE '%listen%'";
    let client = database::connect(url).await;
    Fault(tokio::spawn(async move {
        loop {
            let row = client.query_one(READERS, &[]).await.expect("processes");
            // All may be at work.
            let Some(pids) = row.get::<_, Option<String>>(0) else { continue };
            for (signal, time) in [("STOP", 900), ("CONT", 300)] {
                let sent = Command::new("kill").args(["-s", signal]).args(pids.split(' ')).status().expect("kill runs");
                assert!(sent.success(), "kill -s {signal} {pids}: {sent}");
                tokio::time::sleep(Duration::from_millis(time)).await;
            }
        }
    }))
}

/// Takes all room of a disk again and again: the server frees some when it cuts its log.
fn filling(disk: Arc<Disk>, pid: u32) -> Fault {
    Fault(tokio::spawn(async move {
        loop {
            disk.fill(pid);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }))
}

trials! {
    /// Nothing is wrong.
    async fn nothing_on_sqlite() {
        let database = Database::migrated(Engine::Sqlite).await;
        let trial = Trial::start(&database.url, &[]).await;
        trial.is_quiet(Duration::from_secs(90)).await;
    }

    async fn nothing_on_postgres() {
        let database = Database::migrated(Engine::Postgres).await;
        let trial = Trial::start(&database.url, &[]).await;
        trial.is_quiet(Duration::from_secs(90)).await;
    }

    /// The process is killed, and nobody starts it again.
    async fn server_killed() {
        let database = Database::migrated(Engine::Sqlite).await;
        let trial = Trial::start(&database.url, &[]).await;
        trial.kith.signal("KILL");
        trial.raises("KithDown", CRITICAL).await;
    }

    /// The discovery of Prometheus finds no server.
    async fn targets_lost() {
        let database = Database::migrated(Engine::Sqlite).await;
        let trial = Trial::start(&database.url, &[]).await;
        trial.prometheus.forget();
        trial.raises("KithAbsent", CRITICAL).await;
    }

    /// The process is killed each time after its supervisor has started it.
    async fn server_restarted_again_and_again() {
        let database = Database::migrated(Engine::Sqlite).await;
        let mut trial = Trial::start(&database.url, &[]).await;
        let metrics = format!("--metrics-listen={}", trial.kith.metrics_address());
        let started = "process_start_time_seconds";
        for _ in 0..4 {
            let before = trial.prometheus.number(started).await;
            trial.kith.signal("KILL");
            trial.kith = Kith::serve(&database.url, &[&metrics]).await;
            until("a scrape", async || trial.prometheus.number(started).await > before).await;
        }
        trial.raises("KithRestarting", WARNING).await;
        trial.recovers("KithRestarting").await;
    }

    /// A signal has ended the server, and its drain delay is long.
    async fn server_drains_for_long() {
        let database = Database::migrated(Engine::Sqlite).await;
        let trial = Trial::start(&database.url, &["--drain-delay=10m"]).await;
        trial.kith.signal("TERM");
        trial.raises("KithNotServing", CRITICAL).await;
    }

    /// The database server is stopped, and started later.
    async fn database_stopped() {
        let mut server = OwnPostgres::prepare();
        server.start();
        let mut command = serve(&format!("postgres://postgres@localhost:{}/postgres", server.port), &[]);
        command.env("PGPASSWORD", PASSWORD);
        let trial = Trial::of(Kith::start(command).await).await;
        server.stop();
        trial.raises("KithDatabaseDown", CRITICAL).await;
        server.start();
        trial.recovers("KithDatabaseDown").await;
    }

    /// Something else fills the disk of a SQLite database.
    async fn disk_full() {
        let disk = Disk::of_size(64 << 20);
        let command = serve(&disk.url(), &[]);
        let trial = Trial::of(Kith::start(disk.command(&command, false)).await).await;
        let (disk, pid) = (Arc::new(disk), trial.kith.pid());
        let filling = filling(Arc::clone(&disk), pid);
        trial.raises("KithCommitsFailing", CRITICAL).await;
        drop(filling);
        disk.free(pid);
        trial.recovers("KithCommitsFailing").await;
    }

    /// A session of psql has the lock that every commit needs, and goes to lunch.
    async fn lock_not_released() {
        let database = Database::migrated(Engine::Postgres).await;
        // As if the times of Kith were shorter too: calls do not fail before the commit they wait for does.
        let trial = Trial::start(&database.url, &["--max-call-time=2m"]).await;
        let holder = held_head(&database.url, Duration::from_secs(600)).await;
        trial.raises("KithCommitsFailing", CRITICAL).await;
        drop(holder);
        trial.recovers("KithCommitsFailing").await;
    }

    /// Another program takes the lock that every commit needs for a second at a time, as a slow disk would.
    async fn commits_slow() {
        let database = Database::migrated(Engine::Postgres).await;
        let trial = Trial::start(&database.url, &[]).await;
        let holder = held_head(&database.url, Duration::from_millis(1_200)).await;
        trial.raises("KithCommitsSlow", WARNING).await;
        drop(holder);
        trial.recovers("KithCommitsSlow").await;
    }

    /// The connection is lost during a commit, and for a moment no other one can be made.
    async fn outcome_unknown() {
        let database = Database::migrated(Engine::Postgres).await;
        let proxy = Proxy::before(&database);
        let trial = Trial::start(&proxy.url, &[]).await;
        proxy.next(Cut::AfterCommitAndDown);
        until("a commit that is lost", async || trial.kith.log().contains("the outcome of a commit is unknown")).await;
        proxy.next(Cut::Never);
        trial.raises("KithOutcomeUnknown", WARNING).await;
    }

    /// More callers write than the queue has room for.
    async fn queue_full() {
        let database = Database::migrated(Engine::Sqlite).await;
        let trial = Trial::start(&database.url, &["--max-queued-writes=4"]).await;
        let rush = trial.rush(64);
        trial.raises("KithOverloaded", CRITICAL).await;
        drop(rush);
        trial.recovers("KithOverloaded").await;
    }

    /// Writes fail for a reason that no other alert names: they may not take as long as they do.
    async fn errors_without_a_name() {
        let database = Database::migrated(Engine::Postgres).await;
        let trial = Trial::start(&database.url, &["--max-call-time=200ms"]).await;
        let holder = held_head(&database.url, Duration::from_millis(300)).await;
        trial.raises("KithErrorBudgetBurn", CRITICAL).await;
        drop(holder);
        trial.recovers("KithErrorBudgetBurn").await;
    }

    /// A row was damaged.
    async fn row_damaged() {
        let database = Database::migrated(Engine::Sqlite).await;
        let trial = Trial::start(&database.url, &[]).await;
        let clients = trial.kith.clients();
        clients.create(101).await.expect("a user");
        clients.create(102).await.expect("a user");
        let id = clients.send(101, 102).await;
        database.execute(&format!("UPDATE connection_requests SET state = 'lost' WHERE id = {id}")).await;
        clients.request(id, 101).await.expect_err("a row that no server has written");
        trial.raises("KithInternalErrors", WARNING).await;
        trial.recovers("KithInternalErrors").await;
    }

    /// The database is slow to read, and not to write.
    async fn reads_slow() {
        let database = Database::migrated(Engine::Postgres).await;
        let trial = Trial::start(&database.url, &[]).await;
        let halting = halting_reads(&database.url).await;
        trial.raises("KithReadsSlow", WARNING).await;
        drop(halting);
    }

    /// A shell has an open snapshot of a SQLite database.
    async fn snapshot_forgotten() {
        let database = Database::migrated(Engine::Sqlite).await;
        let trial = Trial::start(&database.url, &[]).await;
        let mut reader = database::sqlite(database.path());
        reader.batch_execute("BEGIN; SELECT * FROM feed").expect("a snapshot");
        let rush = trial.rush(4);
        trial.raises("KithSqliteLogGrowing", WARNING).await;
        drop((reader, rush));
        trial.recovers("KithSqliteLogGrowing").await;
    }

    /// The replay of a standby is paused. A server without writes of its own reads from it.
    async fn standby_paused() {
        let primary = postgres::Own::start();
        database::execute(&primary.server.url("postgres"), "CREATE DATABASE kith").await;
        let writer = Kith::start(serve(&primary.server.url("kith"), &[])).await;
        let _load = Load::start(&writer.clients(), 4, Duration::from_millis(50)).await;
        let standby = primary.standby();
        let reader = Kith::start(serve(&standby.server.url("kith"), &["--read-only"])).await;
        let prometheus = Prometheus::scraping(&[&writer.metrics_address(), &reader.metrics_address()]).await;
        let trial = Trial::observed(reader, prometheus).await;
        database::execute(&standby.server.url("postgres"), "SELECT pg_wal_replay_pause()").await;
        trial.raises("KithFeedStalled", CRITICAL).await;
        database::execute(&standby.server.url("postgres"), "SELECT pg_wal_replay_resume()").await;
        trial.recovers("KithFeedStalled").await;
    }

    /// A standby ends, and nobody starts it again. A server reads from it.
    async fn replica_killed() {
        let primary = Node::primary().await;
        let mut replica = primary.standby().await;
        let trial = Trial::start(&primary.url(), &[&format!("--replica-url={}", replica.url())]).await;
        replica.kill();
        trial.raises("KithReplicaLeftOut", WARNING).await;
        replica.start();
        trial.recovers("KithReplicaLeftOut").await;
    }

    /// A consumer of the feed hangs.
    async fn watcher_that_never_reads() {
        let database = Database::migrated(Engine::Sqlite).await;
        let trial = Trial::start(&database.url, &[]).await;
        // Otherwise the connection holds some 20,000 events.
        let narrow = Endpoint::from_shared(format!("http://{}", trial.kith.address)).expect("an address");
        let narrow = narrow.initial_stream_window_size(65_535).initial_connection_window_size(65_535).connect_lazy();
        let watching = Clients(narrow).watch(pb::WatchEventsRequest::default()).await;
        let rush = trial.rush(16);
        trial.raises("KithWatchersLagging", WARNING).await;
        drop((watching, rush));
        trial.recovers("KithWatchersLagging").await;
    }

    /// A client opens a connection for each call, and keeps them.
    async fn connections_near_the_cap() {
        let database = Database::migrated(Engine::Sqlite).await;
        let trial = Trial::start(&database.url, &["--max-client-connections=40"]).await;
        let mut connections = Vec::new();
        for _ in 0..35 {
            let clients = trial.kith.fresh_clients();
            clients.counts(1).await;
            connections.push(clients);
        }
        trial.raises("KithConnectionsNearCap", WARNING).await;
        drop(connections);
        trial.recovers("KithConnectionsNearCap").await;
    }

    /// The process may open few files.
    async fn files_near_the_limit() {
        let database = Database::migrated(Engine::Sqlite).await;
        let server = serve(&database.url, &[]);
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n 150; exec \"$0\" \"$@\""]).arg(server.get_program()).args(server.get_args());
        let trial = Trial::of(Kith::start(limited).await).await;
        let mut connections = Vec::new();
        while trial.prometheus.number("process_open_fds / process_max_fds > 0.85").await.is_none() {
            let clients = trial.kith.fresh_clients();
            clients.counts(1).await;
            connections.push(clients);
        }
        trial.raises("KithFilesNearLimit", WARNING).await;
        drop(connections);
        trial.recovers("KithFilesNearLimit").await;
    }

    /// Nobody renews the certificate.
    async fn certificate_expires() {
        let (database, authority) = (Database::migrated(Engine::Sqlite).await, Authority::new());
        let files = TlsFiles::new(&authority, &authority.sign_for_days(60));
        let [certificate, key] = files.flags();
        let trial = Trial::without_callers(Kith::start(serve(&database.url, &[&certificate, &key])).await).await;
        files.replace(&authority.sign_for_days(3));
        trial.raises("KithCertificateExpiring", WARNING).await;
        files.replace(&authority.sign_for_days(60));
        trial.recovers("KithCertificateExpiring").await;
        files.replace(&authority.sign_for_days(1));
        trial.raises("KithCertificateExpiring", CRITICAL).await;
    }

    /// Somebody makes a mistake in the file of principals.
    async fn principals_broken() {
        let (database, folder) = (Database::migrated(Engine::Sqlite).await, TempDir::with_prefix("kith-test-").expect("a folder"));
        let path = folder.path().join("principals.toml");
        let principals = format!("[reader]\nkey = \"sha256:{}\"\nscopes = [\"read\"]\n", "0".repeat(64));
        fs::write(&path, &principals).expect("written");
        let flag = format!("--principals={}", path.display());
        let trial = Trial::without_callers(Kith::start(serve(&database.url, &[&flag])).await).await;
        fs::write(&path, "[reader\n").expect("written");
        trial.raises("KithReloadFailing", WARNING).await;
        fs::write(&path, &principals).expect("written");
        trial.recovers("KithReloadFailing").await;
    }
}
