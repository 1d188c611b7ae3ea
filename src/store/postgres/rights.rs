//! What Kith needs to be allowed: the roles script, and the check of a server that is to write.

use diesel::prelude::*;
use diesel::sql_types::{Array, Bool, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::config::PostgresConfig;
use super::role::{Role, open};
use crate::store::ConnectError;
use crate::store::statement::PgStatement;

/// The tables and the view, each with the rights that a server needs on it. A right may be one on some columns.
const NEEDED: [(&str, &[&str]); 12] = [
    ("feed", &["SELECT", "UPDATE"]),
    ("epochs", &["SELECT", "INSERT", "UPDATE (system_identifier, timeline)"]),
    ("users", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("user_counts", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("connection_requests", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("connections", &["SELECT"]),
    ("blocks", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("cooldowns", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("ended_requests", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("events", &["SELECT", "INSERT", "UPDATE (user_id, other_user_id, actor_user_id)", "DELETE"]),
    ("request_ids", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("__diesel_schema_migrations", &["SELECT"]),
];

/// The script without the rights.
const SCRIPT: &str = include_str!("roles.sql");

/// Returns the SQL script that creates the roles with the least rights, for `psql`.
pub fn roles_script() -> String {
    let rows = NEEDED.iter().map(|(table, rights)| format!("    ('{table}', '{}')", rights.join(", ")));
    SCRIPT.replace("    {needed}", &rows.collect::<Vec<_>>().join(",\n"))
}

/// Returns an error if the database takes no writes from this user, with the reasons.
///
/// Tables that do not exist yet are not considered.
pub(in crate::store) async fn check_writable(config: &PostgresConfig) -> Result<(), ConnectError> {
    let conn = open(config, Role::Migration).await?;
    let state = PgStatement::<(Bool, Bool, Text)>::new(
        "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on', current_user::text",
    );
    let (is_standby, is_read_only, role): (bool, bool, String) = state.get_result(&mut &conn).await?;
    let missing = missing_right(&conn).await?;
    let reasons = [
        is_standby.then(|| "the database is a standby (in recovery)".to_owned()),
        is_read_only.then(|| "default_transaction_read_only is on".to_owned()),
        missing.map(|(table, right)| format!("role {role} may not {}", attempt(&right, &table))),
    ];
    let reasons: Vec<_> = reasons.into_iter().flatten().collect();
    if reasons.is_empty() { Ok(()) } else { Err(ConnectError::ReadOnly(reasons.join(", and "))) }
}

/// Returns the first right that a server needs and does not have, with its table.
async fn missing_right(mut conn: &AsyncPgConnection) -> QueryResult<Option<(String, String)>> {
    let (tables, rights): (Vec<_>, Vec<_>) =
        NEEDED.iter().flat_map(|(table, rights)| rights.iter().map(|right| (*table, *right))).unzip();
    let missing = PgStatement::<(Text, Text)>::new(
        "SELECT name, needed.right FROM unnest(?, ?) WITH ORDINALITY AS needed (name, \"right\", place) \
         WHERE NOT CASE WHEN needed.right LIKE '% (%' \
                        THEN has_any_column_privilege(to_regclass(name), split_part(needed.right, ' ', 1)) \
                        ELSE has_table_privilege(to_regclass(name), needed.right) END ORDER BY place LIMIT 1",
    );
    let missing = missing.bind::<Array<Text>, _>(tables).bind::<Array<Text>, _>(rights);
    missing.get_result(&mut conn).await.optional()
}

/// A right on a table, as a sentence says it.
fn attempt(right: &str, table: &str) -> String {
    match right.split(' ').next().unwrap_or(right) {
        "INSERT" => format!("INSERT into {table}"),
        "SELECT" | "DELETE" => format!("{right} from {table}"),
        right => format!("{right} {table}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The tables and views that the migrations create.
    fn created() -> Vec<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/postgres");
        let migrations = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path().join("up.sql"));
        let text: String = migrations.map(|path| fs::read_to_string(path).unwrap()).collect();
        let name = |line: &str| {
            let rest = line.strip_prefix("CREATE TABLE ").or_else(|| line.strip_prefix("CREATE VIEW "))?;
            rest.split([' ', '(']).next().map(str::to_owned)
        };
        text.lines().filter_map(name).collect()
    }

    #[test]
    fn every_table_is_listed_with_its_rights() {
        let mut listed: Vec<_> = NEEDED.iter().map(|(table, _)| (*table).to_owned()).collect();
        let mut expected = created();
        expected.push("__diesel_schema_migrations".to_owned());
        listed.sort();
        expected.sort();
        assert_eq!(listed, expected);
    }

    #[test]
    fn the_script_has_a_row_for_each_table() {
        let script = roles_script();
        assert!(!script.contains("{needed}"), "{script}");
        assert!(script.contains("    ('feed', 'SELECT, UPDATE'),\n    ('epochs', "), "{script}");
    }
}
