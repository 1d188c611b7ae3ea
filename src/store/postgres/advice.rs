//! Warnings about settings of the PostgreSQL server that make writes slow.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::store::StoreError;
use crate::store::statement::{PgStatement, statement};

/// The recommended minimum of `max_wal_size`, in bytes. With less, checkpoints under load are too frequent.
const MAX_WAL_SIZE: i64 = 8 << 30;

#[derive(Clone, Debug, PartialEq, Eq, Queryable)]
struct Settings {
    max_wal_size: i64,
    wal_compression: String,
}

impl Settings {
    /// Returns the recommended changes and their reason; `None` if there are none.
    fn advice(&self) -> Option<String> {
        let Self { max_wal_size, wal_compression } = self;
        let size = *max_wal_size < MAX_WAL_SIZE;
        let compression = wal_compression == "off";
        let change = match (size, compression) {
            (false, false) => return None,
            (true, false) => "max_wal_size to 8GB or more",
            (false, true) => "wal_compression to on",
            (true, true) => "max_wal_size to 8GB or more and wal_compression to on",
        };
        Some(format!(
            "under load this PostgreSQL makes checkpoints too often, and writes whole pages to its log after each; set \
             {change} (docs/operations.md)"
        ))
    }
}

/// Logs a warning if the server's settings make writes slow.
pub(super) async fn warn(conn: &mut AsyncPgConnection) -> Result<(), StoreError> {
    let settings: PgStatement<'_, (BigInt, Text), _> =
        statement!("SELECT pg_size_bytes(current_setting('max_wal_size')), current_setting('wal_compression')");
    let settings: Settings = settings.get_result(conn).await?;
    if let Some(advice) = settings.advice() {
        let Settings { max_wal_size, wal_compression } = settings;
        tracing::warn!(max_wal_size, wal_compression, "{advice}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_make_writes_slow_are_named() {
        let advice = |gigabytes: i64, compression: &str| {
            let settings = Settings { max_wal_size: gigabytes << 30, wal_compression: compression.to_owned() };
            settings.advice().unwrap_or_default()
        };
        for (gigabytes, compression, named) in [
            (1, "off", &["max_wal_size", "wal_compression"][..]),
            (8, "off", &["wal_compression"]),
            (7, "lz4", &["max_wal_size"]),
            (8, "on", &[]),
            (64, "zstd", &[]),
        ] {
            let advice = advice(gigabytes, compression);
            for name in ["max_wal_size", "wal_compression"] {
                assert_eq!(advice.contains(name), named.contains(&name), "{gigabytes} GB, {compression}: {advice}");
            }
        }
    }
}
