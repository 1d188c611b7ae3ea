//! The users that a call names by their ids and external ids.

use std::collections::{HashMap, HashSet};

use super::pager::Room;
use crate::domain::id::UserId;
use crate::domain::query::{Read, UserKeys};
use crate::domain::text::ExternalId;
use crate::mapping::user::{Named, UserView, encoded};
use crate::proto::server as pb;
use crate::store::{CachedUser, Store, StoreError, Users};

/// The users who were found.
#[derive(Default)]
pub(super) struct Found {
    by_id: Users,
    by_external_id: HashMap<ExternalId, CachedUser>,
}

/// Reads the named users. Those that do not exist are left out.
pub(super) async fn read(store: &dyn Store, named: Named) -> Result<Read<Found>, StoreError> {
    let Named { ids, external_ids } = named;
    if external_ids.is_empty() {
        let Read { revision, epoch, value: by_id } = store.users(ids).await?;
        return Ok(Read { revision, epoch, value: Found { by_id, ..Found::default() } });
    }
    let keys = UserKeys { external_ids, names: Vec::new() };
    let Read { revision, epoch, value } = store.users_by_key(keys).await?;
    let by_external_id = value.into_iter().filter_map(|user| Some((user.external_id.clone()?, user))).collect();
    let by_id = if ids.is_empty() { Users::new() } else { store.users(ids).await?.value };
    // The first one: users who were read later may only be newer.
    Ok(Read { revision, epoch, value: Found { by_id, by_external_id } })
}

/// Creates the response: each user once, in the order of the request.
pub(super) fn response(named: &Named, read: &Read<Found>, view: UserView) -> pb::BatchGetUsersResponse {
    let Read { revision, epoch, value: Found { by_id, by_external_id } } = read;
    let (revision, epoch) = (revision.get(), epoch.to_string());
    let mut response = pb::BatchGetUsersResponse { revision, epoch, ..Default::default() };
    let mut page = Page { room: Room::new(), view, returned: HashSet::new(), is_full: false };
    let mut seen = HashSet::new();
    for id in named.ids.iter().filter(|id| seen.insert(**id)) {
        match page.add(by_id.get(id), &mut response.users) {
            Added::Returned => {}
            Added::Missing => response.not_found_ids.push(id.get()),
            Added::Omitted => response.omitted_ids.push(id.get()),
        }
    }
    let mut seen = HashSet::new();
    for id in named.external_ids.iter().filter(|id| seen.insert(*id)) {
        match page.add(by_external_id.get(id), &mut response.users) {
            Added::Returned => {}
            Added::Missing => response.not_found_external_ids.push(id.as_str().to_owned()),
            Added::Omitted => response.omitted_external_ids.push(id.as_str().to_owned()),
        }
    }
    response
}

/// The users of a response, as many as there is room for.
struct Page {
    room: Room,
    view: UserView,
    returned: HashSet<UserId>,
    is_full: bool,
}

/// What became of a named user.
enum Added {
    Returned,
    Missing,
    Omitted,
}

impl Page {
    fn add(&mut self, user: Option<&CachedUser>, users: &mut Vec<bytes::Bytes>) -> Added {
        // All after the first omitted one are omitted too, so that the order is kept.
        if self.is_full {
            return Added::Omitted;
        }
        let Some(user) = user else { return Added::Missing };
        if self.returned.contains(&user.id) {
            return Added::Returned;
        }
        let message = encoded(user, self.view);
        if !self.room.fits(&message) {
            self.is_full = true;
            return Added::Omitted;
        }
        self.returned.insert(user.id);
        users.push(message);
        Added::Returned
    }
}
