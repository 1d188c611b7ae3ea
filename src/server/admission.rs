//! Which connections the server admits: how many in all and from one address, and when they begin.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Instant, sleep_until};

use super::offenders::Offenders;
use super::peer::Peer;
use crate::metrics::Metrics;
use crate::metrics::refusals::{Cause, Refusals};
use crate::rarely::Rarely;

/// Limits on open connections. They hold from the first byte on, before anybody is authenticated.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Maximum of all. Further ones are closed when they are accepted.
    pub total: usize,
    /// Maximum from one address, or from one network (/64) of IPv6. `None` = no limit of its own, and no wait after its
    /// connections demanded too much, since all clients may have this address.
    pub per_address: Option<usize>,
}

impl Default for ConnectionLimits {
    /// No address can take all connections.
    fn default() -> Self {
        Self { total: 16_384, per_address: Some(8_192) }
    }
}

/// Counts open connections, and refuses those beyond the limits.
#[derive(Debug)]
pub(super) struct Admission {
    limits: ConnectionLimits,
    open: Arc<Mutex<Open>>,
    refusals: Arc<Refusals>,
    total: Rarely,
    per_address: Rarely,
    offenders: Rarely,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_network: HashMap<IpAddr, usize>,
    offenders: Offenders,
}

impl Admission {
    /// Its connections are those that the metrics show from now on.
    pub(super) fn new(limits: ConnectionLimits, metrics: &Metrics) -> Self {
        let open = Arc::<Mutex<Open>>::default();
        let counted = Arc::downgrade(&open);
        metrics.server.connections.set(move || Some((lock(&*counted.upgrade()?).total, limits.total)));
        let refusals = Arc::clone(&metrics.refusals);
        let [total, per_address, offenders] = [(); 3].map(|()| Rarely::default());
        Self { limits, open, refusals, total, per_address, offenders }
    }

    /// Counts a connection until the result is dropped. `None` if it is one too many, which is logged.
    pub(super) fn admit(&self, peer: Peer) -> Option<Admitted> {
        let network = peer.network();
        let refusal = match lock(&self.open).add(network, &self.limits, Instant::now()) {
            Ok(begins) => return Some(Admitted { open: Arc::clone(&self.open), network, begins }),
            Err(refusal) => refusal,
        };
        let (note, cause, words) = match refusal {
            Refusal::Total => (&self.total, Cause::Connections, "as many are open as --max-client-connections allows"),
            Refusal::PerAddress => {
                let words = "as many of its address are open as --max-client-connections-per-address allows";
                (&self.per_address, Cause::ConnectionsPerAddress, words)
            }
            Refusal::Offender => {
                (&self.offenders, Cause::Flood, "others of its address demanded too much, and too many wait")
            }
        };
        self.refusals.count(cause);
        if let Some(more) = note.due() {
            tracing::warn!(%peer, more, "closed a new connection: {words}");
        }
        None
    }
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    Total,
    PerAddress,
    Offender,
}

impl Open {
    /// Counts a connection, and returns when it may begin.
    fn add(&mut self, network: Option<IpAddr>, limits: &ConnectionLimits, now: Instant) -> Result<Instant, Refusal> {
        if self.total >= limits.total {
            return Err(Refusal::Total);
        }
        let mut begins = now;
        if let (Some(network), Some(maximum)) = (network, limits.per_address) {
            if self.by_network.get(&network).is_some_and(|connections| *connections >= maximum) {
                return Err(Refusal::PerAddress);
            }
            begins = self.offenders.turn(network, now).ok_or(Refusal::Offender)?;
        }
        self.total += 1;
        network.into_iter().for_each(|network| *self.by_network.entry(network).or_default() += 1);
        Ok(begins)
    }
}

/// An open connection. It is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Admitted {
    open: Arc<Mutex<Open>>,
    network: Option<IpAddr>,
    /// When it may begin.
    begins: Instant,
}

impl Admitted {
    /// Waits until the connection may begin.
    pub(super) async fn beginning(&self) {
        if self.begins > Instant::now() {
            sleep_until(self.begins).await;
        }
    }

    /// Notes that the server closed it because it demanded too much.
    pub(super) fn demanded_too_much(&self) {
        if let Some(network) = self.network {
            lock(&self.open).offenders.note(network, Instant::now());
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        open.total -= 1;
        if let Some(Entry::Occupied(mut connections)) = self.network.map(|network| open.by_network.entry(network)) {
            *connections.get_mut() -= 1;
            if *connections.get() == 0 {
                connections.remove();
            }
        }
    }
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn peer(address: &str) -> Peer {
        Peer::Tcp(address.parse().expect("an address"))
    }

    #[test]
    fn connections_are_counted_in_all_and_by_address_until_they_end() {
        let admission = Admission::new(ConnectionLimits { total: 4, per_address: Some(2) }, &Metrics::default());
        let first = admission.admit(peer("192.0.2.1:1")).expect("admitted");
        let _second = admission.admit(peer("192.0.2.1:2")).expect("admitted");
        assert!(admission.admit(peer("192.0.2.1:3")).is_none(), "two of the address are open");
        let others = ["192.0.2.2:1", "[2001:db8::1]:1"].map(|text| admission.admit(peer(text)).expect("admitted"));
        drop(first);
        let _again = admission.admit(peer("192.0.2.1:4")).expect("one of the address has ended");
        for one in [peer("192.0.2.3:1"), Peer::Unix] {
            assert!(admission.admit(one).is_none(), "four are open");
        }
        drop(others);
        // The Unix socket has no address, so only the total limits it.
        let _unix = [(); 2].map(|()| admission.admit(Peer::Unix).expect("admitted"));
        assert!(admission.admit(Peer::Unix).is_none());
        assert_eq!(lock(&admission.open).by_network.len(), 1, "addresses without a connection take no memory");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_whose_connection_demanded_too_much_waits() {
        for (per_address, waits) in [(Some(10), 5), (None, 0)] {
            let admission = Admission::new(ConnectionLimits { total: 10, per_address }, &Metrics::default());
            let admitted = || admission.admit(peer("192.0.2.1:1"));
            let first = admitted().expect("admitted");
            let begun = Instant::now();
            first.beginning().await;
            assert_eq!(begun.elapsed(), Duration::ZERO);
            first.demanded_too_much();
            admitted().expect("admitted").beginning().await;
            assert_eq!(begun.elapsed(), Duration::from_secs(waits), "{per_address:?}");
            let waiting: Vec<_> = (0..4).filter_map(|_| admitted()).collect();
            assert_eq!(waiting.len(), if waits > 0 { 2 } else { 4 }, "{per_address:?}");
        }
    }

    #[test]
    fn addresses_need_no_limit_of_their_own() {
        let admission = Admission::new(ConnectionLimits { total: 3, per_address: None }, &Metrics::default());
        let _open = [1, 2, 3].map(|port| admission.admit(peer(&format!("192.0.2.1:{port}"))).expect("admitted"));
        assert!(admission.admit(peer("192.0.2.1:4")).is_none());
    }
}
