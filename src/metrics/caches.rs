//! Caches: how often they help, and how full they are.

use std::fmt;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use quick_cache::Lifecycle;

use super::Area;
use super::families::{Families, Family};
use super::reading::Reading;

/// The metrics of each cache.
#[derive(Debug, Default)]
pub struct Caches {
    /// Users, for reads.
    pub users: Arc<Cache>,
    /// Users with their counts, for the commit.
    pub writer: Arc<Cache>,
    /// Verified tokens.
    pub tokens: Arc<Cache>,
}

/// The metrics of one cache.
#[derive(Debug, Default)]
pub struct Cache {
    /// Look-ups that found something.
    pub hits: Counter,
    /// Look-ups that found nothing.
    pub misses: Counter,
    evictions: Counter,
    /// How full it is.
    pub size: Reading<Size>,
}

/// How full a cache is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// The number of its entries.
    pub entries: u64,
    /// Its bytes and their maximum, as the cache estimates them. `None` if it counts entries only.
    pub bytes: Option<(u64, u64)>,
}

impl Cache {
    /// Counts look-ups.
    pub fn looked_up(&self, hits: usize, misses: usize) {
        let counts = [(&self.hits, hits), (&self.misses, misses)];
        counts
            .into_iter()
            .filter(|(_, number)| *number > 0)
            .for_each(|(counter, number)| _ = counter.inc_by(number as u64));
    }

    /// Returns the lifecycle of a cache whose evictions are counted here.
    pub fn counting<L: Default>(&self) -> Counting<L> {
        Counting { inner: L::default(), evictions: self.evictions.clone() }
    }
}

/// A lifecycle of a cache that counts what is evicted.
#[derive(Clone, Debug)]
pub struct Counting<L> {
    inner: L,
    evictions: Counter,
}

impl<K, V, L: Lifecycle<K, V>> Lifecycle<K, V> for Counting<L> {
    type RequestState = L::RequestState;

    fn on_evict(&self, state: &mut Self::RequestState, key: K, value: V) {
        self.evictions.inc();
        self.inner.on_evict(state, key, value);
    }
}

impl Area for Caches {
    fn write(&self, families: &mut Families<'_>) -> fmt::Result {
        let Self { users, writer, tokens } = self;
        let caches = [("users", users), ("writer", writer), ("tokens", tokens)];
        let counts = |mut family: Family<'_>, counter: fn(&Cache) -> &Counter| {
            caches.iter().try_for_each(|(name, cache)| family.count(&[("cache", name)], counter(cache).get()))
        };
        counts(families.counter("kith_cache_hits_total", "Look-ups in a cache that found something.")?, |cache| {
            &cache.hits
        })?;
        counts(families.counter("kith_cache_misses_total", "Look-ups in a cache that found nothing.")?, |cache| {
            &cache.misses
        })?;
        counts(families.counter("kith_cache_evictions_total", "Entries that made room for others.")?, |cache| {
            &cache.evictions
        })?;
        let sizes = caches.map(|(name, cache)| (name, cache.size.get()));
        let values = |mut family: Family<'_>, value: fn(Size) -> Option<u64>| {
            let there = sizes.iter().filter_map(|(name, size)| Some((name, size.and_then(value)?)));
            there.into_iter().try_for_each(|(name, value)| family.value(&[("cache", name)], value))
        };
        values(families.gauge("kith_cache_entries", "Entries of a cache.")?, |size| Some(size.entries))?;
        values(families.gauge("kith_cache_bytes", "Memory of the entries of a cache, as it estimates it.")?, |size| {
            size.bytes.map(|(bytes, _)| bytes)
        })?;
        values(families.gauge("kith_cache_capacity_bytes", "Maximum of kith_cache_bytes.")?, |size| {
            size.bytes.map(|(_, capacity)| capacity)
        })
    }
}
