//! Callers of a server, as on a normal day.

use std::time::Duration;

use kith::proto::v1 as pb;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::harness::clients::Clients;
use crate::harness::until;

/// The users that callers act for, from 1.
const USERS: i64 = 40;

/// The calls end when this is dropped.
pub struct Load(#[expect(dead_code, reason = "it aborts the callers when it is dropped")] JoinSet<()>);

impl Load {
    /// Creates the users, and starts callers that each wait this long between two rounds of calls. Failures are not theirs to judge.
    pub async fn start(clients: &Clients, callers: i64, pause: Duration) -> Self {
        for id in 1..=USERS {
            // A server that leaves calls little time may need several.
            let exists = |created: Result<(), Status>| {
                created.map_or_else(|status| status.code() == Code::AlreadyExists, |()| true)
            };
            until("a user", async || exists(clients.create(id).await)).await;
        }
        Self::more(clients, callers, pause)
    }

    /// Starts callers of a server that has the users.
    pub fn more(clients: &Clients, callers: i64, pause: Duration) -> Self {
        let mut tasks = JoinSet::new();
        for caller in 0..callers {
            tasks.spawn(call(clients.clone(), caller, pause));
        }
        Self(tasks)
    }
}

/// Sends, reads and cancels. Each caller has senders of its own.
async fn call(clients: Clients, caller: i64, pause: Duration) {
    for round in 0.. {
        let (from, to) = (1 + caller % USERS, 1 + (caller + 1 + round % (USERS - 1)) % USERS);
        let sent = clients.try_send(from, to).await;
        let counts = pb::GetConnectionCountsRequest { user_id: from, min_revision: 0, ..Default::default() };
        _ = clients.connections().get_connection_counts(counts).await;
        let blocked = pb::ListBlockedUsersRequest { user_id: to, ..Default::default() };
        _ = clients.blocks().list_blocked_users(blocked).await;
        if let Some(request) = sent.ok().and_then(|sent| sent.into_inner().connection_request) {
            _ = clients.cancel(request.id, from).await;
        }
        tokio::time::sleep(pause).await;
    }
}
