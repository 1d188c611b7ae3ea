//! The same operations as SQLite statements on one thread, without checks, counts, events or gRPC: the limit of the
//! engine itself.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Result;
use super::layout::Layout;
use super::measure::{Sample, Watched};
use super::workload::Operation;

/// Rows of one transaction, and the number of calls in flight that it is compared with.
pub const GROUP: usize = 64;
/// The first id of the requests that are inserted here.
const FIRST_ID: i64 = 1_000_000_000_000;

diesel::table! {
    users {
        id -> BigInt, username -> Text, real_name -> Text, email -> Text, email_isvalid -> Bool, date_joined -> BigInt,
        bio -> Text, location -> Text, birthday -> Text, description -> Text, gender -> Text, status -> Text,
        website -> Text, avatar -> Text, cover -> Text,
    }
}

diesel::table! {
    connection_requests {
        id -> BigInt, low_user_id -> BigInt, high_user_id -> BigInt, from_user_id -> BigInt, to_user_id -> BigInt,
        state -> Text, position -> BigInt, message -> Text, created -> BigInt, viewed -> Nullable<BigInt>,
        rejected -> Nullable<BigInt>, accepted -> Nullable<BigInt>,
    }
}

diesel::allow_tables_to_appear_in_same_query!(users, connection_requests);

type User = (
    (i64, String, String, String, bool, i64, String, String, String, String),
    (String, String, String, String, String),
);
type Request = ((i64, i64, i64, i64, i64, String, i64), (String, i64, Option<i64>, Option<i64>, Option<i64>));

/// A copy of the seeded file that no Kith has open.
pub struct Bare {
    file: PathBuf,
    conn: SqliteConnection,
    layout: Layout,
    random: StdRng,
    next: i64,
}

impl Bare {
    pub fn copy(file: &Path, layout: Layout) -> Result<Self> {
        let copy = file.with_file_name("bare.db");
        fs::copy(file, &copy)?;
        fs::File::open(&copy)?.sync_all()?;
        let mut conn = SqliteConnection::establish(&copy.to_string_lossy())?;
        conn.batch_execute(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -16384; \
             PRAGMA wal_autocheckpoint = 20000",
        )?;
        Ok(Self { file: copy, conn, layout, random: StdRng::seed_from_u64(1), next: FIRST_ID })
    }

    /// Whether the operation has a statement.
    pub fn has(operation: Operation) -> bool {
        matches!(operation, Operation::Send | Operation::Received | Operation::Status)
    }

    /// Runs the statement of an operation for this time.
    pub fn measure(&mut self, operation: Operation, length: Duration) -> Result<Sample> {
        // Nothing has read the file since it was copied, and the system may have dropped it from its cache.
        io::copy(&mut fs::File::open(&self.file)?, &mut io::sink())?;
        let watched = Watched::default();
        let (begun, used) = (Instant::now(), watched.used());
        let mut calls = 0;
        while begun.elapsed() < length {
            calls += match operation {
                Operation::Send => self.send()?,
                Operation::Received => self.received()?,
                Operation::Status => self.status()?,
                _ => return Err("no statement".into()),
            };
        }
        let (time, calls) = (begun.elapsed().as_secs_f64(), calls as f64);
        let cpu = (watched.used()[2] - used[2]) * 1e3 / calls;
        Ok(Sample { per_second: calls / time, cpu: [0.0, cpu, 0.0], ..Sample::default() })
    }

    fn pair(&mut self) -> (i64, i64) {
        let (one, step) =
            (self.random.random_range(0..self.layout.users), self.random.random_range(1..self.layout.users));
        (one + 1, (one + step) % self.layout.users + 1)
    }

    /// A group of requests. Pairs that already have a request are skipped.
    fn send(&mut self) -> Result<usize> {
        let pairs: Vec<_> = (0..GROUP).map(|_| self.pair()).collect();
        let mut next = self.next;
        let made = self.conn.immediate_transaction::<_, diesel::result::Error, _>(|conn| {
            let mut made = 0;
            for (from, to) in pairs {
                use connection_requests as row;
                let (low, high) = (from.min(to), from.max(to));
                let taken = row::table.filter(row::low_user_id.eq(low)).filter(row::high_user_id.eq(high));
                if taken.select(row::id).first::<i64>(conn).optional()?.is_some() {
                    continue;
                }
                next += 1;
                made += diesel::insert_into(row::table)
                    .values((
                        (row::id.eq(next), row::low_user_id.eq(low), row::high_user_id.eq(high)),
                        (row::from_user_id.eq(from), row::to_user_id.eq(to), row::state.eq("PENDING")),
                        (row::position.eq(next), row::message.eq("I liked your talk. Shall we connect?")),
                        row::created.eq(1_790_000_000_000_000_i64),
                    ))
                    .execute(conn)?;
            }
            Ok(made)
        })?;
        self.next = next;
        Ok(made)
    }

    fn received(&mut self) -> Result<usize> {
        use connection_requests as row;
        let user = self.layout.user(self.random.random_range(0..self.layout.ranks_with(69)));
        let list = row::table
            .inner_join(users::table.on(users::id.eq(row::from_user_id)))
            .filter(row::to_user_id.eq(user))
            .filter(row::state.eq("PENDING"))
            .order(row::position.desc())
            .limit(20)
            .select((
                (
                    (
                        row::id,
                        row::low_user_id,
                        row::high_user_id,
                        row::from_user_id,
                        row::to_user_id,
                        row::state,
                        row::position,
                    ),
                    (row::message, row::created, row::viewed, row::rejected, row::accepted),
                ),
                (
                    (
                        users::id,
                        users::username,
                        users::real_name,
                        users::email,
                        users::email_isvalid,
                        users::date_joined,
                        users::bio,
                        users::location,
                        users::birthday,
                        users::description,
                    ),
                    (users::gender, users::status, users::website, users::avatar, users::cover),
                ),
            ));
        let rows: Vec<(Request, User)> = list.load(&mut self.conn)?;
        if rows.len() == 20 { Ok(1) } else { Err(format!("{} requests wait for {user}", rows.len()).into()) }
    }

    fn status(&mut self) -> Result<usize> {
        use connection_requests as row;
        let (one, other) = self.pair();
        let found = row::table
            .filter(row::low_user_id.eq(one.min(other)))
            .filter(row::high_user_id.eq(one.max(other)))
            .select((row::id, row::from_user_id, row::state, row::created, row::rejected));
        let _found: Option<(i64, i64, String, i64, Option<i64>)> = found.first(&mut self.conn).optional()?;
        Ok(1)
    }
}
