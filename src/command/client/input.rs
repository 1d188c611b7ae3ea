//! Requests as JSON: where they are read from, and what they may have.

use std::fs::File;
use std::io::{self, BufReader, Read};

use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value};

use super::api::Method;
use super::failure::Failed;
use crate::config::nearest;
use crate::proto::json;

/// Opens the JSON of an argument: the text itself, standard input for `-`, or the file after `@`.
pub(super) fn open(argument: &str) -> Result<Box<dyn Read + Send>, Failed> {
    match (argument, argument.strip_prefix('@')) {
        ("-", _) => Ok(Box::new(BufReader::new(io::stdin()))),
        (_, Some(path)) => file(path),
        (text, None) => Ok(Box::new(io::Cursor::new(text.to_owned()))),
    }
}

/// Opens a file, or standard input for `-`.
pub(super) fn file(path: &str) -> Result<Box<dyn Read + Send>, Failed> {
    if path == "-" {
        return open(path);
    }
    match File::open(path) {
        Ok(file) => Ok(Box::new(BufReader::new(file))),
        Err(error) => Err(Failed::Usage(format!("{path}: cannot be read: {error}"))),
    }
}

/// Reads the one JSON object of an argument. None stands for an empty one.
pub(super) fn object(argument: Option<&str>) -> Result<Map<String, Value>, Failed> {
    let Some(argument) = argument else { return Ok(Map::new()) };
    let mut values = serde_json::Deserializer::from_reader(open(argument)?).into_iter::<Value>();
    let first = values.next().transpose().map_err(|error| Failed::Usage(format!("the JSON is not valid: {error}")))?;
    match (first, values.next()) {
        (Some(Value::Object(object)), None) => Ok(object),
        (None, _) => Err(Failed::Usage("the JSON is empty; an empty request is {}".to_owned())),
        (Some(_), None) => Err(Failed::Usage("the JSON is no object; write {\"field\": value}".to_owned())),
        (Some(_), Some(_)) => Err(Failed::Usage("the JSON has more than one value, and the RPC takes one".to_owned())),
    }
}

/// Fills in the user of `--as`: the field of the user who acts or views.
///
/// If that field names another user, and the request has a second one for the viewer, that is filled in.
pub(super) fn act_as(method: &Method, request: &mut Map<String, Value>, user: i64) -> Result<(), Failed> {
    let right = method.right();
    let fields = [right.and_then(|right| right.acting), right.and_then(|right| right.also)];
    let mut named = None;
    for field in fields.into_iter().flatten() {
        match request.get(field) {
            None | Some(Value::Null) => {
                request.insert(field.to_owned(), user.into());
                return Ok(());
            }
            Some(value) if is_number(value, user) => return Ok(()),
            Some(value) => named = named.or(Some(format!("{field} is {value}"))),
        }
    }
    let name = method.name();
    Err(Failed::Usage(match named {
        Some(named) => format!("--as: {named} in the request, and --as says {user}; leave one of them out"),
        None => format!("--as: {name} acts for no user; leave it out"),
    }))
}

/// Whether a value is this number, as a number or as text.
fn is_number(value: &Value, number: i64) -> bool {
    value.as_i64().or_else(|| value.as_str()?.parse().ok()) == Some(number)
}

/// Converts a request to a message.
///
/// Fields may have their names in the proto or their JSON names, and values of enumerations their full or short names.
pub(super) fn message(of: &MessageDescriptor, request: Map<String, Value>) -> Result<DynamicMessage, String> {
    let mut value = Value::Object(request);
    prepare(of, &mut value, "")?;
    DynamicMessage::deserialize(of.clone(), value).map_err(|error| format!("the JSON is no {}: {error}", of.name()))
}

/// Checks the names of all fields, and gives values of enumerations their full names.
fn prepare(of: &MessageDescriptor, value: &mut Value, path: &str) -> Result<(), String> {
    // Times, durations and field masks have texts.
    let Value::Object(object) = value else { return Ok(()) };
    if of.package_name() != json::PACKAGE {
        return Ok(());
    }
    for (name, value) in object {
        let found = of.get_field_by_name(name).or_else(|| of.get_field_by_json_name(name));
        let field = found.ok_or_else(|| unknown_field(of, name, path))?;
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if let (true, Value::Array(items)) = (field.is_list(), &mut *value) {
            items.iter_mut().try_for_each(|item| prepare_field(&field, item, &path))?;
        } else {
            prepare_field(&field, value, &path)?;
        }
    }
    Ok(())
}

fn prepare_field(field: &FieldDescriptor, value: &mut Value, path: &str) -> Result<(), String> {
    match (field.kind(), &value) {
        (Kind::Message(of), _) => prepare(&of, value, path),
        (Kind::Enum(of), Value::String(name)) => {
            *value = full_name(&of, name).map_err(|error| format!("{path}: {error}"))?.into();
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Returns the full name of an enum value that is written with or without its prefix, in upper or lower case.
fn full_name(of: &EnumDescriptor, name: &str) -> Result<String, String> {
    let upper = name.to_ascii_uppercase().replace('-', "_");
    let full = format!("{}{upper}", json::prefix(of));
    if let Some(value) = of.get_value_by_name(&upper).or_else(|| of.get_value_by_name(&full)) {
        return Ok(value.name().to_owned());
    }
    let known: Vec<String> = of.values().skip(1).map(|value| json::short_name(value.name()).to_owned()).collect();
    Err(match nearest(&upper, known.iter().map(String::as_str)) {
        Some(near) => format!("{name:?} is no {}; did you mean {near}?", of.name()),
        None => format!("{name:?} is no {}; it is one of {}", of.name(), known.join(", ")),
    })
}

fn unknown_field(of: &MessageDescriptor, name: &str, path: &str) -> String {
    let known: Vec<String> = of.fields().map(|field| field.name().to_owned()).collect();
    let place = if path.is_empty() { String::new() } else { format!("{path}: ") };
    match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("{place}{} has no field {name:?}; did you mean {near}?", of.name()),
        None if known.is_empty() => format!("{place}{} has no fields", of.name()),
        None => format!("{place}{} has no field {name:?}; it has {}", of.name(), known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(name: &str, value: Value) -> Result<Value, String> {
        let Value::Object(object) = value else { panic!("an object") };
        let message = message(&json::message(name).expect("a message"), object)?;
        json::value(&message).map_err(|error| error.to_string())
    }

    #[test]
    fn requests_have_names_of_either_form_and_short_enum_values() {
        let expected = json!({"user_id": 2, "direction": "CONNECTION_REQUEST_DIRECTION_RECEIVED", "page_size": 5});
        for written in [
            json!({"user_id": 2, "direction": "RECEIVED", "page_size": 5}),
            json!({"userId": "2", "direction": "received", "pageSize": 5}),
            json!({"user_id": 2, "direction": "CONNECTION_REQUEST_DIRECTION_RECEIVED", "page_size": 5}),
            json!({"user_id": 2, "direction": 1, "page_size": 5, "state": null}),
        ] {
            assert_eq!(parsed("ListConnectionRequestsRequest", written.clone()), Ok(expected.clone()), "{written}");
        }
        let written = json!({"user_ids": [1], "kinds": ["USER_CREATED"], "heartbeat_interval": "5s"});
        let expected = json!({"user_ids": [1], "kinds": ["EVENT_KIND_USER_CREATED"], "heartbeat_interval": "5s"});
        assert_eq!(parsed("WatchEventsRequest", written), Ok(expected));
    }

    #[test]
    fn an_error_names_the_field_and_the_nearest_name() {
        for (name, written, words) in [
            ("GetUserRequest", json!({"ids": 1}), "GetUserRequest has no field \"ids\"; did you mean id?"),
            ("GetUserRequest", json!({"colour": 1}), "it has id, username"),
            (
                "CreateUserRequest",
                json!({"user": {"usernam": "a"}}),
                "user: User has no field \"usernam\"; did you mean",
            ),
            (
                "CreateUserRequest",
                json!({"user": {"status": "APROVED"}}),
                "user.status: \"APROVED\" is no UserStatus; did",
            ),
            ("CreateUserRequest", json!({"user": {"status": "x"}}), "it is one of APPROVED, BLOCKED, UNREGISTERED"),
            ("GetUserRequest", json!({"id": "seven"}), "the JSON is no GetUserRequest"),
            ("CreateUserRequest", json!({"user": 7}), "the JSON is no CreateUserRequest"),
        ] {
            let error = parsed(name, written).expect_err(words);
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_user_of_as_is_who_acts_or_views() {
        let filled = |name: &str, request: Value, user| {
            let Value::Object(mut request) = request else { panic!("an object") };
            let result = act_as(&Method::find(name).expect("an RPC"), &mut request, user);
            result.map(|()| Value::Object(request)).map_err(|failed| format!("{failed:?}"))
        };
        for (name, request, expected) in [
            ("AcceptConnectionRequest", json!({"id": 3}), json!({"id": 3, "user_id": 7})),
            ("SendConnectionRequest", json!({"from_user_id": 7}), json!({"from_user_id": 7})),
            ("SendConnectionRequest", json!({"from_user_id": "7"}), json!({"from_user_id": "7"})),
            ("ListConnections", json!({"user_id": 5}), json!({"user_id": 5, "viewer_user_id": 7})),
            ("ListEvents", json!({}), json!({"viewer_user_id": 7})),
        ] {
            assert_eq!(filled(name, request, 7), Ok(expected), "{name}");
        }
        for (name, request, words) in [
            ("SendConnectionRequest", json!({"from_user_id": 1}), "from_user_id is 1"),
            ("ListConnections", json!({"user_id": 1, "viewer_user_id": 2}), "user_id is 1"),
            ("CreateUser", json!({}), "CreateUser acts for no user"),
        ] {
            let error = filled(name, request, 7).expect_err(words);
            assert!(error.contains(words), "{error}");
        }
    }
}
