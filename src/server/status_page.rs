//! The status page: what a person wants to know of a running server, as HTML.
//!
//! The numbers are those of the metrics. The page needs no script, and its policy allows none: the browser loads nothing
//! but the style sheet inside, which it knows by its hash. Everything is escaped by the templates.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use crate::config::ChangedSetting;
use crate::metrics::exposition::{Exposition, Sample};
use crate::metrics::numbers::{bytes, count, duration};

/// The time after which a browser loads the page again, in seconds.
const REFRESH: u32 = 10;
const STYLE: &str = include_str!("status.css");
/// The documents of this version.
const DOCUMENTS: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main");

/// What a browser may do with the page: apply its style sheet, and nothing else.
pub(super) static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    // It is ASCII. Without a style sheet, the page can still be read.
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// A row of a table.
struct Row {
    name: String,
    value: String,
    class: &'static str,
}

fn row(name: &str, value: impl Into<String>) -> Row {
    Row { name: name.to_owned(), value: value.into(), class: "" }
}

/// Writes the page. `unix_time` is the time in seconds.
pub(super) fn page(metrics: &Exposition, settings: &[ChangedSetting], unix_time: f64) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let (state, class) = state(metrics);
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="refresh" content=(REFRESH);
                title { "Kith: " (state) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Kith " small { (version) } " " span class=(class) { (state) } }
                (table("Server", &server(metrics, unix_time)))
                (table("Health", &health(metrics)))
                (table("Database", &database(metrics)))
                (table("Feed", &feed(metrics)))
                (table("Data", &data(metrics)))
                (settings_table(settings))
                h2 { "More" }
                p {
                    a href="metrics" { "Metrics" } " · "
                    a href={ (DOCUMENTS) "/docs/operations.md" } rel="noreferrer" { "Operations" } " · "
                    a href={ (DOCUMENTS) "/README.md" } rel="noreferrer" { "Documentation" } " · "
                    span class="quiet" { "On a terminal: " code { "kith top" } }
                }
            }
        }
    };
    markup.into_string()
}

/// A table with a heading; nothing without rows.
fn table(heading: &str, rows: &[Row]) -> Markup {
    html! {
        @if !rows.is_empty() {
            h2 { (heading) }
            table {
                @for Row { name, value, class } in rows {
                    tr { th scope="row" { (name) } td class=[Some(class).filter(|class| !class.is_empty())] { (value) } }
                }
            }
        }
    }
}

fn settings_table(settings: &[ChangedSetting]) -> Markup {
    html! {
        h2 { "Settings that differ from their defaults" }
        @if settings.is_empty() { p class="quiet" { "None." } }
        table {
            @for ChangedSetting { name, value, source } in settings {
                tr { th scope="row" { code { (name) } } td { code { (value) } } td class="quiet" { (source) } }
            }
        }
    }
}

/// Whether the server has not opened its database yet.
fn is_starting(metrics: &Exposition) -> bool {
    metrics.samples("kith_database_info").is_empty()
}

/// The state of all services in a word, with its class.
fn state(metrics: &Exposition) -> (&'static str, &'static str) {
    let services = metrics.samples("kith_health");
    if is_starting(metrics) {
        ("starting", "quiet")
    } else if services.iter().all(|service| service.value > 0.0) {
        ("serving", "good")
    } else {
        ("NOT SERVING", "bad")
    }
}

fn server(metrics: &Exposition, unix_time: f64) -> Vec<Row> {
    let revision = metrics.samples("kith_build_info").first().map(|build| build.label("revision").to_owned());
    let revision = revision.filter(|revision| !revision.is_empty());
    let number = |name: &str| metrics.value(name);
    let of_limit = |used: &str, limit: &str| {
        let limit = number(limit).map(|limit| format!(" of {}", count(limit))).unwrap_or_default();
        number(used).map(|used| count(used) + &limit)
    };
    let up = number("process_start_time_seconds").map(|start| duration(unix_time - start));
    let rows = [
        ("Build", revision),
        ("Up for", up),
        ("Connections of clients", of_limit("kith_client_connections", "kith_client_connections_max")),
        ("Calls in flight", number("kith_calls_in_flight").map(count)),
        ("Memory", number("process_resident_memory_bytes").map(bytes)),
        ("Open files", of_limit("process_open_fds", "process_max_fds")),
    ];
    rows.into_iter().filter_map(|(name, value)| Some(row(name, value?))).collect()
}

fn health(metrics: &Exposition) -> Vec<Row> {
    let service = |sample: &Sample| {
        let (value, class) = if sample.value > 0.0 { ("SERVING", "good") } else { ("NOT_SERVING", "bad") };
        Row { class, ..row(sample.label("service"), value) }
    };
    metrics.samples("kith_health").iter().map(service).collect()
}

fn database(metrics: &Exposition) -> Vec<Row> {
    let mut rows = Vec::new();
    let info = metrics.samples("kith_database_info").first();
    rows.extend(info.map(|info| row("Engine", format!("{} {}", info.label("engine"), info.label("version")))));
    let (value, class) = match metrics.value("kith_database_up") {
        _ if is_starting(metrics) => ("not opened yet", "quiet"),
        Some(up) if up > 0.0 && metrics.value("kith_database_writable") == Some(0.0) => ("up, but commits fail", "bad"),
        Some(up) if up > 0.0 => ("up", "good"),
        Some(_) | None => ("DOWN", "bad"),
    };
    rows.push(Row { class, ..row("State", value) });
    let mut pools: Vec<&str> = Vec::new();
    let connections = metrics.samples("kith_database_connections");
    for pool in connections.iter().map(|sample| sample.label("pool")) {
        if !pools.contains(&pool) {
            pools.push(pool);
        }
    }
    let of = |name: &str, pool: &str, state: &str| -> f64 {
        let is_of = |sample: &&Sample| sample.label("pool") == pool && sample.label("state") == state;
        metrics.samples(name).iter().filter(is_of).map(|sample| sample.value).sum()
    };
    for pool in pools {
        let busy = count(of("kith_database_connections", pool, "busy"));
        let max = count(of("kith_database_connections_max", pool, ""));
        let waiting = count(of("kith_database_waiting", pool, ""));
        rows.push(row(&format!("Connections: {pool}"), format!("{busy} of {max} busy, {waiting} calls wait")));
    }
    rows.extend(metrics.value("kith_sqlite_wal_bytes").map(|size| row("Log of SQLite", bytes(size))));
    rows
}

fn feed(metrics: &Exposition) -> Vec<Row> {
    let rows = [
        ("Revision", "kith_feed_revision"),
        ("Watchers", "kith_feed_watchers"),
        ("Events that the slowest watcher lags behind", "kith_feed_lag_events"),
    ];
    rows.into_iter().filter_map(|(name, metric)| Some(row(name, count(metrics.value(metric)?)))).collect()
}

fn data(metrics: &Exposition) -> Vec<Row> {
    let users = metrics.value("kith_users").map(|users| row("Users", count(users)));
    let requests = metrics.samples("kith_requests").iter();
    let requests = requests.map(|sample| row(&format!("Requests: {}", sample.label("state")), count(sample.value)));
    users.into_iter().chain(requests).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(lines: &str) -> Exposition {
        Exposition::parse(&format!("{lines}\n# EOF\n")).unwrap()
    }

    #[test]
    fn the_state_is_that_of_all_services() {
        for (metrics, expected) in [
            ("kith_health{service=\"a\"} 1\nkith_health{service=\"b\"} 1", "serving"),
            ("kith_health{service=\"a\"} 1\nkith_health{service=\"b\"} 0", "NOT SERVING"),
        ] {
            assert_eq!(state(&parsed(metrics)).0, "starting");
            let opened = format!("kith_database_info{{engine=\"sqlite\"}} 1\n{metrics}");
            assert_eq!(state(&parsed(&opened)).0, expected);
        }
    }

    #[test]
    fn a_page_has_what_is_known() {
        let metrics = parsed(
            "kith_build_info{version=\"9\",revision=\"abc\"} 1\nprocess_start_time_seconds 1000\n\
             kith_client_connections 3\nkith_client_connections_max 16384\nkith_database_up 0\n\
             kith_database_info{engine=\"sqlite\",version=\"3.50\"} 1\nkith_health{service=\"kith.v1.UserService\"} 0\n\
             kith_database_connections{pool=\"lists\",state=\"busy\"} 2\nkith_database_connections_max{pool=\"lists\"} 4\n\
             kith_feed_revision 1234567\nkith_feed_watchers 5\nkith_requests{state=\"pending\"} 8\nkith_users 9",
        );
        let page = page(&metrics, &[], 1_000.0 + 90_061.0);
        for expected in [
            "<title>Kith: NOT SERVING</title>",
            "<th scope=\"row\">Up for</th><td>1d 1h</td>",
            "<th scope=\"row\">Connections of clients</th><td>3 of 16,384</td>",
            "<th scope=\"row\">kith.v1.UserService</th><td class=\"bad\">NOT_SERVING</td>",
            "<th scope=\"row\">Engine</th><td>sqlite 3.50</td>",
            "<th scope=\"row\">State</th><td class=\"bad\">DOWN</td>",
            "<th scope=\"row\">Connections: lists</th><td>2 of 4 busy, 0 calls wait</td>",
            "<th scope=\"row\">Revision</th><td>1,234,567</td>",
            "<th scope=\"row\">Requests: pending</th><td>8</td>",
            "<a href=\"metrics\">",
            "/docs/operations.md\"",
            "<p class=\"quiet\">None.</p>",
        ] {
            assert!(page.contains(expected), "no {expected} in {page}");
        }
        let words = "kith_database_info{engine=\"sqlite\"} 1\nkith_database_up 1\nkith_database_writable 0";
        assert!(self::page(&parsed(words), &[], 0.0).contains("<td class=\"bad\">up, but commits fail</td>"));
        // While the database is not there yet.
        let early = self::page(&Exposition::default(), &[], 0.0);
        assert!(early.contains("starting") && early.contains("not opened yet"), "{early}");
    }

    #[test]
    fn everything_is_escaped() {
        let hostile = "<script>\"'&";
        let setting =
            ChangedSetting { name: hostile.to_owned(), value: hostile.to_owned(), source: hostile.to_owned() };
        let page = page(&parsed("kith_health{service=\"<script>\"} 1"), &[setting], 0.0);
        assert!(!page.contains("<script") && page.matches("&lt;script&gt;").count() == 4, "{page}");
        assert!(page.contains("&lt;script&gt;&quot;'&amp;"), "{page}");
    }

    #[test]
    fn the_style_sheet_is_the_one_that_the_policy_allows() {
        let page = page(&Exposition::default(), &[], 0.0);
        let (_, rest) = page.split_once("<style>").unwrap();
        let (style, rest) = rest.split_once("</style>").unwrap();
        let hash = STANDARD.encode(Sha256::digest(style));
        let policy = POLICY.to_str().unwrap();
        assert!(policy.contains(&format!("'sha256-{hash}'")), "{policy}");
        // No other style is allowed.
        assert!(!rest.contains("style"), "{rest}");
    }
}
