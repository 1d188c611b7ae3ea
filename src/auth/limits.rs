//! Limits on the calls of each principal.

use std::num::NonZeroU32;
use std::time::Duration;

/// Maximum of any limit.
pub const LIMIT_MAX: u32 = 1_000_000;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Calls a second that only read, those that open a watch included.
    Reads,
    /// Calls a second that may change something. An import is one.
    Writes,
    /// Concurrent calls, until the last byte of their answers. Watches and imports are not counted.
    InFlight,
    /// Concurrent event streams.
    Watches,
    /// Concurrent imports.
    Imports,
}

impl Limit {
    /// All limits, in the order of their declaration.
    pub const ALL: [Self; 5] = [Self::Reads, Self::Writes, Self::InFlight, Self::Watches, Self::Imports];

    /// Returns the name that errors have.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reads => "reads",
            Self::Writes => "writes",
            Self::InFlight => "in_flight",
            Self::Watches => "watches",
            Self::Imports => "imports",
        }
    }
}

/// The limits of one principal. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Maximum of [`Limit::Reads`], a second. As many may come at once.
    pub reads: Option<NonZeroU32>,
    /// Maximum of [`Limit::Writes`], a second. As many may come at once.
    pub writes: Option<NonZeroU32>,
    /// Maximum of [`Limit::InFlight`].
    pub in_flight: Option<NonZeroU32>,
    /// Maximum of [`Limit::Watches`].
    pub watches: Option<NonZeroU32>,
    /// Maximum of [`Limit::Imports`].
    pub imports: Option<NonZeroU32>,
}

impl Limits {
    /// No limit at all.
    pub const NONE: Self = Self { reads: None, writes: None, in_flight: None, watches: None, imports: None };
    /// The default limits of a user. Users cannot import.
    pub const USER: Self = Self {
        reads: NonZeroU32::new(100),
        writes: NonZeroU32::new(20),
        in_flight: NonZeroU32::new(64),
        watches: NonZeroU32::new(8),
        imports: None,
    };

    /// Returns the maximum of a limit.
    pub const fn get(&self, limit: Limit) -> Option<NonZeroU32> {
        match limit {
            Limit::Reads => self.reads,
            Limit::Writes => self.writes,
            Limit::InFlight => self.in_flight,
            Limit::Watches => self.watches,
            Limit::Imports => self.imports,
        }
    }

    /// Sets the maximum of a limit.
    pub const fn set(&mut self, limit: Limit, maximum: Option<NonZeroU32>) {
        match limit {
            Limit::Reads => self.reads = maximum,
            Limit::Writes => self.writes = maximum,
            Limit::InFlight => self.in_flight = maximum,
            Limit::Watches => self.watches = maximum,
            Limit::Imports => self.imports = maximum,
        }
    }
}

/// The limits by the kind of principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitsByKind {
    /// Those of each user.
    pub user: Limits,
    /// Those of each service. Without authentication, those of each address.
    pub service: Limits,
}

impl Default for LimitsByKind {
    fn default() -> Self {
        Self { user: Limits::USER, service: Limits::NONE }
    }
}

/// A kind of call: which rate it counts towards, and which concurrent calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A call that only reads.
    Read,
    /// A call that may change something.
    Write,
    /// An event stream.
    Watch,
    /// A stream of users to import. Its rows are not counted: they wait for free slots of a queue.
    Import,
}

impl Kind {
    pub(super) const fn rate(self) -> Limit {
        match self {
            Self::Read | Self::Watch => Limit::Reads,
            Self::Write | Self::Import => Limit::Writes,
        }
    }

    pub(super) const fn concurrent(self) -> Limit {
        match self {
            Self::Read | Self::Write => Limit::InFlight,
            Self::Watch => Limit::Watches,
            Self::Import => Limit::Imports,
        }
    }
}

/// Why a call is refused: its principal is at a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtLimit {
    /// The limit.
    pub limit: Limit,
    /// Its maximum.
    pub maximum: NonZeroU32,
    /// Time until a call would be admitted. `None` if that depends on the end of others.
    pub retry_after: Option<Duration>,
}
