//! The server: its health, its clients, and its files.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use prometheus_client::metrics::counter::Counter;

use super::Area;
use super::families::Families;
use super::reading::Reading;
use super::rpc::kith_services;

/// Follows the server.
#[derive(Debug)]
pub struct Server {
    /// Whether each service is SERVING.
    health: Vec<(&'static str, AtomicBool)>,
    /// How many connections of clients are open, and how many may be.
    pub connections: Reading<(usize, usize)>,
    /// The end of the certificate in force, in seconds since 1970. 0 without TLS.
    certificate_expiry: AtomicI64,
    /// Attempts to read changed files again that failed.
    pub reload_failures: ReloadFailures,
}

/// Attempts to read changed files again that failed, by what the files have.
#[derive(Debug, Default)]
pub struct ReloadFailures {
    /// The certificate, its key and the authorities of clients.
    pub certificate: Counter,
    /// The principals.
    pub principals: Counter,
    /// The keys of tokens, also at a URL.
    pub jwt_keys: Counter,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            health: kith_services().into_iter().map(|service| (service, AtomicBool::new(false))).collect(),
            connections: Reading::default(),
            certificate_expiry: AtomicI64::new(0),
            reload_failures: ReloadFailures::default(),
        }
    }
}

impl Server {
    /// Records what the health service says of a service of Kith's.
    pub fn health(&self, service: &str, serves: bool) {
        let named = self.health.iter().find(|(name, _)| *name == service);
        named.into_iter().for_each(|(_, health)| health.store(serves, Ordering::Relaxed));
    }

    /// Records when the certificate in force ends, in seconds since 1970.
    pub fn certificate_ends(&self, seconds: i64) {
        self.certificate_expiry.store(seconds, Ordering::Relaxed);
    }
}

impl Area for Server {
    fn write(&self, families: &mut Families<'_>) -> fmt::Result {
        let mut family = families.gauge("kith_health", "1 if health reports the service as SERVING.")?;
        for (service, serves) in &self.health {
            family.value(&[("service", service)], u64::from(serves.load(Ordering::Relaxed)))?;
        }
        let connections = self.connections.get();
        let mut family = families.gauge("kith_client_connections", "Open connections of clients.")?;
        if let Some((open, _)) = connections {
            family.value(&[], open)?;
        }
        let mut family = families.gauge("kith_client_connections_max", "Maximum of kith_client_connections.")?;
        if let Some((_, max)) = connections {
            family.value(&[], max)?;
        }
        let help = "End of the server's certificate, in seconds since 1970.";
        let mut family = families.gauge("kith_tls_certificate_expiry_timestamp_seconds", help)?;
        let expiry = self.certificate_expiry.load(Ordering::Relaxed);
        if expiry != 0 {
            family.value(&[], expiry)?;
        }
        let ReloadFailures { certificate, principals, jwt_keys } = &self.reload_failures;
        let help = "Attempts to read changed files again that failed; the previous content remains in force.";
        let mut family = families.counter("kith_reload_failures_total", help)?;
        for (file, failures) in [("certificate", certificate), ("principals", principals), ("jwt_keys", jwt_keys)] {
            family.count(&[("file", file)], failures.get())?;
        }
        Ok(())
    }
}
