//! Waits for a database that is not there yet.

use std::error::Error;
use std::io::ErrorKind;
use std::time::Duration;

use rustls::Error as TlsError;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::error::SqlState;

use super::attributes::WrongServer;
use super::config::{NoAnswer, NoHost, PostgresConfig};
use crate::store::{ConnectError, StoreError};

/// The time between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Returns as soon as the database accepts a connection.
///
/// Tries again for at most `limit` after errors that can pass. Calls `report` before each pause, with the time that is left.
pub(in crate::store) async fn reach(
    config: &PostgresConfig,
    limit: Duration,
    mut report: impl FnMut(&ConnectError, Duration),
) -> Result<(), ConnectError> {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // Some poolers answer only when PostgreSQL is there.
        let time = left.max(PAUSE);
        let attempt = timeout(time, config.connect_plain()).await.unwrap_or_else(|_| Err(NoAnswer(time).into()));
        let Err(cause) = attempt else { return Ok(()) };
        let can_pass = is_passing(&*cause);
        let error = StoreError::Unavailable(cause).into();
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || !can_pass {
            return Err(error);
        }
        report(&error, left);
        sleep(PAUSE.min(left)).await;
    }
}

/// Whether an error of connecting can pass while the settings stay the same.
pub(super) fn is_passing(error: &(dyn Error + 'static)) -> bool {
    if let Some(NoHost(failures)) = error.downcast_ref() {
        return failures.iter().any(|(_, cause)| is_passing(&**cause));
    }
    if error.is::<NoAnswer>() || error.is::<WrongServer>() {
        return true;
    }
    match error.downcast_ref::<tokio_postgres::Error>() {
        Some(error) if error.is_closed() => return true,
        Some(error) if error.as_db_error().is_some() => return error.as_db_error().is_some_and(is_passing_refusal),
        Some(_) | None => {}
    }
    if let Some(error) = error.downcast_ref::<std::io::Error>() {
        // A refused certificate is the inner error of one of input and output.
        let is_certificate = error.get_ref().is_some_and(|inner| inner.is::<TlsError>());
        let is_final = [ErrorKind::PermissionDenied, ErrorKind::InvalidInput, ErrorKind::InvalidData];
        return !is_certificate && !is_final.contains(&error.kind());
    }
    error.source().is_some_and(is_passing)
}

/// Whether PostgreSQL, or a pooler before it, refuses only at present.
fn is_passing_refusal(refusal: &tokio_postgres::error::DbError) -> bool {
    let passing = [
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::TOO_MANY_CONNECTIONS,
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CONNECTION_EXCEPTION,
        SqlState::CONNECTION_FAILURE,
        SqlState::SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
    ];
    // PgBouncer passes on the words of PostgreSQL, and has one code for all that it refuses.
    let words =
        ["cannot connect to server", "server login has been failing", "the database system is", "shutting down"];
    passing.contains(refusal.code()) || words.iter().any(|words| refusal.message().contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However long the name server takes to say so.
    #[tokio::test]
    async fn a_name_that_is_not_known_may_be_so_later() {
        let config = PostgresConfig::parse("postgres://no-such-host.invalid/kith").expect("a URL");
        let cause = config.connect_plain().await.expect_err("no such host");
        assert!(is_passing(&*cause), "{cause}");
    }
}
