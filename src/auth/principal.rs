//! Principals: who calls.

use std::fmt;
use std::sync::Arc;

use crate::domain::caller::Caller;
use crate::domain::id::UserId;

/// Who makes a call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// Anybody, on a server without authentication. May do everything.
    Anonymous,
    /// A service. Acts for any user, within its scopes.
    Service(Arc<Service>),
    /// A user. Acts and reads as this user only.
    User(UserId),
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// Its name with the source, which no other principal has.
    key: Arc<str>,
    /// What it may do.
    pub scopes: Scopes,
}

/// Where the name of a service is from. The same name from another source is another service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The file of principals.
    File,
    /// The subject of a token.
    Token,
}

/// What a service may do. [`Scope::Admin`] includes all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Read on behalf of users.
    Read,
    /// Write on behalf of users.
    Write,
    /// Create, change, import and delete users.
    Users,
    /// Read the whole feed.
    Events,
    /// Everything.
    Admin,
}

/// A set of scopes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Scopes(u8);

impl Scope {
    /// All scopes, in the order of their declaration.
    pub const ALL: [Self; 5] = [Self::Read, Self::Write, Self::Users, Self::Events, Self::Admin];

    /// Returns the name, as in tokens and in the file of principals.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Users => "users",
            Self::Events => "events",
            Self::Admin => "admin",
        }
    }

    /// Returns the scope with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl Scopes {
    /// Whether a service with these scopes may do what needs this one.
    pub const fn allow(self, scope: Scope) -> bool {
        self.0 & (scope.bit() | Scope::Admin.bit()) != 0
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = Scope::ALL.into_iter().filter(|scope| self.0 & scope.bit() != 0);
        f.debug_set().entries(held.map(Scope::name)).finish()
    }
}

impl Principal {
    /// Returns who the domain takes the caller for.
    pub fn caller(&self) -> Caller {
        match self {
            Self::Anonymous => Caller::Operator,
            Self::Service(service) => Caller::Service(Arc::clone(&service.key)),
            Self::User(id) => Caller::User(*id),
        }
    }

    /// Returns the user, if it is one.
    pub fn user(&self) -> Option<UserId> {
        match self {
            Self::User(id) => Some(*id),
            Self::Anonymous | Self::Service(_) => None,
        }
    }
}

/// As in the audit log.
impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Service(service) => f.write_str(&service.key),
            Self::User(id) => write!(f, "user:{id}"),
        }
    }
}

impl Service {
    /// A service that has this name in this source.
    pub fn new(source: Source, name: &str, scopes: Scopes) -> Self {
        // Part of stored idempotency keys: it must not change between versions.
        let source = match source {
            Source::File => "service",
            Source::Token => "token",
        };
        Self { key: format!("{source}:{name}").into(), scopes }
    }

    /// Returns its name with the source, which no other principal has.
    pub(super) fn key(&self) -> &Arc<str> {
        &self.key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(source: Source, name: &str, scopes: &[Scope]) -> Principal {
        Principal::Service(Arc::new(Service::new(source, name, scopes.iter().copied().collect())))
    }

    #[test]
    fn admin_includes_all_scopes_and_no_other_includes_one() {
        for held in Scope::ALL {
            let scopes: Scopes = [held].into_iter().collect();
            for needed in Scope::ALL {
                assert_eq!(scopes.allow(needed), held == needed || held == Scope::Admin, "{held:?} {needed:?}");
            }
        }
        assert!(Scope::ALL.into_iter().all(|scope| !Scopes::default().allow(scope)));
        let two: Scopes = [Scope::Read, Scope::Events].into_iter().collect();
        assert_eq!(format!("{two:?}"), r#"{"read", "events"}"#);
        assert_eq!(Scope::ALL.map(|scope| Scope::from_name(scope.name())), Scope::ALL.map(Some));
        assert_eq!(Scope::from_name("Read"), None);
    }

    #[test]
    fn no_two_principals_have_the_same_name_and_scopes_are_no_part_of_it() {
        let all = [
            Principal::Anonymous,
            service(Source::File, "user:7", &[]),
            service(Source::Token, "user:7", &[]),
            Principal::User(UserId::new(7)),
        ];
        assert_eq!(
            all.each_ref().map(ToString::to_string),
            ["anonymous", "service:user:7", "token:user:7", "user:7"].map(str::to_owned)
        );
        let keys = all.each_ref().map(|principal| principal.caller().key().into_owned());
        assert_eq!(keys, ["operator", "service:user:7", "token:user:7", "user:7"].map(str::to_owned));
        let more = service(Source::File, "user:7", &[Scope::Admin]);
        assert_eq!(more.caller(), all[1].caller());
    }
}
