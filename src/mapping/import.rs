//! Imports of relations: the options, and the rows of a message.

use super::invalid::{Fields, Invalid};
use crate::domain::Time;
use crate::domain::import::{OnConflict, PendingSince};
use crate::domain::user::Profile;
use crate::proto::server as pb;
use crate::transfer::UserRow;

/// The maximum number of rows in a message.
pub const REQUEST_ROWS_MAX: usize = 1_000;

/// What an import does with rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// Whether nothing is stored.
    pub dry_run: bool,
    /// What to do with two users who are in another state.
    pub on_conflict: OnConflict,
    /// Whether the import ends before a row about two users who are in another state.
    pub ends_at_conflict: bool,
    /// Whether the older of two pending requests that cross remains, instead of a connection.
    pub older_crosses: bool,
    /// What to do with pending requests that would expire at once.
    pub pending_since: PendingSince,
    /// The date of rows that have none. `None`: when the later of the two users joined.
    pub default_date: Option<Time>,
    /// Whether users who are named and not there are created.
    pub create_missing_users: bool,
}

/// Parses the first message: the options.
pub fn options(first: &pb::ImportRelationsRequest) -> Result<ImportOptions, Invalid> {
    let mut fields = Fields::default();
    let unset = pb::ImportOptions::default();
    if first.options.is_none() {
        fields.violation("options", "must be set in the first message");
    }
    let pb::ImportOptions { dry_run, on_conflict, crossing, pending_age, default_date, create_missing_users } =
        first.options.as_ref().unwrap_or(&unset);
    let (on_conflict, ends_at_conflict) = match fields.known("options.on_conflict", *on_conflict) {
        pb::ConflictRule::Unspecified | pb::ConflictRule::Skip => (OnConflict::Skip, false),
        pb::ConflictRule::Replace => (OnConflict::Replace, false),
        pb::ConflictRule::Fail => (OnConflict::Skip, true),
    };
    let older_crosses = match fields.known("options.crossing", *crossing) {
        pb::CrossingRule::Unspecified | pb::CrossingRule::Connect => false,
        pb::CrossingRule::Older => true,
    };
    let pending_since = match fields.known("options.pending_age", *pending_age) {
        pb::PendingAge::Unspecified | pb::PendingAge::Keep => PendingSince::Keep,
        pb::PendingAge::Now => PendingSince::Now,
    };
    let default_date = default_date.as_ref().map(|date| fields.time("options.default_date", date));
    check_rows(&mut fields, first);
    fields.finish(ImportOptions {
        dry_run: *dry_run,
        on_conflict,
        ends_at_conflict,
        older_crosses,
        pending_since,
        default_date,
        create_missing_users: *create_missing_users,
    })
}

/// Returns the rows of a message that is not the first.
pub fn rows(message: pb::ImportRelationsRequest) -> Result<Vec<pb::RelationRow>, Invalid> {
    let mut fields = Fields::default();
    if message.options.is_some() {
        fields.violation("options", "must be in the first message only");
    }
    check_rows(&mut fields, &message);
    fields.finish(message.rows)
}

fn check_rows(fields: &mut Fields, message: &pb::ImportRelationsRequest) {
    if message.rows.len() > REQUEST_ROWS_MAX {
        fields.violation("rows", format!("must have at most {REQUEST_ROWS_MAX} rows"));
    }
}

/// Returns the profile of a row.
pub fn profile_of(row: UserRow) -> Profile {
    let UserRow { profile, date_joined, position: _ } = row;
    Profile { date_joined: date_joined.given(), ..profile }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: pb::ImportOptions) -> Result<ImportOptions, Vec<String>> {
        let message = pb::ImportRelationsRequest { options: Some(options), rows: vec![] };
        super::options(&message)
            .map_err(|invalid| invalid.violations.into_iter().map(|violation| violation.field).collect())
    }

    #[test]
    fn options_are_read_or_named() {
        assert_eq!(read(pb::ImportOptions::default()), Ok(ImportOptions::default()));
        let all = pb::ImportOptions {
            dry_run: true,
            on_conflict: pb::ConflictRule::Replace.into(),
            crossing: pb::CrossingRule::Older.into(),
            pending_age: pb::PendingAge::Now.into(),
            default_date: Some(prost_types::Timestamp { seconds: 7, nanos: 0 }),
            create_missing_users: true,
        };
        let expected = ImportOptions {
            dry_run: true,
            on_conflict: OnConflict::Replace,
            ends_at_conflict: false,
            older_crosses: true,
            pending_since: PendingSince::Now,
            default_date: Time::from_timestamp(7, 0),
            create_missing_users: true,
        };
        assert_eq!(read(all), Ok(expected));
        let fail = pb::ImportOptions { on_conflict: pb::ConflictRule::Fail.into(), ..Default::default() };
        assert_eq!(read(fail), Ok(ImportOptions { ends_at_conflict: true, ..ImportOptions::default() }));
        let wrong = pb::ImportOptions {
            on_conflict: 9,
            crossing: -1,
            pending_age: 7,
            default_date: Some(prost_types::Timestamp { seconds: 0, nanos: -1 }),
            ..Default::default()
        };
        let fields = ["on_conflict", "crossing", "pending_age", "default_date"].map(|name| format!("options.{name}"));
        assert_eq!(read(wrong), Err(fields.into()));
    }

    #[test]
    fn options_are_in_the_first_message_and_rows_in_any_up_to_a_thousand() {
        let message = |options: bool, rows: usize| pb::ImportRelationsRequest {
            options: options.then(pb::ImportOptions::default),
            rows: vec![pb::RelationRow::default(); rows],
        };
        let named = |invalid: Invalid| invalid.violations.into_iter().map(|it| it.field).collect::<Vec<_>>();
        for (has_options, number, first, other) in [
            (true, 1_000, vec![], vec!["options"]),
            (false, 1_000, vec!["options"], vec![]),
            (true, 1_001, vec!["rows"], vec!["options", "rows"]),
        ] {
            let message = || message(has_options, number);
            assert_eq!(options(&message()).map(drop).map_err(named).err().unwrap_or_default(), first);
            assert_eq!(rows(message()).map(drop).map_err(named).err().unwrap_or_default(), other);
        }
    }
}
