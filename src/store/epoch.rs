//! New epochs: by `kith restore-epoch` for a database that was restored from a backup, and by a commit on another timeline.

use uuid::Uuid;

use super::connect::{DatabaseUrl, refuse_other_tables};
use super::session::Session;
use super::{ConnectError, StoreError};
use crate::domain::epoch::Epoch;

/// The feed's epoch before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epochs {
    /// The one that the backup had.
    pub old: String,
    /// The one from now on.
    pub new: String,
}

/// What to do if a server uses the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Servers {
    /// Refuse.
    Refused,
    /// Go on.
    Ignored,
}

/// Begins a new epoch of the feed, and gives page tokens a new key.
///
/// A restored feed gives its next events the numbers of the lost ones. Clients that read the lost ones must not continue
/// from there: their cursors are refused, because they lie at or after the first sequence of the new epoch. Cursors before
/// it remain valid. Servers read the key when they start, so none may run during this.
///
/// # Errors
///
/// When the database cannot be used, or its tables belong to another version, or a server uses it and that is refused.
pub async fn restore_epoch(url: &DatabaseUrl, servers: Servers) -> Result<Epochs, ConnectError> {
    refuse_other_tables(url).await?;
    let mut session = match servers {
        Servers::Refused => Session::without_servers(url).await?,
        Servers::Ignored => Session::write(url).await?,
    };
    let lineage = session.lineage();
    session.lock().await?;
    let head = "SELECT last_sequence AS number, epoch AS said, id AS total FROM feed".to_owned();
    let head = session.ask(head).await?.pop().ok_or_else(|| StoreError::corrupt("feed", "no row"))?;
    // Made as the migration makes them: hexadecimal, so that they need no quoting.
    let (new, key) = (random(), random() + &random());
    let number = |number: Option<i64>| number.map_or_else(|| "NULL".to_owned(), |number| number.to_string());
    let system = number(lineage.and_then(|lineage| lineage.system_identifier));
    let timeline = number(lineage.map(|lineage| lineage.timeline));
    session
        .execute(format!(
            "INSERT INTO epochs (number, epoch, first_sequence, system_identifier, timeline) \
             SELECT coalesce(max(number), 0) + 1, '{new}', {first}, {system}, {timeline} FROM epochs; \
             UPDATE feed SET epoch = '{new}', system_identifier = {system}, timeline = {timeline}, token_key = '{key}' \
             WHERE id = 1",
            first = head.number + 1,
        ))
        .await?;
    session.commit().await?;
    Ok(Epochs { old: head.said, new })
}

/// Returns the name of a new epoch.
pub(super) fn new_epoch() -> Epoch {
    random().into()
}

fn random() -> String {
    Uuid::new_v4().simple().to_string()
}
