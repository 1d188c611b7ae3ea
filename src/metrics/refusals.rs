//! What is refused, by its cause: before a service saw it, or for want of room.

use std::error::Error;
use std::fmt;

use prometheus_client::metrics::counter::Counter;

use super::Area;
use super::families::Families;

/// Why a connection, a request or a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A connection: as many are open as the server allows.
    Connections,
    /// A connection: as many of its address are open as the server allows.
    ConnectionsPerAddress,
    /// A connection: it said nothing in time.
    Silence,
    /// A connection: it speaks another protocol.
    Protocol,
    /// A connection: its TLS handshake, for the client's certificate or for its protocols.
    Handshake,
    /// A connection: it demanded too much, such as a flood of frames.
    Flood,
    /// A request that is no call of gRPC.
    NotGrpc,
    /// A watch of health: its connection has as many as it may.
    HealthWatches,
    /// A call while the database was not there yet.
    Starting,
    /// A call: its credential is missing or not valid.
    Credentials,
    /// A call: its principal may not make it.
    Rights,
    /// A call: its principal is at a limit.
    RateLimit,
    /// A call: requests that are not complete hold as much memory as they may.
    RequestMemory,
    /// A write: as many wait as may.
    Queue,
    /// A read: as many wait as may, or it waited for too long.
    Reads,
    /// A watch: as many are open as may be.
    Watches,
    /// An import: as many run as may.
    Imports,
    /// An export: as many run as may.
    Exports,
    /// A read: answers that nobody reads hold as much memory as they may.
    Answers,
}

impl Cause {
    /// All causes, in the order of their declaration.
    pub const ALL: [Self; 19] = [
        Self::Connections,
        Self::ConnectionsPerAddress,
        Self::Silence,
        Self::Protocol,
        Self::Handshake,
        Self::Flood,
        Self::NotGrpc,
        Self::HealthWatches,
        Self::Starting,
        Self::Credentials,
        Self::Rights,
        Self::RateLimit,
        Self::RequestMemory,
        Self::Queue,
        Self::Reads,
        Self::Watches,
        Self::Imports,
        Self::Exports,
        Self::Answers,
    ];

    /// The value of the label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsPerAddress => "connections_per_address",
            Self::Silence => "silence",
            Self::Protocol => "protocol",
            Self::Handshake => "handshake",
            Self::Flood => "flood",
            Self::NotGrpc => "not_grpc",
            Self::HealthWatches => "health_watches",
            Self::Starting => "starting",
            Self::Credentials => "credentials",
            Self::Rights => "rights",
            Self::RateLimit => "rate_limit",
            Self::RequestMemory => "request_memory",
            Self::Queue => "queue",
            Self::Reads => "reads",
            Self::Watches => "watches",
            Self::Imports => "imports",
            Self::Exports => "exports",
            Self::Answers => "answers",
        }
    }
}

/// The source of a status that refuses a call. The log has it, and callers do not receive it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub Cause);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused: {}", self.0.name())
    }
}

impl Error for Refused {}

/// Counts what is refused.
#[derive(Debug, Default)]
pub struct Refusals([Counter; Cause::ALL.len()]);

impl Refusals {
    /// Counts one more.
    pub fn count(&self, cause: Cause) {
        self.0[cause as usize].inc();
    }

    /// Counts a call that failed with an error of this source, if that is a refusal.
    pub fn count_source(&self, source: Option<&(dyn Error + 'static)>) {
        if let Some(Refused(cause)) = source.and_then(|source| source.downcast_ref()) {
            self.count(*cause);
        }
    }
}

impl Area for Refusals {
    fn write(&self, families: &mut Families<'_>) -> fmt::Result {
        let help = "What was refused before a service saw it, or for want of room, by the cause.";
        let mut family = families.counter("kith_refused_total", help)?;
        for (cause, refused) in Cause::ALL.into_iter().zip(&self.0) {
            family.count(&[("cause", cause.name())], refused.get())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_counter() {
        let refusals = Refusals::default();
        for (index, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, index, "{cause:?}");
            refusals.count_source(Some(&Refused(cause)));
        }
        refusals.count_source(None);
        refusals.count_source(Some(&fmt::Error));
        assert!(refusals.0.iter().all(|counter| counter.get() == 1));
    }
}
