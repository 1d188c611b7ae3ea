//! `kith watch`: prints events as lines of JSON.

use std::io::{self, Write};
use std::time::Duration;

use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::{Failure, client};
use crate::config::{self, Sources};
use crate::proto::v1::event_service_client::EventServiceClient;
use crate::proto::{json, v1 as pb};

/// Delay before a broken watch is resumed.
const RESUME_DELAY: Duration = Duration::from_secs(1);

/// Watches until standard output is closed or the watch cannot be resumed.
///
/// After the first connection, it reconnects if the server is restarted or unreachable.
pub(super) async fn run(args: config::Watch, sources: &Sources) -> Result<(), Failure> {
    let channel = client::channel(&args.server, sources).await?;
    let mut watch = Watch { channel, request: request(&args), heartbeats: args.heartbeats };
    loop {
        // Tokens expire, and their file then has another.
        let authorization = client::authorization(&args.server, sources)?;
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
            writeln!(out, "{}", json::of("Event", event).map_err(io::Error::other)?)?;
        }
        if message.events.is_empty() && self.heartbeats {
            let heartbeat = pb::WatchEventsResponse { events: Vec::new(), ..message.clone() };
            let mut line = json::of("WatchEventsResponse", &heartbeat).map_err(io::Error::other)?;
            // Before the first event it is 0, and so unset.
            line["revision"] = message.revision.into();
            writeln!(out, "{line}")?;
        }
        out.flush()
    }
}
