//! Bytes that the server holds for callers: how many in all, and how many for one connection.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The part of the maximum that one connection may have: one in so many.
const CONNECTION_SHARE: usize = 4;

/// A counter of bytes of one kind.
#[derive(Clone, Debug)]
pub(super) struct Held(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    /// By the address of the client, which is that of a connection. Connections of a Unix socket have none, and only the
    /// total limits them.
    by_peer: HashMap<SocketAddr, usize>,
}

impl Held {
    /// Creates a counter that allows `max` bytes, and a quarter of them for one connection.
    pub(super) fn new(max: usize) -> Self {
        Self(Arc::new(Shared { max, counts: Mutex::default() }))
    }

    /// Counts the bytes until the result is dropped. Returns `None` if they are too many.
    pub(super) fn reserve(&self, peer: Option<SocketAddr>, bytes: usize) -> Option<Reservation> {
        let mut counts = self.lock();
        let of_peer = peer.and_then(|peer| counts.by_peer.get(&peer)).copied().unwrap_or_default();
        let fits = counts.total + bytes <= self.0.max && of_peer + bytes <= self.0.max / CONNECTION_SHARE;
        fits.then(|| {
            counts.add(peer, bytes);
            Reservation { held: self.clone(), peer, bytes }
        })
    }

    /// The same without a limit.
    pub(super) fn count(&self, peer: Option<SocketAddr>, bytes: usize) -> Reservation {
        self.lock().add(peer, bytes);
        Reservation { held: self.clone(), peer, bytes }
    }

    /// The number of bytes, and that of connections with any.
    #[cfg(test)]
    pub(super) fn counted(&self) -> (usize, usize) {
        let counts = self.lock();
        (counts.total, counts.by_peer.len())
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn add(&mut self, peer: Option<SocketAddr>, bytes: usize) {
        self.total += bytes;
        peer.into_iter().for_each(|peer| *self.by_peer.entry(peer).or_default() += bytes);
    }

    fn remove(&mut self, peer: Option<SocketAddr>, bytes: usize) {
        self.total -= bytes;
        if let Some(Entry::Occupied(mut of_peer)) = peer.map(|peer| self.by_peer.entry(peer)) {
            *of_peer.get_mut() -= bytes;
            if *of_peer.get() == 0 {
                of_peer.remove();
            }
        }
    }
}

/// Bytes that are counted until this is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    held: Held,
    peer: Option<SocketAddr>,
    bytes: usize,
}

impl Reservation {
    /// Counts more bytes of the same kind for the same connection, without a limit.
    pub(super) fn count(&self, bytes: usize) -> Self {
        self.held.count(self.peer, bytes)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.held.lock().remove(self.peer, self.bytes);
    }
}
