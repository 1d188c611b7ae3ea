//! `kith watch`: prints events as lines of JSON.

use std::io::{self, Write};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::{Failure, connect};
use crate::config::{self, Sources};
use crate::proto::v1 as pb;
use crate::proto::v1::event_service_client::EventServiceClient;

/// Delay before a broken watch is resumed.
const RESUME_DELAY: Duration = Duration::from_secs(1);

/// Watches until standard output is closed or the watch cannot be resumed.
///
/// After the first connection, it reconnects if the server is restarted or unreachable.
pub(super) async fn run(args: config::Watch, sources: &Sources) -> Result<(), Failure> {
    let tls = connect::verified(&args.server, args.tls_ca.as_deref(), sources)?;
    let tls = tls.map(|tls| tls.with_no_client_auth());
    let channel = connect::channel(&args.server, tls, &sources.name("server")).await?;
    let mut watch = Watch { channel, request: request(&args), heartbeats: args.heartbeats };
    loop {
        // Tokens expire, and their file then has another.
        let authorization = args.token(sources)?.map(|token| authorization(&token)).transpose();
        let authorization = authorization.map_err(|error| format!("{}: {error}", sources.name("token-file")))?;
        let status = match watch.follow(authorization).await {
            Ok(()) => return Ok(()),
            Err(Ended::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(Ended::Output(error)) => return Err(error.into()),
            Err(Ended::Feed(status)) => status,
        };
        if !is_temporary(&status) {
            return Err(format!("watch failed: {:?}: {}", status.code(), status.message()).into());
        }
        let line = format!("kith: watch interrupted, resuming in {RESUME_DELAY:?}: {}\n", status.message());
        // Nobody may be there to read it.
        let _closed = std::io::stderr().write_all(line.as_bytes());
        tokio::time::sleep(RESUME_DELAY).await;
    }
}

/// Returns the authorization header for an API key or a token. Its `Debug` does not show it.
pub(super) fn authorization(token: &SecretString) -> Result<AsciiMetadataValue, &'static str> {
    let header = format!("Bearer {}", token.expose_secret()).parse::<AsciiMetadataValue>();
    let mut header = header.map_err(|_| "has characters that no API key or token has")?;
    header.set_sensitive(true);
    Ok(header)
}

/// Whether a retry can succeed.
///
/// It can if the server is shutting down, overloaded or without its database, or if the connection broke. Errors of the
/// server have details; errors of the transport have none.
pub(super) fn is_temporary(status: &Status) -> bool {
    let of_transport = matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled);
    matches!(status.code(), Code::Unavailable | Code::ResourceExhausted) || of_transport && status.details().is_empty()
}

fn request(args: &config::Watch) -> pb::WatchEventsRequest {
    pb::WatchEventsRequest {
        after_sequence: args.after,
        epoch: args.epoch.clone().unwrap_or_default(),
        user_ids: args.user.clone(),
        kinds: args.kind.iter().filter_map(|name| kind(name)).map(i32::from).collect(),
        viewer_user_id: args.viewer,
        heartbeat_interval: None,
    }
}

/// Returns the kind with this name. The command line has validated it.
fn kind(name: &str) -> Option<pb::EventKind> {
    pb::EventKind::from_str_name(&format!("EVENT_KIND_{}", name.to_ascii_uppercase()))
}

/// A watch that remembers its position.
struct Watch {
    channel: Channel,
    /// The request to resume with.
    request: pb::WatchEventsRequest,
    heartbeats: bool,
}

/// Why a watch ended.
enum Ended {
    /// The stream of events failed.
    Feed(Status),
    /// Standard output failed or was closed.
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

impl Watch {
    /// Prints events until the stream ends.
    async fn follow(&mut self, authorization: Option<AsciiMetadataValue>) -> Result<(), Ended> {
        let mut client = EventServiceClient::new(self.channel.clone());
        let mut request = Request::new(self.request.clone());
        if let Some(authorization) = authorization {
            request.metadata_mut().insert("authorization", authorization);
        }
        let mut stream = client.watch_events(request).await?.into_inner();
        while let Some(message) = stream.message().await? {
            self.print(&message)?;
            self.request.after_sequence = Some(message.revision);
            self.request.epoch = message.epoch;
        }
        Ok(())
    }

    /// Prints the events of a message, or a heartbeat if there are none.
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

/// Converts an event to JSON, with the field names of its message and without unset fields.
fn line(event: &pb::Event) -> serde_json::Value {
    let time = event.time.map(|time| time.to_string());
    let mut line = json!({
        "sequence": event.sequence,
        "time": time,
        "kind": short_name(event.kind().as_str_name(), "EVENT_KIND_"),
    });
    if event.cause() != pb::EventCause::Unspecified {
        line["cause"] = short_name(event.cause().as_str_name(), "EVENT_CAUSE_").into();
    }
    line["actor"] = short_name(event.actor().as_str_name(), "EVENT_ACTOR_").into();
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
    if event.silenced {
        line["silenced"] = true.into();
    }
    if event.principal() != pb::EventPrincipal::Unspecified {
        line["principal"] = short_name(event.principal().as_str_name(), "EVENT_PRINCIPAL_").into();
    }
    line
}

/// Returns the name of an enum value without its prefix.
fn short_name<'a>(name: &'a str, prefix: &str) -> &'a str {
    name.strip_prefix(prefix).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_fields_that_are_set() {
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
            silenced: true,
            principal: pb::EventPrincipal::Service.into(),
        };
        let expected = json!({
            "sequence": 7, "time": "2026-05-28T20:26:40.000005Z", "kind": "CONNECTION_CREATED", "cause": "CROSSED",
            "actor": "USER", "actor_user_id": 1, "user_id": 2, "other_user_id": 1, "connection_request_id": 5,
            "silenced": true, "principal": "SERVICE",
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
