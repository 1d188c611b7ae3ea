//! How many connections are open: in all, and from one address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::peer::Peer;
use crate::metrics::Metrics;
use crate::metrics::refusals::{Cause, Refusals};
use crate::rarely::Rarely;

/// Limits on open connections. They hold from the first byte on, before anybody is authenticated.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Maximum of all. Further ones are closed when they are accepted.
    pub total: usize,
    /// Maximum from one address, or from one network (/64) of IPv6. `None` = no limit of its own.
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
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_network: HashMap<IpAddr, usize>,
}

impl Admission {
    /// Its connections are those that the metrics show from now on.
    pub(super) fn new(limits: ConnectionLimits, metrics: &Metrics) -> Self {
        let open = Arc::<Mutex<Open>>::default();
        let counted = Arc::downgrade(&open);
        metrics.server.connections.set(move || Some((lock(&*counted.upgrade()?).total, limits.total)));
        let refusals = Arc::clone(&metrics.refusals);
        Self { limits, open, refusals, total: Rarely::default(), per_address: Rarely::default() }
    }

    /// Counts a connection until the result is dropped. `None` if it is one too many, which is logged.
    pub(super) fn admit(&self, peer: Peer) -> Option<Admitted> {
        let network = peer.network();
        let mut open = lock(&self.open);
        let from_network = network.and_then(|network| open.by_network.get(&network)).copied().unwrap_or_default();
        let (note, setting, maximum, cause) = if open.total >= self.limits.total {
            (&self.total, "--max-client-connections", self.limits.total, Cause::Connections)
        } else if let Some(maximum) = self.limits.per_address.filter(|maximum| from_network >= *maximum) {
            (&self.per_address, "--max-client-connections-per-address", maximum, Cause::ConnectionsPerAddress)
        } else {
            open.total += 1;
            network.into_iter().for_each(|network| *open.by_network.entry(network).or_default() += 1);
            return Some(Admitted { open: Arc::clone(&self.open), network });
        };
        drop(open);
        self.refusals.count(cause);
        if let Some(more) = note.due() {
            tracing::warn!(%peer, more, maximum, "closed a new connection: as many are open as {setting} allows");
        }
        None
    }
}

/// An open connection. It is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Admitted {
    open: Arc<Mutex<Open>>,
    network: Option<IpAddr>,
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

    #[test]
    fn addresses_need_no_limit_of_their_own() {
        let admission = Admission::new(ConnectionLimits { total: 3, per_address: None }, &Metrics::default());
        let _open = [1, 2, 3].map(|port| admission.admit(peer(&format!("192.0.2.1:{port}"))).expect("admitted"));
        assert!(admission.admit(peer("192.0.2.1:4")).is_none());
    }
}
