//! Users whose names an import exchanges.
//!
//! Imported one by one, two users cannot swap their names: whichever comes first wants a name that the other still has.
//! Imported together, a name counts as free if its owner is one of the rows and gives it up.

use std::collections::HashMap;
use std::sync::Arc;

use super::Ledger;
use crate::domain::event::Actor;
use crate::domain::id::UserId;
use crate::domain::outcome::Outcome;
use crate::domain::user::Profile;

impl Ledger {
    /// Imports the rows whose usernames are free once all of them are imported.
    pub(super) fn import_together(&mut self, actor: Actor, rows: &[(UserId, Profile)]) -> Outcome {
        let wanted: Vec<_> = rows.iter().map(|(id, profile)| (*id, profile.username.key())).collect();
        let possible = exchange(&wanted, &self.names);
        let imported = rows.iter().zip(possible).map(|((id, profile), possible)| {
            possible.then(|| {
                let before = self.member(*id).map(|member| Arc::clone(&member.user));
                self.put_user(actor, profile.clone().into_user(*id, before.as_deref(), self.time)).1
            })
        });
        Outcome::UsersImported(imported.collect())
    }
}

/// Returns for each row, a user and the name that it wants, whether it gets the name.
///
/// A row gets it unless an earlier row wants it too, or another user has it who keeps it: one without a row, or with a
/// row that does not get its own name. A row that fails may make others fail, so this repeats until none does.
fn exchange(wanted: &[(UserId, String)], names: &HashMap<String, UserId>) -> Vec<bool> {
    let rows: HashMap<UserId, usize> = wanted.iter().enumerate().map(|(row, (id, _))| (*id, row)).collect();
    let mut possible = vec![true; wanted.len()];
    loop {
        let mut taken = HashMap::new();
        let mut failed = Vec::new();
        for (row, (id, name)) in wanted.iter().enumerate().filter(|(row, _)| possible[*row]) {
            let gives_up =
                |owner: &UserId| rows.get(owner).is_some_and(|row| possible[*row] && wanted[*row].1 != *name);
            let is_free = names.get(name).is_none_or(|owner| owner == id || gives_up(owner));
            if !is_free || *taken.entry(name).or_insert(row) != row {
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

    /// The users who get the name that they want. `names` are those of users 1, 2, 3, … now.
    fn renamed(names: &[&str], wanted: &[(i64, &str)]) -> Vec<i64> {
        let names = names.iter().zip(1..).map(|(name, id)| ((*name).to_owned(), UserId::new(id))).collect();
        let wanted: Vec<_> = wanted.iter().map(|(id, name)| (UserId::new(*id), (*name).to_owned())).collect();
        let possible = exchange(&wanted, &names);
        wanted.iter().zip(possible).filter(|(_, possible)| *possible).map(|((id, _), _)| id.get()).collect()
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
}
