//! Does every reader of the feed receive every event once, in order, whatever happens?

use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kith::proto::v1 as pb;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet, yield_now};
use tokio::time::timeout;
use tonic::Status;

use crate::harness::clients::Clients;
use crate::harness::database::connect;
use crate::harness::fold::Fold;
use crate::harness::process::{Cluster, Kith};
use crate::harness::watching::from;
use crate::harness::{App, Database, Engine, invariants, until};
use crate::on_each_engine;

const USERS: i64 = 100;
const WRITERS: u64 = 24;
/// The number of checkpoints. At each the writers pause, and the readers' state is compared with the tables.
const CHECKPOINTS: i64 = 4;

/// The number of events to write: few in every test run, 100,000 in `make soak`.
fn events() -> i64 {
    env::var("KITH_TEST_FEED_EVENTS").map_or(2_000, |number| number.parse().expect("a number"))
}

/// How long a writer holds its transaction open.
fn held_open() -> Duration {
    Duration::from_secs(if events() >= 100_000 { 10 } else { 2 })
}

/// The behaviour of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// Reads one stream from the beginning to the end.
    Stays,
    /// Ends its stream after some messages, and resumes on the next server.
    Leaves,
    /// Reads nothing until the feed is far ahead, again and again.
    Lags,
    /// Is killed at any moment, and loses what it has not saved; resumes from the saved state.
    IsKilled,
}

/// A reader and its state.
struct Reader {
    habit: Habit,
    clients: Vec<Clients>,
    notes: Arc<Mutex<Fold>>,
    /// The sequence up to which the state is saved.
    noted: watch::Sender<i64>,
    /// The approximate sequence that the writers have reached.
    head: watch::Receiver<i64>,
    rng: StdRng,
}

impl Reader {
    /// Reads for ever. Ends with a description of what is wrong, if anything is.
    async fn run(mut self) -> String {
        for attempt in 0.. {
            let clients = self.clients[attempt % self.clients.len()].clone();
            match self.read(&clients).await {
                Ok(()) => {}
                // The server was killed: the transport's error lacks the details that the server's errors have.
                Err(Ended::Lost(status)) if status.details().is_empty() => {}
                Err(Ended::Lost(status)) => return format!("{:?} ended: {status:?}", self.habit),
                Err(Ended::Wrong(wrong)) => return format!("{:?}: {wrong}", self.habit),
            }
            // At the end of the test all calls may fail without waiting. This lets the task be aborted.
            yield_now().await;
        }
        unreachable!("the attempts have no end")
    }

    /// Reads until its behaviour ends the stream.
    async fn read(&mut self, clients: &Clients) -> Result<(), Ended> {
        let mut last = *self.noted.borrow();
        let mut stream = clients.try_watch(from(last, 200)).await.map_err(Ended::Lost)?;
        let mut left = match self.habit {
            Habit::Stays => usize::MAX,
            Habit::Leaves => self.rng.random_range(1..60),
            Habit::Lags => self.rng.random_range(20..400),
            Habit::IsKilled => self.rng.random_range(1..200),
        };
        if self.habit == Habit::Lags {
            let far = last + self.rng.random_range(100..700);
            // With a time limit: the writers may have paused.
            let _rest = timeout(Duration::from_secs(1), self.head.wait_for(|head| *head > far)).await;
        }
        while left > 0 {
            let message = stream.message().await.map_err(Ended::Lost)?;
            left -= 1;
            // Before a kill it has read a little more than it saved, and will read that again.
            if self.habit == Habit::IsKilled && left < 3 {
                continue;
            }
            last = self.note(&message).map_err(Ended::Wrong)?;
            if message.revision != last {
                return Err(Ended::Wrong(format!("a message has revision {} at {last}", message.revision)));
            }
        }
        Ok(())
    }

    fn note(&self, message: &pb::WatchEventsResponse) -> Result<i64, String> {
        let mut notes = self.notes.lock().expect("a lock");
        message.events.iter().try_for_each(|event| notes.add(event))?;
        self.noted.send_replace(notes.sequence);
        Ok(notes.sequence)
    }
}

enum Ended {
    Lost(Status),
    Wrong(String),
}

/// Makes one random change between two random users. The rules may refuse it.
async fn change(clients: &Clients, rng: &mut StdRng) {
    let one = rng.random_range(1..=USERS);
    let other = (one + rng.random_range(1..USERS) - 1) % USERS + 1;
    let request = pb::ListConnectionRequestsRequest {
        user_id: one,
        direction: pb::ConnectionRequestDirection::Received.into(),
        ..Default::default()
    };
    match rng.random_range(0..100) {
        0..45 => _ = clients.try_send(one, other).await,
        45..50 => _ = clients.remove(one, other).await,
        50..53 => {
            let request = pb::BlockUserRequest { user_id: one, other_user_id: other, ..Default::default() };
            _ = clients.blocks().block_user(request).await;
        }
        53..56 => {
            let request = pb::UnblockUserRequest { user_id: one, other_user_id: other, ..Default::default() };
            _ = clients.blocks().unblock_user(request).await;
        }
        number => {
            let Ok(received) = clients.requests().list_connection_requests(request).await else { return };
            let requests = received.into_inner().connection_requests;
            let Some(request) = requests.get(rng.random_range(0..requests.len().max(1))) else { return };
            let sender = request.from_user.as_ref().map_or(0, |user| user.id);
            match number {
                56..72 => _ = clients.accept(request.id, one).await,
                72..86 => _ = clients.reject(request.id, one).await,
                86..92 => _ = clients.mark_viewed(request.id, one).await,
                _ => _ = clients.cancel(request.id, sender).await,
            }
        }
    }
}

async fn create_users(clients: &Clients) {
    for id in 1..=USERS {
        clients.create(id).await.expect("a user");
    }
}

/// Servers under load, and one reader of each kind.
struct Load {
    clients: Vec<Clients>,
    database: Arc<Database>,
    head: watch::Sender<i64>,
    readers: Vec<Running>,
}

/// A running reader: its state, how far that is, and how it ends.
struct Running {
    notes: Arc<Mutex<Fold>>,
    noted: watch::Receiver<i64>,
    task: JoinHandle<String>,
}

impl Load {
    /// Starts the readers of servers whose users exist.
    fn start(clients: Vec<Clients>, database: Arc<Database>) -> Self {
        let head = watch::Sender::new(0);
        let habits = [Habit::Stays, Habit::Leaves, Habit::Lags, Habit::IsKilled];
        let readers = habits.into_iter().zip(0..).map(|(habit, number)| {
            let (noted, seen) = watch::channel(0);
            let notes = Arc::<Mutex<Fold>>::default();
            let mut servers = clients.clone();
            servers.rotate_left(number % clients.len());
            let rng = StdRng::seed_from_u64(u64::try_from(number).unwrap());
            let (state, head) = (Arc::clone(&notes), head.subscribe());
            let reader = Reader { habit, clients: servers, notes, noted, head, rng };
            Running { notes: state, noted: seen, task: tokio::spawn(reader.run()) }
        });
        let readers = readers.collect();
        Self { clients, database, head, readers }
    }

    /// Writes until there are this many events. Returns their number.
    async fn write_until(&self, events: i64) -> i64 {
        let enough = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for number in 0..WRITERS {
            let clients = self.clients[usize::try_from(number).unwrap() % self.clients.len()].clone();
            let (enough, mut rng) = (Arc::clone(&enough), StdRng::seed_from_u64(number + events.unsigned_abs()));
            writers.spawn(async move {
                while !enough.load(Ordering::Relaxed) {
                    change(&clients, &mut rng).await;
                    // As `Reader::run` does.
                    yield_now().await;
                }
            });
        }
        loop {
            let head = self.last_sequence().await;
            self.head.send_replace(head);
            if head >= events {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        enough.store(true, Ordering::Relaxed);
        writers.join_all().await;
        let head = self.last_sequence().await;
        self.head.send_replace(head);
        head
    }

    async fn last_sequence(&self) -> i64 {
        self.database.number("SELECT last_sequence AS value FROM feed").await
    }

    /// Returns what is wrong after all readers have reached this revision.
    async fn wrong_at(&mut self, revision: i64) -> Vec<String> {
        let mut wrong = invariants::violations(&self.database).await;
        for Running { notes, noted, task } in &mut self.readers {
            // Discards the result of `wait_for`: it holds a lock that would stop the reader.
            let reached = async { noted.wait_for(|noted| *noted >= revision).await.is_ok() };
            tokio::select! {
                true = reached => {
                    let known = notes.lock().expect("a lock").clone();
                    wrong.extend(known.differences(&self.database).await);
                }
                ended = &mut *task => {
                    wrong.push(ended.expect("a reader"));
                    return wrong;
                }
            }
        }
        wrong
    }
}

on_each_engine! {
    async fn every_reader_receives_every_event_once_and_in_order(engine: Engine) {
        let Cluster { mut servers, database } = Cluster::start(engine, &["--max-sends-per-hour=0", "--max-sends-per-pair=0"]).await;
        let database = Arc::new(database);
        create_users(&servers[0].clients()).await;
        let clients = servers.iter().map(|server| server.clients()).collect();
        let mut load = Load::start(clients, Arc::clone(&database));
        for checkpoint in 1..=CHECKPOINTS {
            if engine == Engine::Postgres && checkpoint == 2 {
                hold_the_head_open(&load).await;
            }
            if engine == Engine::Postgres && checkpoint == 3 {
                // While its readers' streams and its writers' calls are in progress.
                let more = load.last_sequence().await + 200;
                tokio::join!(load.write_until(more), servers.remove(2).crash());
                load.clients.remove(2);
            }
            let revision = load.write_until(events() * checkpoint / CHECKPOINTS).await;
            assert_eq!(load.wrong_at(revision).await, Vec::<String>::new(), "at {revision}");
        }
        assert!(load.readers.iter().all(|reader| *reader.noted.borrow() >= events()));
    }
}

/// Another writer locks the head, writes, and commits much later, while all servers want to write.
async fn hold_the_head_open(load: &Load) {
    let mut other = connect(&load.database.url).await;
    let transaction = other.transaction().await.expect("a transaction");
    transaction
        .batch_execute(
            "UPDATE feed SET last_sequence = last_sequence + 1 WHERE id = 1;
             INSERT INTO events (sequence, stretch, time, batch_id, kind, actor, user_id)
                 SELECT last_sequence, last_sequence / 4096, last_time, 1, 'USER_UPDATED', 'OPERATOR', 1 FROM feed;
             UPDATE users SET changed = (SELECT last_sequence FROM feed) WHERE id = 1",
        )
        .await
        .expect("written");
    let before = load.last_sequence().await;
    let hold = async {
        tokio::time::sleep(held_open()).await;
        assert_eq!(load.last_sequence().await, before, "nobody overtakes a writer who has the head");
        transaction.commit().await.expect("committed");
    };
    tokio::join!(hold, load.write_until(before + 100));
}

/// The same without the lock on the head, and without the constraints that reject a duplicate sequence: the checks
/// above must notice. Otherwise they prove nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_lock_on_the_head_the_same_checks_fail() {
    let app = App::start(Engine::Postgres).await;
    create_users(&app).await;
    let database = Database::at(&app.database.url, Engine::Postgres);
    // FOR UPDATE does not lock rows that come from a function.
    database
        .execute(
            "ALTER TABLE events DROP CONSTRAINT events_pkey;
             CREATE INDEX events_sequence ON events (sequence);
             ALTER TABLE connection_requests DROP CONSTRAINT connection_requests_id_key;
             CREATE INDEX connection_requests_id ON connection_requests (id);
             ALTER TABLE feed RENAME TO feed_head;
             CREATE FUNCTION feed_unlocked() RETURNS SETOF feed_head LANGUAGE sql AS 'SELECT * FROM feed_head';
             CREATE VIEW feed AS SELECT * FROM feed_unlocked();
             CREATE FUNCTION feed_update() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 UPDATE feed_head SET last_sequence = new.last_sequence, last_time = new.last_time,
                     last_assigned_user_id = new.last_assigned_user_id;
                 RETURN new;
             END $$;
             CREATE TRIGGER feed_update INSTEAD OF UPDATE ON feed FOR EACH ROW EXECUTE FUNCTION feed_update()",
        )
        .await;
    let other = app.another(|_| {}).await;
    let clients = vec![Clients::clone(&app), Clients::clone(&other)];
    let mut load = Load::start(clients, Arc::new(database));
    let mut events = load.last_sequence().await;
    for _ in 0..20 {
        events = load.write_until(events + 200).await;
        let wrong = load.wrong_at(events).await;
        if !wrong.is_empty() {
            println!("found, as it should be: {wrong:#?}");
            return;
        }
    }
    panic!("{events} events without the lock, and nothing was found");
}

/// Locks a table until a call waits for it that has locked the head; suspends that server, and unlocks the table.
async fn stand_still<T>(
    server: &Kith,
    database: &Database,
    table: &str,
    begun: impl Future<Output = T> + Send + 'static,
) -> (JoinHandle<T>, String)
where
    T: Send + 'static,
{
    let mut locker = connect(&database.url).await;
    let lock = locker.transaction().await.expect("a transaction");
    lock.batch_execute(&format!("LOCK TABLE {table} IN SHARE MODE")).await.expect("a lock");
    let begun = tokio::spawn(begun);
    let waiting = "SELECT pid AS value FROM pg_stat_activity WHERE datname = current_database() \
                   AND wait_event_type = 'Lock'";
    let pid = loop {
        if let [Some(pid)] = database.values(waiting).await.as_slice() {
            break pid.clone();
        }
    };
    server.signal("STOP");
    lock.commit().await.expect("unlocked");
    (begun, pid)
}

/// A server that is suspended in its transaction delays the others until the database ends the transaction. Its batch
/// is rolled back then, and retried when the server resumes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_in_its_transaction_does_not_stop_the_others() {
    let Cluster { servers, database } = Cluster::start(Engine::Postgres, &["--max-call-time=60s"]).await;
    let (stuck, other) = (servers[0].clients(), servers[1].clients());
    let [ann, eve] = [stuck.user("ann").await, stuck.user("eve").await];

    let creating = {
        let stuck = stuck.clone();
        async move { stuck.user("bob").await }
    };
    let (creating, pid) = stand_still(&servers[0], &database, "users", creating).await;

    other.try_send(ann, eve).await.expect("the others go on");
    let gone = format!("SELECT count(*) AS value FROM pg_stat_activity WHERE pid = {pid}");
    until("the end of the transaction", async || database.number(&gone).await == 0).await;
    let bobs = "SELECT count(*) AS value FROM users WHERE username = 'bob'";
    assert_eq!(database.number(bobs).await, 0, "and its batch is void");

    servers[0].signal("CONT");
    creating.await.expect("it is tried again");
    assert_eq!(database.number(bobs).await, 1);
    invariants::check(&database).await;
}

/// Most batches are saved by one statement, which completes even if the server is suspended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_while_it_saves_holds_up_nobody() {
    let Cluster { servers, database } = Cluster::start(Engine::Postgres, &["--max-call-time=60s"]).await;
    let (stuck, other) = (servers[0].clients(), servers[1].clients());
    let [ann, bob, eve] = [stuck.user("ann").await, stuck.user("bob").await, stuck.user("eve").await];
    // The first use prepares the statement.
    stuck.try_send(bob, eve).await.expect("sent");

    let sending = {
        let stuck = stuck.clone();
        async move { stuck.try_send(ann, bob).await }
    };
    let (sending, pid) = stand_still(&servers[0], &database, "connection_requests", sending).await;

    let sent = other.try_send(ann, eve).await.expect("the others go on").into_inner();
    let idle = format!("SELECT count(*) AS value FROM pg_stat_activity WHERE pid = {pid} AND state = 'idle'");
    assert_eq!(database.number(&idle).await, 1, "and nothing had to be ended");

    servers[0].signal("CONT");
    let saved = sending.await.expect("a call").expect("it was saved").into_inner();
    assert!(saved.revision < sent.revision, "before what came after it");
    invariants::check(&database).await;
}
