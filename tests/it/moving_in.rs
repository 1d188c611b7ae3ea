//! Do the queries of `docs/moving-in` read what other systems store, and does `kith import` make of it what it should?
//!
//! The queries are those of the pages themselves. `tests/fixtures/moving-in` has a database for each.

mod outcome;
mod page;
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use chrono::DateTime;
use kith::clock::{Clock, Reading};
use kith::domain::policy::Policy;
use kith::import::{self, Conflicts, Format, Options, PendingSince, import};
use kith::progress::Progress;
use kith::transfer::Kind;
use page::Page;
use source::Source;

use crate::harness::process::run;
use crate::harness::{Database, Engine};
use crate::on_each_engine;

/// A database of another system in `tests/fixtures/moving-in`.
pub struct Fixture {
    /// The name of its folder.
    pub name: &'static str,
    /// The page with its queries.
    pub page: &'static str,
    pub engines: &'static [Engine],
    /// Whether the keys of its users are no numbers.
    pub has_text_keys: bool,
}

const BOTH: &[Engine] = &[Engine::Sqlite, Engine::Postgres];

/// As in `scripts/fixtures`.
const FIXTURES: &[Fixture] = &[
    Fixture { name: "django-friendship", page: "django-friendship", engines: BOTH, has_text_keys: false },
    Fixture { name: "django-friendship-uuid", page: "django-friendship", engines: BOTH, has_text_keys: true },
    Fixture { name: "laravel-friendships", page: "laravel", engines: BOTH, has_text_keys: false },
    Fixture { name: "laravel-acquaintances", page: "laravel", engines: BOTH, has_text_keys: false },
    Fixture { name: "has-friendship", page: "has-friendship", engines: BOTH, has_text_keys: false },
    Fixture { name: "amistad", page: "amistad", engines: BOTH, has_text_keys: false },
    Fixture { name: "nakama", page: "nakama", engines: &[Engine::Postgres], has_text_keys: false },
    Fixture { name: "openim", page: "openim", engines: &[Engine::Sqlite], has_text_keys: false },
    Fixture { name: "plain-sql", page: "plain-sql", engines: BOTH, has_text_keys: true },
];

/// The types of rows, as the files of a preset name them.
const TYPES: [&str; 4] = ["users", "connections", "requests", "blocks"];

/// The time of the imports, at which `expected.txt` is right.
const NOW: &str = "2026-06-01T00:00:00Z";

/// A clock that stands still. A program would take the time of PostgreSQL.
fn clock() -> Clock {
    let time = DateTime::parse_from_rfc3339(NOW).expect("a time").to_utc();
    Clock::from_fn(move || Reading { time, elapsed: Duration::ZERO })
}

/// Writes what the queries print into a folder. Returns the files as sources of an import.
fn files(source: &Source, folder: &Path) -> Vec<import::Source> {
    let kinds = Kind::ALL.into_iter().map(|kind| {
        let path = folder.join(format!("{}.csv", kind.plural()));
        fs::write(&path, source.output(&format!("{}.csv", kind.plural())).expect("a query")).expect("a file");
        import::Source { path, format: Format::Csv(kind) }
    });
    kinds.collect()
}

/// CSV as the files beside the fixtures have it: sorted, and dates without zeros at their end.
fn plain(csv: &str) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(csv.as_bytes());
    let record = |record: csv::StringRecord| record.iter().map(plain_time).collect();
    let mut rows: Vec<Vec<String>> = reader.records().map(|row| record(row.expect("valid CSV"))).collect();
    if let Some(rows) = rows.get_mut(1..) {
        rows.sort();
    }
    rows
}

/// The cell, without the zeros after the seconds of a date.
fn plain_time(cell: &str) -> String {
    let date = cell.strip_suffix("+00").and_then(|date| date.rsplit_once('.'));
    match date {
        Some((seconds, digits)) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
            let digits = digits.trim_end_matches('0');
            let dot = if digits.is_empty() { "" } else { "." };
            format!("{seconds}{dot}{digits}+00")
        }
        _ => cell.to_owned(),
    }
}

on_each_engine! {
    async fn the_queries_of_each_page_print_what_is_beside_its_fixture(engine: Engine) {
        for fixture in FIXTURES.iter().filter(|fixture| fixture.engines.contains(&engine)) {
            let source = Source::load(fixture, engine).await;
            for file in TYPES.map(|kind| format!("{kind}.csv")).iter().map(String::as_str).chain(["review.csv"]) {
                let printed = source.output(file).map(|csv| plain(&csv));
                let expected = fs::read_to_string(source::folder(fixture).join(file)).ok().map(|csv| plain(&csv));
                assert_eq!(printed, expected, "{}/{file}", fixture.name);
            }
        }
    }
}

on_each_engine! {
    async fn an_import_of_each_fixture_comes_to_what_its_expectation_says(engine: Engine) {
        for fixture in FIXTURES {
            // From the same engine where there is a choice.
            let from = fixture.engines.iter().copied().find(|from| *from == engine).unwrap_or(fixture.engines[0]);
            let source = Source::load(fixture, from).await;
            let folder = tempfile::tempdir().expect("a folder");
            let sources = files(&source, folder.path());
            // As its page says: amistad stores no dates.
            let pending_since = if fixture.page == "amistad" { PendingSince::Now } else { PendingSince::Keep };
            let expected = outcome::expected(&source::expectation(fixture));
            let database = Database::migrated(engine).await;
            let mut heads = Vec::new();
            for name in ["first", "again"] {
                let refused = folder.path().join(name);
                let options = Options {
                    sources: sources.clone(),
                    dry_run: false,
                    conflicts: Conflicts::Skip,
                    pending_since,
                    default_date: None,
                    create_missing_users: false,
                    events: None,
                    refused: Some(refused.clone()),
                    keep_ids: false,
                    policy: Policy::default(),
                };
                let report = import(&database.url(), options, &clock(), &Progress::default()).await.expect("an import");
                let exported = run(&["export", "--database-url", &database.url]).await;
                assert!(exported.status.success(), "{}", exported.log);
                let refused = fs::read_to_string(&refused).expect("refused rows");
                assert_eq!(outcome::found(&exported.output, &refused), expected, "{}, {name}: {report}", fixture.name);
                heads.push(database.number("SELECT last_sequence AS value FROM feed").await);
            }
            assert_eq!(heads[0], heads[1], "{}: the second import changed something", fixture.name);
            let checked = run(&["check", "--database-url", &database.url]).await;
            assert!(checked.status.success(), "{}: {}", fixture.name, checked.output);
        }
    }
}

/// A query that no fixture runs proves nothing, and neither does a page that nobody finds.
#[test]
fn each_page_of_the_guide_has_a_fixture_and_all_queries_for_its_engines() {
    let guide = Page::read("README");
    let linked: BTreeSet<_> = guide.links().into_iter().filter(|page| !Page::read(page).queries.is_empty()).collect();
    let tested: BTreeSet<_> = FIXTURES.iter().map(|fixture| fixture.page.to_owned()).collect();
    assert_eq!(linked, tested);
    for page in &tested {
        let queries = Page::read(page).queries;
        let engines: BTreeSet<_> = queries.iter().map(|query| query.engine.as_str()).collect();
        for engine in engines.iter().filter(|engine| **engine != "Any") {
            for kind in TYPES {
                let is_it = |query: &&page::Query| query.engine == *engine && query.file == format!("{kind}.csv");
                assert_eq!(queries.iter().filter(is_it).count(), 1, "{page}: {kind} for {engine}");
            }
        }
        let tested = FIXTURES.iter().filter(|fixture| fixture.page == page).flat_map(|fixture| fixture.engines);
        let tested: BTreeSet<_> = tested.map(|engine| page::name(*engine)).collect();
        let all = engines.into_iter().filter(|engine| !["Any", "MySQL"].contains(engine)).collect();
        assert_eq!(tested, all, "{page}");
    }
}
