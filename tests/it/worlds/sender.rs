//! What a sender can call, chosen at random, and the responses as text.

use std::fmt::Debug;

use kith::proto::v1 as pb;
use kith::proto::v1::{ConnectionRequestDirection as Direction, ConnectionRequestState as State};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tonic::{Response, Status};
use uuid::Builder;

use super::{Cast, Principal};
use crate::harness::app::{described, without_epochs};
use crate::harness::clients::Clients;
use crate::harness::watching::{from, now};

/// A call of the sender.
#[derive(Clone, Debug)]
pub enum Call {
    Send(pb::SendConnectionRequestRequest),
    Cancel(pb::CancelConnectionRequestRequest),
    Accept(pb::AcceptConnectionRequestRequest),
    Reject(pb::RejectConnectionRequestRequest),
    Restore(pb::RestoreConnectionRequestRequest),
    View(pb::MarkConnectionRequestViewedRequest),
    ViewAll(pb::MarkAllConnectionRequestsViewedRequest),
    Remove(pb::RemoveConnectionRequest),
    Block(pb::BlockUserRequest),
    Unblock(pb::UnblockUserRequest),
    Get(pb::GetConnectionRequestRequest),
    Requests(pb::ListConnectionRequestsRequest),
    Status(pb::GetConnectionStatusRequest),
    Statuses(pb::BatchGetConnectionStatusesRequest),
    Counts(pb::GetConnectionCountsRequest),
    Connections(pb::ListConnectionsRequest),
    Mutual(pb::ListMutualConnectionsRequest),
    Blocked(pb::ListBlockedUsersRequest),
    Events(pb::ListEventsRequest),
    Watch(pb::WatchEventsRequest),
    User(pb::GetUserRequest),
    Users(pb::BatchGetUsersRequest),
    Export(pb::ExportUserRequest),
    Update(pb::UpdateUserRequest),
    /// Deletes the sender's account, or creates one with the same id.
    Delete(pb::DeleteUserRequest),
    Create(pb::CreateUserRequest),
}

/// The response to a call, as text, and the id of the request that it created.
pub struct Answer {
    pub text: String,
    pub created: Option<i64>,
}

impl Answer {
    /// The last revision in it.
    pub fn revision(&self) -> Option<i64> {
        let (_, rest) = self.text.rsplit_once("revision: ")?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }
}

/// Reads all pages of a list. A page token is signed with a key of its database, so only its presence is shown.
macro_rules! pages {
    ($client:expr, $method:ident, $call:expr, $change:expr) => {{
        let (mut call, mut client, mut pages) = ($call, $client, Vec::new());
        loop {
            let mut response = client.$method(call.clone()).await;
            let token = response.as_mut().ok().map(|page| std::mem::take(&mut page.get_mut().next_page_token));
            pages.push(shown(response.map(|page| page.map($change))));
            match token {
                Some(token) if !token.is_empty() => call.page_token = token,
                _ => break pages.join("\nand then "),
            }
        }
    }};
}

impl Call {
    /// Makes the call. The text has everything that the caller receives, with these exceptions: the epoch of the feed and
    /// page tokens, which are random, and the revisions of deletions (see [`without_deletions`]).
    pub async fn make(&self, app: &Clients) -> Answer {
        let mut created = None;
        let (mut requests, mut connections) = (app.requests(), app.connections());
        let (mut blocks, mut users) = (app.blocks(), app.users());
        let text = match self.clone() {
            Self::Send(call) => {
                let sent = requests.send_connection_request(call).await;
                let request = sent.as_ref().ok().and_then(|sent| sent.get_ref().connection_request.as_ref());
                created = request.map(|request| request.id);
                shown(sent)
            }
            Self::Cancel(call) => shown(requests.cancel_connection_request(call).await),
            Self::Accept(call) => shown(requests.accept_connection_request(call).await),
            Self::Reject(call) => shown(requests.reject_connection_request(call).await),
            Self::Restore(call) => shown(requests.restore_connection_request(call).await),
            Self::View(call) => shown(requests.mark_connection_request_viewed(call).await),
            Self::ViewAll(call) => shown(requests.mark_all_connection_requests_viewed(call).await),
            Self::Remove(call) => shown(connections.remove_connection(call).await),
            Self::Block(call) => shown(blocks.block_user(call).await),
            Self::Unblock(call) => shown(blocks.unblock_user(call).await),
            Self::Get(call) => shown(requests.get_connection_request(call).await),
            Self::Requests(call) => pages!(requests, list_connection_requests, call, |page| page),
            Self::Status(call) => shown(connections.get_connection_status(call).await),
            Self::Statuses(call) => shown(connections.batch_get_connection_statuses(call).await),
            Self::Counts(call) => shown(connections.get_connection_counts(call).await),
            Self::Connections(call) => pages!(connections, list_connections, call, |page| page),
            Self::Mutual(call) => pages!(connections, list_mutual_connections, call, |page| page),
            Self::Blocked(call) => pages!(blocks, list_blocked_users, call, |page| page),
            Self::Events(call) => pages!(app.events(), list_events, call, |page| pb::ListEventsResponse {
                events: without_deletions(page.events),
                ..page
            }),
            Self::Watch(call) => watched(app, call).await,
            Self::Export(call) => exported(app, call).await,
            Self::User(call) => shown(users.get_user(call).await),
            Self::Users(call) => shown(users.batch_get_users(call).await),
            Self::Update(call) => shown(users.update_user(call).await),
            Self::Delete(call) => {
                let deleted = users.delete_user(call).await;
                shown(deleted.map(|deleted| deleted.map(|_| pb::DeleteUserResponse::default())))
            }
            Self::Create(call) => shown(users.create_user(call).await),
        };
        Answer { text: without_epochs(&text), created }
    }

    /// Whether it can change something.
    pub fn writes(&self) -> bool {
        let reads =
            matches!(self, Self::Get(_) | Self::Requests(_) | Self::Status(_) | Self::Statuses(_) | Self::Counts(_));
        !reads
            && !matches!(
                self,
                Self::Connections(_) | Self::Mutual(_) | Self::Blocked(_) | Self::User(_) | Self::Users(_)
            )
            && !matches!(self, Self::Events(_) | Self::Watch(_) | Self::Export(_))
    }
}

/// A response with its metadata, or an error with its details.
fn shown<T: Debug>(response: Result<Response<T>, Status>) -> String {
    match response {
        Ok(response) => {
            let mut metadata = response.metadata().clone();
            metadata.remove("date");
            format!("{metadata:?} {:?}", response.get_ref())
        }
        Err(status) => described(&status),
    }
}

/// The events without the sequences of those that the deletion of a user wrote.
///
/// How many events precede them depends on the blocks that the deletion ended. So a sequence shows how many blocks there
/// were, as it shows how much others do.
fn without_deletions(mut events: Vec<pb::Event>) -> Vec<pb::Event> {
    for event in &mut events {
        if event.cause() == pb::EventCause::UserDeleted || event.kind() == pb::EventKind::UserDeleted {
            event.sequence = 0;
        }
    }
    events
}

/// All messages of a watch up to the current end, or the error.
async fn watched(clients: &Clients, call: pb::WatchEventsRequest) -> String {
    let user_id = call.viewer_user_id;
    let end = pb::GetConnectionCountsRequest { user_id, ..Default::default() };
    let end = clients.connections().get_connection_counts(end).await.expect("counts").into_inner().revision;
    let (mut watching, mut messages) = match clients.try_watch(call).await {
        Ok(watching) => (watching, Vec::new()),
        Err(status) => return described(&status),
    };
    let mut reported = -1;
    loop {
        let message = match watching.message().await {
            Ok(message) => message,
            Err(status) => return described(&status),
        };
        let is_last = message.revision >= end;
        // How often the same is reported depends on time.
        if !message.events.is_empty() || message.revision != reported {
            reported = message.revision;
            let events = without_deletions(message.events);
            let revision = if events.iter().any(|event| event.sequence == 0) { 0 } else { message.revision };
            messages.push((events, revision, message.continues));
        }
        if is_last {
            return format!("{messages:?}");
        }
    }
}

/// All items of an export.
async fn exported(app: &Clients, call: pb::ExportUserRequest) -> String {
    use pb::export_user_response::Item;

    let mut stream = match app.users().export_user(call).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return described(&status),
    };
    let mut items = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(pb::ExportUserResponse { revision, epoch: _, item: Some(Item::Event(event)) })) => {
                items.push(format!("{revision} {:?}", without_deletions(vec![event])));
            }
            Ok(Some(item)) => items.push(format!("{item:?}")),
            Ok(None) => return items.join("\n"),
            Err(status) => return format!("{}\n{}", items.join("\n"), described(&status)),
        }
    }
}

/// Chooses the calls of a sender.
pub struct Sender {
    rng: StdRng,
    cast: Cast,
    exists: bool,
    /// The requests that the sender knows of, and those that were made with a `request_id`.
    pub ids: Vec<i64>,
    made: Vec<Call>,
    /// Whether the feed is watched, and not only listed.
    watches: bool,
    principal: Principal,
    /// The newest revision that they received.
    pub revision: i64,
}

impl Sender {
    pub fn new(seed: u64, cast: Cast, watches: bool, principal: Principal) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self { rng, cast, exists: true, ids: Vec::new(), made: Vec::new(), watches, principal, revision: 0 }
    }

    /// The next call.
    pub fn next(&mut self) -> Call {
        let call = match self.rng.random_range(0..100) {
            0..45 => self.write(),
            45..51 if !self.made.is_empty() => self.repeat(),
            51 if self.principal == Principal::Service && self.rng.random_ratio(1, 2) => self.delete_or_create(),
            // Does not stay deleted for long.
            52..62 if !self.exists => self.delete_or_create(),
            62..72 => self.look_at_the_feed(),
            _ => self.read(),
        };
        match &call {
            Call::Delete(_) => self.exists = false,
            Call::Create(_) => self.exists = true,
            Call::Send(pb::SendConnectionRequestRequest { request_id, .. })
            | Call::Cancel(pb::CancelConnectionRequestRequest { request_id, .. })
                if !request_id.is_empty() =>
            {
                self.made.push(call.clone());
            }
            _ => {}
        }
        call
    }

    /// The next call that changes nothing.
    pub fn look(&mut self) -> Call {
        if self.rng.random_ratio(1, 3) { self.look_at_the_feed() } else { self.read() }
    }

    fn write(&mut self) -> Call {
        let (user_id, other_user_id, id) = (self.cast.sender, self.other(), self.id());
        let request_id = self.request_id();
        match self.rng.random_range(0..100) {
            0..45 => {
                let message = ["", "hello", "me again"].choose(&mut self.rng).copied().unwrap_or_default().to_owned();
                let (from_user_id, to_user_id) = (user_id, other_user_id);
                Call::Send(pb::SendConnectionRequestRequest { from_user_id, to_user_id, message, request_id })
            }
            45..70 => Call::Cancel(pb::CancelConnectionRequestRequest { id, user_id, request_id }),
            70..74 => {
                let reply = String::new();
                Call::Accept(pb::AcceptConnectionRequestRequest { id, user_id, request_id, reply })
            }
            74..78 => Call::Reject(pb::RejectConnectionRequestRequest { id, user_id, request_id }),
            78..80 => Call::Restore(pb::RestoreConnectionRequestRequest { id, user_id, request_id }),
            80..82 => Call::View(pb::MarkConnectionRequestViewedRequest { id, user_id, request_id }),
            82..84 => Call::ViewAll(pb::MarkAllConnectionRequestsViewedRequest { user_id, request_id }),
            84..88 => Call::Remove(pb::RemoveConnectionRequest { user_id, other_user_id, request_id }),
            88..89 => Call::Block(pb::BlockUserRequest { user_id, other_user_id, request_id }),
            89..97 => Call::Unblock(pb::UnblockUserRequest { user_id, other_user_id, request_id }),
            _ => {
                let bio = format!("{id}");
                let user = Some(pb::User { id: user_id, bio, ..Default::default() });
                let update_mask = Some(prost_types::FieldMask { paths: vec!["bio".to_owned()] });
                Call::Update(pb::UpdateUserRequest { user, update_mask, request_id, ..Default::default() })
            }
        }
    }

    /// An earlier call again, now and then with another body.
    fn repeat(&mut self) -> Call {
        let mut call = self.made.choose(&mut self.rng).cloned().expect("an earlier call");
        if let (true, Call::Send(send)) = (self.rng.random_ratio(1, 5), &mut call) {
            send.message.push('!');
        }
        call
    }

    fn delete_or_create(&mut self) -> Call {
        let (id, request_id) = (self.cast.sender, String::new());
        if self.exists {
            return Call::Delete(pb::DeleteUserRequest { id, request_id });
        }
        let user = Some(pb::User { id, username: format!("user-{id}"), ..Default::default() });
        Call::Create(pb::CreateUserRequest { user, request_id })
    }

    fn read(&mut self) -> Call {
        let (user_id, other_user_id, id) = (self.cast.sender, self.other(), self.id());
        let page_size = *[0, 1, 3, 1_000].choose(&mut self.rng).expect("a size");
        match self.rng.random_range(0..10) {
            0 => Call::Get(pb::GetConnectionRequestRequest { id, user_id, ..Default::default() }),
            1 | 2 => {
                let states = [State::Unspecified, State::Pending, State::Rejected];
                let state = (*states.choose(&mut self.rng).expect("a state")).into();
                let direction = if self.rng.random_ratio(3, 4) { Direction::Sent } else { Direction::Received }.into();
                let list = pb::ListConnectionRequestsRequest { user_id, direction, state, ..Default::default() };
                Call::Requests(pb::ListConnectionRequestsRequest { page_size, ..list })
            }
            3 => Call::Status(pb::GetConnectionStatusRequest { user_id, other_user_id, ..Default::default() }),
            4 => {
                let other_user_ids = vec![self.cast.other, self.cast.receiver, user_id];
                Call::Statuses(pb::BatchGetConnectionStatusesRequest { user_id, other_user_ids, ..Default::default() })
            }
            5 => Call::Counts(pb::GetConnectionCountsRequest { user_id, ..Default::default() }),
            6 => {
                let of = *[user_id, other_user_id].choose(&mut self.rng).expect("a user");
                let viewer_user_id = if of == user_id { 0 } else { user_id };
                let list = pb::ListConnectionsRequest { user_id: of, viewer_user_id, page_size, ..Default::default() };
                Call::Connections(list)
            }
            7 => {
                let list = pb::ListMutualConnectionsRequest { user_id, other_user_id, page_size, ..Default::default() };
                if self.rng.random_ratio(1, 2) {
                    return Call::Mutual(list);
                }
                Call::Blocked(pb::ListBlockedUsersRequest { user_id, page_size, ..Default::default() })
            }
            8 if self.rng.random_ratio(1, 2) => {
                let min_revision = self.min_revision();
                Call::Export(pb::ExportUserRequest { id: user_id, user_id, min_revision, ..Default::default() })
            }
            8 => {
                let id = if self.rng.random_ratio(1, 4) { user_id } else { other_user_id };
                let key = Some(pb::get_user_request::Key::Id(id));
                Call::User(pb::GetUserRequest { key, min_revision: self.min_revision(), ..Default::default() })
            }
            _ => {
                let ids = vec![other_user_id, user_id, self.cast.other];
                Call::Users(pb::BatchGetUsersRequest { ids, min_revision: self.min_revision(), ..Default::default() })
            }
        }
    }

    /// Mostly a revision that the sender received, now and then a later one, which a user must not find.
    fn min_revision(&mut self) -> i64 {
        let later = self.principal == Principal::User && self.rng.random_ratio(1, 30);
        if later { self.revision + self.rng.random_range(1..3) } else { self.revision }
    }

    /// Where to begin in the feed: mostly after an event that the sender knows.
    fn cursor(&mut self) -> i64 {
        match self.rng.random_range(0..6) {
            0 | 1 => 0,
            2 => self.revision,
            // Where the feed ends, perhaps. A user must not find out.
            3 if self.principal == Principal::User => self.revision + self.rng.random_range(1..4),
            // The id of a request is the sequence of an event.
            _ => self.id(),
        }
    }

    fn look_at_the_feed(&mut self) -> Call {
        let (sender, receiver) = (self.cast.sender, self.cast.receiver);
        let after = self.cursor();
        let all = pb::ListEventsRequest { viewer_user_id: sender, after_sequence: after, ..Default::default() };
        if self.exists && self.rng.random_ratio(1, 4) {
            // Otherwise the same script with something else in its place.
            return match self.watches {
                true if self.rng.random_ratio(1, 4) => {
                    Call::Watch(pb::WatchEventsRequest { viewer_user_id: sender, ..now(100) })
                }
                true => Call::Watch(pb::WatchEventsRequest { viewer_user_id: sender, ..from(after, 100) }),
                false => Call::Events(all),
            };
        }
        let page_size = *[0, 7, 1_000].choose(&mut self.rng).expect("a size");
        let all = pb::ListEventsRequest { page_size, ..all };
        Call::Events(match self.rng.random_range(0..3) {
            0 => pb::ListEventsRequest { user_id: sender, other_user_id: receiver, ..all },
            1 => pb::ListEventsRequest { user_ids: vec![receiver], ..all },
            _ => all,
        })
    }

    /// Mostly the receiver.
    fn other(&mut self) -> i64 {
        if self.rng.random_ratio(1, 8) { self.cast.other } else { self.cast.receiver }
    }

    /// Mostly the newest request.
    fn id(&mut self) -> i64 {
        match self.rng.random_range(0..10) {
            0..8 => self.ids.last().copied().unwrap_or(1),
            8 => self.ids.choose(&mut self.rng).copied().unwrap_or(1),
            _ => self.rng.random_range(1..20),
        }
    }

    fn request_id(&mut self) -> String {
        if self.rng.random_ratio(1, 2) {
            return String::new();
        }
        Builder::from_random_bytes(self.rng.random()).into_uuid().to_string()
    }
}
