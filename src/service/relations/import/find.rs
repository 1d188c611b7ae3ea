//! The users whom rows name.

use std::collections::{BTreeSet, HashMap};

use tonic::Status;

use super::Import;
use crate::domain::Time;
use crate::domain::id::UserId;
use crate::domain::query::UserKeys;
use crate::domain::text::Username;
use crate::domain::user::User;
use crate::transfer::UserReference;

/// The users who are searched for together. Other reads wait for no more of them.
const TOGETHER: usize = 128;

/// A user whom a row names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) id: UserId,
    pub(super) joined: Time,
}

impl From<&User> for Known {
    fn from(user: &User) -> Self {
        Self { id: user.id, joined: user.date_joined }
    }
}

/// Users by how rows name them.
pub(super) type Found = HashMap<UserReference, Known>;

impl Import {
    /// Finds users. Those that do not exist are left out.
    pub(super) async fn find(&self, references: BTreeSet<UserReference>) -> Result<Found, Status> {
        let (mut found, references) = (Found::new(), Vec::from_iter(references));
        for together in references.chunks(TOGETHER) {
            self.find_together(together, &mut found).await?;
        }
        Ok(found)
    }

    async fn find_together(&self, references: &[UserReference], found: &mut Found) -> Result<(), Status> {
        let (mut ids, mut keys, mut by_key) = (Vec::new(), UserKeys::default(), HashMap::new());
        for reference in references {
            match reference {
                UserReference::Id(id) => ids.push(*id),
                UserReference::ExternalId(id) => keys.external_ids.push(id.clone()),
                UserReference::Username(name) => {
                    // Names that differ in case are of one user.
                    let Some(key) = Username::stored(name.clone()).key() else { continue };
                    by_key.entry(key).or_insert_with(Vec::new).push(reference.clone());
                }
            }
        }
        keys.names = by_key.keys().cloned().collect();
        if !ids.is_empty() {
            let users = self.core.store.users(ids).await?.value;
            found.extend(users.values().map(|user| (UserReference::Id(user.id), Known::from(&**user))));
        }
        if keys != UserKeys::default() {
            for user in self.core.store.users_by_key(keys).await?.value {
                let external_id = user.external_id.clone().map(UserReference::ExternalId);
                let names = user.username.key().and_then(|key| by_key.remove(&key)).unwrap_or_default();
                found.extend(external_id.into_iter().chain(names).map(|reference| (reference, Known::from(&*user))));
            }
        }
        Ok(())
    }
}
