//! Does `kith import` bring in what other systems keep, refuse what it must by name, change nothing the second time, and
//! leave all or nothing when it is killed?

mod kills;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::DateTime;
use kith::clock::{Clock, Reading};
use kith::domain::Time;
use kith::domain::policy::Policy;
use kith::import::{Conflicts, Events, Format, ImportError, Options, PendingSince, Report, Source, import};
use kith::progress::Progress;
use kith::store::{self, Repair};
use kith::transfer::{Kind, Reason};
use tempfile::TempDir;

use crate::harness::process::{Kith, run};
use crate::harness::{Database, Engine};
use crate::on_each_engine;

/// The time of all imports here.
const NOW: &str = "2026-11-25T12:00:00Z";

fn now() -> Time {
    DateTime::parse_from_rfc3339(NOW).expect("a time").to_utc()
}

fn clock() -> Clock {
    Clock::from_fn(|| Reading { time: now(), elapsed: Duration::ZERO })
}

/// A folder with files to import.
pub struct Files(TempDir);

impl Files {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file with these rows between a header and a footer.
    pub fn rows(&self, name: &str, rows: &str) -> PathBuf {
        let mut text = "{\"type\":\"header\",\"format\":\"kith.export.v1\"}\n".to_owned();
        rows.lines().map(str::trim).filter(|row| !row.is_empty()).for_each(|row| _ = writeln!(text, "{row}"));
        text += "{\"type\":\"footer\"}\n";
        self.text(name, &text)
    }

    pub fn text(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file");
        path
    }
}

fn ndjson(path: &Path) -> Source {
    Source { path: path.to_owned(), format: Format::Ndjson }
}

fn options(sources: Vec<Source>) -> Options {
    Options {
        sources,
        dry_run: false,
        conflicts: Conflicts::Skip,
        pending_since: PendingSince::Keep,
        default_date: None,
        create_missing_users: false,
        events: None,
        refused: None,
        keep_ids: false,
        policy: Policy::default(),
    }
}

async fn try_import(database: &Database, options: Options) -> Result<Report, ImportError> {
    let imported = import(&database.url(), options, &clock(), &Progress::default()).await;
    let checked = store::check(&database.url(), Repair::Nothing, &clock(), &Progress::default()).await;
    let checked = checked.expect("a report");
    let broken: Vec<_> = checked.checks.iter().filter(|checked| !checked.holds()).collect();
    assert!(broken.is_empty(), "after an import: {broken:#?}");
    imported
}

/// Imports, and checks the database.
async fn imported(database: &Database, options: Options) -> Report {
    try_import(database, options).await.expect("an import")
}

/// All that is between users, and the users, in words. Without ids of requests and positions.
async fn state(database: &Database) -> Vec<String> {
    let day = |column: &str| match database.engine {
        Engine::Sqlite => format!("coalesce(' {column} ' || date({column} / 1000000, 'unixepoch'), '')"),
        Engine::Postgres => format!("coalesce(' {column} ' || to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD'), '')"),
    };
    let [created, viewed, rejected, accepted, since] = ["created", "viewed", "rejected", "accepted", "since"].map(day);
    let query = format!(
        "SELECT value FROM ( \
             SELECT 1 AS part, id AS one, 0 AS other, 'user ' || id || ' ' || username || ' ' || status AS value FROM users \
             UNION ALL \
             SELECT 2, low_user_id, high_user_id, from_user_id || ' to ' || to_user_id || ' ' || state \
                    || {created} || {viewed} || {rejected} || {accepted} \
                    || CASE message WHEN '' THEN '' ELSE ' says ' || message END \
                    || CASE reply WHEN '' THEN '' ELSE ' answer ' || reply END \
             FROM connection_requests \
             UNION ALL SELECT 3, user_id, other_user_id, user_id || ' blocks ' || other_user_id || {created} FROM blocks \
             UNION ALL SELECT 4, from_user_id, to_user_id, from_user_id || ' cools ' || to_user_id || {since} FROM cooldowns \
             UNION ALL SELECT 5, user_id, 0, 'counts of ' || user_id || ' ' || requests_sent || ' ' || requests_received \
                    || ' ' || requests_unviewed || ' ' || connections FROM user_counts \
         ) AS everything ORDER BY part, one, other"
    );
    database.values(&query).await.into_iter().flatten().collect()
}

/// The numbers of rows that were created, unchanged, replaced and refused.
fn numbers(report: &Report, kind: Kind) -> [u64; 4] {
    let tally = report.tally(kind);
    [tally.created, tally.unchanged, tally.replaced, tally.refused]
}

/// Users 1 to 9, who joined in 2020.
fn nine() -> String {
    (1..=9)
        .map(|id| format!("{{\"type\":\"user\",\"id\":{id},\"username\":\"user-{id}\",\"date_joined\":\"2020-01-0{id}T00:00:00Z\"}}\n"))
        .collect()
}

/// What dumps of other systems have in them: see `docs/moving-in/import.md`.
const TRAPS: &str = r#"
    {"type":"connection","from":1,"to":2,"created":"2021-03-02T00:00:00Z"}
    {"type":"connection","from":2,"to":1,"created":"2021-03-01T00:00:00Z"}
    {"type":"request","from":1,"to":3,"state":"PENDING","created":"2026-10-01T00:00:00Z","message":"Hi"}
    {"type":"request","from":3,"to":1,"state":"PENDING","created":"2026-10-02T00:00:00Z","message":"Hello"}
    {"type":"request","from":1,"to":4,"state":"REJECTED","created":"2026-10-01T00:00:00Z","rejected":"2026-11-01T00:00:00Z"}
    {"type":"request","from":1,"to":4,"state":"PENDING","created":"2026-11-02T00:00:00Z","viewed":"2026-11-03T00:00:00Z"}
    {"type":"connection","from":1,"to":5,"created":"2021-03-01T00:00:00Z","connected":"2021-03-04T00:00:00Z","message":"Hi","reply":"Yes"}
    {"type":"block","user":5,"other":1,"created":"2022-01-01T00:00:00Z"}
    {"type":"block","user":1,"other":5,"created":"2022-02-01T00:00:00Z"}
    {"type":"block","user":5,"other":1,"created":"2021-12-01T00:00:00Z"}
    {"type":"connection","from":2,"to":3}
    {"type":"connection","from":2,"to":4,"created":"0000-00-00 00:00:00"}
    {"type":"connection","from":2,"to":5,"created":"1970-01-01T00:00:00Z","connected":"2021-05-01T00:00:00Z"}
    {"type":"connection","from":2,"to":6,"created":"2999-01-01T00:00:00Z"}
    {"type":"request","from":6,"to":7,"state":"PENDING","created":"2020-01-01T00:00:00Z"}
    {"type":"request","from":6,"to":8,"state":"REJECTED","created":"2026-11-01T00:00:00Z","rejected":"2026-11-20T00:00:00Z"}
    {"type":"request","from":6,"to":9,"state":"WITHDRAWN","rejected":"2026-11-20T00:00:00Z"}
    {"type":"request","from":7,"to":9,"state":"SILENCED","created":"2026-11-20T00:00:00Z"}
    {"type":"block","user":9,"other":7,"created":"2026-11-19T00:00:00Z"}
    {"type":"connection","from":3,"to":3,"created":"2021-03-01T00:00:00Z"}
    {"type":"connection","from":3,"to":99,"created":"2021-03-01T00:00:00Z"}
    {"type":"request","from":3,"to":4,"state":"REJECTED","created":"2026-11-02T00:00:00Z","rejected":"2026-11-01T00:00:00Z"}
    {"type":"follow","from":3,"to":4}
    {"type":"connection","from":3,"to":5,"pinned":true}
    not JSON
    {"type":"user","id":10,"username":"USER-9"}
    {"type":"connection","from":{"username":"User-8"},"to":{"username":"user-9"},"created":"2021-03-01T00:00:00Z"}
"#;

/// What is left of them.
const LEFT: &[&str] = &[
    "user 1 user-1 APPROVED",
    "user 2 user-2 APPROVED",
    "user 3 user-3 APPROVED",
    "user 4 user-4 APPROVED",
    "user 5 user-5 APPROVED",
    "user 6 user-6 APPROVED",
    "user 7 user-7 APPROVED",
    "user 8 user-8 APPROVED",
    "user 9 user-9 APPROVED",
    "2 to 1 CONNECTED created 2021-03-01 viewed 2021-03-01 accepted 2021-03-01",
    "1 to 3 CONNECTED created 2026-10-01 viewed 2026-10-02 accepted 2026-10-02 says Hi answer Hello",
    "1 to 4 PENDING created 2026-11-02 viewed 2026-11-03",
    "2 to 3 CONNECTED created 2020-01-03 viewed 2020-01-03 accepted 2020-01-03",
    "2 to 4 CONNECTED created 2020-01-04 viewed 2020-01-04 accepted 2020-01-04",
    "2 to 5 CONNECTED created 2021-05-01 viewed 2021-05-01 accepted 2021-05-01",
    "2 to 6 CONNECTED created 2020-01-06 viewed 2020-01-06 accepted 2020-01-06",
    "6 to 8 REJECTED created 2026-11-01 viewed 2026-11-20 rejected 2026-11-20",
    "7 to 9 SILENCED created 2026-11-20",
    "8 to 9 CONNECTED created 2021-03-01 viewed 2021-03-01 accepted 2021-03-01",
    "1 blocks 5 created 2022-02-01",
    "5 blocks 1 created 2021-12-01",
    "9 blocks 7 created 2026-11-19",
    "6 cools 8 since 2026-11-20",
    "6 cools 9 since 2026-11-20",
    "counts of 1 1 0 0 2",
    "counts of 2 0 0 0 5",
    "counts of 3 0 0 0 2",
    "counts of 4 0 1 0 1",
    "counts of 5 0 0 0 1",
    "counts of 6 1 0 0 1",
    "counts of 7 1 0 0 0",
    "counts of 8 0 0 0 1",
    "counts of 9 0 0 0 1",
];

/// How often each reason is given for them.
const REASONS: &[(Reason, u64)] = &[
    (Reason::UnknownType, 2),
    (Reason::InvalidFields, 1),
    (Reason::DateOrder, 1),
    (Reason::SelfRequest, 1),
    (Reason::UserNotFound, 1),
    (Reason::UsernameTaken, 1),
    (Reason::DuplicatePair, 2),
    (Reason::ConflictingState, 1),
    (Reason::Blocked, 1),
    (Reason::Expired, 1),
];

/// The report of a dry run, with what the import itself sets.
fn as_if_stored(mut dry: Report, report: &Report) -> Report {
    (dry.dry_run, dry.revision) = (false, report.revision);
    dry
}

fn reasons(report: &Report) -> Vec<(Reason, u64)> {
    Reason::ALL.iter().map(|reason| (*reason, report.refused(*reason))).filter(|(_, rows)| *rows > 0).collect()
}

on_each_engine! {
    async fn each_trap_of_other_systems_is_settled_or_refused_by_name(engine: Engine) {
        let (database, files) = (Database::migrated(engine).await, Files::new());
        let path = files.rows("traps.ndjson", &(nine() + TRAPS));
        let refused = files.path("refused.ndjson");
        let with = || Options { refused: Some(refused.clone()), ..options(vec![ndjson(&path)]) };
        let dry = imported(&database, Options { dry_run: true, refused: None, ..with() }).await;
        assert_eq!(state(&database).await, Vec::<String>::new(), "a dry run stores nothing");
        let report = imported(&database, with()).await;
        assert_eq!(reasons(&report), REASONS);
        assert_eq!(state(&database).await, LEFT);
        assert_eq!(numbers(&report, Kind::User), [9, 0, 0, 1]);
        assert_eq!(numbers(&report, Kind::Connection), [6, 0, 0, 5]);
        assert_eq!(numbers(&report, Kind::Request), [6, 0, 0, 3]);
        assert_eq!(numbers(&report, Kind::Block), [3, 0, 0, 1]);
        assert_eq!(report.made_up, 4);
        assert_eq!((dry.dry_run, dry.revision.get()), (true, 0));
        assert_eq!(as_if_stored(dry, &report), report, "a dry run reports the same");
        assert_eq!(database.number("SELECT count(*) AS value FROM events").await, 0);

        // The lists are in the order of the dates.
        let newest = "SELECT other_user_id AS value FROM connections WHERE user_id = 2 ORDER BY position DESC";
        assert_eq!(database.values(newest).await.into_iter().flatten().collect::<Vec<_>>(), ["5", "1", "6", "4", "3"]);

        // The second time, nothing changes.
        let revision = report.revision;
        fs::remove_file(&refused).expect("refused rows");
        let again = imported(&database, with()).await;
        assert_eq!((again.revision, state(&database).await), (revision, LEFT.iter().map(|row| (*row).to_owned()).collect()));
        assert_eq!(reasons(&again), REASONS);
        assert_eq!(numbers(&again, Kind::User), [0, 9, 0, 1]);
        assert_eq!(numbers(&again, Kind::Connection), [0, 6, 0, 5]);
        assert_eq!(numbers(&again, Kind::Request), [0, 6, 0, 3]);
        assert_eq!(numbers(&again, Kind::Block), [0, 3, 0, 1]);
    }

    async fn refused_rows_are_written_down_mended_and_imported(engine: Engine) {
        let (database, files) = (Database::migrated(engine).await, Files::new());
        let rows = r#"{"type":"block","user":1,"other":2}
                      {"type":"connection","from":1,"to":2,"message":"kept as it is"}
                      {"type":"connection","from":1,"to":77}"#;
        let path = files.rows("a.ndjson", &(nine() + rows));
        let refused = files.path("refused.ndjson");
        let options = |path: &Path, refused: Option<PathBuf>| Options { refused, ..options(vec![ndjson(path)]) };
        imported(&database, options(&path, Some(refused.clone()))).await;
        let text = fs::read_to_string(&refused).expect("refused rows");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[1].starts_with(r#"{"type":"connection","from":1,"to":77"#), "{text}");
        assert!(lines[1].contains("USER_NOT_FOUND") && lines[1].contains("13"), "{text}");
        assert!(lines[2].starts_with(r#"{"type":"connection","from":1,"to":2,"message":"kept as it is""#), "{text}");
        assert!(lines[2].contains("BLOCKED") && lines[2].contains("12"), "{text}");
        // Never over what is being mended.
        let taken = try_import(&database, options(&refused, Some(refused.clone()))).await;
        assert!(matches!(taken, Err(ImportError::Refused { .. })), "{taken:?}");
        let mended = files.text("mended.ndjson", &text.replace("\"to\":77", "\"to\":7"));
        let report = imported(&database, options(&mended, None)).await;
        assert_eq!(numbers(&report, Kind::Connection), [1, 0, 0, 1]);
    }

    async fn users_come_by_foreign_names_and_before_or_after_their_rows(engine: Engine) {
        let (database, files) = (Database::migrated(engine).await, Files::new());
        let path = files.rows(
            "a.ndjson",
            r#"{"type":"connection","from":{"username":"ann"},"to":{"username":"bob"},"created":"2021-01-01T00:00:00Z"}
               {"type":"user","username":"ann","date_joined":"2020-01-01T00:00:00Z"}
               {"type":"user","username":"bob","date_joined":"2019-01-01T00:00:00Z"}
               {"type":"user","id":2,"username":"cy","date_joined":"2019-01-01T00:00:00Z"}
               {"type":"connection","from":2,"to":{"username":"dan"},"created":"2021-01-01T00:00:00Z"}
               {"type":"block","user":7,"other":2,"created":"2021-01-01T00:00:00Z"}"#,
        );
        let with = |create_missing_users| Options { create_missing_users, ..options(vec![ndjson(&path)]) };
        let report = imported(&database, Options { dry_run: true, ..with(false) }).await;
        assert_eq!(reasons(&report), [(Reason::UserNotFound, 2)]);
        let report = imported(&database, with(true)).await;
        assert!(!report.has_refusals(), "{report}");
        assert_eq!(report.placeholders, 2);
        let left = state(&database).await;
        assert_eq!(
            left[..8],
            [
                "user 1 ann APPROVED",
                "user 2 cy APPROVED",
                "user 3 bob APPROVED",
                "user 4 dan UNREGISTERED",
                "user 7 missing-7 UNREGISTERED",
                "1 to 3 CONNECTED created 2021-01-01 viewed 2021-01-01 accepted 2021-01-01",
                "2 to 4 CONNECTED created 2021-01-01 viewed 2021-01-01 accepted 2021-01-01",
                "7 blocks 2 created 2021-01-01",
            ]
        );
        // In the order in which they joined.
        let oldest = "SELECT username AS value FROM users ORDER BY position";
        let oldest: Vec<_> = database.values(oldest).await.into_iter().flatten().collect();
        assert_eq!(oldest[..3], ["bob", "cy", "ann"]);
        // The next user has an id that nobody has.
        let again = imported(&database, with(true)).await;
        assert_eq!((numbers(&again, Kind::User), state(&database).await), ([0, 3, 0, 0], left));
    }

    async fn users_with_foreign_ids_need_no_username(engine: Engine) {
        let (database, files) = (Database::migrated(engine).await, Files::new());
        let path = files.rows(
            "a.ndjson",
            r#"{"type":"user","external_id":"0b1e-a","date_joined":"2020-01-01T00:00:00Z"}
               {"type":"user","external_id":"0b1e-b","username":"bob","date_joined":"2020-01-01T00:00:00Z"}
               {"type":"user","external_id":"0b1e-b","date_joined":"2020-01-01T00:00:00Z"}
               {"type":"connection","from":{"external_id":"0b1e-a"},"to":{"username":"bob"},"created":"2021-01-01T00:00:00Z"}
               {"type":"block","user":{"external_id":"0b1e-c"},"other":{"external_id":"0b1e-a"},"created":"2021-01-01T00:00:00Z"}"#,
        );
        let with = || Options { create_missing_users: true, ..options(vec![ndjson(&path)]) };
        let report = imported(&database, with()).await;
        assert_eq!(reasons(&report), [(Reason::UserExists, 1)]);
        let users = "SELECT id || ' ' || external_id || ' ' || username || ' ' || status AS value FROM users ORDER BY id";
        let found: Vec<_> = database.values(users).await.into_iter().flatten().collect();
        assert_eq!(found, ["1 0b1e-a  APPROVED", "2 0b1e-b bob APPROVED", "3 0b1e-c  UNREGISTERED"]);
        let left = state(&database).await;
        assert_eq!(left[3..5], ["1 to 2 CONNECTED created 2021-01-01 viewed 2021-01-01 accepted 2021-01-01", "3 blocks 1 created 2021-01-01"]);
        let again = imported(&database, with()).await;
        assert_eq!((numbers(&again, Kind::User), again.revision), ([0, 2, 0, 1], report.revision));
        // An external id is never changed.
        let other = files.rows("b.ndjson", r#"{"type":"user","id":2,"external_id":"0b1e-z","username":"bob"}"#);
        let refused = imported(&database, options(vec![ndjson(&other)])).await;
        assert_eq!((reasons(&refused), refused.revision), (vec![(Reason::UserExists, 1)], report.revision));
    }

    async fn a_database_in_use_keeps_its_state_or_takes_that_of_the_file(engine: Engine) {
        let files = Files::new();
        let (before, users) = (
            r#"{"type":"connection","from":1,"to":2,"created":"2021-01-01T00:00:00Z"}
               {"type":"request","from":1,"to":3,"state":"PENDING","created":"2026-11-01T00:00:00Z"}
               {"type":"block","user":1,"other":4,"created":"2021-01-01T00:00:00Z"}"#,
            nine(),
        );
        let before = files.rows("before.ndjson", &format!("{users}{before}"));
        let rows = r#"{"type":"block","user":1,"other":2,"created":"2021-01-01T00:00:00Z"}
                      {"type":"connection","from":1,"to":3,"created":"2021-01-01T00:00:00Z"}
                      {"type":"connection","from":1,"to":4,"created":"2021-01-01T00:00:00Z"}
                      {"type":"connection","from":1,"to":5,"created":"2021-01-01T00:00:00Z"}
                      {"type":"request","from":6,"to":1,"state":"REJECTED","created":"2026-11-01T00:00:00Z","rejected":"2026-11-02T00:00:00Z"}
                      {"type":"request","from":7,"to":1,"state":"WITHDRAWN","rejected":"2026-11-02T00:00:00Z"}"#;
        let after = files.rows("after.ndjson", rows);
        for (conflicts, connections, blocks, refused) in [
            (Conflicts::Skip, [1, 0, 0, 2], [0, 0, 0, 1], vec![(Reason::ConflictingState, 2), (Reason::Blocked, 1)]),
            (Conflicts::Replace, [1, 0, 1, 1], [0, 0, 1, 0], vec![(Reason::Blocked, 1)]),
        ] {
            let database = Database::migrated(engine).await;
            // With events, as a server writes them.
            let events = Some(Events::Keep);
            imported(&database, Options { events, ..options(vec![ndjson(&before)]) }).await;
            let at = state(&database).await;
            let failed = Options { conflicts: Conflicts::Fail, ..options(vec![ndjson(&after)]) };
            let failed = try_import(&database, failed).await;
            assert!(matches!(&failed, Err(ImportError::Conflicts(report)) if report.refused(Reason::ConflictingState) == 2));
            let with = || Options { conflicts, ..options(vec![ndjson(&after)]) };
            let dry = imported(&database, Options { dry_run: true, ..with() }).await;
            assert_eq!(state(&database).await, at, "nothing was stored");
            let report = imported(&database, with()).await;
            assert_eq!(numbers(&report, Kind::Connection), connections, "{conflicts:?}");
            assert_eq!(numbers(&report, Kind::Block), blocks, "{conflicts:?}");
            assert_eq!(numbers(&report, Kind::Request), [2, 0, 0, 0], "{conflicts:?}");
            assert_eq!(reasons(&report), refused, "{conflicts:?}");
            assert_eq!(as_if_stored(dry, &report), report);
            let left = state(&database).await;
            let again = imported(&database, with()).await;
            assert_eq!((again.revision, state(&database).await), (report.revision, left), "{conflicts:?}");
            let sequences = database.number("SELECT count(*) AS value FROM events").await;
            assert_eq!(sequences, report.revision.get(), "the feed has no gaps");
        }
    }

    async fn old_requests_begin_anew_if_asked(engine: Engine) {
        let files = Files::new();
        let rows = r#"{"type":"request","from":1,"to":2,"state":"PENDING","created":"2024-01-02T00:00:00Z"}
                      {"type":"request","from":3,"to":2,"state":"PENDING","created":"2024-01-01T00:00:00Z","viewed":"2024-01-01T00:00:00Z"}
                      {"type":"request","from":4,"to":2,"state":"PENDING","created":"2026-11-01T00:00:00Z"}"#;
        let path = files.rows("a.ndjson", &(nine() + rows));
        for (pending_since, left) in [(PendingSince::Keep, vec!["4"]), (PendingSince::Now, vec!["1", "3", "4"])] {
            let database = Database::migrated(engine).await;
            let report = imported(&database, Options { pending_since, ..options(vec![ndjson(&path)]) }).await;
            assert_eq!(report.renewed, left.len() as u64 - 1);
            assert_eq!(report.refused(Reason::Expired), 3 - left.len() as u64);
            let senders = "SELECT from_user_id AS value FROM connection_requests ORDER BY id DESC";
            assert_eq!(database.values(senders).await.into_iter().flatten().collect::<Vec<_>>(), left);
        }
    }

    async fn the_events_of_an_import_make_a_copy_like_the_lists(engine: Engine) {
        let (database, files) = (Database::migrated(engine).await, Files::new());
        let path = files.rows("traps.ndjson", &(nine() + TRAPS));
        let report = imported(&database, Options { events: Some(Events::Keep), ..options(vec![ndjson(&path)]) }).await;
        let kinds = "SELECT kind || ' ' || count(*) AS value FROM events GROUP BY kind ORDER BY kind";
        assert_eq!(
            database.values(kinds).await.into_iter().flatten().collect::<Vec<_>>(),
            [
                "CONNECTION_CREATED 7",
                "REQUEST_CANCELLED 1",
                "REQUEST_CREATED 11",
                "REQUEST_REJECTED 2",
                "REQUEST_VIEWED 3",
                "USER_BLOCKED 3",
                "USER_CREATED 9",
            ]
        );
        assert_eq!(report.revision.get(), 36);
        assert_eq!(state(&database).await, LEFT);
        let (without, kept) = (Database::migrated(engine).await, "SELECT user_id || ' ' || last_visible AS value FROM user_counts");
        imported(&without, options(vec![ndjson(&path)])).await;
        assert_eq!(without.values(kept).await.len(), 9);
    }

    async fn csv_files_have_one_type_each(engine: Engine) {
        let (database, files) = (Database::migrated(engine).await, Files::new());
        let csv = |name: &str, kind, text: &str| Source { path: files.text(name, text), format: Format::Csv(kind) };
        let sources = vec![
            csv("connections.csv", Kind::Connection, "from,to_username,created\n1,bob,2021-01-01 00:00:00+00\n1,eve,\n"),
            csv("blocks.csv", Kind::Block, "user,other\n3,1\n"),
            // As sqlite3 prints no rows.
            csv("requests.csv", Kind::Request, ""),
            csv("users.csv", Kind::User, "id,username\n1,ann\n2,bob\n3,\"cy\"\n"),
        ];
        let report = imported(&database, options(sources)).await;
        assert_eq!(reasons(&report), [(Reason::UserNotFound, 1)]);
        assert!(report.to_string().contains("connections.csv line 3"), "{report}");
        let left = state(&database).await;
        assert_eq!(left[3], "1 to 2 CONNECTED created 2021-01-01 viewed 2021-01-01 accepted 2021-01-01");
        assert_eq!(left[4], "3 blocks 1 created 2026-11-25");
    }

    async fn ids_and_positions_are_kept_in_an_empty_database(engine: Engine) {
        let (database, files) = (Database::migrated(engine).await, Files::new());
        let text = r#"{"type":"header","format":"kith.export.v1","revision":900}
            {"type":"user","id":1,"username":"ann","position":3}
            {"type":"user","id":2,"username":"bob","position":2}
            {"type":"user","id":3,"username":"cy","position":700}
            {"type":"connection","id":10,"from":1,"to":2,"created":"2021-01-01T00:00:00Z","connected":"2021-01-02T00:00:00Z","position":90}
            {"type":"request","id":40,"from":1,"to":3,"state":"PENDING","created":"2026-11-01T00:00:00Z","position":40}
            {"type":"block","user":3,"other":2,"created":"2021-01-01T00:00:00Z","position":55}
            {"type":"footer"}
        "#;
        let text: String = text.lines().map(|line| format!("{}\n", line.trim())).collect();
        let path = files.text("a.ndjson", &text);
        let kept = || Options { keep_ids: true, ..options(vec![ndjson(&path)]) };
        let report = imported(&database, kept()).await;
        assert_eq!(report.revision.get(), 900);
        let numbers = "SELECT id || ' ' || position AS value FROM connection_requests UNION ALL \
                       SELECT 'user ' || id || ' ' || position FROM users UNION ALL \
                       SELECT 'block ' || position FROM blocks ORDER BY 1";
        assert_eq!(
            database.values(numbers).await.into_iter().flatten().collect::<Vec<_>>(),
            ["10 90", "40 40", "block 55", "user 1 3", "user 2 2", "user 3 700"]
        );
        let again = try_import(&database, kept()).await;
        assert!(matches!(again, Err(ImportError::NotEmpty("--keep-ids"))), "{again:?}");
    }

    async fn the_program_says_what_it_did_by_its_exit_status(engine: Engine) {
        let (database, files) = (Database::migrated(engine).await, Files::new());
        let url = format!("--database-url={}", database.url);
        let good = files.rows("good.ndjson", &nine());
        let bad = files.rows("bad.ndjson", r#"{"type":"connection","from":1,"to":99}"#);
        let cut = files.text("cut.ndjson", "{\"type\":\"header\",\"format\":\"kith.export.v1\"}\n");
        let import = async |path: &Path, more: &[&str]| {
            let path = path.display().to_string();
            let all: Vec<&str> = ["import", &path, &url].into_iter().chain(more.iter().copied()).collect();
            run(&all).await
        };
        let ended = import(&good, &[]).await;
        assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
        assert!(ended.output.ends_with("imported; revision 9\n"), "{ended:#?}");
        let ended = import(&bad, &[]).await;
        assert_eq!(ended.status.code(), Some(3), "{ended:#?}");
        assert!(ended.output.contains("refused: 1 USER_NOT_FOUND: ") && ended.output.contains("bad.ndjson line 2\n"));
        let ended = import(&cut, &[]).await;
        assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
        assert!(ended.log.contains("cut.ndjson: ") && ended.log.contains("cut off"), "{ended:#?}");
        let ended = import(&good, &["--events=skip"]).await;
        assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
        assert!(ended.log.contains("--events=skip needs an empty database"), "{ended:#?}");
        let kith = Kith::serve(&database.url, &[]).await;
        let ended = import(&good, &[]).await;
        assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
        assert!(ended.log.contains("stop all servers first") && ended.log.contains("nothing was imported"), "{ended:#?}");
        drop(kith);
    }

    async fn the_indexes_are_as_the_migrations_made_them(engine: Engine) {
        let (database, files) = (Database::migrated(engine).await, Files::new());
        let indexes = match engine {
            Engine::Sqlite => "SELECT coalesce(sql, name) AS value FROM sqlite_schema WHERE type = 'index' ORDER BY name",
            Engine::Postgres => {
                "SELECT indexdef AS value FROM pg_indexes WHERE schemaname = 'public' UNION ALL \
                 SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint ORDER BY 1"
            }
        };
        let before = database.values(indexes).await;
        imported(&database, options(vec![ndjson(&files.rows("a.ndjson", &nine()))])).await;
        assert_eq!(database.values(indexes).await, before);
        if let Engine::Sqlite = engine {
            let mode = database.values("SELECT journal_mode AS value FROM pragma_journal_mode").await;
            assert_eq!(mode, [Some("wal".to_owned())]);
            assert!(!Path::new(&format!("{}-journal", database.path())).exists(), "a journal is left");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_file_is_made_and_migrated() {
    let files = Files::new();
    let path = files.rows("good.ndjson", &nine()).display().to_string();
    let url = format!("--database-url=sqlite://{}", files.path("new.db").display());
    let dry = run(&["import", &path, &url, "--dry-run"]).await;
    assert_eq!(dry.status.code(), Some(1), "{dry:#?}");
    let ended = run(&["import", &path, &url]).await;
    assert_eq!((ended.status.code(), ended.output.ends_with("imported; revision 9\n")), (Some(0), true), "{ended:#?}");
    let checked = run(&["check", &url]).await;
    assert_eq!(checked.status.code(), Some(0), "{checked:#?}");
}
