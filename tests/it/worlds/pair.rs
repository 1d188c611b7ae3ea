//! Two worlds, and one script that runs in both.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use kith::domain::policy::Policy;
use kith::proto::v1 as pb;
use kith::server::Settings;
use kith::store::Options;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::receiver::{Act, Standing, in_secret, openly};
use super::sender::{Answer, Call, Sender};
use super::{Before, Cast, Difference, Principal};
use crate::harness::app::options;
use crate::harness::as_user::AsUser;
use crate::harness::clients::Clients;
use crate::harness::proxy::{Passed, Proxy};
use crate::harness::{App, Database, Engine};
use crate::history::sweep_by;
use crate::packets::written;

pub const STEPS: usize = 160;
/// How often the sender looks after an act of the receiver.
const LOOKS: usize = 3;

/// Part of the statement that reads the head of the feed, as a check of the service's health does.
const HEAD: &str = r#""feed"."timeline" FROM "feed""#;
/// Part of the statement that reads who has changed, which may follow the one before.
const CHANGED: &str =
    r#"FROM "events" WHERE ((("events"."sequence" > $1) AND ("events"."sequence" <= $2)) AND (("events"."kind""#;
/// An id that no request has.
const NO_REQUEST: i64 = 999_999;

/// A world with secrets, one without, and the script that runs in both.
pub struct Worlds {
    with: World,
    without: World,
    difference: Difference,
    seed: u64,
    cast: Cast,
    rng: StdRng,
    /// The calls that can change something, and what else happened, for the message of a failure.
    history: Vec<String>,
    /// What there is between the sender and the receiver in each world.
    standing: [Standing; 2],
    /// How many calls of the sender found the worlds different.
    different: usize,
    /// How many calls of the sender were made while the worlds had different numbers of events.
    uneven: usize,
    is_receiver_deleted: bool,
    principal: Principal,
}

struct World {
    app: App,
    proxy: Option<Proxy>,
    /// Where the sender calls, if they do so with a credential of their own.
    as_sender: Option<AsUser>,
}

/// What passed between the service and PostgreSQL during a call.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Traffic {
    /// The statements that ran, with their texts if these must be the same.
    statements: Vec<Option<Arc<str>>>,
    to_server: usize,
    to_client: usize,
    /// The rows of counts that were written.
    counts: i64,
}

impl World {
    /// A world on SQLite, or on PostgreSQL behind a proxy.
    async fn new(engine: Engine, difference: Difference) -> Self {
        if engine == Engine::Sqlite {
            let app = App::with_options(engine, options(), |settings| change(settings, difference)).await;
            return Self { app, proxy: None, as_sender: None };
        }
        let database = Database::migrated(engine).await;
        let proxy = Proxy::before(&database);
        // One connection for short reads and one for long ones, so that each prepares all of its statements.
        let options = Options { migrate: false, readers: 2, ..Options::default() };
        let app = App::at(database, &proxy.url, options, |settings| change(settings, difference)).await;
        Self { app, proxy: Some(proxy), as_sender: None }
    }

    /// Makes a call. Returns the response, and what passed if there is a proxy.
    async fn make(&self, call: &Call, cast: Cast) -> (Answer, Option<Traffic>) {
        let clients: &Clients = self.as_sender.as_deref().unwrap_or(&self.app);
        let Some(proxy) = &self.proxy else { return (call.make(clients).await, None) };
        // Whoever acts or is acted upon is cached by the writer, also after a secret act. That shows as little as any
        // other traffic about the two, so both are cached in both worlds.
        for user in [cast.sender, cast.receiver] {
            self.app.accept(NO_REQUEST, user).await.expect_err("no request");
        }
        let before = self.app.revision().await;
        proxy.record();
        let answer = call.make(clients).await;
        let mut traffic = Traffic::of(&proxy.recorded(), call, &answer);
        if self.as_sender.is_some() {
            // A read and that of the user's revision are made concurrently.
            traffic.statements.sort();
        }
        // A deletion also changes the counts of those whose requests it ends.
        if self.app.revision().await > before && !matches!(call, Call::Delete(_)) {
            traffic.counts = written(&self.app).await;
        }
        (answer, Some(traffic))
    }
}

fn change(settings: &mut Settings, difference: Difference) {
    (difference.policy)(&mut settings.policy);
    settings.policy.event_retention = None;
    // A sweep would write events at moments of its own. The script sweeps instead.
    settings.sweep_interval = Duration::from_secs(3_600);
    // A call that takes long on a busy machine has the same response as any other.
    settings.max_call_time = Duration::from_secs(120);
}

/// Whether a check of the service's health runs this statement.
fn is_of_health(text: &str) -> bool {
    text.contains(HEAD) || text.contains(CHANGED)
}

impl Traffic {
    /// What passed during a call. What must be the same in both worlds is counted, the rest is not.
    fn of(recorded: &[Passed], call: &Call, answer: &Answer) -> Self {
        let is_feed = matches!(call, Call::Events(_) | Call::Export(_));
        let is_deletion = matches!(call, Call::Delete(_));
        let counts = |passed: &&Passed| match (passed.to_server, passed.letter) {
            // Notifications of commits arrive at any time, and the service's health is checked at any time.
            _ if passed.statement.as_deref().is_some_and(is_of_health) => false,
            (false, 'A') => false,
            // A feed, also in an export, has rows of events that its viewer does not receive, and a deletion those of
            // blocks and cooldowns.
            (false, 'D') => !is_feed && !is_deletion,
            (_, _) => true,
        };
        let passed: Vec<_> = recorded.iter().filter(counts).collect();
        let to_server = passed.iter().filter(|passed| passed.to_server).count();
        // A statement is prepared when a connection first runs it: Parse, Describe and Sync, with four replies. Which call is
        // the first also depends on what the strangers did before.
        let prepared = passed.iter().filter(|passed| passed.to_server && passed.letter == 'P').count();
        let ran = passed.iter().filter(|passed| passed.to_server && passed.letter == 'B');
        // Who is connected or deleted has no secrets to learn any more: that statement also deletes what there is.
        let connects = matches!(call, Call::Send(_) | Call::Accept(_)) && answer.text.contains("status: Connected");
        let has_one_text = !is_deletion && !connects;
        let statements = ran.map(|passed| passed.statement.clone().filter(|_| has_one_text)).collect();
        let to_client = passed.len() - to_server - 4 * prepared;
        Self { statements, to_server: to_server - 3 * prepared, to_client, counts: 0 }
    }
}

impl Worlds {
    pub async fn new(engine: Engine, difference: Difference, seed: u64, principal: Principal) -> Self {
        Self {
            with: World::new(engine, difference).await,
            without: World::new(engine, difference).await,
            difference,
            seed,
            cast: Cast::of(1, seed),
            rng: StdRng::seed_from_u64(seed),
            history: Vec::new(),
            standing: Default::default(),
            different: 0,
            uneven: 0,
            is_receiver_deleted: false,
            principal,
        }
    }

    /// Plays the script; behind proxies twice, because the traffic of the first time includes the preparation of
    /// statements. The error says what shows the sender in which world they are.
    pub async fn play(&mut self) -> Result<(), String> {
        self.run(Cast::of(1, self.seed), false).await?;
        if self.with.proxy.is_some() {
            self.run(Cast::of(11, self.seed), true).await?;
        }
        Ok(())
    }

    /// How many calls of the sender found the worlds different.
    pub fn different(&self) -> usize {
        self.different
    }

    /// How many calls of the sender were made while the worlds had different numbers of events.
    pub fn uneven(&self) -> usize {
        self.uneven
    }

    async fn run(&mut self, cast: Cast, compares_traffic: bool) -> Result<(), String> {
        (self.cast, self.rng, self.is_receiver_deleted) = (cast, StdRng::seed_from_u64(self.seed), false);
        self.history.clear();
        let mut policy = Policy::default();
        (self.difference.policy)(&mut policy);
        for world in [&mut self.with, &mut self.without] {
            for id in cast.users() {
                world.app.create(id).await.expect("a user");
            }
            world.as_sender = match self.principal {
                Principal::Service => None,
                Principal::User => Some(world.app.as_user(cast.sender, policy.clone()).await),
            };
        }
        // A watch reads the database in the background.
        let mut sender = Sender::new(self.seed, cast, !compares_traffic, self.principal);
        self.before(&mut sender).await;
        for _ in 0..STEPS {
            match self.rng.random_range(0..100) {
                0..25 => {
                    self.receiver_acts(&mut sender).await;
                    self.sender_looks(&mut sender, compares_traffic).await?;
                }
                25..29 => self.wait().await,
                29..31 => self.other_accepts().await,
                _ => {
                    let call = sender.next();
                    self.sender_calls(&mut sender, call, compares_traffic).await?;
                }
            }
        }
        Ok(())
    }

    async fn before(&mut self, sender: &mut Sender) {
        let Cast { sender: user, receiver, .. } = self.cast;
        for before in self.difference.before {
            self.before_change().await;
            match before {
                Before::Sends => {
                    let id = self.with.app.send(user, receiver).await;
                    assert_eq!(id, self.without.app.send(user, receiver).await);
                    sender.ids.push(id);
                }
                Before::Cancels => {
                    for world in [&self.with, &self.without] {
                        world.app.cancel(sender.ids[sender.ids.len() - 1], user).await.expect("a request");
                    }
                }
                Before::Secret(act) => self.in_secret(*act).await,
                Before::Open(act) => self.openly(*act, sender).await,
            }
        }
    }

    async fn receiver_acts(&mut self, sender: &mut Sender) {
        let Difference { secret, open, .. } = self.difference;
        if std::mem::take(&mut self.is_receiver_deleted) {
            return self.openly(Act::Create, sender).await;
        }
        match (secret.choose(&mut self.rng), open.choose(&mut self.rng)) {
            (Some(secret), _) if open.is_empty() || self.rng.random_ratio(2, 3) => self.in_secret(*secret).await,
            (_, Some(open)) => self.openly(*open, sender).await,
            (_, None) => {}
        }
    }

    async fn in_secret(&mut self, act: Act) {
        self.before_change().await;
        in_secret(act, &self.with.app, &self.without.app, self.cast).await;
        self.history.push(format!("in secret: {act:?}"));
        self.after_change().await;
    }

    async fn openly(&mut self, act: Act, sender: &mut Sender) {
        self.before_change().await;
        let id = openly(act, &self.with.app, &self.without.app, self.cast).await;
        sender.ids.extend(id);
        self.is_receiver_deleted = act == Act::Delete;
        self.history.push(format!("openly: {act:?}"));
        self.after_change().await;
    }

    async fn other_accepts(&mut self) {
        let Cast { sender, other, .. } = self.cast;
        self.before_change().await;
        for world in [&self.with, &self.without] {
            let id = request_between(&world.app, other, sender).await;
            if id != 0 {
                _ = world.app.accept(id, other).await;
            }
        }
        self.after_change().await;
    }

    async fn wait(&mut self) {
        let days = *[1, 10, 31, 61, 181].choose(&mut self.rng).expect("a time");
        self.history.push(format!("{days} days later"));
        let mut policy = Policy::default();
        (self.difference.policy)(&mut policy);
        self.before_change().await;
        for world in [&self.with, &self.without] {
            world.app.clock.advance(TimeDelta::days(days));
            sweep_by(&world.app, &policy).await;
        }
        self.after_change().await;
    }

    /// The sender reads something while the worlds have different numbers of events.
    async fn sender_looks(&mut self, sender: &mut Sender, compares_traffic: bool) -> Result<(), String> {
        if self.principal == Principal::User {
            for _ in 0..LOOKS {
                let call = sender.look();
                self.sender_calls(sender, call, compares_traffic).await?;
            }
        }
        Ok(())
    }

    async fn sender_calls(&mut self, sender: &mut Sender, call: Call, compares_traffic: bool) -> Result<(), String> {
        if call.writes() {
            self.before_change().await;
        }
        self.different += usize::from(self.standing[0] != self.standing[1]);
        self.uneven += usize::from(self.with.app.revision().await != self.without.app.revision().await);
        let ((one, traffic), (other, other_traffic)) =
            (self.with.make(&call, self.cast).await, self.without.make(&call, self.cast).await);
        let fail = |what: &str, one: &str, other: &str| {
            let (seed, history) = (self.seed, self.history.join("\n  "));
            let (one, other) = (from_difference(one, other), from_difference(other, one));
            Err(format!(
                "seed {seed}, {what} of {call:?}\nwith secrets:    {one}\nwithout secrets: {other}\n\
                 with secrets:    {:?}\nwithout secrets: {:?}\nafter:\n  {history}",
                self.standing[0], self.standing[1]
            ))
        };
        if one.text != other.text {
            return fail("the response", &one.text, &other.text);
        }
        if compares_traffic && traffic != other_traffic {
            return fail("the traffic", &format!("{traffic:?}"), &format!("{other_traffic:?}"));
        }
        sender.revision = one.revision().unwrap_or(sender.revision);
        sender.ids.extend(one.created.filter(|id| !sender.ids.contains(id)));
        if call.writes() {
            self.history.push(format!("{call:?}"));
            self.after_change().await;
        }
        Ok(())
    }

    /// Before something that the sender may see. Its events have the same sequences in both worlds: these are numbers of
    /// the whole service, of which a sender knows that they tell how much others do.
    async fn before_change(&mut self) {
        match self.principal {
            Principal::Service => {}
            Principal::User => self.level().await,
        }
    }

    /// After anything that happened. A service sees the number of events in every revision, a user does not.
    async fn after_change(&mut self) {
        match self.principal {
            Principal::Service => self.level().await,
            Principal::User => {}
        }
        let [with, without] = [&self.with, &self.without].map(|world| Standing::read(&world.app, self.cast));
        self.standing = [with.await, without.await];
    }

    /// Lets something happen between strangers until both worlds have the same number of events.
    async fn level(&mut self) {
        let (user, other) = self.cast.strangers;
        let end = self.with.app.revision().await.max(self.without.app.revision().await);
        for app in [&self.with.app, &self.without.app] {
            while app.revision().await < end {
                if app.status(user, other).await == pb::ConnectionStatus::Blocked {
                    app.unblock(user, other).await;
                } else {
                    app.block(user, other).await;
                }
            }
        }
    }
}

/// The part of a text from shortly before it differs from another.
fn from_difference<'a>(text: &'a str, other: &str) -> &'a str {
    let same = text.bytes().zip(other.bytes()).take_while(|(one, other)| one == other).count();
    let from = text.floor_char_boundary(same.saturating_sub(100));
    &text[from..text.floor_char_boundary(same + 300)]
}

/// The id of the request between two users; 0 if there is none.
async fn request_between(app: &App, user_id: i64, other_user_id: i64) -> i64 {
    let request = pb::GetConnectionStatusRequest { user_id, other_user_id, ..Default::default() };
    let status = app.connections().get_connection_status(request).await.expect("a status");
    status.into_inner().connection_request_id
}
