//! What an import came to, in words as `expected.txt` has them.

use std::collections::HashMap;

use chrono::{DateTime, SecondsFormat};
use serde_json::Value;

/// Before the number at the end of the UUIDs of fixtures.
const UUID: &str = "00000000-0000-4000-8000-";

/// The lines of `expected.txt`, sorted.
pub fn expected(text: &str) -> Vec<String> {
    sorted(text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned))
}

/// The rows of an export and the refused ones, sorted.
pub fn found(export: &str, refused: &str) -> Vec<String> {
    let (export, refused) = (rows(export), rows(refused));
    let is_user = |row: &&Value| row["type"] == "user";
    let names =
        export.iter().filter(is_user).map(|user| (user["id"].as_i64().expect("an id"), text(user, "external_id")));
    let names: HashMap<_, _> = names.collect();
    let imported = export.iter().map(|row| described(row, &names));
    let refused = refused.iter().map(|row| {
        // Dates that contradict each other, and other values that cannot be stored, are not repeated here.
        let mut row = row.clone();
        let fields = row.as_object_mut().expect("an object");
        for field in ["viewed", "connected", "rejected", "message", "reply"] {
            fields.remove(field);
        }
        format!("refused {} {}", text(&row, "reason"), described(&row, &HashMap::new()))
    });
    sorted(imported.chain(refused))
}

fn sorted(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<_> = lines.collect();
    lines.sort();
    lines
}

/// The rows of a file but its header and footer.
fn rows(ndjson: &str) -> Vec<Value> {
    let rows = ndjson.lines().map(|line| serde_json::from_str::<Value>(line).expect("a row"));
    rows.filter(|row| row["type"] != "header" && row["type"] != "footer").collect()
}

fn text(row: &Value, field: &str) -> String {
    row[field].as_str().unwrap_or_default().to_owned()
}

fn described(row: &Value, names: &HashMap<i64, String>) -> String {
    let reference = |field: &str| match &row[field] {
        Value::Number(id) => id.as_i64().and_then(|id| names.get(&id)).map_or(id.to_string(), |name| short(name)),
        Value::Object(reference) => reference.values().filter_map(Value::as_str).map(short).collect(),
        _ => "-".to_owned(),
    };
    let mut words = match text(row, "type").as_str() {
        "user" => return user(row),
        "connection" => format!("connection {} to {}", reference("from"), reference("to")),
        "request" => format!("{} {} to {}", last_word(&text(row, "state")), reference("from"), reference("to")),
        "block" => format!("block {} of {}", reference("user"), reference("other")),
        other => panic!("a row of type {other:?}: {row}"),
    };
    for field in ["created", "viewed", "connected", "rejected"] {
        if let Some(date) = row[field].as_str() {
            words += &format!(" {field} {}", time(date));
        }
    }
    for field in ["message", "reply"] {
        match text(row, field) {
            text if text.is_empty() => {}
            text if text.chars().count() > 99 => words += &format!(" {field} of {}", text.chars().count()),
            text => words += &format!(" {field} {text:?}"),
        }
    }
    words
}

/// The external id, the username, the real name, and the status of who is not approved.
fn user(row: &Value) -> String {
    let username = Some(text(row, "username")).filter(|name| !name.is_empty()).unwrap_or_else(|| "-".to_owned());
    let status = Some(last_word(&text(row, "status"))).filter(|status| status != "APPROVED");
    let words = [short(&text(row, "external_id")), username, text(row, "real_name"), status.unwrap_or_default()];
    format!("user {}", words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" "))
}

/// The name of a value of an enumeration without what all its names begin with.
fn last_word(name: &str) -> String {
    name.rsplit('_').next().unwrap_or_default().to_owned()
}

/// The number at the end of a UUID of the fixtures, or the whole key.
fn short(key: &str) -> String {
    let number = key.strip_prefix(UUID).and_then(|number| number.parse::<u64>().ok());
    number.map_or_else(|| key.to_owned(), |number| number.to_string())
}

/// The date as exports write it.
fn time(date: &str) -> String {
    let time =
        DateTime::parse_from_rfc3339(date).or_else(|_| DateTime::parse_from_str(date, "%Y-%m-%d %H:%M:%S%.f%#z"));
    time.map_or_else(|_| date.to_owned(), |time| time.to_utc().to_rfc3339_opts(SecondsFormat::AutoSi, true))
}
