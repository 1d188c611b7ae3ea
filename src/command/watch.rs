//! `kith watch`: the feed as lines of JSON, for people and scripts.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::json;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::{Failure, serve};
use crate::config::Watch;
use crate::proto::v1 as pb;
use crate::proto::v1::event_service_client::EventServiceClient;

/// The pause before a watch that was cut off is resumed.
const PAUSE: Duration = Duration::from_secs(1);

/// Watches until the output is closed or the place in the feed is lost. A server that ends or cannot be reached any
/// more is waited for.
pub(super) async fn run(args: Watch) -> Result<(), Failure> {
    let endpoint = Endpoint::from_shared(args.server.clone()).map_err(|error| format!("--server: {error}"))?;
    let channel = endpoint.connect().await;
    let channel = channel.map_err(|error| format!("--server {}: {}", args.server, serve::with_causes(&error)))?;
    let mut watch = Watching { channel, request: request(&args), heartbeats: args.heartbeats };
    loop {
        let status = match watch.follow().await {
            Ok(()) => return Ok(()),
            Err(Ended::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(Ended::Output(error)) => return Err(error.into()),
            Err(Ended::Feed(status)) => status,
        };
        if !is_passing(&status) {
            return Err(format!("{:?}: {}", status.code(), status.message()).into());
        }
        eprintln!("kith: {}; resuming", status.message());
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether another try may do: the server ends, lacks its database or has no seat, or the connection was lost. What
/// the service itself answers has details, and what the transport makes up has none.
fn is_passing(status: &Status) -> bool {
    let of_transport = matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled);
    matches!(status.code(), Code::Unavailable | Code::ResourceExhausted) || of_transport && status.details().is_empty()
}

fn request(args: &Watch) -> pb::WatchEventsRequest {
    pb::WatchEventsRequest {
        after_sequence: args.after,
        epoch: args.epoch.clone().unwrap_or_default(),
        user_ids: args.user.clone(),
        kinds: args.kind.iter().filter_map(|name| kind(name)).map(i32::from).collect(),
        viewer_user_id: args.viewer,
        heartbeat_interval: None,
    }
}

/// The kind of this name, which the command line has checked.
fn kind(name: &str) -> Option<pb::EventKind> {
    pb::EventKind::from_str_name(&format!("EVENT_KIND_{}", name.to_ascii_uppercase()))
}

struct Watching {
    channel: Channel,
    /// From where the next attempt resumes.
    request: pb::WatchEventsRequest,
    heartbeats: bool,
}

enum Ended {
    Feed(Status),
    Output(io::Error),
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        Self::Feed(status)
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl Watching {
    async fn follow(&mut self) -> Result<(), Ended> {
        let mut client = EventServiceClient::new(self.channel.clone());
        let mut stream = client.watch_events(self.request.clone()).await?.into_inner();
        while let Some(message) = stream.message().await? {
            self.print(&message)?;
            self.request.after_sequence = Some(message.revision);
            self.request.epoch = message.epoch;
        }
        Ok(())
    }

    fn print(&self, message: &pb::WatchEventsResponse) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for event in &message.events {
            writeln!(out, "{}", line(event))?;
        }
        if message.events.is_empty() && self.heartbeats {
            writeln!(out, "{}", json!({ "revision": message.revision, "epoch": message.epoch }))?;
        }
        out.flush()
    }
}

/// An event with the names of its message; what it does not have is left out.
fn line(event: &pb::Event) -> serde_json::Value {
    let time = event.time.map(|time| time.to_string());
    let mut line = json!({
        "sequence": event.sequence,
        "time": time,
        "kind": short(event.kind().as_str_name(), "EVENT_KIND_"),
    });
    if event.cause() != pb::EventCause::Unspecified {
        line["cause"] = short(event.cause().as_str_name(), "EVENT_CAUSE_").into();
    }
    line["actor"] = short(event.actor().as_str_name(), "EVENT_ACTOR_").into();
    for (name, id) in [
        ("actor_user_id", event.actor_user_id),
        ("user_id", event.user_id),
        ("other_user_id", event.other_user_id),
        ("connection_request_id", event.connection_request_id),
    ] {
        if id != 0 {
            line[name] = id.into();
        }
    }
    line
}

/// An enum's value without the prefix that its protobuf name has.
fn short<'a>(name: &'a str, prefix: &str) -> &'a str {
    name.strip_prefix(prefix).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_what_the_event_has() {
        let event = pb::Event {
            sequence: 7,
            time: Some(prost_types::Timestamp { seconds: 1_780_000_000, nanos: 5_000 }),
            kind: pb::EventKind::ConnectionCreated.into(),
            cause: pb::EventCause::Crossed.into(),
            actor: pb::EventActor::User.into(),
            actor_user_id: 1,
            user_id: 2,
            other_user_id: 1,
            connection_request_id: 5,
        };
        let expected = json!({
            "sequence": 7, "time": "2026-05-28T20:26:40.000005Z", "kind": "CONNECTION_CREATED", "cause": "CROSSED",
            "actor": "USER", "actor_user_id": 1, "user_id": 2, "other_user_id": 1, "connection_request_id": 5,
        });
        assert_eq!(line(&event), expected);
        let event = pb::Event {
            sequence: 8,
            kind: pb::EventKind::UserCreated.into(),
            actor: pb::EventActor::Operator.into(),
            user_id: 3,
            ..Default::default()
        };
        let expected =
            json!({ "sequence": 8, "time": null, "kind": "USER_CREATED", "actor": "OPERATOR", "user_id": 3 });
        assert_eq!(line(&event), expected);
    }
}
