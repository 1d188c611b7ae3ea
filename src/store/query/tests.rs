//! How SQLite would find the rows of each query.

use diesel::debug_query;
use diesel::query_builder::QueryFragment;
use diesel::sql_types::Text;
use diesel::sqlite::Sqlite;

use super::*;
use crate::domain::Time;
use crate::domain::id::UserId;
use crate::domain::policy::Policy;
use crate::domain::view::HiddenKinds;
use crate::store::migration::{Pending, migrate};
use crate::store::{feed, forget, pair};

/// How SQLite would find the rows.
#[expect(clippy::disallowed_methods, reason = "asked once each")]
fn plan(conn: &mut SqliteConnection, query: &impl QueryFragment<Sqlite>) -> Vec<String> {
    #[derive(QueryableByName)]
    struct Step {
        #[diesel(sql_type = Text)]
        detail: String,
    }
    let shown = debug_query::<Sqlite, _>(query).to_string();
    let sql = shown.split(" -- binds").next().expect("a text");
    let steps = diesel::sql_query(format!("EXPLAIN QUERY PLAN {sql}")).load::<Step>(conn);
    steps.unwrap_or_else(|error| panic!("{sql}: {error}")).into_iter().map(|step| step.detail).collect()
}

/// The plans do not depend on the rows: nothing runs ANALYZE. PostgreSQL's are a test in `tests/it/plans.rs`.
#[test]
fn sqlite_finds_the_rows_of_every_query_by_an_index() {
    let mut conn = SqliteConnection::establish(":memory:").expect("a database");
    migrate(&mut conn, Pending::Apply, &Default::default()).expect("a migration");
    let now = Stamp(Time::UNIX_EPOCH);
    let hidden = HiddenKinds::of(&Policy::default());
    let mut plans = 0;
    macro_rules! check {
        ($($query:expr => $index:literal),+ $(,)?) => {$(
            let steps = plan(&mut conn, &$query);
            let text = format!("{}: {steps:#?}", stringify!($query));
            assert!(steps.iter().any(|step| step.contains($index)), "no {} in {text}", $index);
            for step in &steps {
                // A scan in the order of an index ends with its first rows, and so does one of events, which lie
                // in the order of the feed; one of a page is of the page.
                let scan = step.strip_prefix("SCAN ").filter(|rest| !rest.contains("USING INDEX"));
                let page = [
                    "asked", "was_asked", "connections", "due", "events", "oldest", "stretches", "found",
                    "in_order", "exceptions", "sent", "received", "CONSTANT ROW", "pair",
                    "mine", "next", "epochs",
                ];
                assert!(scan.is_none_or(|table| page.contains(&table)), "{text}");
            }
            // Nothing is sorted but the two pages of which one is made, and that one.
            let sorts = steps.iter().filter(|step| step.contains("TEMP B-TREE")).count();
            let pages = [("was_asked", 2), ("stretches", 3), ("mine", 1)].into_iter().find(|(page, _)| text.contains(page));
            assert!(sorts <= pages.map_or(0, |(_, sorts)| sorts), "{text}");
            plans += 1;
        )+};
    }
    check! {
        head() => "feed USING INTEGER PRIMARY KEY",
        mark() => "feed USING INTEGER PRIMARY KEY",
        // All of them, of which there are few.
        history() => "epochs",
        user(1) => "users USING INTEGER PRIMARY KEY",
        user_by_name(String::new()) => "(username_key=?)",
        user_by_external_id(String::new()) => "(external_id=?)",
        user_position(1) => "users USING INTEGER PRIMARY KEY",
        user_ids_in(1, 2) => "users USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)",
        users_page(1, 1) => "(position<?)",
        counts(1) => "user_counts USING INTEGER PRIMARY KEY",
        request(1) => "connection_requests USING INTEGER PRIMARY KEY (rowid=?)",
        request_of_pair(1, 2) => "sqlite_autoindex_connection_requests_1 (low_user_id=? AND high_user_id=?)",
        requests_received(1, "PENDING", now, 1, 1) => "connection_requests_received (to_user_id=? AND state=? AND position<?)",
        requests_unviewed(1, "PENDING", now, 1, 1) => "connection_requests_received (to_user_id=? AND state=? AND position<?)",
        requests_sent(1, now, 1, 1) => "connection_requests_sent (from_user_id=? AND id<?)",
        requests_sent_and(1, true, now, 1, 1) => "connection_requests_sent (from_user_id=? AND id<?)",
        oldest_sent(1, 1) => "connection_requests_sent (from_user_id=?)",
        all_sent_open(1) => "connection_requests_sent (from_user_id=?)",
        all_sent_connected(1) => "connection_requests_connected (from_user_id=?)",
        all_received(1) => "connection_requests_received (to_user_id=?)",
        next_open(1) => "connection_requests USING INTEGER PRIMARY KEY (rowid>?)",
        expired_out_of_order(now, 1) => "connection_requests_out_of_order (created<?)",
        oldest_open() => "connection_requests USING INTEGER PRIMARY KEY (rowid>?)",
        oldest_open() => "connection_requests USING INDEX connection_requests_out_of_order",
        counts_without_expired_requests(1, now) => "connection_requests_sent (from_user_id=?)",
        counts_without_expired_requests(1, now) => "connection_requests_received (to_user_id=? AND state=?)",
        member(1) => "users USING INTEGER PRIMARY KEY",
        member_by_name(String::new()) => "(username_key=?)",
        member_by_external_id(String::new()) => "(external_id=?)",
        connections_page(1, Mutual::Any, 1, 1) => "COVERING INDEX connection_requests_connected (from_user_id=? AND position<?)",
        connections_page(1, Mutual::Any, 1, 1) => "COVERING INDEX connection_requests_received (to_user_id=? AND state=? AND position<?)",
        connections_page(1, Mutual::With(UserId::new(2)), 1, 1) => "sqlite_autoindex_connection_requests_1 (low_user_id=? AND high_user_id=?)",
        connections_page(1, Mutual::Without(UserId::new(2)), 1, 1) => "connection_requests_connected (from_user_id=? AND position<?)",
        connections_shared_total(1, 2) => "sqlite_autoindex_connection_requests_1 (low_user_id=? AND high_user_id=?)",
        pair::by_key(1, 2) => "sqlite_autoindex_connection_requests_1 (low_user_id=? AND high_user_id=?)",
        pair::by_key(1, 2) => "high_block USING PRIMARY KEY (user_id=? AND other_user_id=?)",
        pair::by_key(1, 2) => "high_cooldown USING PRIMARY KEY (from_user_id=? AND to_user_id=?)",
        pair::by_key(1, 2) => "high_ended USING PRIMARY KEY (from_user_id=? AND to_user_id=?)",
        pair::by_request(1) => "connection_requests USING INTEGER PRIMARY KEY",
        pair::sides_of(1) => "blocks USING PRIMARY KEY (user_id=?)",
        pair::sides_of(1) => "blocks_other (other_user_id=?)",
        pair::sides_of(1) => "cooldowns USING PRIMARY KEY (from_user_id=?)",
        pair::sides_of(1) => "cooldowns_to (to_user_id=?)",
        pair::sides_of(1) => "ended_requests USING PRIMARY KEY (from_user_id=?)",
        pair::sides_of(1) => "ended_requests_to (to_user_id=?)",
        pair::ended(1, 2) => "ended_requests USING PRIMARY KEY (from_user_id=? AND to_user_id=?)",
        block(1, 2) => "PRIMARY KEY (user_id=? AND other_user_id=?)",
        blocks_of(1, 1, 1) => "blocks_other (other_user_id=? AND user_id>?)",
        cooldowns_from(1, 1, 1) => "PRIMARY KEY (from_user_id=? AND to_user_id>?)",
        cooldowns_to(1, 1, 1) => "cooldowns_to (to_user_id=? AND from_user_id>?)",
        ended_from(1, 1, 1) => "PRIMARY KEY (from_user_id=? AND to_user_id>?)",
        ended_to(1, 1, 1) => "ended_requests_to (to_user_id=? AND from_user_id>?)",
        responses_of(1, String::new(), String::new(), 1) => "request_ids_user (user_id=?)",
        responses_of(1, String::new(), String::new(), 1) => "request_ids_other (other_user_id=?)",
        requests_sent_connected(1, 1, 1) => "connection_requests_connected (from_user_id=? AND position<?)",
        blocks_page(1, 1, 1) => "blocks_list (user_id=? AND position<?)",
        idempotent_response(String::new(), String::new()) => "PRIMARY KEY (caller=? AND id=?)",
        feed::all_after(1, 1) => "events USING INTEGER PRIMARY KEY (rowid>?)",
        feed::oldest() => "events",
        feed::users_changed(1, 1) => "events USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)",
        feed::of_user_in((1, 2), (1, None), 1, 1) => "events_user (stretch=? AND user_id=? AND sequence>? AND sequence<?)",
        feed::of_user_in((1, 2), (1, None), 1, 1) => "events_other (stretch=? AND other_user_id=? AND sequence>? AND sequence<?)",
        feed::of_user_in((1, 2), (1, Some(&hidden)), 1, 1) => "events_user (stretch=? AND user_id=? AND sequence>? AND sequence<?)",
        feed::of_user_in((1, 2), (1, Some(&hidden)), 1, 1) => "events_other (stretch=? AND other_user_id=? AND sequence>? AND sequence<?)",
        expired_events(now, now) => "events",
        forget::next_deletion(now) => "events USING INTEGER PRIMARY KEY (rowid>?)",
        cooled(now) => "cooldowns_since (since<?)",
        cooled(now) => "ended_requests_since (since<?)",
        expired_responses(now) => "request_ids_created (created<?)",
    }
    assert_eq!(plans, 69);
}

/// `.cargo/config.toml` says why each matters.
#[test]
#[expect(clippy::disallowed_methods, reason = "asked once")]
fn sqlite_is_compiled_as_it_is_meant_to_be() {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        compile_options: String,
    }
    let mut conn = SqliteConnection::establish(":memory:").expect("a database");
    let rows: Vec<Row> = diesel::sql_query("PRAGMA compile_options").load(&mut conn).expect("options");
    let options: Vec<_> = rows.iter().map(|row| row.compile_options.as_str()).collect();
    for (option, wanted) in [
        ("ENABLE_QPSG", true),
        ("DEFAULT_MEMSTATUS=0", true),
        ("ENABLE_MEMORY_MANAGEMENT", false),
        ("ENABLE_FTS5", false),
    ] {
        assert_eq!(options.contains(&option), wanted, "{option} in {options:?}");
    }
}
