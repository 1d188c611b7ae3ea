//! Watches of the feed, and events as text.

use std::time::Duration;

use kith::proto::v1 as pb;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::clients::Clients;
use super::database::Database;

/// The maximum time for a message.
const PATIENCE: Duration = Duration::from_secs(30);

/// A watch. It ends when this is dropped.
pub struct Watching(Streaming<pb::WatchEventsResponse>);

impl Clients {
    pub async fn try_watch(&self, request: pb::WatchEventsRequest) -> Result<Watching, Status> {
        let mut events = self.events();
        let watch = timeout(PATIENCE, events.watch_events(request)).await.expect("a watch in time");
        Ok(Watching(watch?.into_inner()))
    }

    /// Starts a watch and reads its first message, which only has the position.
    pub async fn watch(&self, request: pb::WatchEventsRequest) -> Watching {
        let mut watching = self.try_watch(request).await.expect("a watch");
        assert_eq!(watching.next().await.events, []);
        watching
    }

    /// All stored events, read in pages.
    pub async fn list_events(&self, request: pb::ListEventsRequest) -> Vec<pb::Event> {
        let mut request = pb::ListEventsRequest { page_size: 1_000, ..request };
        let mut events = Vec::new();
        loop {
            let page = self.events().list_events(request.clone()).await.expect("a page").into_inner();
            events.extend(page.events);
            if page.next_page_token.is_empty() {
                return events;
            }
            request.page_token = page.next_page_token;
        }
    }
}

impl Watching {
    /// The next message, or the error that ended the watch.
    pub async fn message(&mut self) -> Result<pb::WatchEventsResponse, Status> {
        let message = timeout(PATIENCE, self.0.message()).await.expect("a message in time");
        message.map(|message| message.expect("a watch has no end but an error"))
    }

    pub async fn next(&mut self) -> pb::WatchEventsResponse {
        self.message().await.expect("a message")
    }

    /// The next message that is not a heartbeat.
    pub async fn next_events(&mut self) -> pb::WatchEventsResponse {
        loop {
            let message = self.next().await;
            if !message.events.is_empty() {
                return message;
            }
        }
    }

    /// All events up to this revision.
    pub async fn until(&mut self, revision: i64) -> Vec<pb::Event> {
        let mut events = Vec::new();
        loop {
            let message = self.next().await;
            events.extend(message.events);
            if message.revision >= revision {
                return events;
            }
        }
    }

    /// The error that ends the watch. Earlier messages are skipped.
    pub async fn end(&mut self) -> Status {
        let end = async {
            loop {
                if let Err(status) = self.message().await {
                    return status;
                }
            }
        };
        timeout(PATIENCE, end).await.expect("an end in time")
    }
}

/// A watch from this position, with this many milliseconds between heartbeats.
pub fn from(after_sequence: i64, heartbeat: i64) -> pb::WatchEventsRequest {
    pb::WatchEventsRequest { after_sequence: Some(after_sequence), ..now(heartbeat) }
}

/// A watch from the current end.
pub fn now(heartbeat: i64) -> pb::WatchEventsRequest {
    let nanos = i32::try_from(heartbeat % 1_000 * 1_000_000).expect("less than a second");
    let heartbeat = prost_types::Duration { seconds: heartbeat / 1_000, nanos };
    pb::WatchEventsRequest { heartbeat_interval: Some(heartbeat), ..Default::default() }
}

/// The sequences of events.
pub fn sequences(events: &[pb::Event]) -> Vec<i64> {
    events.iter().map(|event| event.sequence).collect()
}

/// An event as text, such as `REQUEST_REJECTED (BLOCKED) 1-2 by 2`.
pub fn words(event: &pb::Event) -> String {
    let mut text = event.kind().as_str_name().replace("EVENT_KIND_", "");
    if event.cause() != pb::EventCause::Unspecified {
        text += &format!(" ({})", event.cause().as_str_name().replace("EVENT_CAUSE_", ""));
    }
    text += &format!(" {}", event.user_id);
    if event.other_user_id != 0 {
        text += &format!("-{}", event.other_user_id);
    }
    match event.actor() {
        pb::EventActor::User => text + &format!(" by {}", event.actor_user_id),
        actor => text + &format!(" by {}", actor.as_str_name().replace("EVENT_ACTOR_", "").to_lowercase()),
    }
}

pub fn all_words(events: &[pb::Event]) -> Vec<String> {
    events.iter().map(words).collect()
}

/// Writes many events into the feed, in one commit or in one each: updates of a user, whose id is an expression of `i`,
/// the number of the event from 0.
pub async fn fill(database: &Database, count: i64, user: &str, one_commit: bool) {
    let batch = if one_commit { "last_sequence" } else { "last_sequence + i" };
    let sql = format!(
        "BEGIN; \
         WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {count} - 1) \
         INSERT INTO events (sequence, stretch, time, batch_id, kind, actor, user_id) \
         SELECT last_sequence + i + 1, (last_sequence + i + 1) / 4096, last_time, 1000000000 + {batch}, 'USER_UPDATED', 'OPERATOR', {user} \
         FROM n CROSS JOIN feed; \
         UPDATE feed SET last_sequence = last_sequence + {count}; COMMIT;"
    );
    database.execute(&sql).await;
}
