//! Which server is the primary, as far as this process knows: no connection stays with one that no longer is.
//!
//! A promotion begins a timeline with a higher number. Every new connection of a store that writes says whether it leads
//! to a standby, and which timeline its primary writes. A connection to a timeline that is lower than one that was seen
//! before is refused: what is written there is lost. The first one to a higher timeline ends all others.
//!
//! If the URL has several hosts, each is looked at every [`INTERVAL`] over a connection of its own, so that a second
//! primary is noticed while the connections to the first one live on. A single host may be a proxy. It is looked at now and
//! then ([`Options::single_host_check`](crate::store::Options)), each time over a new connection, since it may lead to
//! another server by then. While no host is a primary, each is looked at every [`RETRY`], and calls fail after
//! [`PATIENCE`] instead of trying to connect themselves.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::attributes::WrongServer;
use super::config::{Cause, NoAnswer, NoHost, PostgresConfig};
use super::kind::{self, Kind};
use super::waiting::is_passing;
use crate::causes::with_causes;
use crate::domain::epoch::Lineage;
use crate::store::StoreError;

/// The time between two looks at one of several hosts while there is a primary.
const INTERVAL: Duration = Duration::from_secs(2);
/// The same while there is none. A look at a standby costs it a tenth of a millisecond.
const RETRY: Duration = Duration::from_millis(40);
/// How long the connection to a host is used for looks. The name of the host may lead to another server by then.
const RENEWAL: Duration = Duration::from_secs(30);
/// The time that a host has to answer a look.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a call waits for a primary while there is none: for two looks.
const PATIENCE: Duration = Duration::from_millis(80);

/// The result of the last look at a host.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    NotYet,
    Is(Kind),
    /// It cannot be reached, or it is starting or shutting down.
    Away(String),
    /// It runs, and refuses the look, such as for want of connections. It may serve those that exist.
    Refuses,
}

/// How the lineage of a primary relates to the newest one that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgement {
    /// The same one, or one that says nothing.
    Same,
    Newer,
    /// A primary that was replaced.
    Former,
    /// Another cluster.
    Foreign,
}

fn judge(newest: Option<Lineage>, found: Option<Lineage>) -> Judgement {
    let Some(found) = found else { return Judgement::Same };
    let Some(newest) = newest else { return Judgement::Newer };
    let systems = newest.system_identifier.zip(found.system_identifier);
    match found.timeline.cmp(&newest.timeline) {
        _ if systems.is_some_and(|(newest, found)| newest != found) => Judgement::Foreign,
        std::cmp::Ordering::Less => Judgement::Former,
        std::cmp::Ordering::Equal => Judgement::Same,
        std::cmp::Ordering::Greater => Judgement::Newer,
    }
}

/// Returns the host to use, if any is a primary: of the newest timeline that is known, else of another cluster.
fn choose(newest: Option<Lineage>, hosts: &[Seen]) -> Option<(usize, Option<Lineage>)> {
    let primaries = hosts.iter().enumerate().filter_map(|(index, seen)| match seen {
        Seen::Is(Kind::Primary(lineage)) => Some((index, *lineage)),
        Seen::Is(Kind::Standby) | Seen::NotYet | Seen::Away(_) | Seen::Refuses => None,
    });
    let found: Vec<_> = primaries.map(|(index, lineage)| (index, lineage, judge(newest, lineage))).collect();
    let best = |wanted: Judgement| {
        let those = found.iter().filter(|(.., judgement)| *judgement == wanted);
        those.max_by_key(|(_, lineage, _)| lineage.map(|lineage| lineage.timeline))
    };
    let best = [Judgement::Newer, Judgement::Same, Judgement::Foreign].into_iter().find_map(best);
    best.map(|(index, lineage, _)| (*index, *lineage))
}

/// Why no primary can be reached; `None` if one can, as far as is known.
type Gone = Option<Arc<str>>;

pub(super) struct Primary {
    state: Mutex<State>,
    gone: watch::Sender<Gone>,
    /// Marked as changed when all connections are to end.
    left: watch::Sender<()>,
}

struct State {
    /// The newest lineage that was seen.
    newest: Option<Lineage>,
    hosts: Vec<Seen>,
    /// Whether the connections were ended since a primary was last there.
    has_ended: bool,
}

/// A connection that leads to the primary.
pub(super) struct Admitted {
    pub(super) lineage: Option<Lineage>,
    /// Marked as changed when the connection is to end.
    pub(super) left: watch::Receiver<()>,
}

/// The error of a primary that was replaced by another one.
#[derive(Debug, thiserror::Error)]
#[error("the server is a former primary: its timeline is {found}, and another one has {newest}")]
struct FormerPrimary {
    found: i64,
    newest: i64,
}

impl Primary {
    pub(super) fn new(hosts: usize) -> Self {
        let state = Mutex::new(State { newest: None, hosts: vec![Seen::NotYet; hosts], has_ended: false });
        Self { state, gone: watch::Sender::new(None), left: watch::Sender::new(()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns an error while no primary can be reached, after a short time in which one may appear.
    ///
    /// # Errors
    ///
    /// [`StoreError::Away`].
    pub(super) async fn ready(&self) -> Result<(), StoreError> {
        if self.gone.borrow().is_none() {
            return Ok(());
        }
        let mut gone = self.gone.subscribe();
        if timeout(PATIENCE, gone.wait_for(Option::is_none)).await.is_ok() {
            return Ok(());
        }
        let gone = self.gone.borrow().clone();
        gone.map_or(Ok(()), |cause| Err(StoreError::Away(cause)))
    }

    /// Judges a new connection.
    pub(super) fn admit(&self, kind: Kind) -> Result<Admitted, Cause> {
        let Kind::Primary(found) = kind else { return Err(WrongServer::standby().into()) };
        let mut state = self.state();
        match (judge(state.newest, found), state.newest, found) {
            (Judgement::Former, Some(newest), Some(found)) => {
                Err(FormerPrimary { found: found.timeline, newest: newest.timeline }.into())
            }
            (Judgement::Newer | Judgement::Foreign, ..) => {
                self.begin(&mut state, found);
                Ok(Admitted { lineage: found, left: self.left.subscribe() })
            }
            (Judgement::Same | Judgement::Former, ..) => Ok(Admitted { lineage: found, left: self.left.subscribe() }),
        }
    }

    /// Returns a receiver that is marked as changed when all connections are to end.
    pub(super) fn left(&self) -> watch::Receiver<()> {
        self.left.subscribe()
    }

    /// Makes a lineage the newest one, and ends the connections to others.
    fn begin(&self, state: &mut State, lineage: Option<Lineage>) {
        let before = std::mem::replace(&mut state.newest, lineage);
        if let (Some(before), Some(now)) = (before, lineage) {
            tracing::warn!(
                timeline = now.timeline,
                former = before.timeline,
                "another server is the primary now; the connections to the former one are ended"
            );
            self.left.send_replace(());
        }
    }

    /// Notes that a connection could not be opened.
    ///
    /// That a single host did not answer says nothing: a pooler in front of it lets new sessions wait, and those that are
    /// open work.
    pub(super) fn failed(&self, cause: &Cause) {
        let is_only = self.state().hosts.len() == 1;
        if is_away(cause) && !(is_only && cause.is::<NoAnswer>()) {
            self.is_gone(&with_causes(&**cause));
        }
    }

    fn is_gone(&self, cause: &str) {
        let noted = self.gone.send_if_modified(|gone| {
            let noted = gone.is_none();
            *gone = Some(cause.into());
            noted
        });
        if noted {
            tracing::warn!(error = cause, "no primary of the database can be reached; calls fail until one can");
        }
    }

    fn is_there(&self) {
        if self.gone.send_if_modified(|gone| gone.take().is_some()) {
            tracing::info!("a primary of the database can be reached again");
        }
    }

    /// Notes the result of a look at a host. Returns the host to use, if any is known.
    fn saw(&self, index: usize, seen: Seen) -> Option<usize> {
        let mut state = self.state();
        state.hosts[index] = seen;
        let chosen = choose(state.newest, &state.hosts);
        if let Some((index, lineage)) = chosen {
            state.has_ended = false;
            if judge(state.newest, lineage) != Judgement::Same {
                self.begin(&mut state, lineage);
            }
            self.is_there();
            return Some(index);
        }
        let is_known = |seen: &Seen| matches!(seen, Seen::Is(_) | Seen::Away(_));
        if state.hosts.contains(&Seen::Refuses) {
            state.has_ended = false;
            self.is_there();
        } else if state.hosts.iter().all(is_known) && !self.is_inconclusive(&state) {
            self.is_gone(&state.hosts.iter().map(|seen| describe(state.newest, seen)).collect::<Vec<_>>().join("; "));
            if !std::mem::replace(&mut state.has_ended, true) {
                // What they wait for may never come.
                self.left.send_replace(());
            }
        }
        None
    }

    /// Whether a look that finds no primary says nothing: a proxy may be restarted, or lead nowhere, while the connections
    /// through it live on. A call that needs a new one notices that.
    fn is_inconclusive(&self, state: &State) -> bool {
        state.hosts.len() == 1 && self.gone.borrow().is_none()
    }

    /// Waits until it is time for another look: after this interval, or sooner if no primary is there.
    async fn pause(&self, interval: Duration) {
        if self.gone.borrow().is_some() {
            return sleep(RETRY).await;
        }
        let mut gone = self.gone.subscribe();
        _ = timeout(interval, gone.wait_for(Option::is_some)).await;
    }

    /// Waits until each host was looked at.
    pub(super) async fn looked(&self) {
        let all = async {
            while self.state().hosts.contains(&Seen::NotYet) {
                sleep(RETRY / 8).await;
            }
        };
        _ = timeout(ANSWER, all).await;
    }
}

/// Describes a host that cannot be used.
fn describe(newest: Option<Lineage>, seen: &Seen) -> String {
    match seen {
        Seen::Is(Kind::Standby) => "a standby".to_owned(),
        Seen::Is(Kind::Primary(lineage)) => {
            let timeline = |lineage: Option<Lineage>| lineage.map(|lineage| lineage.timeline).unwrap_or_default();
            format!("a former primary (timeline {}, not {})", timeline(*lineage), timeline(newest))
        }
        Seen::Away(cause) => cause.clone(),
        Seen::NotYet | Seen::Refuses => String::new(),
    }
}

/// Looks at a host for as long as the store lives. `single` is the interval of looks at a single host.
pub(super) async fn follow(config: Arc<PostgresConfig>, index: usize, single: Duration) {
    let Some(primary) = config.primary() else { return };
    let is_only = config.hosts() == 1;
    let interval = if is_only { single } else { INTERVAL };
    if is_only {
        primary.pause(interval).await;
    }
    let mut open = None;
    loop {
        let seen = look(&config, index, &mut open).await;
        if let Some(host) = primary.saw(index, seen) {
            config.prefer(host);
        }
        if is_only {
            // A proxy may lead to another server by now.
            open = None;
        }
        primary.pause(interval).await;
    }
}

/// Asks a host what it is, over the connection of the last look if that is still open.
async fn look(config: &PostgresConfig, index: usize, open: &mut Option<(Client, Instant)>) -> Seen {
    let asked = async {
        if let Some((client, since)) =
            open.take().filter(|(client, since)| !client.is_closed() && since.elapsed() < RENEWAL)
            && let Ok(kind) = kind::ask(&client).await
        {
            *open = Some((client, since));
            return Ok(kind);
        }
        let client = config.look_at(index).await?;
        let kind = kind::ask(&client).await?;
        *open = Some((client, Instant::now()));
        Ok::<_, Cause>(kind)
    };
    match timeout(ANSWER, asked).await {
        Ok(Ok(kind)) => Seen::Is(kind),
        Ok(Err(cause)) if is_away(&cause) => Seen::Away(with_causes(&*cause)),
        Ok(Err(_)) => Seen::Refuses,
        // As for a connection that a call waits for.
        Err(_) if config.hosts() == 1 => Seen::Refuses,
        Err(_) => Seen::Away(format!("no answer within {ANSWER:?}")),
    }
}

/// Whether an error of connecting says that no primary is there, and not only that it takes no more connections.
fn is_away(cause: &Cause) -> bool {
    if let Some(NoHost(failures)) = cause.downcast_ref() {
        return failures.iter().all(|(_, cause)| is_away(cause));
    }
    let code = cause.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::code);
    cause.is::<FormerPrimary>() || (is_passing(&**cause) && code != Some(&SqlState::TOO_MANY_CONNECTIONS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(system: i64, timeline: i64) -> Option<Lineage> {
        Some(Lineage { system_identifier: Some(system), timeline })
    }

    fn unnamed(timeline: i64) -> Option<Lineage> {
        Some(Lineage { system_identifier: None, timeline })
    }

    #[test]
    fn a_primary_is_judged_by_its_timeline() {
        for (newest, found, expected) in [
            (None, None, Judgement::Same),
            (None, of(1, 1), Judgement::Newer),
            (of(1, 2), None, Judgement::Same),
            (of(1, 2), of(1, 1), Judgement::Former),
            (of(1, 2), of(1, 2), Judgement::Same),
            (of(1, 2), of(1, 3), Judgement::Newer),
            (of(1, 2), of(2, 3), Judgement::Foreign),
            (of(1, 2), of(2, 1), Judgement::Foreign),
            (of(1, 2), unnamed(1), Judgement::Former),
            (unnamed(2), of(1, 3), Judgement::Newer),
        ] {
            assert_eq!(judge(newest, found), expected, "{newest:?} {found:?}");
        }
    }

    #[test]
    fn the_primary_with_the_highest_timeline_is_used() {
        let primary = |lineage| Seen::Is(Kind::Primary(lineage));
        let (standby, away) = (Seen::Is(Kind::Standby), Seen::Away("refused".to_owned()));
        for (newest, hosts, expected) in [
            (of(1, 1), vec![standby.clone(), away.clone(), Seen::NotYet, Seen::Refuses], None),
            (of(1, 1), vec![standby.clone(), primary(of(1, 1))], Some(1)),
            (of(1, 1), vec![primary(of(1, 1)), primary(of(1, 3)), primary(of(1, 2))], Some(1)),
            (of(1, 2), vec![primary(of(1, 1)), standby], None),
            (of(1, 2), vec![primary(of(2, 9)), primary(of(1, 2))], Some(1)),
            (of(1, 2), vec![away, primary(of(2, 1))], Some(1)),
            (None, vec![primary(None)], Some(0)),
        ] {
            let chosen = choose(newest, &hosts).map(|(index, _)| index);
            assert_eq!(chosen, expected, "{newest:?} {hosts:?}");
        }
    }

    #[tokio::test]
    async fn connections_to_a_former_primary_end_and_none_is_opened_again() {
        let primary = Primary::new(2);
        let mut one = primary.admit(Kind::Primary(of(1, 1))).expect("the first one").left;
        let other = primary.admit(Kind::Primary(of(1, 1))).expect("the same").left;
        assert!(!one.has_changed().expect("a sender"));
        let newer = primary.admit(Kind::Primary(of(1, 2))).expect("a newer one").left;
        assert!(one.has_changed().expect("a sender") && other.has_changed().expect("a sender"));
        one.mark_unchanged();
        assert!(!newer.has_changed().expect("a sender"));
        assert!(primary.admit(Kind::Primary(of(1, 1))).is_err(), "a former one");
        assert!(primary.admit(Kind::Standby).is_err(), "a standby");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_fail_while_there_is_no_primary() {
        let primary = Primary::new(2);
        primary.ready().await.expect("nothing is known");
        assert_eq!(primary.saw(0, Seen::Away("refused".to_owned())), None);
        primary.ready().await.expect("the other one may be");
        let left = primary.left();
        assert_eq!(primary.saw(1, Seen::Is(Kind::Standby)), None);
        let Err(StoreError::Away(cause)) = primary.ready().await else { panic!("there is none") };
        assert_eq!(&*cause, "refused; a standby");
        assert!(left.has_changed().expect("a sender"));
        assert_eq!(primary.saw(1, Seen::Is(Kind::Primary(of(1, 2)))), Some(1));
        primary.ready().await.expect("it was promoted");
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_hang_end_once_for_each_outage_that_a_call_notices_first() {
        let primary = Primary::new(1);
        let mut left = primary.admit(Kind::Primary(of(1, 1))).expect("a primary").left;
        for outage in 0..2 {
            let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
            primary.failed(&refused.into());
            assert!(primary.ready().await.is_err(), "{outage}");
            assert!(!left.has_changed().expect("a sender"), "no look has confirmed it");
            assert_eq!(primary.saw(0, Seen::Away("refused".to_owned())), None);
            assert!(left.has_changed().expect("a sender"), "{outage}");
            left.mark_unchanged();
            assert_eq!(primary.saw(0, Seen::Away("refused".to_owned())), None);
            assert!(!left.has_changed().expect("a sender"), "those that were opened since do not end");
            assert_eq!(primary.saw(0, Seen::Is(Kind::Primary(of(1, 1)))), Some(0));
            primary.ready().await.expect("it is there again");
        }
    }

    #[tokio::test]
    async fn a_look_at_a_single_host_that_shows_no_primary_ends_no_connection_that_works() {
        let primary = Primary::new(1);
        let left = primary.admit(Kind::Primary(of(1, 2))).expect("a primary").left;
        for seen in [Seen::Away("refused".to_owned()), Seen::Is(Kind::Standby), Seen::Is(Kind::Primary(of(1, 1)))] {
            assert_eq!(primary.saw(0, seen.clone()), None);
            primary.ready().await.unwrap_or_else(|error| panic!("{seen:?}: {error:?}"));
            assert!(!left.has_changed().expect("a sender"), "{seen:?}");
        }
        assert_eq!(primary.saw(0, Seen::Is(Kind::Primary(of(1, 3)))), Some(0));
        assert!(left.has_changed().expect("a sender"), "another primary");
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_host_that_lets_new_sessions_wait_is_not_away() {
        // The kernel accepts connections, and nobody answers.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = silent.local_addr().expect("an address");
        for (hosts, is_away) in [(vec![host], false), (vec![host; 2], true)] {
            let primary = Primary::new(hosts.len());
            primary.failed(&NoAnswer(ANSWER).into());
            assert_eq!(primary.ready().await.is_err(), is_away, "{hosts:?}");
            let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
            let url = format!("postgres://kith@{}/kith?sslmode=disable", hosts.join(","));
            let seen = look(&PostgresConfig::parse(&url).expect("a URL"), 0, &mut None).await;
            assert_eq!(matches!(seen, Seen::Away(_)), is_away, "{hosts:?}: {seen:?}");
        }
    }
}
