//! A new epoch for a database that was restored from a backup.

use uuid::Uuid;

use super::connect::{DatabaseUrl, refuse_other_tables};
use super::session::Session;
use super::{ConnectError, StoreError};

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

/// Gives the feed a new epoch, and page tokens a new key.
///
/// A restored feed gives its next events the numbers of the lost ones. Clients that read the lost ones must not continue
/// from there: with the new epoch and key, their cursors and page tokens are refused. Servers read the key when they
/// start, so none may run during this.
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
    session.lock().await?;
    let head = "SELECT id AS number, epoch AS said, id AS total FROM feed".to_owned();
    let head = session.ask(head).await?.pop().ok_or_else(|| StoreError::corrupt("feed", "no row"))?;
    // Made as the migration makes them: hexadecimal, so that they need no quoting.
    let (new, key) = (random(), random() + &random());
    session.execute(format!("UPDATE feed SET epoch = '{new}', token_key = '{key}' WHERE id = 1")).await?;
    session.commit().await?;
    Ok(Epochs { old: head.said, new })
}

fn random() -> String {
    Uuid::new_v4().simple().to_string()
}
