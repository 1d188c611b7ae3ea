//! The screen of `kith status`.

use serde_json::Value;

use crate::command::client::render::{minutes, seconds, user};
use crate::command::client::table::Table;
use crate::proto::json::short_name;

/// The dates of a request, in the order in which they come about.
const DATES: [&str; 4] = ["created", "viewed", "rejected", "accepted"];

/// Makes the screen: what each side has in a column, then the request, the events, and what is missing.
pub(super) fn table(found: &Value) -> String {
    let mut text = sides(&found["sides"]);
    if let Some(request) = found.get("connection_request") {
        text += &format!("\n{}", of_request(request));
    }
    let shown = found["events"].as_array().map_or(0, Vec::len);
    if shown > 0 {
        let total = &found["events_total"];
        text += &format!(
            "\nevents: {shown} of {total}; kith history prints all\n{}",
            super::events_table(&found["events"])
        );
    }
    for missing in found["missing"].as_array().into_iter().flatten() {
        text += &format!("\nnot shown: {}", missing.as_str().unwrap_or_default());
    }
    text += &format!("\nrevision {}\n", found["revision"]);
    text
}

fn sides(sides: &Value) -> String {
    let mut table = Table::bare();
    let mut row = |name: &str, cell: &dyn Fn(&Value) -> Option<String>| {
        let cells = [cell(&sides[0]), cell(&sides[1])];
        if cells.iter().any(Option::is_some) {
            table.row(std::iter::once(name.to_owned()).chain(cells.map(Option::unwrap_or_default)));
        }
    };
    row("times in UTC", &|side| Some(user(&side["user"])));
    row("user status", &|side| name(&side["user"]["status"]));
    row("status to other", &|side| name(&side["status"]));
    row("blocks other", &|side| Some(block(side)));
    row("cooldown", &|side| since(&side["cooldown"]));
    row("ended requests", &|side| {
        let ended = side.get("ended_requests")?;
        Some(format!("{}, {}", ended["requests"], since(ended)?))
    });
    for count in ["requests_sent", "requests_received", "requests_unviewed", "connections"] {
        row(&count.replace('_', " "), &|side| Some(counted(&side["counts"], count)));
    }
    row("sends in an hour", &|side| {
        Some(of_limit(side.get("sends")?.as_i64()?, &side["counts"]["limits"]["sends_per_hour"]))
    });
    row("  from", &|side| side["sends_since"].as_str().map(minutes));
    table.to_string()
}

/// A count with its limit.
fn counted(counts: &Value, name: &str) -> String {
    of_limit(counts[name].as_i64().unwrap_or_default(), &counts["limits"][name])
}

/// A number with its limit, if there is one.
fn of_limit(number: i64, limit: &Value) -> String {
    limit.as_i64().map_or_else(|| number.to_string(), |limit| format!("{number} of {limit}"))
}

fn block(side: &Value) -> String {
    match (side["blocks_other"] == true, side["block_created"].as_str()) {
        (false, _) => "no".to_owned(),
        (true, None) => "yes".to_owned(),
        (true, Some(created)) => format!("since {}", minutes(created)),
    }
}

fn since(record: &Value) -> Option<String> {
    Some(format!("since {}", minutes(record["since"].as_str()?)))
}

fn name(value: &Value) -> Option<String> {
    value.as_str().map(|full| short_name(full).to_owned())
}

fn of_request(request: &Value) -> String {
    let mut table = Table::bare();
    let mut row = |name: &str, text: String| table.row([name.to_owned(), text]);
    row("request", request["id"].to_string());
    row("  from", user(&request["from_user"]));
    row("  to", user(&request["to_user"]));
    row("  state", name(&request["state"]).unwrap_or_default());
    for date in DATES {
        if let Some(time) = request[date].as_str() {
            row(&format!("  {date}"), seconds(time));
        }
    }
    for text in ["message", "reply"] {
        if let Some(words) = request[text].as_str() {
            row(&format!("  {text}"), words.to_owned());
        }
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Two users of whom the first asked the second, who had rejected an earlier request, and blocks.
    fn found() -> Value {
        let time = "2026-11-30T04:06:23.123456Z";
        json!({
            "sides": [
                {"user": {"id": 1, "username": "ann", "status": "USER_STATUS_APPROVED"},
                 "status": "CONNECTION_STATUS_REQUEST_SENT", "blocks_other": false, "connection_request_id": 9,
                 "counts": {"requests_sent": 3, "limits": {"requests_sent": 1000, "connections": 30000}},
                 "cooldown": {"since": time}, "ended_requests": {"requests": 2, "since": time},
                 "sends": 3, "sends_since": time},
                {"user": {"id": 2, "username": "bob", "status": "USER_STATUS_BLOCKED"},
                 "status": "CONNECTION_STATUS_BLOCKED", "blocks_other": true, "block_created": time,
                 "counts": {"connections": 12}, "sends": 0},
            ],
            "connection_request": {"id": 9, "from_user": {"id": 1, "username": "ann"}, "to_user": {"id": 2, "username": "bob"},
                "state": "CONNECTION_REQUEST_STATE_SILENCED", "created": time, "message": "Hi"},
            "events": [{"sequence": 9, "time": time, "kind": "EVENT_KIND_REQUEST_SILENCED", "user_id": 1, "other_user_id": 2,
                "actor": "EVENT_ACTOR_USER", "actor_user_id": 1, "cause": "EVENT_CAUSE_BLOCKED"}],
            "events_total": 7, "missing": ["events: the service lacks the scope events"], "revision": 9,
        })
    }

    #[test]
    fn all_is_on_one_screen_of_80_columns() {
        let expected = "\
times in UTC       1 ann                      2 bob
user status        APPROVED                   BLOCKED
status to other    REQUEST_SENT               BLOCKED
blocks other       no                         since 2026-11-30 04:06
cooldown           since 2026-11-30 04:06
ended requests     2, since 2026-11-30 04:06
requests sent      3 of 1000                  0
requests received  0                          0
requests unviewed  0                          0
connections        0 of 30000                 12
sends in an hour   3                          0
  from             2026-11-30 04:06

request    9
  from     1 ann
  to       2 bob
  state    SILENCED
  created  2026-11-30 04:06:23 UTC
  message  Hi

events: 1 of 7; kith history prints all
SEQUENCE  TIME (UTC)        KIND              USERS  BY      CAUSE
9         2026-11-30 04:06  REQUEST_SILENCED  1 → 2  USER 1  BLOCKED

not shown: events: the service lacks the scope events
revision 9
";
        let text = table(&found());
        println!("{text}");
        assert_eq!(text, expected);
    }
}
