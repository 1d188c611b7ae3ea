//! Does every statement find its rows by an index, in a database of a million requests?
//!
//! PostgreSQL's own counters show it: sequential scans, and rows read, while every RPC is called more often than it
//! takes to settle on a generic plan. A test in `src/store/` checks SQLite's plans of the same queries, which do not
//! depend on the rows.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use kith::proto::v1 as pb;
use kith::store::Options;

use crate::harness::watching::from;
use crate::harness::{App, Database, Engine, database, until};

/// More than the five executions after which PostgreSQL considers a generic plan.
const TIMES: i64 = 8;
/// A user with 30,000 connections.
const POPULAR: i64 = 1;
/// A user to whom 5,000 requests are pending.
const ASKED: i64 = 100_000;
/// A user who blocks 5,000.
const WARY: i64 = 50;
const NOBODY: i64 = 99_000;

/// 100,000 users; about a million requests, of which eight in ten are connections.
const SEED: &str = "
    SET synchronous_commit = off; SET maintenance_work_mem = '128MB';
    CREATE TEMP TABLE later AS SELECT indexname, indexdef FROM pg_indexes
        WHERE tablename = 'connection_requests' AND indexname LIKE 'connection_requests_%'
        AND indexname NOT LIKE '%_key' AND indexname NOT LIKE '%_pkey';
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT indexname FROM later LOOP EXECUTE 'DROP INDEX ' || name; END LOOP;
    END $$;
    INSERT INTO users (id, position, username, username_key, real_name, email, email_isvalid, date_joined, bio, location, birthday,
                       description, gender, status, website, avatar, cover, changed)
    SELECT id, id, 'user-' || id, 'user-' || id, '', '', false, to_timestamp(1700000000), '', '', '', '', 'UNSPECIFIED', 'APPROVED',
           '', '', '', id FROM generate_series(1, 100000) AS id;
    INSERT INTO connection_requests (low_user_id, high_user_id, id, from_user_id, to_user_id, state, position, message,
                                     created, viewed, rejected, accepted)
    SELECT low, high, id, CASE WHEN id % 2 = 0 THEN low ELSE high END, CASE WHEN id % 2 = 0 THEN high ELSE low END,
           state, id, '', created, CASE WHEN id % 3 = 0 THEN created END,
           CASE WHEN state = 'REJECTED' THEN created END,
           CASE WHEN state = 'CONNECTED' THEN created END
    FROM (
        SELECT low, low + step AS high, id, to_timestamp(1779000000 + id / 10) AS created,
               CASE id / 2 % 20 WHEN 0 THEN 'PENDING' WHEN 1 THEN 'PENDING' WHEN 2 THEN 'REJECTED'
                                WHEN 3 THEN 'SILENCED' ELSE 'CONNECTED' END AS state
        FROM (
            SELECT low, step, 100000 + (low - 1) * 11 + place AS id FROM generate_series(1, 100000) AS low,
                 unnest(ARRAY[1, 7, 31, 101, 503, 1009, 3001, 7001, 15013, 33013, 60013])
                     WITH ORDINALITY AS steps (step, place)
        ) AS pairs WHERE low + step < 99000 AND NOT (low = 1 AND low + step <= 30001)
    ) AS requests;
    INSERT INTO connection_requests (low_user_id, high_user_id, id, from_user_id, to_user_id, state, position, message,
                                     created, accepted)
    SELECT 1, other, 1300000 + other, CASE WHEN other % 2 = 0 THEN 1 ELSE other END,
           CASE WHEN other % 2 = 0 THEN other ELSE 1 END, 'CONNECTED', 1300000 + other, '',
           to_timestamp(1779130000), to_timestamp(1779130000) FROM generate_series(2, 30001) AS other;
    INSERT INTO connection_requests (low_user_id, high_user_id, id, from_user_id, to_user_id, state, position, message,
                                     created)
    SELECT sender, 100000, 1400000 + sender, sender, 100000, 'PENDING', 1400000 + sender, '', to_timestamp(1779140000)
    FROM generate_series(20001, 25000) AS sender;
    INSERT INTO blocks SELECT blocker, blocker + 2, to_timestamp(1779150000), 1500000 + blocker
    FROM generate_series(100, 90000) AS blocker;
    INSERT INTO blocks SELECT 50, 60000 + other, to_timestamp(1779160000), 1600000 + other
    FROM generate_series(1, 5000) AS other;
    INSERT INTO cooldowns SELECT sender, sender % 5000 + 90000, to_timestamp(1779150000 + sender)
    FROM generate_series(1, 80000) AS sender;
    INSERT INTO events (sequence, stretch, time, batch_id, kind, actor, user_id, other_user_id, silenced, principal)
    SELECT 1900000 + place, (1900000 + place) / 4096, to_timestamp(1779000000), place, 'USER_BLOCKED', 'OPERATOR', place, place % 5000 + 1, false, 'SERVICE'
    FROM generate_series(1, 100000) AS place;
    INSERT INTO request_ids SELECT 'operator', '00000000-0000-4000-8000-' || lpad(id::text, 12, '0'), '', '',
        to_timestamp(1779999000), '' FROM generate_series(1, 50000) AS id;
    INSERT INTO user_counts (user_id, requests_sent, requests_received, requests_unviewed, connections)
    SELECT id, coalesce(sum(sent), 0), coalesce(sum(received), 0), coalesce(sum(unviewed), 0),
           coalesce(sum(connected), 0)
    FROM users LEFT JOIN (
        SELECT from_user_id AS user_id, (state IN ('PENDING', 'REJECTED'))::int AS sent, 0 AS received, 0 AS unviewed,
               (state = 'CONNECTED')::int AS connected FROM connection_requests
        UNION ALL SELECT to_user_id, 0, (state = 'PENDING')::int, (state = 'PENDING' AND viewed IS NULL)::int,
               (state = 'CONNECTED')::int FROM connection_requests
    ) AS sides ON sides.user_id = id GROUP BY id;
    UPDATE feed SET last_sequence = 2000000, last_time = to_timestamp(1779990000);
    DO $$ DECLARE definition text; BEGIN
        FOR definition IN SELECT indexdef FROM later LOOP EXECUTE definition; END LOOP;
    END $$;
    ANALYZE;
";

/// Rows that were read.
#[derive(Clone, Copy)]
struct Read {
    requests: i64,
    events: i64,
}

/// PostgreSQL's counters: sequential scans by table, and rows that were read.
async fn counters(url: &str) -> (Vec<(String, i64)>, Read) {
    let client = database::connect(url).await;
    // A connection reports its counters when it ends, if not before.
    let left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let deadline = Instant::now() + Duration::from_secs(30);
    while client.query_one(left, &[]).await.expect("a row").get::<_, i64>(0) > 0 {
        assert!(Instant::now() < deadline, "the connections of the service, or of the seed, do not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let scans = "SELECT relname::text, seq_scan FROM pg_stat_user_tables \
                 WHERE relname IN ('users', 'connection_requests', 'blocks', 'events', 'user_counts', 'request_ids') \
                 ORDER BY 1";
    let scans = client.query(scans, &[]).await.expect("rows");
    let read = async |table: &str| {
        let read = "SELECT (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = $1)::int8 \
                    + (SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = $1)";
        client.query_one(read, &[&table]).await.expect("a row").get(0)
    };
    let read = Read { requests: read("connection_requests").await, events: read("events").await };
    (scans.iter().map(|row| (row.get(0), row.get(1))).collect(), read)
}

/// Makes calls through a separate service. Fails if a table was scanned. Returns the numbers of rows that were read.
async fn scans_nothing(what: &str, url: &str, calls: impl AsyncFnOnce(&App)) -> Read {
    let (scans, read) = counters(url).await;
    assert_eq!(scans.len(), 6);
    let options = Options { readers: 2, migrate: false, ..Options::default() };
    let app = App::at(Database::at(url, Engine::Postgres), url, options, |settings| {
        (settings.policy.max_sends_per_hour, settings.policy.max_sends_per_pair) = (None, None);
        settings.policy.forget_after = Some(TimeDelta::hours(2));
        settings.sweep_interval = Duration::from_millis(20);
    })
    .await;
    let begun = Instant::now();
    calls(&app).await;
    let took = begun.elapsed();
    drop(app);
    let (now, read_now) = counters(url).await;
    let read = Read { requests: read_now.requests - read.requests, events: read_now.events - read.events };
    println!("{what}: {} rows of requests and {} events looked at in {took:?}", read.requests, read.events);
    assert_eq!(scans, now, "{what} scanned a table");
    read
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_statement_finds_its_rows_by_an_index() {
    let database = Database::migrated(Engine::Postgres).await;
    let begun = Instant::now();
    database.execute(SEED).await;
    let rows = database.number("SELECT count(*) AS value FROM connection_requests").await;
    println!("{rows} requests seeded in {:?}", begun.elapsed());
    assert!(rows > 900_000, "{rows}");
    let url = database.url.as_str();

    let read = scans_nothing("lists of connections", url, async |app| {
        for _ in 0..TIMES {
            let list = pb::ListConnectionsRequest { user_id: POPULAR, ..Default::default() };
            let first = app.connections().list_connections(list.clone()).await.unwrap().into_inner();
            assert_eq!(first.connections.len(), 20);
            let next = pb::ListConnectionsRequest { page_token: first.next_page_token, ..list };
            let next = app.connections().list_connections(next).await.unwrap().into_inner();
            assert_eq!(next.connections.len(), 20);
            let ordinary = pb::ListConnectionsRequest { user_id: 40_000, ..Default::default() };
            assert!(!app.connections().list_connections(ordinary).await.unwrap().into_inner().connections.is_empty());
        }
    })
    .await;
    // 60 rows a round, not the 30,000 of the popular user.
    assert!(read.requests < TIMES * 200, "{} rows were looked at", read.requests);

    let read = scans_nothing("lists of requests and blocks", url, async |app| lists(app).await).await;
    assert!(read.requests < TIMES * 1_000, "{} rows were looked at", read.requests);
    let read = scans_nothing("look-ups", url, async |app| look_ups(app).await).await;
    assert!(read.requests < TIMES * 2_000, "{} rows were looked at", read.requests);
    // These read all connections of the user by index, and the other end of each by its key.
    scans_nothing("lists with a viewer", url, async |app| lists_with_a_viewer(app).await).await;

    let read = scans_nothing("exports", url, async |app| {
        for _ in 0..TIMES {
            for id in [40_000, WARY, NOBODY] {
                exported(app, id).await;
            }
        }
        let begun = Instant::now();
        let messages = exported(app, POPULAR).await;
        println!("an export with 30,000 connections: {messages} messages in {:?}", begun.elapsed());
        assert!(messages > 30_000);
    })
    .await;
    // Each connection once, and the other rows of the pages.
    assert!(read.requests < 70_000, "{} rows were looked at", read.requests);

    let read = scans_nothing("changes of pairs", url, async |app| changes(app).await).await;
    assert!(read.requests < TIMES * 1_000, "{} rows were looked at", read.requests);
    scans_nothing("all viewed", url, async |app| {
        let request = pb::MarkAllConnectionRequestsViewedRequest { user_id: ASKED, request_id: String::new() };
        let marked = app.requests().mark_all_connection_requests_viewed(request).await.unwrap().into_inner().marked;
        assert_eq!(marked, 5_000);
    })
    .await;
    let read = scans_nothing("deletions of users", url, async |app| {
        for id in 45_000..45_000 + TIMES {
            let request = pb::DeleteUserRequest { id, request_id: String::new() };
            app.users().delete_user(request).await.unwrap();
        }
    })
    .await;
    assert!(read.requests < TIMES * 1_000, "{} rows were looked at", read.requests);
    scans_nothing("the feed", url, async |app| feed(app).await).await;
    scans_nothing("the deletion of a popular user", url, async |app| {
        let request = pb::DeleteUserRequest { id: POPULAR, request_id: String::new() };
        app.users().delete_user(request).await.unwrap();
    })
    .await;
    let read = scans_nothing("the forgetting of deleted users", url, async |app| {
        let last = app.revision().await;
        // As below: the server has seen the clock before it shows a later time.
        for _ in 0..2 {
            app.block(NOBODY, NOBODY + 1).await;
            app.unblock(NOBODY, NOBODY + 1).await;
            app.clock.advance(TimeDelta::hours(2));
        }
        until("the last deletion is forgotten", async || {
            app.database.number("SELECT forgotten AS value FROM feed").await >= last
        })
        .await;
        let erased = "SELECT count(*) AS value FROM events WHERE user_id = 0 OR other_user_id = 0";
        assert!(app.database.number(erased).await > TIMES * 2);
    })
    .await;
    // The search for the deletions looks at each event once; that for the events of a user, at theirs.
    assert!(read.events < 150_000, "{} events were looked at", read.events);
    scans_nothing("what is due", url, async |app| {
        // The server has seen the clock before it shows a later time. Otherwise it may be wrong, and the sweep waits.
        app.send(NOBODY, NOBODY + 999).await;
        let before = app.revision().await;
        app.clock.advance(TimeDelta::days(200));
        for user in 0..TIMES {
            assert_eq!(app.counts(ASKED).await[1], 0);
            app.counts(40_000 + user).await;
            app.send(NOBODY + user, NOBODY + 500 + user).await;
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        let old = "SELECT count(*) AS value FROM events WHERE sequence = 2000000";
        while app.revision().await < before + 500 * TIMES || app.database.number(old).await > 0 {
            assert!(Instant::now() < deadline, "the sweep does not go on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

async fn lists(app: &App) {
    use pb::ConnectionRequestDirection::{Received, Sent};
    use pb::ConnectionRequestState::{Pending, Rejected};
    for _ in 0..TIMES {
        for (user_id, direction, state, unviewed_only) in [
            (ASKED, Received, Pending, false),
            (ASKED, Received, Pending, true),
            (40_000, Received, Rejected, false),
            (20_001, Sent, Pending, false),
        ] {
            let request = pb::ListConnectionRequestsRequest {
                user_id,
                direction: direction.into(),
                state: state.into(),
                unviewed_only,
                ..Default::default()
            };
            let page = app.requests().list_connection_requests(request.clone()).await.unwrap().into_inner();
            if user_id == ASKED {
                assert_eq!(page.connection_requests.len(), 20);
                let next = pb::ListConnectionRequestsRequest { page_token: page.next_page_token, ..request };
                app.requests().list_connection_requests(next).await.unwrap();
            }
        }
        let blocked = pb::ListBlockedUsersRequest { user_id: WARY, ..Default::default() };
        assert_eq!(app.blocks().list_blocked_users(blocked).await.unwrap().into_inner().blocks.len(), 20);
        let users = pb::ListUsersRequest::default();
        let page = app.users().list_users(users).await.unwrap().into_inner();
        let next = pb::ListUsersRequest { page_token: page.next_page_token, ..Default::default() };
        assert_eq!(app.users().list_users(next).await.unwrap().into_inner().users.len(), 20);
    }
}

/// Reads an export to its end. Returns the number of its messages.
async fn exported(app: &App, id: i64) -> usize {
    let request = pb::ExportUserRequest { id, ..Default::default() };
    let mut stream = app.users().export_user(request).await.unwrap().into_inner();
    let mut messages = 0;
    while stream.message().await.unwrap().is_some() {
        messages += 1;
    }
    messages
}

async fn feed(app: &App) {
    let end = app.revision().await;
    for round in 0..TIMES {
        let all = pb::ListEventsRequest { page_size: 1_000, ..Default::default() };
        for (request, found) in [
            (pb::ListEventsRequest { after_sequence: end - 1_000, ..all.clone() }, 1_000),
            // 20 times as the other user, and once as the first.
            (pb::ListEventsRequest { user_ids: vec![700 + round], ..all.clone() }, 21),
            (pb::ListEventsRequest { viewer_user_id: 700 + round, ..all.clone() }, 1),
            (pb::ListEventsRequest { user_id: 700, other_user_id: 701, ..all }, 1),
        ] {
            let page = app.events().list_events(request.clone()).await.unwrap().into_inner();
            assert_eq!(page.events.len(), found, "{request:?}");
        }
        let of_one = pb::WatchEventsRequest { viewer_user_id: 900 + round, ..from(0, 1_000) };
        app.watch(of_one).await.until(end).await;
        assert_eq!(app.watch(from(end - 2_000, 1_000)).await.until(end).await.len(), 2_000);
    }
}

async fn look_ups(app: &App) {
    for round in 0..TIMES {
        for key in [pb::get_user_request::Key::Id(500), pb::get_user_request::Key::Username("User-700".to_owned())] {
            app.users().get_user(pb::GetUserRequest { key: Some(key), ..Default::default() }).await.unwrap();
        }
        let ids = (1..=100).map(|place| place * 997 + round).collect();
        app.users().batch_get_users(pb::BatchGetUsersRequest { ids, ..Default::default() }).await.unwrap();
        app.request(1_400_000 + 20_001, 0).await.unwrap();
        app.status(POPULAR, 500).await;
        app.status(500, POPULAR).await;
        let other_user_ids = (1..=100).map(|place| place * 997 + round).collect();
        let statuses = pb::BatchGetConnectionStatusesRequest { user_id: 40_000, other_user_ids, ..Default::default() };
        app.connections().batch_get_connection_statuses(statuses).await.unwrap();
        assert_eq!(app.counts(ASKED).await[1], 5_000);
    }
}

async fn lists_with_a_viewer(app: &App) {
    for _ in 0..TIMES {
        for (user_id, viewer_user_id) in [(40_000, POPULAR), (POPULAR, 40_000), (25_000, 25_001)] {
            for mutual in [pb::MutualFilter::Any, pb::MutualFilter::Only, pb::MutualFilter::Excluded] {
                let request =
                    pb::ListConnectionsRequest { user_id, viewer_user_id, mutual: mutual.into(), ..Default::default() };
                app.connections().list_connections(request).await.unwrap();
            }
        }
        let request = pb::ListMutualConnectionsRequest { user_id: POPULAR, other_user_id: 5_000, ..Default::default() };
        assert!(app.connections().list_mutual_connections(request).await.unwrap().into_inner().total > 0);
    }
}

async fn changes(app: &App) {
    for round in 0..TIMES {
        let new = app.user(&format!("new-{round}")).await;
        app.moderate(new, &format!("newer-{round}"), pb::UserStatus::Approved).await;
        let user = pb::User { id: new, bio: "new".to_owned(), ..Default::default() };
        let update_mask = Some(prost_types::FieldMask { paths: vec!["bio".to_owned()] });
        let request = pb::UpdateUserRequest { user: Some(user), update_mask, ..Default::default() };
        app.users().update_user(request).await.unwrap();
        let other = NOBODY + round;
        let id = app.send(new, other).await;
        app.mark_viewed(id, other).await.unwrap();
        app.reject(id, other).await.unwrap();
        app.restore(id, other).await.unwrap();
        app.accept(id, other).await.unwrap();
        app.remove(new, other).await.unwrap();
        let request_id = uuid::Uuid::new_v4().to_string();
        let request = pb::SendConnectionRequestRequest {
            from_user_id: new,
            to_user_id: other,
            request_id,
            message: String::new(),
        };
        let sent = app.requests().send_connection_request(request.clone()).await.unwrap().into_inner();
        app.requests().send_connection_request(request).await.unwrap();
        app.cancel(sent.connection_request.unwrap().id, new).await.unwrap();
        app.block(new, other).await;
        app.unblock(new, other).await;
    }
}
