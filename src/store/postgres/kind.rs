//! What a PostgreSQL server is: a standby, or a primary of a cluster and a timeline.

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::domain::epoch::Lineage;

/// What a server is. The lineage is `None` if the role may not read it, or the server is not PostgreSQL's own.
///
/// It does not change while a connection to a primary lives: a primary that loses its timeline has to restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Standby,
    Primary(Option<Lineage>),
}

/// The number of the timeline is in the name of the file that is written to. It is right as soon as a promotion has
/// ended, while that of the last checkpoint is not.
macro_rules! question {
    ($system:literal) => {
        concat!(
            "SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN NULL \
             ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END, ",
            $system
        )
    };
}

/// Asked in turn, since a role may lack the rights for the first ones, or another engine their functions.
const QUESTIONS: [&str; 3] = [
    question!("(SELECT system_identifier FROM pg_control_system())"),
    question!("NULL"),
    "SELECT pg_is_in_recovery(), NULL, NULL",
];

/// What a server says that has not the function, does not let the role call it, or keeps no log for it.
const UNANSWERED: [SqlState; 4] = [
    SqlState::INSUFFICIENT_PRIVILEGE,
    SqlState::UNDEFINED_FUNCTION,
    SqlState::FEATURE_NOT_SUPPORTED,
    SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
];

/// Asks a server what it is.
pub(super) async fn ask(client: &Client) -> Result<Kind, tokio_postgres::Error> {
    for question in QUESTIONS {
        match client.simple_query(question).await {
            Ok(answer) => return Ok(read(&answer)),
            Err(error) if error.code().is_some_and(|code| UNANSWERED.contains(code)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Kind::Primary(None))
}

fn read(answer: &[SimpleQueryMessage]) -> Kind {
    let mut rows = answer.iter();
    let row = rows.find_map(|message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None });
    let value = |column| row.and_then(|row| row.get(column));
    if value(0) == Some("t") {
        return Kind::Standby;
    }
    let timeline = value(1).and_then(|digits| i64::from_str_radix(digits, 16).ok());
    let system_identifier = value(2).and_then(|digits| digits.parse().ok());
    Kind::Primary(timeline.map(|timeline| Lineage { system_identifier, timeline }))
}

/// Warns of a connection that changes the feed if its lineage is not known.
pub(in crate::store) fn warn_if_unknown(lineage: Option<Lineage>) {
    if lineage.is_none() {
        tracing::warn!("cannot read the timeline of the database; a failover that loses commits is not noticed");
    }
}
