//! Responses as tables, by the descriptors of their messages.

use chrono::{DateTime, Utc};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::Value;

use super::table::Table;
use crate::proto::json;

const TIMESTAMP: &str = "google.protobuf.Timestamp";
/// Fields of a list that are not shown below it.
const OF_PAGES: [&str; 2] = ["revision", "next_page_token"];
/// What clients send back with a revision, and people do not read.
const EPOCH: &str = "epoch";

/// A column: its header, and the fields of which it has the values.
type Column = (&'static str, &'static [&'static str]);

const USERS: &[Column] = &[("ID", &["id"]), ("USERNAME", &["username"]), ("STATUS", &["status"])];
const FOREIGN_USERS: &[Column] =
    &[("ID", &["id"]), ("USERNAME", &["username"]), ("STATUS", &["status"]), ("EXTERNAL ID", &["external_id"])];
const FULL_USERS: &[Column] = &[
    ("ID", &["id"]),
    ("USERNAME", &["username"]),
    ("STATUS", &["status"]),
    ("JOINED (UTC)", &["date_joined"]),
    ("REAL NAME", &["real_name"]),
    ("EMAIL", &["email"]),
];
const REQUESTS: &[Column] = &[
    ("ID", &["id"]),
    ("FROM", &["from_user"]),
    ("TO", &["to_user"]),
    ("STATE", &["state"]),
    ("CREATED (UTC)", &["created"]),
    ("VIEWED (UTC)", &["viewed"]),
];
const FULL_REQUESTS: &[Column] = &[
    ("ID", &["id"]),
    ("FROM", &["from_user"]),
    ("TO", &["to_user"]),
    ("STATE", &["state"]),
    ("CREATED (UTC)", &["created"]),
    ("MESSAGE", &["message"]),
];
const CONNECTIONS: &[Column] =
    &[("USER", &["user"]), ("CONNECTED (UTC)", &["connected"]), ("REQUEST", &["connection_request_id"])];
const BLOCKS: &[Column] = &[("USER", &["user"]), ("CREATED (UTC)", &["created"])];
const EVENTS: &[Column] = &[
    ("SEQUENCE", &["sequence"]),
    ("TIME (UTC)", &["time"]),
    ("KIND", &["kind"]),
    ("USERS", &["user_id", "other_user_id"]),
    ("BY", &["actor", "actor_user_id"]),
    ("CAUSE", &["cause", "silenced"]),
];
const STATUSES: &[Column] =
    &[("USER", &["other_user_id"]), ("STATUS", &["status"]), ("REQUEST", &["connection_request_id"])];
const REFUSALS: &[Column] = &[("POSITION", &["position"]), ("REASON", &["reason"]), ("FIELDS", &["field_violations"])];

/// Renders a response: a list as a table, with its other fields below, and anything else as a line for each field.
///
/// With `full`, users are shown with all fields that the response has, and messages of requests are shown.
pub(super) fn response(of: &MessageDescriptor, value: &Value, full: bool) -> String {
    let shown = of.fields().filter(|field| field.name() != EPOCH);
    match list(of) {
        Some(field) => {
            let rest: Vec<FieldDescriptor> =
                shown.filter(|other| *other != field && !OF_PAGES.contains(&other.name())).collect();
            rows(&field, value, full) + &fields(&rest, value, full)
        }
        // The one field of the response is what was asked for.
        None => fields(&shown.collect::<Vec<_>>(), value, full || of.name() == "GetUserResponse"),
    }
}

/// Returns the field with the rows of a list.
pub(super) fn list(of: &MessageDescriptor) -> Option<FieldDescriptor> {
    of.fields().find(|field| field.is_list() && matches!(field.kind(), Kind::Message(_)))
}

fn rows(field: &FieldDescriptor, value: &Value, full: bool) -> String {
    let Kind::Message(of) = field.kind() else { return String::new() };
    let items = value[field.name()].as_array().map(Vec::as_slice).unwrap_or_default();
    let columns = match (of.name(), full) {
        ("User", false) if items.iter().any(|item| item.get("external_id").is_some()) => FOREIGN_USERS,
        ("User", false) => USERS,
        ("User", true) => FULL_USERS,
        ("ConnectionRequest", false) => REQUESTS,
        ("ConnectionRequest", true) => FULL_REQUESTS,
        ("Connection", _) => CONNECTIONS,
        ("Block", _) => BLOCKS,
        ("Event", _) => EVENTS,
        ("UserConnectionStatus", _) => STATUSES,
        ("ImportRefusal", _) => REFUSALS,
        _ => return fields(std::slice::from_ref(field), value, full),
    };
    if items.is_empty() && of.name() == "ImportRefusal" {
        return String::new();
    }
    let mut table = Table::new(&columns.iter().map(|(header, _)| *header).collect::<Vec<_>>());
    for item in items {
        table.row(columns.iter().map(|(_, names)| cell(&of, names, item)));
    }
    table.to_string()
}

/// The values of some fields in one cell. Of one that is true, the name.
fn cell(of: &MessageDescriptor, names: &[&str], item: &Value) -> String {
    let text = |name: &&str| {
        let field = of.get_field_by_name(name)?;
        let value = item.get(*name)?;
        let text = if *value == Value::Bool(true) { (*name).to_owned() } else { short(&field, value) };
        Some(text).filter(|text| !text.is_empty())
    };
    let separator = if names.contains(&"other_user_id") { " → " } else { " " };
    names.iter().filter_map(text).collect::<Vec<_>>().join(separator)
}

/// A line for each field that is set.
fn fields(of: &[FieldDescriptor], value: &Value, full: bool) -> String {
    let mut table = Table::bare();
    add(&mut table, of, value, full, "");
    table.to_string()
}

fn add(table: &mut Table, of: &[FieldDescriptor], value: &Value, full: bool, indent: &str) {
    for field in of {
        let Some(value) = value.get(field.name()) else { continue };
        let name = format!("{indent}{}", field.name());
        match (field.kind(), value) {
            (Kind::Message(message), Value::Object(_)) if full || message.name() != "User" => {
                table.row([name]);
                let inner: Vec<FieldDescriptor> = message.fields().collect();
                add(table, &inner, value, full, &format!("{indent}  "));
            }
            (Kind::Message(message), Value::String(time)) if message.full_name() == TIMESTAMP => {
                table.row([name, seconds(time)]);
            }
            _ => table.row([name, short(field, value)]),
        }
    }
}

/// A value in a cell.
fn short(field: &FieldDescriptor, value: &Value) -> String {
    match (field.kind(), value) {
        (_, Value::Array(items)) => items
            .iter()
            .map(|item| short(field, item))
            .collect::<Vec<_>>()
            .join(if field.is_list() { "; " } else { " " }),
        (Kind::Enum(_), Value::String(name)) => json::short_name(name).to_owned(),
        (Kind::Message(message), Value::String(time)) if message.full_name() == TIMESTAMP => minutes(time),
        (Kind::Message(message), Value::Object(_)) if message.name() == "User" => user(value),
        (_, Value::Object(object)) => object.values().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        (_, Value::String(text)) => text.clone(),
        (_, Value::Null) => String::new(),
        (_, value) => value.to_string(),
    }
}

/// A user as `ID USERNAME`. Of one without a username, the external id is shown.
pub(super) fn user(value: &Value) -> String {
    let id = value["id"].as_i64().map(|id| id.to_string()).unwrap_or_default();
    let name = value["username"].as_str().or_else(|| value["external_id"].as_str());
    format!("{id} {}", name.unwrap_or_default()).trim().to_owned()
}

/// A time to the minute, in UTC.
pub(super) fn minutes(time: &str) -> String {
    formatted(time, "%Y-%m-%d %H:%M")
}

/// A time to the second.
pub(super) fn seconds(time: &str) -> String {
    formatted(time, "%Y-%m-%d %H:%M:%S UTC")
}

/// Formats a time. Text that is none stays as it is.
fn formatted(time: &str, format: &str) -> String {
    match DateTime::parse_from_rfc3339(time) {
        Ok(parsed) => parsed.with_timezone(&Utc).format(format).to_string(),
        Err(_) => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(name: &str, value: &Value, full: bool) -> String {
        response(&json::message(name).expect("a message"), value, full)
    }

    fn ann() -> Value {
        json!({"id": 1, "username": "ann", "email": "ann@example.com", "status": "USER_STATUS_APPROVED",
               "date_joined": "2026-01-02T03:04:05.000006Z"})
    }

    #[test]
    fn a_list_has_a_row_for_each_item_and_nothing_that_was_not_asked_for() {
        let list = json!({"users": [ann()], "next_page_token": "x", "revision": 7});
        assert_eq!(rendered("ListUsersResponse", &list, false), "ID  USERNAME  STATUS\n1   ann       APPROVED\n");
        let full = "ID  USERNAME  STATUS    JOINED (UTC)      REAL NAME  EMAIL\n\
                    1   ann       APPROVED  2026-01-02 03:04             ann@example.com\n";
        assert_eq!(rendered("ListUsersResponse", &list, true), full);
        assert_eq!(rendered("ListUsersResponse", &json!({"revision": 7}), false), "ID  USERNAME  STATUS\n");
        let foreign = json!({"users": [{"id": 2, "external_id": "0b1e"}]});
        let expected = "ID  USERNAME  STATUS  EXTERNAL ID\n2                     0b1e\n";
        assert_eq!(rendered("ListUsersResponse", &foreign, false), expected);
        let some = json!({"users": [ann()], "not_found_ids": [8, 9]});
        let expected = "ID  USERNAME  STATUS\n1   ann       APPROVED\nnot_found_ids  8; 9\n";
        assert_eq!(rendered("BatchGetUsersResponse", &some, false), expected);
        let refused = json!({"created": 1, "refused": 1, "refusals": [{"position": 2, "reason": "ERROR_REASON_INVALID_FIELDS",
            "field_violations": [{"field": "user.email", "description": "must be valid"}]}]});
        let expected = "POSITION  REASON          FIELDS\n2         INVALID_FIELDS  user.email must be valid\ncreated  1\nrefused  1\n";
        assert_eq!(rendered("ImportUsersResponse", &refused, false), expected);
        assert_eq!(rendered("ImportUsersResponse", &json!({"created": 1}), false), "created  1\n");
    }

    #[test]
    fn any_other_response_has_a_line_for_each_field() {
        let response = json!({
            "connection_request": {"id": 3, "from_user": ann(), "to_user": {"id": 2, "username": "bob"},
                                   "created": "2026-01-02T03:04:05.000006Z", "state": "CONNECTION_REQUEST_STATE_PENDING"},
            "status": "CONNECTION_STATUS_REQUEST_SENT", "revision": 3,
        });
        let expected = "connection_request\n\
                        \x20 id                3\n\
                        \x20 from_user         1 ann\n\
                        \x20 to_user           2 bob\n\
                        \x20 created           2026-01-02 03:04:05 UTC\n\
                        \x20 state             PENDING\n\
                        status              REQUEST_SENT\n\
                        revision            3\n";
        assert_eq!(rendered("SendConnectionRequestResponse", &response, false), expected);
        let user = rendered("GetUserResponse", &json!({"user": ann(), "revision": 3}), false);
        assert!(user.contains("  email        ann@example.com\n"), "{user}");
        let created = rendered("CreateUserResponse", &json!({"user": ann(), "revision": 3}), false);
        assert_eq!(created, "user      1 ann\nrevision  3\n");
    }
}
