//! Rows of imports and exports of relations, which are those of [`transfer`](crate::transfer).

use std::borrow::Cow;

use chrono::DateTime;
use prost_types::Timestamp;

use super::invalid::{Fields, Invalid};
use super::timestamp;
use crate::domain::epoch::Position;
use crate::domain::id::Sequence;
use crate::domain::user::Profile;
use crate::proto::server as pb;
use crate::proto::server::relation_row::Row as Content;
use crate::proto::server::user_reference::Key;
use crate::transfer::{
    BlockRow, ConnectionRow, Date, ExternalId, FORMAT, Header, Kind, Object, Reason, RequestRow, RequestRowState, Row,
    Rules, UserReference, UserRow, Value, Violation,
};

/// Parses an export: the minimum revision.
pub fn export(request: &pb::ExportRelationsRequest) -> Result<Position, Invalid> {
    let mut fields = Fields::default();
    let min_revision = fields.min_revision(request.min_revision, &request.min_revision_epoch);
    fields.finish(min_revision)
}

/// Reads a row of an import.
///
/// # Errors
///
/// Why the row is refused, with all fields that are wrong.
pub fn row(row: &pb::RelationRow, rules: &Rules) -> Result<Row, (Reason, Vec<Violation>)> {
    let (kind, values) = match &row.row {
        None => return Err((Reason::UnknownType, vec![Violation::new("row", "must be set")])),
        Some(Content::User(user)) => (Kind::User, user_values(user)),
        Some(Content::Connection(connection)) => (Kind::Connection, connection_values(connection)),
        Some(Content::Request(request)) => (Kind::Request, request_values(request)),
        Some(Content::Block(block)) => (Kind::Block, block_values(block)),
    };
    let values = values.into_iter().map(|(name, value)| (Cow::Borrowed(name), value)).collect();
    Row::read(kind.name(), values, rules)
}

/// Fields with their names.
type Named<'a> = Vec<(&'static str, Value<'a>)>;

fn user_values(row: &pb::UserRow) -> Named<'_> {
    let pb::UserRow { user, position } = row;
    let Some(user) = user else { return vec![("position", number(*position))] };
    let pb::User {
        id,
        username,
        real_name,
        email,
        email_isvalid,
        date_joined,
        bio,
        location,
        birthday,
        description,
        gender,
        status,
        website,
        avatar,
        cover,
        external_id,
    } = user;
    vec![
        ("id", number(*id)),
        ("external_id", text(external_id)),
        ("username", text(username)),
        ("real_name", text(real_name)),
        ("email", text(email)),
        ("email_isvalid", Value::Bool(*email_isvalid)),
        ("date_joined", time(date_joined)),
        ("bio", text(bio)),
        ("location", text(location)),
        ("birthday", text(birthday)),
        ("description", text(description)),
        ("gender", name(*gender, pb::Gender::try_from(*gender).map(|gender| gender.as_str_name()))),
        ("status", name(*status, pb::UserStatus::try_from(*status).map(|status| status.as_str_name()))),
        ("website", text(website)),
        ("avatar", text(avatar)),
        ("cover", text(cover)),
        ("position", number(*position)),
    ]
}

fn connection_values(row: &pb::ConnectionRow) -> Named<'_> {
    let pb::ConnectionRow { id, from, to, created, viewed, connected, message, reply, position } = row;
    vec![
        ("id", number(*id)),
        ("from", reference(from)),
        ("to", reference(to)),
        ("created", time(created)),
        ("viewed", time(viewed)),
        ("connected", time(connected)),
        ("message", text(message)),
        ("reply", text(reply)),
        ("position", number(*position)),
    ]
}

fn request_values(row: &pb::RequestRow) -> Named<'_> {
    let pb::RequestRow { id, from, to, state, created, viewed, rejected, message, position } = row;
    vec![
        ("id", number(*id)),
        ("from", reference(from)),
        ("to", reference(to)),
        ("state", name(*state, pb::ConnectionRequestState::try_from(*state).map(|state| state.as_str_name()))),
        ("created", time(created)),
        ("viewed", time(viewed)),
        ("rejected", time(rejected)),
        ("message", text(message)),
        ("position", number(*position)),
    ]
}

fn block_values(row: &pb::BlockRow) -> Named<'_> {
    let pb::BlockRow { user, other, created, position } = row;
    vec![
        ("user", reference(user)),
        ("other", reference(other)),
        ("created", time(created)),
        ("position", number(*position)),
    ]
}

fn number(number: i64) -> Value<'static> {
    if number == 0 { Value::Null } else { Value::Integer(number) }
}

fn text(text: &str) -> Value<'_> {
    Value::Text(Cow::Borrowed(text))
}

/// A value of an enumeration by its name. One without a name is invalid, and named by its number.
fn name<E>(number: i32, name: Result<&'static str, E>) -> Value<'static> {
    if number == 0 {
        return Value::Null;
    }
    Value::Text(name.map_or_else(|_| Cow::Owned(number.to_string()), Cow::Borrowed))
}

fn time(time: &Option<Timestamp>) -> Value<'static> {
    let Some(Timestamp { seconds, nanos }) = time else { return Value::Null };
    let time = u32::try_from(*nanos).ok().and_then(|nanos| DateTime::from_timestamp(*seconds, nanos));
    time.map_or(Value::Other("a time"), Value::Time)
}

fn reference(reference: &Option<pb::UserReference>) -> Value<'_> {
    let Some(key) = reference.as_ref().and_then(|reference| reference.key.as_ref()) else { return Value::Null };
    let (name, value) = match key {
        Key::Id(id) => ("id", Value::Integer(*id)),
        Key::Username(name) => ("username", text(name)),
        Key::ExternalId(id) => ("external_id", text(id)),
    };
    Value::Object(Object::from([(Cow::Borrowed(name), value)]))
}

/// Converts the header of an export.
pub fn header(header: Header) -> pb::RelationHeader {
    // The revision is in each message.
    let Header { source, epoch, revision: _, created } = header;
    pb::RelationHeader { format: FORMAT.to_owned(), source, epoch, created: created.map(timestamp) }
}

/// Counts a row in the footer of an export.
pub fn count(footer: &mut pb::RelationFooter, row: &pb::RelationRow) {
    let number = match &row.row {
        Some(Content::User(_)) => &mut footer.users,
        Some(Content::Connection(_)) => &mut footer.connections,
        Some(Content::Request(_)) => &mut footer.requests,
        Some(Content::Block(_)) => &mut footer.blocks,
        None => return,
    };
    *number += 1;
}

/// Converts a row of an export. `None`: a header or a footer, which have messages of their own.
pub fn message(row: Row) -> Option<pb::RelationRow> {
    let content = match row {
        Row::User(user) => Content::User(user_message(*user)),
        Row::Connection(connection) => Content::Connection(connection_message(connection)),
        Row::Request(request) => Content::Request(request_message(request)),
        Row::Block(BlockRow { user, other, created, position }) => Content::Block(pb::BlockRow {
            user: user_reference(user),
            other: user_reference(other),
            created: stamp(created),
            position: sequence(position),
        }),
        Row::Header(_) | Row::Footer(_) => return None,
    };
    Some(pb::RelationRow { row: Some(content) })
}

fn user_message(row: UserRow) -> pb::UserRow {
    let UserRow { profile, date_joined, position } = row;
    let Profile {
        id,
        username,
        real_name,
        email,
        email_isvalid,
        // The row has its own.
        date_joined: _,
        bio,
        location,
        birthday,
        description,
        gender,
        status,
        website,
        avatar,
        cover,
        external_id,
    } = profile;
    let user = pb::User {
        id: id.map_or(0, |id| id.get()),
        username: username.as_str().to_owned(),
        real_name: real_name.as_str().to_owned(),
        email: email.as_str().to_owned(),
        email_isvalid,
        date_joined: stamp(date_joined),
        bio: bio.as_str().to_owned(),
        location: location.as_str().to_owned(),
        birthday: birthday.as_str().to_owned(),
        description: description.as_str().to_owned(),
        gender: pb::Gender::from(gender).into(),
        status: status.map_or(pb::UserStatus::Unspecified, pb::UserStatus::from).into(),
        website: website.as_str().to_owned(),
        avatar: avatar.as_str().to_owned(),
        cover: cover.as_str().to_owned(),
        external_id: external_id.map_or_else(String::new, |id| id.as_str().to_owned()),
    };
    pb::UserRow { user: Some(user), position: sequence(position) }
}

fn connection_message(row: ConnectionRow) -> pb::ConnectionRow {
    let ConnectionRow { id, from, to, created, viewed, connected, message, reply, position } = row;
    pb::ConnectionRow {
        id: id.map_or(0, |id| id.get()),
        from: user_reference(from),
        to: user_reference(to),
        created: stamp(created),
        viewed: stamp(viewed),
        connected: stamp(connected),
        message: message.as_str().to_owned(),
        reply: reply.as_str().to_owned(),
        position: sequence(position),
    }
}

fn request_message(row: RequestRow) -> pb::RequestRow {
    let RequestRow { id, from, to, state, created, viewed, rejected, message, position } = row;
    let state = match state {
        RequestRowState::Pending => pb::ConnectionRequestState::Pending,
        RequestRowState::Rejected => pb::ConnectionRequestState::Rejected,
        RequestRowState::Silenced => pb::ConnectionRequestState::Silenced,
        RequestRowState::Withdrawn => pb::ConnectionRequestState::Withdrawn,
    };
    pb::RequestRow {
        id: id.map_or(0, |id| id.get()),
        from: user_reference(from),
        to: user_reference(to),
        state: state.into(),
        created: stamp(created),
        viewed: stamp(viewed),
        rejected: stamp(rejected),
        message: message.as_str().to_owned(),
        position: sequence(position),
    }
}

fn user_reference(reference: UserReference) -> Option<pb::UserReference> {
    let key = match reference {
        UserReference::Id(id) => Key::Id(id.get()),
        UserReference::Username(name) => Key::Username(name),
        UserReference::ExternalId(id) => Key::ExternalId(ExternalId::as_str(&id).to_owned()),
    };
    Some(pb::UserReference { key: Some(key) })
}

fn stamp(date: Date) -> Option<Timestamp> {
    date.given().map(timestamp)
}

fn sequence(position: Option<Sequence>) -> i64 {
    position.map_or(0, Sequence::get)
}

impl From<Reason> for pb::RefusalReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::UnknownType => Self::UnknownType,
            Reason::InvalidFields => Self::InvalidFields,
            Reason::DateOrder => Self::DateOrder,
            Reason::SelfRequest => Self::SelfRequest,
            Reason::UserNotFound => Self::UserNotFound,
            Reason::UserExists => Self::UserExists,
            Reason::UsernameTaken => Self::UsernameTaken,
            Reason::ExternalIdTaken => Self::ExternalIdTaken,
            Reason::DuplicatePair => Self::DuplicatePair,
            Reason::ConflictingState => Self::ConflictingState,
            Reason::Blocked => Self::Blocked,
            Reason::Expired => Self::Expired,
            Reason::LimitReached => Self::LimitReached,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;
    use crate::domain::Time;
    use crate::domain::text::UsernameRule;
    use crate::transfer::{JsonReader, RowReader};

    fn rules() -> Rules {
        Rules { usernames: UsernameRule::Ascii, now: Time::from_timestamp(1_780_000_000, 0).expect("a time") }
    }

    #[test]
    fn a_row_is_the_same_as_a_message() {
        let file = r#"{"type":"header","format":"kith.export.v1"}
{"type":"user","id":17,"username":"ann","real_name":"Ann","email":"ann@example.com","email_isvalid":true,"date_joined":"2021-01-01T00:00:00.000001Z","bio":"b","location":"Ulm","birthday":"1990-12-31","description":"d","gender":"GENDER_FEMALE","status":"USER_STATUS_BLOCKED","website":"https://example.com/","avatar":"https://example.com/a","cover":"https://example.com/c","position":1}
{"type":"user","id":18,"username":"bob"}
{"type":"connection","id":5,"from":17,"to":{"external_id":"9f3c"},"created":"2021-03-01T10:00:00Z","viewed":"2021-03-01T11:00:00Z","connected":"2021-03-02T08:00:00Z","message":"Hi","reply":"Hello","position":6}
{"type":"request","id":7,"from":17,"to":{"username":"Bob"},"state":"CONNECTION_REQUEST_STATE_REJECTED","created":"2021-03-01T10:00:00Z","viewed":"2021-03-01T10:00:00.500Z","rejected":"2021-03-02T10:00:00Z","message":"Hi","position":9}
{"type":"request","from":18,"to":17,"state":"CONNECTION_REQUEST_STATE_WITHDRAWN","rejected":"1970-01-01T00:00:00Z"}
{"type":"request","from":18,"to":17,"state":"CONNECTION_REQUEST_STATE_SILENCED"}
{"type":"request","from":18,"to":17,"state":"CONNECTION_REQUEST_STATE_PENDING"}
{"type":"block","user":17,"other":20,"created":"2021-03-01T10:00:00Z","position":11}
{"type":"footer"}"#;
        let mut reader = JsonReader::new(BufReader::new(file.as_bytes()), rules());
        let mut rows = 0;
        while let Some(read) = reader.next_row().expect("a row") {
            let written = read.row.expect("valid");
            let Some(message) = message(written.clone()) else { continue };
            assert_eq!(row(&message, &rules()), Ok(written));
            rows += 1;
        }
        assert_eq!(rows, 8);
    }

    #[test]
    fn all_that_is_wrong_with_a_message_is_said() {
        let wrong = |content| {
            let (reason, violations) = row(&pb::RelationRow { row: content }, &rules()).expect_err("invalid");
            let violations: Vec<_> = violations.iter().map(Violation::to_string).collect();
            format!("{} {}", reason.name(), violations.join("; "))
        };
        assert_eq!(wrong(None), "UNKNOWN_TYPE row: must be set");
        let nobody = pb::UserRow { user: None, position: -1 };
        assert_eq!(
            wrong(Some(Content::User(nobody))),
            "INVALID_FIELDS username: must be 1 to 255 characters of A-Z a-z 0-9 - _; \
             position: must be a whole number from 1 to 9007199254740991"
        );
        let never = Some(Timestamp { seconds: 1, nanos: -1 });
        let request = pb::RequestRow {
            state: 99,
            created: never,
            to: Some(pb::UserReference { key: Some(Key::ExternalId(String::new())) }),
            ..Default::default()
        };
        assert_eq!(
            wrong(Some(Content::Request(request))),
            "INVALID_FIELDS from: must be set; to: must not be empty; \
             state: must be one of CONNECTION_REQUEST_STATE_PENDING, CONNECTION_REQUEST_STATE_REJECTED, \
             CONNECTION_REQUEST_STATE_SILENCED, CONNECTION_REQUEST_STATE_WITHDRAWN; \
             created: must be a time with its zone, such as 2026-11-25T12:00:00Z"
        );
        let connected = pb::RequestRow { state: pb::ConnectionRequestState::Connected.into(), ..Default::default() };
        assert!(wrong(Some(Content::Request(connected))).contains("state: must be one of"));
    }

    #[test]
    fn reasons_have_the_names_of_the_format() {
        for reason in Reason::ALL {
            assert_eq!(pb::RefusalReason::from(*reason).as_str_name(), format!("REFUSAL_REASON_{}", reason.name()));
        }
        // The first value is none of them.
        assert_eq!((1..).map_while(|number| pb::RefusalReason::try_from(number).ok()).count(), Reason::ALL.len());
    }
}
