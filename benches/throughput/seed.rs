//! Fills a database as Kith would: every row has its event, every count is exact, the head is right.

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::Result;
use super::bulk::Bulk;
use super::database::{Cell, Database};
use super::layout::{Edge, Layout, State};

const DAY: i64 = 24 * 3_600 * 1_000_000;
const MESSAGE: &str = "We met at the conference in Lisbon, and I would like to stay in touch.";

const USERS: &str = "id, position, username, real_name, email, email_isvalid, date_joined, bio, location, birthday, \
                     description, gender, status, website, avatar, cover";
const COUNTS: &str = "user_counts (user_id, requests_sent, requests_received, requests_unviewed, connections)";
const REQUESTS: &str = "connection_requests (low_user_id, high_user_id, id, from_user_id, to_user_id, state, \
                        position, message, created, viewed, rejected, accepted)";
const EVENTS: &str = "sequence, time, batch_id, kind, actor, actor_user_id, user_id, other_user_id, request_id";
/// Events per value of `events.stretch`, if the tables have that column.
const STRETCH: i64 = 4_096;
const BLOCKS: &str = "blocks (user_id, other_user_id, created, position)";

/// Expressions that must be 0 in a consistent database.
const WRONG: [(&str, &str); 4] = [
    ("events without a gap", "(SELECT last_sequence FROM feed) - (SELECT count(*) FROM events)"),
    (
        "connections counted",
        "(SELECT sum(connections) FROM user_counts) \
         - 2 * (SELECT count(*) FROM connection_requests WHERE state = 'CONNECTED')",
    ),
    (
        "received requests counted",
        "(SELECT sum(requests_received) FROM user_counts) \
         - (SELECT count(*) FROM connection_requests WHERE state = 'PENDING')",
    ),
    (
        "unviewed requests counted",
        "(SELECT sum(requests_unviewed) FROM user_counts) \
         - (SELECT count(*) FROM connection_requests WHERE state = 'PENDING' AND viewed IS NULL)",
    ),
];

/// What sets the totals in the head right.
const TOTALS: &str = "UPDATE feed SET total_users = (SELECT count(*) FROM users), total_blocks = (SELECT count(*) FROM blocks), \
    total_pending = (SELECT count(*) FROM connection_requests WHERE state = 'PENDING'), \
    total_rejected = (SELECT count(*) FROM connection_requests WHERE state = 'REJECTED'), \
    total_connected = (SELECT count(*) FROM connection_requests WHERE state = 'CONNECTED')";

/// The events of the seed lie within four days that ended yesterday, so that nothing expires during the run.
struct Times {
    begin: i64,
    step: i64,
}

impl Times {
    fn over(events: i64) -> Self {
        Self { begin: now() - 5 * DAY, step: (4 * DAY / events).max(1) }
    }

    fn of(&self, sequence: i64) -> i64 {
        self.begin + sequence * self.step
    }
}

/// Microseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Fills an empty, migrated database, and returns the number of requests and connections.
///
/// The connection must be closed afterwards.
pub async fn fill(database: &mut Database, layout: Layout) -> Result<usize> {
    let edges = edges(layout);
    let answered = edges.iter().filter(|edge| edge.state != State::Pending).count() as i64;
    let blocks: Vec<_> = (1..=layout.users).filter_map(|user| Some((user, layout.blocked(user)?))).collect();
    let requests = layout.users + 1;
    let answers = requests + edges.len() as i64;
    let last = answers + answered + blocks.len() as i64 - 1;
    let times = Times::over(last);
    let bulk = Bulk::begin(database).await?;
    database.execute("BEGIN").await?;
    users(database, layout, &edges, &times).await?;

    let mut positions = answers..;
    let rows = edges.iter().zip(requests..).map(|(edge, id)| {
        let answered = if edge.state == State::Pending { None } else { positions.next() };
        let position = answered.unwrap_or(id);
        request(*edge, id, position, times.of(id), times.of(position))
    });
    database.insert(REQUESTS, rows).await?;
    let created = edges.iter().zip(requests..);
    let rows = created.map(|(edge, id)| event(id, times.of(id), "REQUEST_CREATED", edge.from, *edge, id));
    events(database, rows).await?;
    let closed = edges.iter().zip(requests..).filter(|(edge, _)| edge.state != State::Pending).zip(answers..);
    let rows = closed.map(|((edge, id), sequence)| {
        let kind = if edge.state == State::Connected { "CONNECTION_CREATED" } else { "REQUEST_REJECTED" };
        event(sequence, times.of(sequence), kind, edge.to, *edge, id)
    });
    events(database, rows).await?;
    block(database, &blocks, answers + answered, &times).await?;

    let time = database.time(times.of(last));
    let by_counter = database.has_column("feed", "last_assigned_user_id").await?;
    let last_user = if by_counter { "last_assigned_user_id" } else { "last_user_id" };
    let head = format!("last_sequence = {last}, last_time = {time}, {last_user} = {}", layout.users);
    // Earlier versions of Kith have no totals.
    let totals = if database.has_column("feed", "total_users").await? { TOTALS } else { "" };
    database.execute(&format!("UPDATE feed SET {head}; {totals}; COMMIT")).await?;
    bulk.end(database).await?;
    Ok(edges.len())
}

/// All rows between users, in an order that does not depend on the users.
pub fn edges(layout: Layout) -> Vec<Edge> {
    let of_rank = |rank| {
        let user = layout.user(rank);
        (0..layout.edges_of(rank)).map(move |number| layout.edge(user, number))
    };
    let mut edges: Vec<_> = (0..layout.users).flat_map(of_rank).collect();
    edges.shuffle(&mut StdRng::seed_from_u64(1));
    edges
}

async fn users(database: &mut Database, layout: Layout, edges: &[Edge], times: &Times) -> Result<()> {
    let mut counts = vec![[0_i64; 3]; layout.users as usize + 1];
    for edge in edges {
        let (from, to) = (edge.from as usize, edge.to as usize);
        match edge.state {
            State::Connected => [from, to].into_iter().for_each(|user| counts[user][2] += 1),
            State::Pending => (counts[from][0], counts[to][1]) = (counts[from][0] + 1, counts[to][1] + 1),
            State::Rejected => counts[from][0] += 1,
        }
    }
    // Columns that only some versions have, or write.
    let has_changed = database.has_column("users", "changed").await?;
    let has_key = database.has_column("users", "username_key").await?;
    let columns = [USERS, if has_changed { ", changed" } else { "" }, if has_key { ", username_key" } else { "" }];
    let rows = (1..=layout.users).map(|id| {
        let changed = has_changed.then_some(Cell::Int(id));
        let key = has_key.then(|| Cell::Text(format!("member_{id}")));
        user(id, times.of(id)).into_iter().chain(changed).chain(key).collect::<Vec<_>>()
    });
    database.insert(&format!("users ({})", columns.concat()), rows).await?;
    let rows = (1..=layout.users)
        .zip(&counts[1..])
        .map(|(id, [sent, received, connections])| [id, *sent, *received, *received, *connections].map(Cell::Int));
    database.insert(COUNTS, rows).await?;
    let rows = (1..=layout.users).map(|id| {
        let (time, batch) = (Cell::Time(times.of(id)), Cell::Int(id / 100));
        let (kind, actor) = (Cell::Word("USER_CREATED"), Cell::Word("OPERATOR"));
        [Cell::Int(id), time, batch, kind, actor, Cell::Null, Cell::Int(id), Cell::Null, Cell::Null]
    });
    events(database, rows).await
}

/// A user with every field set: about 800 bytes.
fn user(id: i64, joined: i64) -> [Cell; 16] {
    let bio = format!(
        "I am number {id}. I build things that other people rely on and never see, and I like it that way. Before \
         that I taught mathematics for six years, repaired bicycles, and walked from Porto to Paris. I collect maps \
         of places that do not exist any more, bake on Sundays, and answer most letters within a week."
    );
    [
        Cell::Int(id),
        Cell::Int(id),
        Cell::Text(format!("member_{id}")),
        Cell::Text(format!("Maria Fernanda da Silva {id}")),
        Cell::Text(format!("maria.{id}@example.com")),
        Cell::Int(1),
        Cell::Time(joined),
        Cell::Text(bio),
        Cell::Word("Lisbon, Portugal"),
        Cell::Word("1987-06-05"),
        Cell::Word("Engineer, walker, collector of maps"),
        Cell::Word("FEMALE"),
        Cell::Word("APPROVED"),
        Cell::Text(format!("https://members.example.com/{id}")),
        Cell::Text(format!("https://images.example.com/members/{id}/avatar-480x480.jpg")),
        Cell::Text(format!("https://images.example.com/members/{id}/cover-1920x1080.jpg")),
    ]
}

fn request(edge: Edge, id: i64, position: i64, created: i64, answered: i64) -> [Cell; 12] {
    let (state, rejected, accepted) = match edge.state {
        State::Pending => ("PENDING", Cell::Null, Cell::Null),
        State::Rejected => ("REJECTED", Cell::Time(answered), Cell::Null),
        State::Connected => ("CONNECTED", Cell::Null, Cell::Time(answered)),
    };
    let viewed = if edge.state == State::Pending { Cell::Null } else { Cell::Time(answered) };
    [
        Cell::Int(edge.from.min(edge.to)),
        Cell::Int(edge.from.max(edge.to)),
        Cell::Int(id),
        Cell::Int(edge.from),
        Cell::Int(edge.to),
        Cell::Word(state),
        Cell::Int(position),
        Cell::Word(MESSAGE),
        Cell::Time(created),
        viewed,
        rejected,
        accepted,
    ]
}

fn event(sequence: i64, time: i64, kind: &'static str, actor: i64, edge: Edge, request: i64) -> [Cell; 9] {
    let batch = Cell::Int(sequence / 100);
    let [actor, user, other, request] = [actor, edge.from, edge.to, request].map(Cell::Int);
    [Cell::Int(sequence), Cell::Time(time), batch, Cell::Word(kind), Cell::Word("USER"), actor, user, other, request]
}

/// Stores events in the columns that the table has.
async fn events(database: &mut Database, rows: impl Iterator<Item = [Cell; 9]>) -> Result<()> {
    let stretch = database.has_column("events", "stretch").await?;
    let principal = database.has_column("events", "principal").await?;
    let columns = [EVENTS, if stretch { ", stretch" } else { "" }, if principal { ", principal" } else { "" }].concat();
    let rows = rows.map(|event| {
        let number = match event[0] {
            Cell::Int(sequence) => Cell::Int(sequence / STRETCH),
            _ => Cell::Null,
        };
        let more = [stretch.then_some(number), principal.then_some(Cell::Word("ANONYMOUS"))];
        event.into_iter().chain(more.into_iter().flatten()).collect::<Vec<_>>()
    });
    database.insert(&format!("events ({columns})"), rows).await
}

async fn block(database: &mut Database, blocks: &[(i64, i64)], first: i64, times: &Times) -> Result<()> {
    let rows = blocks.iter().zip(first..).map(|((user, other), sequence)| {
        [Cell::Int(*user), Cell::Int(*other), Cell::Time(times.of(sequence)), Cell::Int(sequence)]
    });
    database.insert(BLOCKS, rows).await?;
    let rows = blocks.iter().zip(first..).map(|((user, other), sequence)| {
        let edge = Edge { from: *user, to: *other, state: State::Pending };
        let mut event = event(sequence, times.of(sequence), "USER_BLOCKED", *user, edge, 0);
        event[8] = Cell::Null;
        event
    });
    events(database, rows).await
}

/// Adds open requests, also while Kith serves the database. Returns the id of the first; the others follow without a
/// gap. The numbers lie within one multiple of `users`, so that no user is a sender twice.
pub async fn add_waiting(database: &mut Database, layout: Layout, numbers: Range<i64>) -> Result<i64> {
    database.begin_alone().await?;
    let first = database.number("(SELECT last_sequence FROM feed)").await? + 1;
    let last = first + numbers.end - numbers.start - 1;
    let time = now();
    let waiting = |number| {
        let (from, to) = layout.waiting(number);
        Edge { from, to, state: State::Pending }
    };
    let rows = numbers.clone().map(waiting).zip(first..).map(|(edge, id)| request(edge, id, id, time, time));
    database.insert(REQUESTS, rows).await?;
    let rows = numbers.map(waiting).zip(first..);
    events(database, rows.map(|(edge, id)| event(id, time, "REQUEST_CREATED", edge.from, edge, id))).await?;
    let has_totals = database.has_column("feed", "total_users").await?;
    let count = last - first + 1;
    let totals = if has_totals { format!(", total_pending = total_pending + {count}") } else { String::new() };
    let of_these = |column| format!("(SELECT {column} FROM connection_requests WHERE id >= {first})");
    let time = database.time(time);
    database
        .execute(&format!(
            "UPDATE user_counts SET requests_sent = requests_sent + 1 WHERE user_id IN {};
             UPDATE user_counts SET requests_received = requests_received + 1,
                 requests_unviewed = requests_unviewed + 1 WHERE user_id IN {};
             UPDATE feed SET last_sequence = {last}, last_time = {time}{totals};
             COMMIT",
            of_these("from_user_id"),
            of_these("to_user_id"),
        ))
        .await?;
    Ok(first)
}

/// Fails if the database is not consistent.
pub async fn check(database: &mut Database) -> Result<()> {
    for (name, difference) in WRONG {
        let difference = database.number(difference).await?;
        if difference != 0 {
            return Err(format!("the database is not consistent: {name}: {difference}").into());
        }
    }
    Ok(())
}

/// Runs the maintenance that PostgreSQL would do in time, after a database was filled.
pub async fn settle(database: &mut Database) -> Result<()> {
    if let Database::Postgres(..) = database {
        database.execute("VACUUM (ANALYZE)").await?;
        database.execute("CHECKPOINT").await?;
    }
    flush(database).await
}

/// Moves SQLite's log into its file, so that rows of the seed do not slow the next measured commit.
pub async fn flush(database: &mut Database) -> Result<()> {
    match database {
        Database::Postgres(..) => Ok(()),
        Database::Sqlite(_) => database.execute("PRAGMA wal_checkpoint(TRUNCATE)").await,
    }
}
