//! The users of an import: those of the database and those of the files, by everything that names them.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use super::record::{micros, time};
use crate::domain::Time;
use crate::domain::id::{ID_MAX, UserId};
use crate::domain::text::Username;
use crate::store::KnownUser;
use crate::transfer::{Reason, UserReference};

/// All users. A user whose id Kith assigns has a negative one until [`assign`](Self::assign).
///
/// It has about 50 bytes for each user, and 30 for each username and external id.
pub(super) struct Directory {
    index: HashMap<i64, u32>,
    users: Vec<Entry>,
    names: Keys,
    external_ids: Keys,
    /// How many have a negative id.
    unassigned: i64,
}

/// A user.
struct Entry {
    /// When the user joined, in microseconds.
    joined: i64,
    /// Whether a row of this import is about the user.
    has_row: bool,
}

/// Users by a text of theirs, of which only a hash is stored.
///
/// It has 128 bits with keys that change with each run, so two texts never share one.
#[derive(Default)]
struct Keys {
    users: HashMap<[u64; 2], i64>,
    hashers: [RandomState; 2],
}

impl Keys {
    fn key(&self, text: &str) -> [u64; 2] {
        let [one, other] = &self.hashers;
        [one.hash_one(text), other.hash_one(text)]
    }

    fn get(&self, text: &str) -> Option<UserId> {
        self.users.get(&self.key(text)).map(|id| UserId::new(*id))
    }

    fn insert(&mut self, text: &str, user: UserId) {
        self.users.insert(self.key(text), user.get());
    }
}

/// What identifies a user of a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a> {
    pub(super) id: Option<UserId>,
    pub(super) username: &'a Username,
    pub(super) external_id: Option<&'a str>,
}

impl Directory {
    /// Creates one without users.
    pub(super) fn new() -> Self {
        let (index, users) = (HashMap::new(), Vec::new());
        Self { index, users, names: Keys::default(), external_ids: Keys::default(), unassigned: 0 }
    }

    /// Returns the number of users.
    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    /// Adds a user of the database.
    pub(super) fn add_known(&mut self, user: &KnownUser) {
        let KnownUser { id, username_key, external_id, date_joined } = user;
        self.add(*id, *date_joined, false);
        username_key.iter().for_each(|key| self.names.insert(key, *id));
        external_id.iter().for_each(|external_id| self.external_ids.insert(external_id, *id));
    }

    fn add(&mut self, id: UserId, joined: Time, has_row: bool) {
        let index = u32::try_from(self.users.len()).unwrap_or(u32::MAX);
        self.index.insert(id.get(), index);
        self.users.push(Entry { joined: micros(joined), has_row });
    }

    /// Adds the user of a row, or finds the one of the database whom it is about. Returns the id.
    ///
    /// # Errors
    ///
    /// If another user has one of the names, or another row is about the user.
    pub(super) fn add_row(&mut self, names: Names<'_>, joined: Time) -> Result<UserId, Reason> {
        let Names { id, username, external_id } = names;
        let key = username.key();
        let by_external_id = external_id.and_then(|external_id| self.external_ids.get(external_id));
        let by_name = key.as_deref().and_then(|key| self.names.get(key));
        let known = match (id, by_external_id, external_id) {
            (Some(id), Some(other), _) if other != id => return Err(Reason::ExternalIdTaken),
            (Some(id), _, _) => Some(id).filter(|id| self.index.contains_key(&id.get())),
            (None, Some(other), _) => Some(other),
            // A row with nothing but a name is about the user who has it.
            (None, None, None) => by_name,
            (None, None, Some(_)) => None,
        };
        if by_name.is_some() && by_name != known {
            return Err(Reason::UsernameTaken);
        }
        let user = match known {
            Some(user) => {
                let entry = self.entry_mut(user).ok_or(Reason::UserNotFound)?;
                if std::mem::replace(&mut entry.has_row, true) {
                    return Err(Reason::UserExists);
                }
                user
            }
            None => {
                let user = id.unwrap_or_else(|| {
                    self.unassigned += 1;
                    UserId::new(-self.unassigned)
                });
                self.add(user, joined, true);
                user
            }
        };
        key.iter().for_each(|key| self.names.insert(key, user));
        external_id.iter().for_each(|external_id| self.external_ids.insert(external_id, user));
        Ok(user)
    }

    /// Returns the user of a reference.
    pub(super) fn find(&self, reference: &UserReference) -> Option<UserId> {
        match reference {
            UserReference::Id(id) => Some(*id).filter(|id| self.index.contains_key(&id.get())),
            UserReference::ExternalId(id) => self.external_ids.get(id.as_str()),
            UserReference::Username(name) => Username::stored(name.clone()).key().and_then(|key| self.names.get(&key)),
        }
    }

    /// Returns when a user joined.
    pub(super) fn joined(&self, user: UserId) -> Option<Time> {
        self.index_of(user).and_then(|index| self.users.get(index)).map(|entry| time(entry.joined))
    }

    /// Returns the number of a user, from 0.
    pub(super) fn index_of(&self, user: UserId) -> Option<usize> {
        self.index.get(&user.get()).and_then(|index| usize::try_from(*index).ok())
    }

    /// Returns all users with their numbers.
    pub(super) fn ids(&self) -> impl Iterator<Item = (UserId, usize)> {
        self.index.iter().filter_map(|(id, index)| Some((UserId::new(*id), usize::try_from(*index).ok()?)))
    }

    fn entry_mut(&mut self, user: UserId) -> Option<&mut Entry> {
        let index = self.index_of(user)?;
        self.users.get_mut(index)
    }

    /// Gives each user with a negative id the next one that is free, in the order in which they came.
    ///
    /// `None` if none is left.
    pub(super) fn assign(&mut self, last_assigned: UserId) -> Option<Assigned> {
        let (mut last, mut ids) = (last_assigned.get(), Vec::new());
        for number in 1..=self.unassigned {
            last += 1;
            while self.index.contains_key(&last) {
                last += 1;
            }
            if last > ID_MAX {
                return None;
            }
            if let Some(index) = self.index.remove(&-number) {
                self.index.insert(last, index);
            }
            ids.push(last);
        }
        self.unassigned = 0;
        Some(Assigned { ids, last: UserId::new(last) })
    }
}

/// The ids that were assigned.
pub(super) struct Assigned {
    ids: Vec<i64>,
    /// The last one.
    pub(super) last: UserId,
}

impl Assigned {
    /// Returns the id of a user who may have had a negative one.
    pub(super) fn id(&self, id: i64) -> UserId {
        let number = id.checked_neg().and_then(|number| usize::try_from(number).ok()).and_then(|n| n.checked_sub(1));
        UserId::new(number.and_then(|number| self.ids.get(number)).copied().unwrap_or(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day() -> Time {
        Time::UNIX_EPOCH
    }

    fn stored() -> Directory {
        let mut directory = Directory::new();
        for (id, name, external_id) in [(1, Some("ann"), None), (3, Some("bob"), Some("b")), (4, None, Some("c"))] {
            let [username_key, external_id] = [name, external_id].map(|text: Option<&str>| text.map(str::to_owned));
            directory.add_known(&KnownUser { id: UserId::new(id), username_key, external_id, date_joined: day() });
        }
        directory
    }

    #[test]
    fn a_row_is_about_one_user_or_refused() {
        use Reason::{ExternalIdTaken, UsernameTaken};
        for (id, username, external_id, expected) in [
            (None, "dan", None, Ok(-1)),
            (Some(9), "dan", None, Ok(9)),
            (None, "", Some("d"), Ok(-1)),
            // The one whom the database has.
            (Some(1), "anna", None, Ok(1)),
            (None, "Ann", None, Ok(1)),
            (None, "robert", Some("b"), Ok(3)),
            (Some(3), "bob", Some("b"), Ok(3)),
            (Some(1), "ann", Some("new"), Ok(1)),
            // Two of them.
            (Some(1), "bob", None, Err(UsernameTaken)),
            (Some(9), "bob", None, Err(UsernameTaken)),
            (None, "ann", Some("d"), Err(UsernameTaken)),
            (Some(9), "dan", Some("b"), Err(ExternalIdTaken)),
            (Some(1), "ann", Some("b"), Err(ExternalIdTaken)),
        ] {
            let mut directory = stored();
            let (id, username) = (id.map(UserId::new), Username::stored(username.to_owned()));
            let names = Names { id, username: &username, external_id };
            assert_eq!(directory.add_row(names, day()), expected.map(UserId::new), "{names:?}");
            if expected.is_ok() {
                assert_eq!(directory.add_row(names, day()), Err(Reason::UserExists), "twice: {names:?}");
            }
        }
    }

    #[test]
    fn users_are_found_by_each_of_their_names() {
        let mut directory = stored();
        let username = Username::stored("Dan".to_owned());
        let names = Names { id: None, username: &username, external_id: Some("d") };
        directory.add_row(names, day()).expect("added");
        for (reference, expected) in [
            (UserReference::Id(UserId::new(3)), Some(3)),
            (UserReference::Id(UserId::new(2)), None),
            (UserReference::Username("ANN".to_owned()), Some(1)),
            (UserReference::Username("dan".to_owned()), Some(-1)),
            (UserReference::Username("eve".to_owned()), None),
            (UserReference::ExternalId("c".parse().expect("an id")), Some(4)),
            (UserReference::ExternalId("d".parse().expect("an id")), Some(-1)),
            (UserReference::ExternalId("D".parse().expect("an id")), None),
        ] {
            assert_eq!(directory.find(&reference), expected.map(UserId::new), "{reference}");
        }
    }

    #[test]
    fn ids_are_assigned_densely_in_the_order_of_the_rows() {
        let mut directory = stored();
        for name in ["x", "y", "z"] {
            let username = Username::stored(name.to_owned());
            directory.add_row(Names { id: None, username: &username, external_id: None }, day()).expect("added");
        }
        let assigned = directory.assign(UserId::new(1)).expect("ids");
        assert_eq!([-1, -2, -3, 3].map(|id| assigned.id(id).get()), [2, 5, 6, 3]);
        assert_eq!(assigned.last, UserId::new(6));
        assert!(directory.joined(UserId::new(5)).is_some() && directory.joined(UserId::new(-2)).is_none());
        assert!(directory.assign(UserId::new(ID_MAX)).is_some(), "nobody is left");
    }
}
