//! Reads which cluster and timeline a connection leads to: after a failover it is another one.

use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error};
use diesel::sql_types::{BigInt, Nullable};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::causes::Causes;
use crate::domain::epoch::Lineage;
use crate::store::StoreError;
use crate::store::statement::PgStatement;

/// The timeline in the name of the file that is written to. It is right as soon as a promotion has ended, while that of the
/// last checkpoint is not.
macro_rules! timeline {
    () => {
        "CASE WHEN pg_is_in_recovery() THEN NULL \
         ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint END"
    };
}

const LINEAGE: &str = concat!("SELECT (SELECT system_identifier FROM pg_control_system()), ", timeline!());
const TIMELINE: &str = concat!("SELECT NULL::bigint, ", timeline!());

/// Returns the lineage of a connection to a primary; `None` if it cannot be read.
///
/// It does not change while the connection lives: a primary that loses its timeline has to restart.
///
/// # Errors
///
/// [`StoreError::Unavailable`] if it is a standby, or the connection is lost.
pub(in crate::store) async fn of(conn: &AsyncPgConnection) -> Result<Option<Lineage>, StoreError> {
    let mut refused = None;
    for text in [LINEAGE, TIMELINE] {
        match read(conn, text).await {
            Ok(lineage) => return on_primary(lineage),
            // Functions that are missing, or that the role or this engine may not call.
            Err(error @ Error::DatabaseError(DatabaseErrorKind::Unknown, _)) => refused = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    tracing::warn!(
        error = refused.map(|error| Causes(&error).to_string()),
        "cannot read the timeline of the database; a failover that loses commits is not noticed"
    );
    Ok(None)
}

async fn read(mut conn: &AsyncPgConnection, text: &'static str) -> QueryResult<(Option<i64>, Option<i64>)> {
    PgStatement::<(Nullable<BigInt>, Nullable<BigInt>)>::new(text).get_result(&mut conn).await
}

fn on_primary((system_identifier, timeline): (Option<i64>, Option<i64>)) -> Result<Option<Lineage>, StoreError> {
    let standby = || StoreError::Unavailable("the database is a standby (in recovery)".into());
    Ok(Some(Lineage { system_identifier, timeline: timeline.ok_or_else(standby)? }))
}
