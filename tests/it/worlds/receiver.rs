//! What a receiver does that their sender must not notice, and what they do before everybody's eyes.

use kith::proto::v1 as pb;
use kith::proto::v1::UserStatus;

use super::Cast;
use crate::harness::App;

/// What the receiver does about the sender, or an operator about the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    View,
    Reject,
    Restore,
    /// Rejects the request. In the world without secrets, the receiver views it.
    RejectOrView,
    /// Rejects the request. In the world without secrets, the cooldown is deleted.
    Cool,
    Accept,
    Send,
    Cancel,
    Remove,
    Block,
    Unblock,
    Suspend,
    Approve,
    Delete,
    Create,
}

/// What there is between the sender and the receiver, as the database has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub request: Option<Known>,
    /// Whether the receiver blocks the sender.
    pub is_blocked: bool,
    pub is_cooling: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub id: i64,
    pub from: i64,
    pub state: String,
    pub is_viewed: bool,
}

impl Standing {
    pub async fn read(app: &App, cast: Cast) -> Self {
        let Cast { sender, receiver, .. } = cast;
        let request = format!(
            "SELECT CAST(id AS text) || ' ' || CAST(from_user_id AS text) || ' ' || state || ' ' || \
             CASE WHEN viewed IS NULL THEN 'unviewed' ELSE 'viewed' END \
             FROM connection_requests WHERE low_user_id = {} AND high_user_id = {}",
            sender.min(receiver),
            sender.max(receiver)
        );
        let blocks = format!("SELECT count(*) FROM blocks WHERE user_id = {receiver} AND other_user_id = {sender}");
        let cooldowns =
            format!("SELECT count(*) FROM cooldowns WHERE from_user_id = {sender} AND to_user_id = {receiver}");
        let query = format!(
            "SELECT coalesce(({request}), '') || ';' || CAST(({blocks}) AS text) || ';' || \
             CAST(({cooldowns}) AS text) AS value"
        );
        let row = app.database.values(&query).await.remove(0).expect("a row");
        let parts: Vec<_> = row.split(';').collect();
        let [request, blocks, cooldowns] = parts[..] else { panic!("{row}") };
        let request = (!request.is_empty()).then(|| Known::parse(request));
        Self { request, is_blocked: blocks == "1", is_cooling: cooldowns == "1" }
    }

    fn from(&self, user: i64) -> Option<&Known> {
        self.request.as_ref().filter(|request| request.from == user)
    }

    fn is_connected(&self) -> bool {
        self.request.as_ref().is_some_and(|request| request.state == "CONNECTED")
    }
}

impl Known {
    fn parse(row: &str) -> Self {
        let words: Vec<_> = row.split(' ').collect();
        let [id, from, state, viewed] = words[..] else { panic!("{row}") };
        let number = |text: &str| text.parse().expect("a number");
        Self { id: number(id), from: number(from), state: state.to_owned(), is_viewed: viewed == "viewed" }
    }
}

/// Does what only one of the worlds has. In the other world happens what the sender sees of it: a block ends a connection,
/// and the receiver's own request.
pub async fn in_secret(act: Act, with: &App, without: &App, cast: Cast) {
    let Cast { sender, receiver, .. } = cast;
    let (secret, plain) = (Standing::read(with, cast).await, Standing::read(without, cast).await);
    match act {
        Act::Block if !secret.is_blocked => {
            if plain.is_connected() {
                without.remove(receiver, sender).await.expect("a connection");
            } else if let Some(own) = plain.from(receiver) {
                without.cancel(own.id, receiver).await.expect("a request");
            }
            let block = pb::BlockUserRequest { user_id: receiver, other_user_id: sender, ..Default::default() };
            _ = with.blocks().block_user(block).await;
        }
        Act::Unblock if secret.is_blocked => with.unblock(receiver, sender).await,
        Act::RejectOrView => {
            // What is silenced by a cooldown cannot be viewed either.
            let of_both = secret.from(sender).filter(|secret| secret.state != "SILENCED").zip(plain.from(sender));
            if let Some((secret, plain)) = of_both {
                about_request(Act::Reject, secret.id, with, receiver).await;
                about_request(Act::View, plain.id, without, receiver).await;
            }
        }
        Act::View | Act::Reject | Act::Restore | Act::Accept => {
            if let Some(Known { id, .. }) = secret.from(sender) {
                about_request(act, *id, with, receiver).await;
            }
        }
        _ => {}
    }
}

/// Does what both worlds have, if it has the same effect for the sender in both.
///
/// Returns the id of a request of the receiver.
pub async fn openly(act: Act, with: &App, without: &App, cast: Cast) -> Option<i64> {
    let Cast { sender, receiver, .. } = cast;
    let (secret, plain) = (Standing::read(with, cast).await, Standing::read(without, cast).await);
    let sent = plain.from(sender).filter(|_| !secret.is_blocked);
    let (both, mut created) = ([with, without], None);
    match act {
        // A rejected request can be accepted too.
        Act::Accept => {
            let can = |standing: &Standing| {
                standing.from(sender).is_some_and(|request| ["PENDING", "REJECTED"].contains(&request.state.as_str()))
            };
            if let Some(Known { id, .. }) = sent.filter(|_| can(&secret) && can(&plain)) {
                let done =
                    [about_request(act, *id, with, receiver).await, about_request(act, *id, without, receiver).await];
                assert_eq!(done[0], done[1], "the receiver can accept in one world");
            }
        }
        Act::View | Act::Reject | Act::Restore | Act::Cool if secret.request == plain.request => {
            if let Some(Known { id, .. }) = sent {
                for app in both {
                    about_request(act, *id, app, receiver).await;
                }
                if act == Act::Cool {
                    let own = format!("from_user_id = {sender} AND to_user_id = {receiver}");
                    without.database.execute(&format!("DELETE FROM cooldowns WHERE {own}")).await;
                }
            }
        }
        Act::Send if !secret.is_blocked => {
            for app in both {
                let sent = app.try_send(receiver, sender).await;
                created = sent.ok().and_then(|sent| Some(sent.into_inner().connection_request?.id));
            }
        }
        Act::Cancel => {
            if let Some(Known { id, .. }) = plain.from(receiver) {
                for app in both {
                    _ = app.cancel(*id, receiver).await;
                }
            }
        }
        Act::Remove => {
            for app in both {
                _ = app.remove(receiver, sender).await;
            }
        }
        Act::Suspend | Act::Approve => {
            let status = if act == Act::Suspend { UserStatus::Blocked } else { UserStatus::Approved };
            for app in both {
                app.moderate(receiver, &format!("user-{receiver}"), status).await;
            }
        }
        Act::Delete => {
            for app in both {
                _ = app.users().delete_user(pb::DeleteUserRequest { id: receiver, ..Default::default() }).await;
            }
        }
        Act::Create => {
            for app in both {
                _ = app.create(receiver).await;
            }
        }
        _ => {}
    }
    created
}

/// Returns whether it was done.
async fn about_request(act: Act, id: i64, app: &App, receiver: i64) -> bool {
    match act {
        Act::View => app.mark_viewed(id, receiver).await.is_ok(),
        Act::Reject | Act::Cool => app.reject(id, receiver).await.is_ok(),
        Act::Restore => app.restore(id, receiver).await.is_ok(),
        Act::Accept => app.accept(id, receiver).await.is_ok(),
        other => panic!("{other:?} is not about a request"),
    }
}
