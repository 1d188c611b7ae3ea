//! Slows clients that send invalid tokens: to verify a signature costs ten times as much as any other refusal.
//!
//! While a network has sent too many invalid tokens, those of its connections that sent one of them have no other token
//! verified. A valid token that was verified before is still accepted from them, and so are API keys and certificates. The
//! first invalid token of a connection is always verified, so a client behind the same address is not slowed by another.
//! A connection for each token costs its client and the server more than the token.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::Clock;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use quick_cache::sync::Cache;
use tokio::time::Instant;

use super::limiter::Elapsed;

/// Invalid tokens of a network that are verified a second, and as many at once: some 150 ms of CPU time.
pub const FAILURES_MAX: NonZeroU32 = NonZeroU32::MIN.saturating_add(999);
/// Maximum networks, and connections, that are remembered. Those that failed least recently are forgotten.
const REMEMBERED_MAX: usize = 16_384;

/// The client of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The address of its end of the connection.
    pub connection: SocketAddr,
    /// The address, or the part of it, that is the same for all its connections.
    pub network: IpAddr,
}

/// The invalid tokens of each network.
#[derive(Debug)]
pub(super) struct Failures {
    networks: Cache<IpAddr, Arc<Failing>>,
    /// The connections that sent an invalid token.
    connections: Cache<SocketAddr, ()>,
}

/// A network that sent invalid tokens.
#[derive(Debug)]
struct Failing {
    limiter: RateLimiter<NotKeyed, InMemoryState, Elapsed>,
    /// The time until which it has sent too many.
    until: Mutex<Option<Instant>>,
}

impl Failures {
    pub(super) fn new() -> Self {
        Self { networks: Cache::new(REMEMBERED_MAX), connections: Cache::new(REMEMBERED_MAX) }
    }

    /// Checks whether a token of this client is to be verified.
    ///
    /// # Errors
    ///
    /// The time after which it would be.
    pub(super) fn admit(&self, client: Client) -> Result<(), Duration> {
        let Client { connection, network } = client;
        let Some(failing) = self.networks.get(&network) else { return Ok(()) };
        let until = *failing.until.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        if wait.is_zero() || self.connections.get(&connection).is_none() { Ok(()) } else { Err(wait) }
    }

    /// Counts an invalid token of this client.
    pub(super) fn failed(&self, client: Client) {
        let Client { connection, network } = client;
        self.connections.insert(connection, ());
        let Ok(failing) = self.networks.get_or_insert_with(&network, || Ok::<_, Infallible>(Arc::new(Failing::new())));
        if let Err(exceeded) = failing.limiter.check() {
            let wait = exceeded.wait_time_from(failing.limiter.clock().now());
            *failing.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + wait);
        }
    }
}

impl Failing {
    fn new() -> Self {
        let limiter = RateLimiter::direct_with_clock(Quota::per_second(FAILURES_MAX), Elapsed::begin());
        Self { limiter, until: Mutex::new(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(connection: &str) -> Client {
        let connection: SocketAddr = connection.parse().expect("an address");
        Client { connection, network: connection.ip() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_of_a_network_with_many_failures_waits_and_no_other_does() {
        let failures = Failures::new();
        let (hostile, honest, elsewhere) = (client("192.0.2.7:1"), client("192.0.2.7:2"), client("192.0.2.8:1"));
        failures.failed(elsewhere);
        for _ in 0..FAILURES_MAX.get() {
            assert_eq!(failures.admit(hostile), Ok(()));
            failures.failed(hostile);
        }
        assert_eq!(failures.admit(hostile), Ok(()));
        failures.failed(hostile);
        let wait = failures.admit(hostile).expect_err("too many");
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(1), "{wait:?}");
        assert_eq!([failures.admit(honest), failures.admit(elsewhere)], [Ok(()), Ok(())]);
        // Its own failure makes it one of them.
        failures.failed(honest);
        failures.admit(honest).expect_err("too many");
        tokio::time::advance(Duration::from_millis(2)).await;
        assert_eq!([failures.admit(hostile), failures.admit(honest)], [Ok(()), Ok(())]);
    }
}
