//! `kith status`: all that a server knows about two users, for those who support them.

use std::process::ExitCode;

use serde_json::{Map, Value, json};
use tonic::Code;

use super::api::Method;
use super::failure::Failed;
use super::output::Printer;
use super::session::{Session, next};
use super::{input, render};
use crate::config::{Output, Sources, StatusArgs};
use crate::proto::json as proto;

mod screen;

/// The newest events that are shown.
const EVENTS_MAX: usize = 5;

pub(super) async fn run(args: &StatusArgs, sources: &Sources) -> Result<ExitCode, Failed> {
    if args.client.acting.is_some() {
        let error = "--as: `kith status` shows both sides; for that of one user, use `kith call GetConnectionStatus`";
        return Err(Failed::Usage(error.to_owned()));
    }
    let session = Session::open(&args.client, sources).await?;
    let ids = [session.user_id(&args.user).await?, session.user_id(&args.other).await?];
    if ids[0] == ids[1] {
        return Err(Failed::Usage("the two users are the same".to_owned()));
    }
    let mut found = Found::default();
    let [one, other] = ids;
    let sides = [found.side(&session, one, other).await?, found.side(&session, other, one).await?];
    found.sides = sides.into();
    found.request(&session, args.messages).await?;
    found.records(&session, ids).await?;
    found.events(&session, ids).await?;
    let json = found.into_json();
    Printer::new(args.client.output, Output::Table).made(&screen::table(&json), &json)?;
    Ok(ExitCode::SUCCESS)
}

/// What is known of the pair so far, in the JSON form of the messages that it is from.
#[derive(Debug, Default)]
struct Found {
    /// The newest revision of a response. The next one reflects it too.
    revision: i64,
    /// Each user with what concerns the other.
    sides: Vec<Map<String, Value>>,
    request: Option<Value>,
    events: Vec<Value>,
    events_total: usize,
    /// What the caller may not read.
    missing: Vec<String>,
}

impl Found {
    /// Makes a call whose response reflects what the ones before did.
    async fn get(&mut self, session: &Session<'_>, method: &str, mut request: Value) -> Result<Value, Failed> {
        request["min_revision"] = self.revision.into();
        let response = session.get(method, request).await?;
        self.revision = self.revision.max(response["revision"].as_i64().unwrap_or_default());
        Ok(response)
    }

    /// Reads what one user sees of the other.
    async fn side(&mut self, session: &Session<'_>, user: i64, other: i64) -> Result<Map<String, Value>, Failed> {
        let profile = self.get(session, "GetUser", json!({ "id": user, "user_view": "BASIC" })).await?;
        let pair = json!({ "user_id": user, "other_user_id": other });
        let status = self.get(session, "GetConnectionStatus", pair).await?;
        let mut counts = self.get(session, "GetConnectionCounts", json!({ "user_id": user })).await?;
        counts.as_object_mut().map(|counts| counts.shift_remove("revision"));
        let mut side = Map::new();
        side.insert("user".to_owned(), identity(&profile["user"], &["status"]));
        side.insert("status".to_owned(), status["status"].clone());
        side.insert("blocks_other".to_owned(), (status["status"] == "CONNECTION_STATUS_BLOCKED").into());
        if let Some(id) = status.get("connection_request_id") {
            side.insert("connection_request_id".to_owned(), id.clone());
        }
        side.insert("counts".to_owned(), counts);
        Ok(side)
    }

    /// Reads the request or the connection as it is. Its texts are read only if they are asked for.
    async fn request(&mut self, session: &Session<'_>, messages: bool) -> Result<(), Failed> {
        let Some(id) = self.sides.iter().find_map(|side| side.get("connection_request_id").cloned()) else {
            return Ok(());
        };
        let read = self.get(session, "GetConnectionRequest", json!({ "id": id, "user_view": "BASIC" })).await;
        match denied(read, "the request as it is", &mut self.missing)? {
            None => {}
            Some(mut response) => {
                let mut request = response["connection_request"].take();
                for text in ["message", "reply"].into_iter().filter(|_| !messages) {
                    request.as_object_mut().map(|request| request.shift_remove(text));
                }
                for user in ["from_user", "to_user"] {
                    request[user] = identity(&request[user], &[]);
                }
                self.request = Some(request);
            }
        }
        Ok(())
    }

    /// Reads dates of blocks, cooldowns and the sends of both users, which only exports have.
    ///
    /// Records of the pair are in both exports: the shorter one is read.
    async fn records(&mut self, session: &Session<'_>, [one, other]: [i64; 2]) -> Result<(), Failed> {
        let size = |side: &Map<String, Value>| {
            let count = |name: &str| side["counts"][name].as_i64().unwrap_or_default();
            ["requests_sent", "requests_received", "connections"].into_iter().map(count).sum::<i64>()
        };
        let is_first_shorter = size(&self.sides[0]) <= size(&self.sides[1]);
        for (at, user, other) in [(0, one, other), (1, other, one)] {
            let reading = self.export(session, at, user, other, (at == 0) == is_first_shorter).await;
            if denied(reading, "dates of blocks, cooldowns and sends", &mut self.missing)?.is_none() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads the export of a user: its beginning, or all that concerns the other user.
    async fn export(
        &mut self,
        session: &Session<'_>,
        at: usize,
        user: i64,
        other: i64,
        whole: bool,
    ) -> Result<(), Failed> {
        let method = Method::find("ExportUser")?;
        let Value::Object(request) = json!({ "id": user, "min_revision": self.revision }) else { return Ok(()) };
        let mut items = session.responses(&method, input::message(&method.input(), request)?).await?;
        while let Some(item) = next(&method, &mut items).await? {
            let is = |field: &str, id: i64| item[field]["from_user_id"] == id;
            let mut insert =
                |at: usize, name: &str, value: &Value| _ = self.sides[at].insert(name.to_owned(), value.clone());
            if let Some(counts) = item.get("counts") {
                insert(at, "sends", counts.get("sends").unwrap_or(&json!(0)));
                if let Some(since) = counts.get("sends_since") {
                    insert(at, "sends_since", since);
                }
                if !whole {
                    break;
                }
            } else if item["block"]["user"]["id"] == other {
                insert(at, "block_created", &item["block"]["created"]);
            } else if item["block_of_user"]["user_id"] == other {
                insert(1 - at, "block_created", &item["block_of_user"]["created"]);
            } else if let Some(record) =
                ["cooldown", "ended_requests"].into_iter().find(|name| item.get(*name).is_some())
            {
                let concerns = item[record]["from_user_id"] == other || item[record]["to_user_id"] == other;
                if concerns {
                    insert(if is(record, user) { at } else { 1 - at }, record, &item[record]);
                }
            } else if item.get("event").is_some() {
                // The rest of the export.
                break;
            }
        }
        Ok(())
    }

    /// Reads the events of the pair.
    async fn events(&mut self, session: &Session<'_>, [one, other]: [i64; 2]) -> Result<(), Failed> {
        let mut token = String::new();
        loop {
            let request = json!({ "user_id": one, "other_user_id": other, "page_size": 1_000, "page_token": token });
            let page = self.get(session, "ListEvents", request).await;
            let Some(mut page) = denied(page, "events", &mut self.missing)? else { return Ok(()) };
            let events = page["events"].as_array_mut().map(std::mem::take).unwrap_or_default();
            self.events_total += events.len();
            self.events.extend(events);
            let surplus = self.events.len().saturating_sub(EVENTS_MAX);
            self.events.drain(..surplus);
            token = page["next_page_token"].as_str().unwrap_or_default().to_owned();
            if token.is_empty() {
                return Ok(());
            }
        }
    }

    fn into_json(self) -> Value {
        let Self { revision, sides, request, events, events_total, missing } = self;
        let mut json = json!({ "sides": sides });
        if let Some(request) = request {
            json["connection_request"] = request;
        }
        json["events"] = events.into();
        json["events_total"] = events_total.into();
        if !missing.is_empty() {
            json["missing"] = missing.into();
        }
        json["revision"] = revision.into();
        json
    }
}

/// What identifies a user, and these fields.
fn identity(user: &Value, fields: &[&str]) -> Value {
    let kept = ["id", "username", "external_id"].iter().chain(fields);
    kept.filter_map(|name| Some(((*name).to_owned(), user.get(*name)?.clone()))).collect()
}

/// Notes what the caller may not read, and passes any other error on. What does not exist any longer is left out.
fn denied<T>(read: Result<T, Failed>, what: &str, missing: &mut Vec<String>) -> Result<Option<T>, Failed> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(Failed::Call { method: _, status }) if status.code() == Code::PermissionDenied => {
            missing.push(format!("{what}: {}", status.message()));
            Ok(None)
        }
        Err(Failed::Call { method, status }) if status.code() == Code::NotFound && method == "GetConnectionRequest" => {
            Ok(None)
        }
        Err(failed) => Err(failed),
    }
}

/// The table of the events, as `kith history` has it.
fn events_table(events: &Value) -> String {
    let Some(of) = proto::message("ListEventsResponse") else { return String::new() };
    render::response(&of, &json!({ "events": events }), false)
}
