//! The JSON form of messages: one for everything that Kith prints.
//!
//! It is the proto's JSON form with the field names of the protos. Fields that are not set are left out, enumerations
//! have the full names of their values, and times are RFC 3339 in UTC. 64-bit integers are numbers, not text: no integer
//! of Kith's API is above 2^53 − 1, so that every reader of JSON holds it, and every parser of the proto's JSON form reads
//! numbers too.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, EnumDescriptor, MessageDescriptor, SerializeOptions};
use serde_json::Value;
use serde_json::value::Serializer;

use super::FILE_DESCRIPTOR_SET;

/// The package of Kith's own messages and services.
pub const PACKAGE: &str = "kith.v1";

/// The descriptors of Kith's protos and their imports.
///
/// A test proves that those of the build are valid.
static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap_or_default());

/// The short name of each enum value, by its full name.
static SHORT_NAMES: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
    let values = |of: EnumDescriptor| {
        let prefix = prefix(&of);
        let short = |name: &str| Some((name.to_owned(), name.strip_prefix(&prefix)?.to_owned()));
        of.values().filter_map(|value| short(value.name())).collect::<Vec<_>>()
    };
    POOL.all_enums().filter(|of| of.package_name() == PACKAGE).flat_map(values).collect()
});

/// Returns the descriptors of Kith's protos and their imports.
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

/// Returns the descriptor of a message of [`PACKAGE`].
pub fn message(name: &str) -> Option<MessageDescriptor> {
    POOL.get_message_by_name(&format!("{PACKAGE}.{name}"))
}

/// Converts a message to JSON.
///
/// # Errors
///
/// If the message has a time, a duration or an `Any` that has no JSON form.
pub fn value(message: &DynamicMessage) -> Result<Value, serde_json::Error> {
    let options = SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(false);
    message.serialize_with_options(Serializer, &options)
}

/// Converts a generated message of [`PACKAGE`] with this name to JSON.
///
/// # Errors
///
/// As [`value`], and if the message is not of that type.
pub fn of(name: &str, generated: &impl Message) -> Result<Value, String> {
    let descriptor = message(name).ok_or_else(|| format!("{PACKAGE} has no message {name}"))?;
    let decoded = DynamicMessage::decode(descriptor, &*generated.encode_to_vec()).map_err(|error| error.to_string())?;
    value(&decoded).map_err(|error| error.to_string())
}

/// Returns the name of an enum value without the prefix that all values of its enum have.
///
/// Any other text is returned as it is.
pub fn short_name(full: &str) -> &str {
    SHORT_NAMES.get(full).map_or(full, String::as_str)
}

/// Returns the prefix that the names of the values of an enum have: its own name, such as `EVENT_KIND_`.
pub fn prefix(of: &EnumDescriptor) -> String {
    let mut prefix = String::new();
    for (at, letter) in of.name().char_indices() {
        if letter.is_ascii_uppercase() && at > 0 {
            prefix.push('_');
        }
        prefix.push(letter.to_ascii_uppercase());
    }
    prefix + "_"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::proto::v1 as pb;

    fn event() -> pb::Event {
        pb::Event {
            sequence: 9_007_199_254_740_991,
            time: Some(prost_types::Timestamp { seconds: 1_780_000_000, nanos: 5_000 }),
            kind: pb::EventKind::ConnectionCreated.into(),
            cause: pb::EventCause::Crossed.into(),
            actor: pb::EventActor::User.into(),
            actor_user_id: 1,
            user_id: 2,
            other_user_id: 1,
            connection_request_id: 5,
            silenced: true,
            principal: pb::EventPrincipal::Service.into(),
        }
    }

    #[test]
    fn a_message_has_the_fields_that_are_set_by_the_names_of_the_proto() {
        let expected = json!({
            "sequence": 9_007_199_254_740_991_i64, "time": "2026-05-28T20:26:40.000005Z",
            "kind": "EVENT_KIND_CONNECTION_CREATED", "cause": "EVENT_CAUSE_CROSSED", "actor": "EVENT_ACTOR_USER",
            "actor_user_id": 1, "user_id": 2, "other_user_id": 1, "connection_request_id": 5, "silenced": true,
            "principal": "EVENT_PRINCIPAL_SERVICE",
        });
        assert_eq!(of("Event", &event()), Ok(expected));
        let user = pb::Event { sequence: 8, kind: pb::EventKind::UserCreated.into(), user_id: 3, ..Default::default() };
        let expected = json!({ "sequence": 8, "kind": "EVENT_KIND_USER_CREATED", "user_id": 3 });
        assert_eq!(of("Event", &user), Ok(expected));
        assert_eq!(of("Nothing", &user), Err("kith.v1 has no message Nothing".to_owned()));
    }

    #[test]
    fn what_is_printed_is_read_as_the_same_message() {
        let printed = of("Event", &event()).expect("JSON");
        let descriptor = message("Event").expect("a message");
        let read = DynamicMessage::deserialize(descriptor, printed).expect("an event");
        assert_eq!(read.transcode_to::<pb::Event>().expect("an event"), event());
    }

    #[test]
    fn every_enum_value_has_a_short_name() {
        let enums = || pool().all_enums().filter(|of| of.package_name() == PACKAGE);
        assert!(enums().count() > 10);
        for value in enums().flat_map(|of| of.values().collect::<Vec<_>>()) {
            assert!(short_name(value.name()).len() < value.name().len(), "{}", value.name());
        }
        assert_eq!(short_name("EVENT_KIND_USER_CREATED"), "USER_CREATED");
        assert_eq!(short_name("USER_STATUS_BLOCKED"), "BLOCKED");
        assert_eq!(short_name("ann"), "ann");
    }
}
