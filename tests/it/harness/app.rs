//! A service in this process, over a real socket, with the clients that `tonic` generates from the proto.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::stream;
use kith::clock::{Clock, Reading};
use kith::domain::Time;
use kith::domain::caller::Caller;
use kith::domain::command::{Batch, Command, Reply, Submission};
use kith::domain::outcome::Outcome;
use kith::domain::policy::Policy;
use kith::error;
use kith::metrics::Metrics;
use kith::proto::v1::ErrorReason;
use kith::server::{Settings, serve};
use kith::store::{self, Options, Store};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::clients::Clients;
use super::database::{Database, Engine};

/// A running service and everything that a test needs to use it. It ends when this is dropped.
pub struct App {
    pub database: Database,
    pub store: Arc<dyn Store>,
    pub clock: TestClock,
    pub address: String,
    /// What it counts.
    pub metrics: Metrics,
    clients: Clients,
    stop: Option<oneshot::Sender<()>>,
}

/// Everything that its clients can do.
impl Deref for App {
    type Target = Clients;

    fn deref(&self) -> &Clients {
        &self.clients
    }
}

/// A clock that stands still until a test advances it. It replaces that of the database.
#[derive(Clone)]
pub struct TestClock(Arc<Mutex<Reading>>);

impl TestClock {
    pub fn new() -> Self {
        // A recent time, so that dates of birth are in the past.
        Self::at(Time::from_timestamp(1_780_000_000, 0).expect("a time"))
    }

    pub fn at(time: Time) -> Self {
        Self(Arc::new(Mutex::new(Reading { time, elapsed: Duration::ZERO })))
    }

    pub fn now(&self) -> Time {
        self.reading().time
    }

    /// Lets time pass.
    pub fn advance(&self, by: TimeDelta) {
        let mut reading = self.reading();
        reading.elapsed += by.to_std().expect("time does not run backwards");
        reading.time += by;
    }

    /// Sets the clock ahead, or back, while no time passes.
    pub fn set_by(&self, by: TimeDelta) {
        self.reading().time += by;
    }

    /// These options with this clock.
    pub fn options(&self, mut options: Options) -> Options {
        let clock = self.clone();
        options.clock = Clock::from_fn(move || *clock.reading());
        options
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.0.lock().expect("no panic")
    }
}

impl App {
    /// A service with the default settings on a fresh database.
    pub async fn start(engine: Engine) -> Self {
        Self::with(engine, |_| {}).await
    }

    /// The same with changed settings.
    pub async fn with(engine: Engine, change: impl FnOnce(&mut Settings)) -> Self {
        Self::with_options(engine, options(), change).await
    }

    /// The same with changed options of the store.
    pub async fn with_options(engine: Engine, options: Options, change: impl FnOnce(&mut Settings)) -> Self {
        let database = Database::migrated(engine).await;
        let url = database.url.clone();
        Self::at(database, &url, options, change).await
    }

    /// A service on a database that the test created, which it reaches by this URL.
    pub async fn at(database: Database, url: &str, options: Options, change: impl FnOnce(&mut Settings)) -> Self {
        let (clock, metrics) = (TestClock::new(), options.metrics.clone());
        let store = store::connect(&url.parse().expect("a URL"), clock.options(options)).await.expect("a store");
        let change = |settings: &mut Settings| {
            settings.metrics = metrics;
            change(settings);
        };
        Self::over(database, store, clock, change).await
    }

    /// A service over a store that the test created with this clock.
    pub async fn over(
        database: Database,
        store: Arc<dyn Store>,
        clock: TestClock,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let mut settings = Settings::default();
        change(&mut settings);
        let metrics = settings.metrics.clone();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let (stop, stopped) = oneshot::channel();
        let stopped = stream::once(async { _ = stopped.await });
        tokio::spawn(serve(listener, Arc::clone(&store), settings, stopped));
        let channel = Channel::from_shared(address.clone()).expect("an address").connect().await.expect("a connection");
        Self { database, store, clock, address, metrics, clients: Clients(channel), stop: Some(stop) }
    }

    /// Clients with a connection of their own.
    pub fn fresh_clients(&self) -> Clients {
        Clients(Channel::from_shared(self.address.clone()).expect("an address").connect_lazy())
    }

    /// Another service on the same database, with a separate clock.
    pub async fn another(&self, change: impl FnOnce(&mut Settings)) -> Self {
        let database = Database::at(&self.database.url, self.database.engine);
        Self::at(database, &self.database.url, options(), change).await
    }

    /// Sweeps once by this policy. Returns the number of rows that were expired or deleted.
    pub async fn swept(&self, policy: Policy) -> i64 {
        let submissions = vec![Submission { caller: Caller::System, command: Command::Sweep, idempotency: None }];
        let batch = Batch { submissions, policy: Arc::new(policy) };
        let replies = self.store.commit(Arc::new(batch)).await.expect("a commit");
        match replies.as_slice() {
            [Ok(Reply::Fresh(executed))] if let Outcome::Swept { rows, more: _ } = executed.outcome => rows.total(),
            other => panic!("{other:?}"),
        }
    }

    /// Starts the shutdown of the service. Calls in progress continue.
    pub fn stop(&mut self) {
        self.stop = None;
    }

    pub fn channel(&self) -> Channel {
        self.clients.0.clone()
    }

    /// The newest revision.
    pub async fn revision(&self) -> i64 {
        self.store.position().await.expect("a position").sequence.get()
    }
}

/// The store's options. With `KITH_TEST_DEVICES=off` they switch off everything that only makes a service faster; with
/// `small` they leave it so little memory that caches drop entries all the time.
pub fn options() -> Options {
    match std::env::var("KITH_TEST_DEVICES").as_deref() {
        Err(_) | Ok("on") => Options { migrate: false, ..Options::default() },
        Ok("off") => without_devices(),
        Ok("small") => with_little_memory(),
        Ok(other) => panic!("KITH_TEST_DEVICES is {other}: it can be on, off or small"),
    }
}

pub fn without_devices() -> Options {
    Options { migrate: false, user_cache: 0, read_batch_max: 1, ..Options::default() }
}

pub fn with_little_memory() -> Options {
    Options { migrate: false, user_cache: 4 << 10, read_batch_max: 2, ..Options::default() }
}

/// The details of an expected error with this code and this reason.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, reason: ErrorReason) -> ErrorDetails {
    let status = result.expect_err("a refusal");
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!((status.code(), info.reason.as_str()), (code, error::name(reason)), "{}", status.message());
    assert_eq!(info.domain, "kith");
    match code {
        Code::InvalidArgument => assert!(details.bad_request().is_some(), "no BadRequest in {status:?}"),
        Code::ResourceExhausted | Code::Unavailable if reason != ErrorReason::MessageTooLarge => {
            assert!(details.retry_info().is_some_and(|retry| retry.retry_delay.is_some()), "no RetryInfo: {status:?}");
        }
        _ => {}
    }
    details
}

/// Everything that a caller receives with an error, as text.
pub fn described(status: &Status) -> String {
    let details = status.get_error_details();
    // In the order of its keys: on the connection they have none.
    let metadata: Option<BTreeMap<_, _>> = details.error_info().map(|info| info.metadata.clone().into_iter().collect());
    let reason = details.error_info().map(|info| (&info.reason, &info.domain));
    let rest = (details.retry_info(), details.bad_request());
    format!("{:?}: {:?} {reason:?} {metadata:?} {rest:?}", status.code(), status.message())
}

/// The fields that an error reports, in its order.
/// The text of messages or errors without epochs, which are random.
pub fn without_epochs(text: &str) -> String {
    let mut parts = text.split("epoch").map(str::to_owned);
    let first = parts.next().unwrap_or_default();
    let rest = parts.map(|part| {
        let end = [": \"", "\": \""].into_iter().find(|end| part.starts_with(end)).map_or(0, str::len);
        format!("epoch{}{}", &part[..end], part[end..].trim_start_matches(|c: char| end > 0 && c.is_ascii_hexdigit()))
    });
    first + &rest.collect::<String>()
}

pub fn fields(details: &ErrorDetails) -> Vec<&str> {
    let violations = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
    violations.iter().map(|violation| violation.field.as_str()).collect()
}
