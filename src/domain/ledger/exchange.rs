//! Users whose names an import exchanges.
//!
//! Imported one by one, two users cannot swap their names: whichever comes first wants a name that the other still has.
//! Imported together, a name counts as free if its owner is one of the rows and gives it up.
//!
//! External ids never change, so none is given up.

use std::collections::{HashMap, HashSet};

use super::Ledger;
use crate::domain::decide::Rejection;
use crate::domain::event::Actor;
use crate::domain::id::UserId;
use crate::domain::outcome::Outcome;
use crate::domain::text::ExternalId;
use crate::domain::user::Profile;

/// The user whom a row is about.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Who {
    /// One whose id is known.
    User(UserId),
    /// A new one, who gets the next id.
    New(Option<ExternalId>),
}

/// The keys that a row gives its user.
struct Wanted {
    who: Who,
    /// The key of the username.
    name: Option<String>,
    external_id: Option<ExternalId>,
    /// Whether the user may have the external id.
    is_acceptable: bool,
}

impl Ledger {
    /// Imports the rows whose usernames are free once all of them are imported.
    pub(super) fn import_together(&mut self, actor: Actor, rows: &[Profile]) -> Outcome {
        let wanted: Vec<_> = rows.iter().map(|profile| self.wanted(profile)).collect();
        let possible = exchange(&wanted, &self.names);
        let stored: Vec<_> = rows
            .iter()
            .zip(possible)
            .map(|(profile, possible)| {
                let id = self.imported_id(profile);
                possible.then(|| self.put_profile(actor, profile, id).map(|(_, imported)| imported))
            })
            .collect();
        // Only now does a user exist who got an external id that another row wanted too.
        let result = |(profile, stored): (&Profile, Option<_>)| stored.unwrap_or_else(|| Err(self.refusal(profile)));
        Outcome::UsersImported(rows.iter().zip(stored).map(result).collect())
    }

    fn wanted(&self, profile: &Profile) -> Wanted {
        let (id, external_id) = (self.imported_id(profile), profile.external_id.clone());
        Wanted {
            who: id.map_or_else(|| Who::New(external_id.clone()), Who::User),
            name: profile.username.key(),
            is_acceptable: self.check_external_id(profile, id).is_ok(),
            external_id,
        }
    }

    /// Returns why a row was not stored.
    fn refusal(&self, profile: &Profile) -> Rejection {
        let taken = || Rejection::UsernameTaken(profile.username.as_str().to_owned());
        self.check_external_id(profile, self.imported_id(profile)).err().unwrap_or_else(taken)
    }
}

/// Returns for each row whether its user gets the keys that it wants.
///
/// The user gets them unless a later row is about the same user, an earlier row wants one of them too, another user has
/// the external id, or another user has the name who keeps it: one without a row, or with a row that does not get its own
/// name. A row that fails may make others fail, so this repeats until none does.
fn exchange(wanted: &[Wanted], names: &HashMap<String, UserId>) -> Vec<bool> {
    let rows: HashMap<&Who, usize> = wanted.iter().enumerate().map(|(row, wanted)| (&wanted.who, row)).collect();
    let is_last = |row: usize, wanted: &Wanted| rows.get(&wanted.who) == Some(&row);
    let mut possible: Vec<bool> =
        wanted.iter().enumerate().map(|(row, wanted)| wanted.is_acceptable && is_last(row, wanted)).collect();
    loop {
        let (mut taken_names, mut taken_ids) = (HashSet::new(), HashSet::new());
        let mut failed = Vec::new();
        for (row, Wanted { who, name, external_id, is_acceptable: _ }) in
            wanted.iter().enumerate().filter(|(row, _)| possible[*row])
        {
            let gives_up = |owner: UserId| {
                rows.get(&Who::User(owner)).is_some_and(|row| possible[*row] && wanted[*row].name != *name)
            };
            let owner = name.as_ref().and_then(|name| names.get(name)).copied();
            let is_free = owner.is_none_or(|owner| *who == Who::User(owner) || gives_up(owner));
            let is_taken = name.iter().any(|name| taken_names.contains(name))
                || external_id.iter().any(|id| taken_ids.contains(id));
            if is_free && !is_taken {
                taken_names.extend(name);
                taken_ids.extend(external_id);
            } else {
                failed.push(row);
            }
        }
        if failed.is_empty() {
            return possible;
        }
        failed.into_iter().for_each(|row| possible[row] = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: i64, name: &str, external_id: Option<&str>) -> Wanted {
        let name = Some(name.to_owned()).filter(|name| !name.is_empty());
        let external_id = external_id.map(|id| id.parse().unwrap());
        Wanted { who: Who::User(UserId::new(id)), name, external_id, is_acceptable: true }
    }

    /// The users who get the name that they want. `names` are those of users 1, 2, 3, … now.
    fn renamed(names: &[&str], wanted: &[(i64, &str)]) -> Vec<i64> {
        let names = names.iter().zip(1..).map(|(name, id)| ((*name).to_owned(), UserId::new(id))).collect();
        let rows: Vec<_> = wanted.iter().map(|(id, name)| row(*id, name, None)).collect();
        let possible = exchange(&rows, &names);
        wanted.iter().zip(possible).filter(|(_, possible)| *possible).map(|((id, _), _)| *id).collect()
    }

    #[test]
    fn names_go_round_among_users_who_all_get_another() {
        assert_eq!(renamed(&["a", "b"], &[(1, "b"), (2, "a")]), [1, 2]);
        assert_eq!(renamed(&["a", "b", "c"], &[(1, "b"), (2, "c"), (3, "a")]), [1, 2, 3]);
        assert_eq!(renamed(&["a", "b"], &[(1, "b"), (2, "new")]), [1, 2], "in whatever order");
        assert_eq!(renamed(&["a"], &[(9, "a"), (1, "b")]), [9, 1], "also to a user who is new");
        assert_eq!(renamed(&["a"], &[(1, "a")]), [1], "or to oneself");
    }

    #[test]
    fn a_name_that_is_kept_goes_to_nobody() {
        assert_eq!(renamed(&["a", "b"], &[(1, "b")]), Vec::<i64>::new());
        assert_eq!(renamed(&["a", "b"], &[(1, "b"), (2, "b")]), [2]);
        // User 3 keeps the name, so 2 does too, so 1 does.
        assert_eq!(renamed(&["a", "b", "c", "d"], &[(1, "b"), (2, "c"), (4, "e")]), [4]);
    }

    #[test]
    fn of_two_who_want_a_name_the_first_gets_it() {
        assert_eq!(renamed(&["a"], &[(1, "b"), (2, "b")]), [1]);
        assert_eq!(renamed(&["a", "b", "c"], &[(1, "b"), (3, "b"), (2, "a")]), [1, 2]);
    }

    #[test]
    fn a_row_that_cannot_have_its_external_id_gives_up_no_name() {
        let names = [("a", 1), ("b", 2)].map(|(name, id)| (name.to_owned(), UserId::new(id))).into();
        for (external_ids, expected) in [
            ([Some("x"), Some("y")], [true, true]),
            ([Some("x"), None], [true, true]),
            // The second row has no external id, so it keeps its name, which the first wants.
            ([Some("x"), Some("x")], [false, false]),
        ] {
            let rows = [row(1, "b", external_ids[0]), row(2, "a", external_ids[1])];
            assert_eq!(exchange(&rows, &names), expected, "{external_ids:?}");
        }
        let refused = Wanted { is_acceptable: false, ..row(2, "a", Some("y")) };
        assert_eq!(exchange(&[row(1, "b", None), refused], &names), [false, false]);
    }

    #[test]
    fn of_several_rows_about_one_user_the_last_counts() {
        let new = |name, id| Wanted { who: Who::New(Some("x".parse().unwrap())), ..row(1, name, id) };
        let rows = [row(1, "a", None), new("b", Some("x")), row(1, "c", None), new("d", Some("x"))];
        assert_eq!(exchange(&rows, &HashMap::new()), [false, false, true, true]);
    }

    #[test]
    fn users_without_a_name_take_none() {
        let names = HashMap::from([("a".to_owned(), UserId::new(1))]);
        let rows = [row(1, "", Some("x")), row(2, "", Some("y")), row(3, "a", None)];
        assert_eq!(exchange(&rows, &names), [true, true, true]);
    }
}
