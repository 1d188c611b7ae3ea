//! What a consumer of the feed knows: its events, folded.

use std::collections::{BTreeMap, BTreeSet};

use kith::proto::v1::{Event, EventCause, EventKind};

use super::database::Database;

/// A copy of what is between users, made from the feed alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fold {
    /// The last event that was folded.
    pub sequence: i64,
    pub users: BTreeSet<i64>,
    /// By the request's id: its sender, its receiver, and its state as the tables name it.
    pub requests: BTreeMap<i64, (i64, i64, &'static str)>,
    /// Who blocks whom.
    pub blocks: BTreeSet<(i64, i64)>,
}

impl Fold {
    /// Takes the next event; says what is wrong if it is not the next one.
    pub fn add(&mut self, event: &Event) -> Result<(), String> {
        if event.sequence != self.sequence + 1 {
            return Err(format!("{} follows {}", event.sequence, self.sequence));
        }
        self.sequence = event.sequence;
        let pair = (event.user_id, event.other_user_id);
        let request = event.connection_request_id;
        match event.kind() {
            EventKind::Unspecified => return Err(format!("{} has no kind", event.sequence)),
            EventKind::RequestCreated => {
                let born = if event.cause() == EventCause::Unspecified { "PENDING" } else { "REJECTED" };
                self.requests.insert(request, (pair.0, pair.1, born));
            }
            EventKind::RequestViewed | EventKind::UserUpdated => {}
            EventKind::RequestRejected => self.turn(event, "REJECTED")?,
            EventKind::RequestRestored => self.turn(event, "PENDING")?,
            EventKind::ConnectionCreated => self.turn(event, "CONNECTED")?,
            EventKind::RequestCancelled | EventKind::RequestExpired | EventKind::ConnectionRemoved => {
                self.requests.remove(&request).ok_or_else(|| format!("{} ends nothing", event.sequence))?;
            }
            EventKind::UserBlocked => _ = self.blocks.insert(pair),
            EventKind::UserUnblocked => _ = self.blocks.remove(&pair),
            EventKind::UserCreated => _ = self.users.insert(event.user_id),
            EventKind::UserDeleted => {
                self.users.remove(&event.user_id);
                self.blocks.retain(|(user, other)| *user != event.user_id && *other != event.user_id);
            }
        }
        Ok(())
    }

    fn turn(&mut self, event: &Event, state: &'static str) -> Result<(), String> {
        let request = self.requests.get_mut(&event.connection_request_id);
        let request = request.ok_or_else(|| format!("{} changes nothing", event.sequence))?;
        request.2 = state;
        Ok(())
    }

    /// What of this differs from the tables.
    pub async fn differences(&self, database: &Database) -> Vec<String> {
        let mut found = Vec::new();
        let requests = self.requests.iter().map(|(id, (from, to, state))| format!("{id}:{from}:{to}:{state}"));
        let blocks = self.blocks.iter().map(|(user, other)| format!("{user}:{other}"));
        for (what, folded, query) in [
            ("users", self.users.iter().map(i64::to_string).collect::<BTreeSet<_>>(), "SELECT id AS value FROM users"),
            (
                "requests",
                requests.collect(),
                "SELECT id || ':' || from_user_id || ':' || to_user_id || ':' || state AS value \
                 FROM connection_requests WHERE state <> 'WITHDRAWN'",
            ),
            ("blocks", blocks.collect(), "SELECT user_id || ':' || other_user_id AS value FROM blocks"),
        ] {
            let stored: BTreeSet<_> = database.values(query).await.into_iter().flatten().collect();
            let differing: Vec<_> = folded.symmetric_difference(&stored).take(5).collect();
            if !differing.is_empty() {
                found.push(format!("{what} differ in {differing:?} and perhaps more"));
            }
        }
        found
    }
}
