//! The export of everything that is stored about one user.
//!
//! A separate task reads page by page, and hands each item to the stream of the response. It reads the next page only when
//! the client has taken this one, so an export has one page in memory, and no connection to the database while it waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status};

use super::produced::{Client, Messages, respond};
use super::{Core, caller};
use crate::domain::Time;
use crate::domain::decide::Rejection;
use crate::domain::epoch::{Epoch, Position, Verdict};
use crate::domain::id::{Sequence, UserId};
use crate::domain::pair::RequestState;
use crate::domain::query::{
    BlockQuery, Consumer, EventFilter, EventQuery, Range, Record, RecordKind, RecordQuery, RequestFilter, RequestQuery,
    UserKey,
};
use crate::domain::view::{Viewer, visible, visible_event};
use crate::error;
use crate::mapping::user::{UserView, encoded};
use crate::mapping::{connection, connection_request, export as mapping};
use crate::metrics::refusals::Cause;
use crate::proto::server as pb;
use crate::proto::server::export_user_response::Item;
use crate::store::CachedUser;

/// The maximum number of concurrent exports of users. Each has at most a page in memory: half a MiB with the longest texts.
const USERS_MAX: usize = 32;
/// The maximum number of concurrent exports of everything. Each has a connection and a snapshot of its own.
const RELATIONS_MAX: usize = 2;
/// The number of rows of a page.
const PAGE: usize = 100;

/// The stream of an export.
pub type Items = Messages<pb::ExportUserResponse>;

/// The limits of exports.
#[derive(Clone, Debug)]
pub struct Exports {
    permits: Arc<Semaphore>,
    max_silence: Duration,
}

impl Exports {
    /// The limits of exports of single users. An export ends whose client takes no item for `max_silence`.
    pub fn of_users(max_silence: Duration) -> Self {
        Self { permits: Arc::new(Semaphore::new(USERS_MAX)), max_silence }
    }

    /// The same for exports of all users and relations.
    pub fn of_relations(max_silence: Duration) -> Self {
        Self { permits: Arc::new(Semaphore::new(RELATIONS_MAX)), max_silence }
    }

    /// Returns the permission to run an export; `None` if too many run.
    pub(super) fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// The time after which an export ends whose client takes nothing.
    pub(super) fn max_silence(&self) -> Duration {
        self.max_silence
    }
}

/// Begins an export.
///
/// # Errors
///
/// OVERLOADED before anything is read if too many exports run.
pub(super) async fn run(
    core: &Core,
    limits: &Exports,
    request: Request<pb::ExportUserRequest>,
) -> Result<Response<Items>, Status> {
    let caller = caller(&request)?;
    let (user, viewer, min_revision) = mapping::export(request.get_ref(), &caller)?;
    if matches!(viewer, Viewer::User(viewer) if viewer != user) {
        return Err(Rejection::NotTheUser(user).into());
    }
    let permit = limits.permit().ok_or_else(|| error::overloaded(Cause::Exports))?;
    let read = core.read_primary(&request, min_revision, |store| store.user(UserKey::Id(user))).await?;
    let reached = read.position();
    let profile = read.value.ok_or_else(|| error::user_not_found(user))?;
    let created = core.store.user_position(user).await?.ok_or_else(|| error::user_not_found(user))?;
    // For a user who calls, already theirs.
    let visible = caller.user().map(|_| reached.sequence);
    let core = core.clone();
    Ok(respond(&request, permit, limits.max_silence(), move |client| async move {
        let totals = pb::ExportTotals::default();
        let export = Export { core, user, viewer, created, visible, reached, client, totals };
        export.run(&profile).await
    }))
}

struct Export {
    core: Core,
    user: UserId,
    viewer: Viewer,
    /// The event that created the user. Another user may have had the id before, and may have it afterwards.
    created: Sequence,
    /// For a user who calls, the newest event that they know of. It stands for the revisions of pages, which show every
    /// change of the service.
    visible: Option<Sequence>,
    /// What the last item reflects.
    reached: Position,
    client: Client<pb::ExportUserResponse>,
    totals: pb::ExportTotals,
}

impl Export {
    async fn run(mut self, profile: &CachedUser) -> Result<(), Status> {
        use RequestFilter::{Received, Sent, SentConnected};

        self.same_user().await?;
        self.send(self.reached.clone(), Item::User(encoded(profile, UserView::Full))).await?;
        self.counts().await?;
        self.requests(Received(RequestState::Pending)).await?;
        self.requests(Received(RequestState::Rejected)).await?;
        if self.viewer == Viewer::Operator {
            self.requests(Received(RequestState::Silenced)).await?;
        }
        self.requests(Sent).await?;
        self.requests(Received(RequestState::Connected)).await?;
        self.requests(SentConnected).await?;
        self.blocks().await?;
        if self.viewer == Viewer::Operator {
            use RecordKind::{BlocksOf, CooldownsFrom, CooldownsTo, EndedFrom, EndedTo};
            for kind in [BlocksOf, CooldownsFrom, CooldownsTo, EndedFrom, EndedTo] {
                self.records(kind).await?;
            }
        }
        self.records(RecordKind::Responses).await?;
        let reached = self.events().await?;
        let totals = Item::Totals(self.totals);
        self.send(reached, totals).await
    }

    /// Hands an item to the client, and waits until there is room for it.
    ///
    /// Fails if events were lost that an earlier item reflects.
    async fn send(&mut self, at: Position, item: Item) -> Result<(), Status> {
        if at.epoch != self.reached.epoch {
            let Position { epoch, sequence } = &self.reached;
            if self.core.store.history(&at.epoch).await?.judge(epoch, *sequence) != Verdict::Good {
                return Err(error::wrong_epoch(&at.epoch, None));
            }
        }
        let (epoch, revision) = (at.epoch.to_string(), at.sequence);
        self.reached.advance(at);
        mapping::count(&mut self.totals, &item);
        if let (Some(visible), Item::Event(event)) = (&mut self.visible, &item) {
            *visible = (*visible).max(Sequence::new(event.sequence));
        }
        let revision = self.visible.unwrap_or(revision);
        let item = pb::ExportUserResponse { revision: revision.get(), epoch, item: Some(item) };
        self.client.send(item).await
    }

    /// Fails if the user is no longer the one whose export began. To be called after each read, before its rows are sent.
    async fn same_user(&self) -> Result<(), Status> {
        let created = self.core.store.user_position(self.user).await?;
        if created == Some(self.created) { Ok(()) } else { Err(error::user_not_found(self.user)) }
    }

    async fn counts(&mut self) -> Result<(), Status> {
        let store = Arc::clone(&self.core.store);
        let read = store.counts(self.user, self.core.policy.expired_before(store.now())).await?;
        let sends = match self.viewer {
            Viewer::User(_) => None,
            Viewer::Operator => {
                let records = self.page(RecordKind::Sends, None).await?.1;
                records
                    .into_iter()
                    .find_map(|record| if let Record::Sends(sends) = record { Some(sends) } else { None })
            }
        };
        self.same_user().await?;
        let at = read.position();
        let counts = read.value.ok_or_else(|| error::user_not_found(self.user))?;
        self.send(at, mapping::counts(counts, sends)).await
    }

    async fn requests(&mut self, filter: RequestFilter) -> Result<(), Status> {
        let (user, mut before) = (self.user, None);
        loop {
            // Read once, so that all rows of the page expire at the same time.
            let now = self.core.store.now();
            let expires =
                !matches!(filter, RequestFilter::SentConnected | RequestFilter::Received(RequestState::Connected));
            let created_after = self.core.policy.expired_before(now).filter(|_| expires).unwrap_or(Time::UNIX_EPOCH);
            let query = RequestQuery { user, filter, created_after, range: range(before) };
            let listed = self.core.store.list_requests(query).await?;
            self.same_user().await?;
            for row in &listed.rows {
                before = Some(if filter.is_ordered_by_id() { Sequence::new(row.id.get()) } else { row.position });
                let users = listed.users.get(&row.from).zip(listed.users.get(&row.to));
                let seen = visible(row, self.viewer, &self.core.policy, now).zip(users);
                let Some((request, (from, to))) = seen else { continue };
                let request = connection_request::request(&request, from, to, UserView::Basic);
                self.send(listed.position(), Item::ConnectionRequest(request)).await?;
            }
            if listed.rows.len() < PAGE {
                return Ok(());
            }
        }
    }

    async fn blocks(&mut self) -> Result<(), Status> {
        let mut before = None;
        loop {
            let listed = self.core.store.list_blocks(BlockQuery { user: self.user, range: range(before) }).await?;
            self.same_user().await?;
            for row in &listed.rows {
                before = Some(row.block.position);
                let Some(blocked) = listed.users.get(&row.other) else { continue };
                let block = connection::blocked_user(row, blocked, UserView::Basic);
                self.send(listed.position(), Item::Block(block)).await?;
            }
            if listed.rows.len() < PAGE {
                return Ok(());
            }
        }
    }

    async fn records(&mut self, kind: RecordKind) -> Result<(), Status> {
        let mut after = None;
        loop {
            let (at, records) = self.page(kind, after).await?;
            self.same_user().await?;
            let is_last = records.len() < PAGE;
            after = records.last().cloned();
            for record in records {
                if let Some(item) = mapping::record(record, self.viewer) {
                    self.send(at.clone(), item).await?;
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    async fn page(&self, kind: RecordKind, after: Option<Record>) -> Result<(Position, Vec<Record>), Status> {
        let query = RecordQuery { user: self.user, kind, after, limit: limit() };
        let read = self.core.store.list_records(query).await?;
        Ok((read.position(), read.value))
    }

    /// Returns the position of the last page: all events up to it were examined.
    async fn events(&mut self) -> Result<Position, Status> {
        let filter = EventFilter::Of(self.user, None);
        let mut after = self.created.previous();
        loop {
            let epoch = Epoch::default();
            let query = EventQuery { filter, after, limit: limit(), consumer: Consumer::Call, epoch };
            let slice = self.core.store.events(query).await?;
            self.same_user().await?;
            let is_last = slice.events.len() < PAGE;
            let at = Position { epoch: slice.epoch, sequence: slice.last };
            for recorded in slice.events {
                after = recorded.event.sequence;
                if let Some(event) = visible_event(&recorded.event, self.viewer, &self.core.policy) {
                    self.send(at.clone(), Item::Event((&event).into())).await?;
                }
            }
            if is_last {
                return Ok(at);
            }
        }
    }
}

/// The rows of a page before this position.
fn range(before: Option<Sequence>) -> Range {
    Range { before, limit: limit() }
}

fn limit() -> i64 {
    i64::try_from(PAGE).unwrap_or(i64::MAX)
}
