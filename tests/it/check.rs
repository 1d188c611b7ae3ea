//! Does `kith check` find all damage and nothing else, and repair what it may? Does `kith restore-epoch` start a new
//! feed?

mod planted;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::TimeDelta;
use kith::progress::Progress;
use kith::proto::v1::{self as pb, ErrorReason};
use kith::store::{self, Checked, Repair, Report};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::harness::clients::Clients;
use crate::harness::invariants::later_than_all;
use crate::harness::process::{Ended, Kith, run};
use crate::harness::{App, Database, Engine, app::fields, database, refused, until};
use crate::{cases, on_each_engine};

const COUNTS: &str = "each count equals what it counts";
const COUNTS_THERE: &str = "each user has counts";
const COUNTS_OF_SOMEBODY: &str = "all counts are those of a user";
const TOTALS: &str = "each total in the head equals what it counts";

pub async fn check(database: &Database, repair: Repair) -> Report {
    store::check(&database.url(), repair, &later_than_all(), &Progress::default()).await.expect("a report")
}

#[track_caller]
fn found<'a>(report: &'a Report, name: &str) -> &'a Checked {
    report.checks.iter().find(|checked| checked.name == name).unwrap_or_else(|| panic!("no check {name:?}"))
}

async fn delete(app: &App, id: i64) {
    app.users().delete_user(pb::DeleteUserRequest { id, request_id: String::new() }).await.expect("no user");
}

/// Makes every kind of change, mostly to user 2, one minute apart.
async fn busy(app: &App) {
    for id in 1..=14 {
        assert_eq!(app.user(&format!("user-{id}")).await, id);
    }
    let later = || app.clock.advance(TimeDelta::minutes(1));
    let sent = async |from, to| {
        later();
        let id = app.send(from, to).await;
        later();
        id
    };
    sent(1, 2).await;
    app.clock.advance(TimeDelta::days(181));
    // The first has expired.
    sent(1, 2).await;
    app.mark_viewed(sent(3, 2).await, 2).await.expect("viewed");
    app.reject(sent(4, 2).await, 2).await.expect("rejected");
    let restored = sent(5, 2).await;
    app.reject(restored, 2).await.expect("rejected");
    later();
    app.restore(restored, 2).await.expect("restored");
    app.accept(sent(6, 2).await, 2).await.expect("a connection");
    sent(7, 2).await;
    app.send(2, 7).await;
    app.accept(sent(8, 2).await, 2).await.expect("a connection");
    later();
    app.remove(8, 2).await.expect("no connection");
    for (sender, again) in [(9, false), (10, true)] {
        let id = sent(sender, 2).await;
        app.reject(id, 2).await.expect("rejected");
        later();
        app.cancel(id, sender).await.expect("cancelled");
        if again {
            sent(sender, 2).await;
        }
    }
    app.block(2, 11).await;
    sent(11, 2).await;
    sent(12, 2).await;
    app.block(2, 12).await;
    app.block(3, 4).await;
    later();
    app.unblock(3, 4).await;
    app.block(4, 3).await;
    sent(13, 1).await;
    app.connect(5, 13).await;
    app.block(13, 3).await;
    later();
    delete(app, 13).await;
    let with_id = pb::DeleteUserRequest { id: 14, request_id: uuid::Uuid::from_u128(14).to_string() };
    app.users().delete_user(with_id).await.expect("no user");
    app.moderate(13, "another", pb::UserStatus::Approved).await;
}

/// A database with every kind of change, which no server uses any more.
async fn used(engine: Engine) -> Database {
    let app = App::start(engine).await;
    busy(&app).await;
    app.database
}

on_each_engine! {
    async fn a_busy_database_passes_and_every_check_finds_its_planted_damage(engine: Engine) {
        let database = used(engine).await;
        let report = check(&database, Repair::Nothing).await;
        assert!(report.is_clean(), "{report:#?}");
        assert!(report.checks.iter().all(|checked| checked.examined > 0), "{report:#?}");
        assert_eq!((report.oldest.get(), report.revision.get()), (1, report.checks[0].examined));
        let mut seen = BTreeSet::new();
        for (name, breaks, words) in planted::all() {
            let copy = database.copy().await;
            copy.execute(&breaks).await;
            let report = check(&copy, Repair::Nothing).await;
            let checked = found(&report, name);
            assert!(checked.violations > 0 && !report.is_clean(), "{name}: nothing found after {breaks}");
            assert!(checked.rows.iter().any(|row| row.contains(words)), "no {words:?} in {checked:#?}");
            seen.insert(name);
        }
        // No check is vacuous.
        assert_eq!(seen, report.checks.iter().map(|checked| checked.name).collect());
    }

    async fn the_rest_of_a_feed_still_proves_its_rows(engine: Engine) {
        let database = used(engine).await;
        let copy = database.copy().await;
        let whole = check(&copy, Repair::Nothing).await;
        // Both engines run the same text, and PostgreSQL plans each statement again, which takes most of the time.
        let step = if engine == Engine::Postgres { 7 } else { 1 };
        for removed in (1..=whole.revision.get()).rev().step_by(step).collect::<Vec<_>>().into_iter().rev() {
            copy.execute(&format!("DELETE FROM events WHERE sequence <= {removed}")).await;
            let report = check(&copy, Repair::Nothing).await;
            assert!(report.is_clean(), "without the first {removed}: {report:#?}");
            assert_eq!((report.oldest.get(), report.revision), (removed + 1, whole.revision));
        }
        // Rows older than the first stored event, which records their deletion.
        let removed = whole.revision.get() - 15;
        for (breaks, words) in [
            ("UPDATE connection_requests SET position = 1 WHERE from_user_id = 12", "from user 12 to user 2"),
            ("INSERT INTO blocks SELECT 3, 4, last_time, 1 FROM feed", "user 3 blocks user 4 since event 1"),
            ("UPDATE users SET position = -1 WHERE id = 13", "user 13 is there since event -1"),
        ] {
            let copy = database.copy().await;
            copy.execute(&format!("DELETE FROM events WHERE sequence <= {removed}; {breaks}")).await;
            let report = check(&copy, Repair::Nothing).await;
            let rows: Vec<_> = report.checks.iter().flat_map(|checked| &checked.rows).collect();
            assert!(rows.iter().any(|row| row.contains(words)), "{breaks}: {report:#?}");
        }
    }

    async fn many_violations_are_counted_and_some_of_them_reported(engine: Engine) {
        let database = Database::migrated(engine).await;
        let rows: Vec<_> = (1..=50).map(|id| format!("({id})")).collect();
        database.execute(&format!("INSERT INTO user_counts (user_id) VALUES {}", rows.join(", "))).await;
        let report = check(&database, Repair::Nothing).await;
        let checked = found(&report, COUNTS_OF_SOMEBODY);
        assert_eq!((checked.examined, checked.violations, checked.rows.len()), (50, 50, 20));
        let report = check(&database, Repair::Counts).await;
        let checked = found(&report, COUNTS_OF_SOMEBODY);
        assert_eq!((checked.violations, checked.repaired, checked.rows.len()), (50, 50, 50));
        assert!(report.is_clean() && check(&database, Repair::Nothing).await.is_clean());
    }

    async fn a_repair_mends_counts_and_nothing_else(engine: Engine) {
        let database = used(engine).await;
        database
            .execute(
                "UPDATE user_counts SET requests_unviewed = 0, connections = 9 WHERE user_id = 2; \
                 UPDATE user_counts SET sends = 77 WHERE user_id = 1; \
                 DELETE FROM user_counts WHERE user_id = 6; INSERT INTO user_counts (user_id) VALUES (99); \
                 UPDATE connection_requests SET viewed = created WHERE from_user_id = 1; \
                 DELETE FROM blocks WHERE other_user_id = 12; DELETE FROM events WHERE sequence = 5; \
                 UPDATE feed SET total_users = 99;",
            )
            .await;
        let others = [
            "SELECT sends AS value FROM user_counts WHERE user_id NOT IN (6, 99) ORDER BY user_id",
            "SELECT id || state || position || created || coalesce(CAST(viewed AS text), '') AS value \
             FROM connection_requests ORDER BY id",
            "SELECT user_id || '-' || other_user_id || '-' || position AS value FROM blocks ORDER BY position",
            "SELECT sequence || kind AS value FROM events ORDER BY sequence",
            "SELECT last_sequence || '-' || epoch AS value FROM feed",
        ];
        let mut before = Vec::new();
        for query in others {
            before.push(database.values(query).await);
        }
        let report = check(&database, Repair::Counts).await;
        // Its one unviewed request is marked as viewed: counts are computed from the rows, whatever they contain.
        assert_eq!(found(&report, COUNTS).rows, ["user 2: connections 9 -> 2"]);
        assert_eq!(found(&report, COUNTS_THERE).rows, ["user 6: no counts -> counts"]);
        assert_eq!(found(&report, COUNTS_OF_SOMEBODY).rows, ["user 99: counts of nobody -> none"]);
        // A block was deleted above, which the feed knows of. The totals follow from the rows.
        let totals = found(&report, TOTALS);
        assert_eq!(totals.rows, ["total_users 99 -> 13", "total_blocks 3 -> 2"]);
        assert_eq!((totals.examined, totals.violations, totals.repaired), (6, 2, 2));
        for (query, before) in others.into_iter().zip(before) {
            assert_eq!(database.values(query).await, before, "{query}");
        }
        assert!(!report.is_clean());
        let after = check(&database, Repair::Nothing).await;
        let failing = |report: &Report| -> Vec<_> {
            report.checks.iter().filter(|checked| !checked.holds()).map(|checked| checked.name).collect()
        };
        assert_eq!(failing(&report), failing(&after));
        assert_eq!(
            failing(&after),
            [
                "the feed has no holes and ends at its head",
                "each request was viewed, rejected and accepted when its events say",
                "each block that the feed leaves is there",
                "each user was created by their last event",
                "each user was last changed by their last event",
            ]
        );
    }
}

/// Sends to user 1 and cancels, repeatedly.
async fn come_and_go(clients: Clients, user: i64, end: Arc<AtomicBool>) -> i64 {
    let mut sent = 0;
    while !end.load(Ordering::SeqCst) {
        let id = clients.send(user, 1).await;
        sent += 1;
        if sent % 5 != 0 {
            clients.cancel(id, user).await.expect("cancelled");
        } else {
            clients.accept(id, 1).await.expect("a connection");
            clients.remove(1, user).await.expect("no connection");
        }
    }
    sent
}

cases! {
    #[with(|settings| (settings.policy.max_sends_per_hour, settings.policy.max_sends_per_pair) = (None, None))]
    async fn a_repair_loses_nothing_that_a_server_writes_meanwhile(app: App) {
        const USERS: i64 = 12;
        for id in 1..=USERS {
            assert_eq!(app.user(&format!("user-{id}")).await, id);
        }
        let end = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for user in 2..=USERS {
            writers.spawn(come_and_go(Clients::clone(&app), user, Arc::clone(&end)));
        }
        for _round in 0..8 {
            let wrong = "UPDATE user_counts SET requests_sent = requests_sent + 3, \
                         requests_received = requests_received + 100, connections = connections + 5; \
                         UPDATE feed SET total_users = 0, total_pending = total_pending + 7, last_batch_id = last_batch_id + 1";
            // Under the lock that writers take first: without it PostgreSQL may find a deadlock with one of them.
            let lock = if app.database.engine == Engine::Postgres { "SELECT 1 FROM feed FOR UPDATE;" } else { "" };
            app.database.execute(&format!("BEGIN; {lock} {wrong}; COMMIT;")).await;
            let report = check(&app.database, Repair::Counts).await;
            let checked = found(&report, COUNTS);
            assert_eq!((checked.violations, checked.repaired), (USERS, USERS), "{checked:#?}");
            assert!(checked.rows.iter().any(|row| row.starts_with("user 1: ")), "{checked:#?}");
            let checked = found(&report, TOTALS);
            assert_eq!((checked.violations, checked.repaired), (2, 2), "{checked:#?}");
            // The database is consistent at each moment, whatever the server writes.
            let report = check(&app.database, Repair::Nothing).await;
            assert!(report.is_clean(), "{report:#?}");
        }
        end.store(true, Ordering::SeqCst);
        let sent: i64 = writers.join_all().await.into_iter().sum();
        assert!(sent > USERS, "{sent}: nothing was written meanwhile");
        assert!(check(&app.database, Repair::Nothing).await.is_clean());
    }

    // Also a server that has cached counts from its earlier commits.
    async fn a_server_goes_on_from_the_repaired_counts(app: App) {
        for id in 1..=4 {
            assert_eq!(app.user(&format!("user-{id}")).await, id);
        }
        app.database.execute("UPDATE user_counts SET requests_sent = 1000 WHERE user_id = 1").await;
        // A server that has not cached the counts yet.
        let app = app.another(|_| {}).await;
        refused(app.try_send(1, 2).await, Code::ResourceExhausted, ErrorReason::LimitReached);
        assert_eq!(found(&check(&app.database, Repair::Counts).await, COUNTS).repaired, 1);
        app.send(1, 2).await;
        assert!(check(&app.database, Repair::Nothing).await.is_clean());
    }
}

/// Asserts that the command printed only this, and neither served nor changed anything.
#[track_caller]
fn refuses(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
    assert!(ended.output.is_empty() && !ended.log.contains("panicked"), "{ended:#?}");
    for word in words {
        assert!(ended.log.contains(word), "no {word:?} in {ended:#?}");
    }
}

/// A page of the users whom user 1 blocks.
async fn blocked(kith: &Kith, page_token: &str) -> Result<pb::ListBlockedUsersResponse, Status> {
    let page_token = page_token.to_owned();
    let request = pb::ListBlockedUsersRequest { user_id: 1, page_size: 1, page_token, ..Default::default() };
    Ok(kith.clients().blocks().list_blocked_users(request).await?.into_inner())
}

async fn end(kith: Kith) {
    kith.signal("TERM");
    let ended = kith.wait().await;
    assert!(ended.status.success() && ended.output.is_empty(), "{ended:#?}");
}

on_each_engine! {
    async fn the_program_reports_its_findings_and_exits_accordingly(engine: Engine) {
        let database = used(engine).await;
        let url = format!("--database-url={}", database.url);
        let run = async |args: &[&str]| run(&[&["check", &url], args].concat()).await;
        let ended = run(&[]).await;
        assert!(ended.status.success(), "{ended:#?}");
        let last = ended.output.lines().last().expect("a verdict");
        assert!(last.starts_with("all checks passed; revision ") && last.ends_with(", events retained from 1"), "{last}");
        assert!(ended.output.contains("ok  ") && ended.output.contains(COUNTS), "{ended:#?}");
        assert_eq!(ended.output.lines().count(), check(&database, Repair::Nothing).await.checks.len() + 1);

        database.execute("UPDATE user_counts SET connections = 7 WHERE user_id IN (3, 6)").await;
        let ended = run(&[]).await;
        assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
        let shown = format!("2 of 13  {COUNTS}\n          user 3: connections 7 -> 0\n          user 6: connections 7 -> 1\n");
        assert!(ended.output.contains(&shown) && ended.output.contains("\nFAIL"), "{}", ended.output);
        assert!(ended.output.contains("\n1 of 32 checks FAILED; revision "), "{}", ended.output);
        // The verdict is printed once.
        assert!(!ended.log.contains("FAIL") && !ended.log.contains("kith: "), "{ended:#?}");
        let ended = run(&["--repair"]).await;
        assert!(ended.status.success() && ended.output.contains("\nrepaired"), "{ended:#?}");
        assert!(ended.output.contains(&shown) && ended.output.contains("\nall checks passed; counts repaired: 2; "), "{ended:#?}");
        assert!(run(&[]).await.status.success());

        database.execute("UPDATE user_counts SET connections = 7 WHERE user_id = 3; DELETE FROM blocks").await;
        let ended = run(&["--repair"]).await;
        assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
        // The total of blocks, too.
        assert!(ended.output.contains("\n1 of 32 checks FAILED; counts repaired: 2; "), "{}", ended.output);
    }

    async fn tables_of_another_version_are_refused_and_left_alone(engine: Engine) {
        for command in ["check", "restore-epoch"] {
            let database = Database::empty(engine).await;
            let url = format!("--database-url={}", database.url);
            if engine == Engine::Sqlite {
                refuses(&run(&[command, &url]).await, &["--database-url", "no such file"]);
                assert!(!std::path::Path::new(database.path()).exists());
                database.execute("CREATE TABLE other (id INTEGER)").await;
            }
            let lacks = format!("lacks {} migration(s)", database::migrations());
            refuses(&run(&[command, &url]).await, &["--database-url", &lacks]);
            refuses(&run(&[command, &url]).await, &["--database-url", &lacks]);
            let database = Database::migrated(engine).await;
            let url = format!("--database-url={}", database.url);
            database.execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000')").await;
            let feed = "SELECT epoch || token_key AS value FROM feed";
            let before = database.values(feed).await;
            refuses(&run(&[command, &url]).await, &["--database-url", "newer than this program", "99990101000000"]);
            assert_eq!(database.values(feed).await, before);
        }
    }

    async fn an_epoch_is_not_restored_under_a_server(engine: Engine) {
        let database = Database::migrated(engine).await;
        let url = format!("--database-url={}", database.url);
        let epoch = "SELECT epoch AS value FROM feed";
        let before = database.values(epoch).await;
        for args in [&[][..], &["--read-only"]] {
            let kith = Kith::serve(&database.url, args).await;
            if engine == Engine::Postgres {
                let locks = "SELECT count(*) AS value FROM pg_locks WHERE locktype = 'advisory' \
                             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
                until("it listens", async || database.number(locks).await == 1).await;
            }
            let refusal = run(&["restore-epoch", &url]).await;
            let words: &[&str] = match engine {
                Engine::Sqlite => &["another process has the file open", "fuser"],
                Engine::Postgres => &["servers are connected (process ", " from ", " since ", "pg_stat_activity"],
            };
            refuses(&refusal, &[words, &["stop all servers", "--force"]].concat());
            assert_eq!(database.values(epoch).await, before);
            end(kith).await;
        }
        let kith = Kith::serve(&database.url, &[]).await;
        let ended = run(&["restore-epoch", "--force", &url]).await;
        assert!(ended.status.success(), "{ended:#?}");
        assert_ne!(database.values(epoch).await, before);
        end(kith).await;
        // Servers that have just ended are no obstacle.
        let ended = run(&["restore-epoch", &url]).await;
        assert!(ended.status.success(), "{ended:#?}");
    }

    async fn a_restored_database_gets_a_feed_and_page_tokens_of_its_own(engine: Engine) {
        let database = Database::migrated(engine).await;
        let kith = Kith::serve(&database.url, &[]).await;
        for name in ["ann", "bob", "cy"] {
            kith.clients().user(name).await;
        }
        kith.clients().block(1, 2).await;
        kith.clients().block(1, 3).await;
        let token = blocked(&kith, "").await.expect("a page").next_page_token;
        end(kith).await;
        // Only another server accepts it.
        let kith = Kith::serve(&database.url, &[]).await;
        assert_eq!(blocked(&kith, &token).await.expect("a page").blocks.len(), 1);
        end(kith).await;

        let feed = "SELECT epoch AS value FROM feed UNION ALL SELECT token_key FROM feed";
        let head = "SELECT last_sequence || '-' || last_assigned_user_id AS value FROM feed";
        let (before, head_before) = (database.values(feed).await, database.values(head).await);
        let url = format!("--database-url={}", database.url);
        let ended = run(&["restore-epoch", &url]).await;
        assert!(ended.status.success(), "{ended:#?}");
        let after = database.values(feed).await;
        let text = |value: &Option<String>| value.clone().expect("a text");
        assert_eq!(ended.output, format!("old epoch {}\nnew epoch {}\n", text(&before[0]), text(&after[0])));
        for (before, after) in before.iter().zip(&after) {
            assert_ne!(before, after);
            assert_eq!(text(before).len(), text(after).len());
            assert!(text(after).bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{after:?}");
        }
        assert_eq!(database.values(head).await, head_before);

        let kith = Kith::serve(&database.url, &[]).await;
        let details = refused(blocked(&kith, &token).await, Code::InvalidArgument, ErrorReason::InvalidPageToken);
        assert_eq!(fields(&details), ["page_token"]);
        let page = blocked(&kith, "").await.expect("a page");
        assert_ne!(page.next_page_token, token);
        assert_eq!(blocked(&kith, &page.next_page_token).await.expect("a page").blocks.len(), 1);
    }
}
