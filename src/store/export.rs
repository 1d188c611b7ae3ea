//! Exports: all users and relations of a database as rows, in one snapshot.
//!
//! The rows are read page by page, each after the key of the last one, so an export holds one page in memory, and a client
//! may read as slowly as it likes. The snapshot has a connection of its own.

use super::connect::{DatabaseUrl, refuse_other_tables};
use super::query;
use super::row::{BlockRow, CooldownRow, FeedHead, FeedRow, RequestRow, UserRow, positioned};
use super::session::Session;
use super::{ConnectError, StoreError};
use crate::domain::Time;
use crate::domain::epoch::Epoch;
use crate::domain::id::{Sequence, UserId};
use crate::domain::pair::{Request, RequestState};
use crate::domain::query::Record;
use crate::domain::totals::Totals;
use crate::domain::user::{Profile, User};
use crate::transfer::{self, Date, Header, RequestRowState, Row, UserReference};

/// The number of rows of a page. A user has up to 30 kB of text.
const USERS_PAGE: i64 = 500;
const PAGE: i64 = 2_000;

/// All rows of a database at one revision.
pub struct Snapshot {
    session: Session,
    head: FeedHead,
    next: Next,
}

/// What is read next, each with the key after which it continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Users(i64),
    Requests(i64),
    Cooldowns((i64, i64)),
    Blocks((i64, i64)),
    End,
}

/// Opens a snapshot of a database, which may be in use.
///
/// # Errors
///
/// When the database cannot be read, or its tables belong to another version.
pub async fn snapshot(url: &DatabaseUrl) -> Result<Snapshot, ConnectError> {
    refuse_other_tables(url).await?;
    Ok(Snapshot::of(Session::read(url).await?).await?)
}

impl Snapshot {
    /// Begins with the head. The first read fixes what the snapshot contains.
    pub(super) async fn of(mut session: Session) -> Result<Self, StoreError> {
        session.use_indexes().await?;
        let head: Vec<FeedRow> = session.load(query::head()).await?;
        let head = head.into_iter().next().ok_or_else(|| StoreError::corrupt("feed", "no row"))?;
        Ok(Self { session, head: head.head(), next: Next::Users(0) })
    }

    /// The revision that the rows reflect.
    pub fn revision(&self) -> Sequence {
        self.head.head.sequence
    }

    /// The epoch of the feed.
    pub fn epoch(&self) -> &Epoch {
        &self.head.epoch
    }

    /// The header of the export.
    pub fn header(&self, created: Time) -> Header {
        Header {
            source: format!("kith {}", env!("CARGO_PKG_VERSION")),
            epoch: self.head.epoch.to_string(),
            revision: Some(self.revision()),
            created: Some(created),
        }
    }

    /// The number of rows, as far as the head knows it: without withdrawn requests.
    pub fn total(&self) -> u64 {
        let Totals { users, pending, silenced, rejected, connected, blocks } = self.head.head.totals;
        u64::try_from(users + pending + silenced + rejected + connected + blocks).unwrap_or_default()
    }

    /// Reads the next rows. There are none at the end.
    ///
    /// Users come first, then requests and connections by their ids, then withdrawn requests and blocks by their users.
    pub async fn rows(&mut self) -> Result<Vec<Row>, StoreError> {
        loop {
            let rows = match self.next {
                Next::Users(after) => self.users(after).await?,
                Next::Requests(after) => self.requests(after).await?,
                Next::Cooldowns(after) => self.cooldowns(after).await?,
                Next::Blocks(after) => self.blocks(after).await?,
                Next::End => return Ok(Vec::new()),
            };
            if !rows.is_empty() {
                return Ok(rows);
            }
        }
    }

    async fn users(&mut self, after: i64) -> Result<Vec<Row>, StoreError> {
        let rows: Vec<UserRow> = self.session.load(query::users_after(after, USERS_PAGE)).await?;
        self.next = rows.last().map_or(Next::Requests(0), |last| Next::Users(last.id));
        rows.into_iter().map(|row| positioned(row).map(|(user, position)| user_row(user, position))).collect()
    }

    async fn requests(&mut self, after: i64) -> Result<Vec<Row>, StoreError> {
        let rows: Vec<RequestRow> = self.session.load(query::requests_after(after, PAGE)).await?;
        self.next = rows.last().map_or(Next::Cooldowns((0, 0)), |last| Next::Requests(last.id));
        rows.into_iter().map(|row| Request::try_from(row).map(request_row)).collect()
    }

    async fn cooldowns(&mut self, after: (i64, i64)) -> Result<Vec<Row>, StoreError> {
        let rows: Vec<CooldownRow> = self.session.load(query::withdrawn_after(after, PAGE)).await?;
        self.next = rows.last().map_or(Next::Blocks((0, 0)), |last| Next::Cooldowns(last.key()));
        Ok(rows.into_iter().filter_map(|row| withdrawn_row(&row.into())).collect())
    }

    async fn blocks(&mut self, after: (i64, i64)) -> Result<Vec<Row>, StoreError> {
        let rows: Vec<BlockRow> = self.session.load(query::blocks_after(after, PAGE)).await?;
        self.next = rows.last().map_or(Next::End, |last| Next::Blocks((last.user_id, last.other_user_id)));
        Ok(rows.into_iter().map(|row| block_row(&row)).collect())
    }
}

fn user_row(user: User, position: Sequence) -> Row {
    let User {
        id,
        username,
        real_name,
        email,
        email_isvalid,
        date_joined,
        bio,
        location,
        birthday,
        description,
        gender,
        status,
        website,
        avatar,
        cover,
        external_id,
        // It begins anew with the import.
        changed: _,
    } = user;
    let profile = Profile {
        id: Some(id),
        username,
        real_name,
        email,
        email_isvalid,
        // The row has its own.
        date_joined: None,
        bio,
        location,
        birthday,
        description,
        gender,
        status: Some(status),
        website,
        avatar,
        cover,
        external_id,
    };
    let date_joined = Date::Known(date_joined);
    Row::User(Box::new(transfer::UserRow { profile, date_joined, position: Some(position) }))
}

fn request_row(request: Request) -> Row {
    let Request { id, from, to, state, position, message, created, viewed, rejected, accepted, reply } = request;
    let (from, to) = (UserReference::Id(from), UserReference::Id(to));
    let (id, position) = (Some(id), Some(position));
    let (created, viewed) = (Date::Known(created), Date::stored(viewed));
    let state = match state {
        RequestState::Pending => RequestRowState::Pending,
        RequestState::Silenced => RequestRowState::Silenced,
        RequestState::Rejected => RequestRowState::Rejected,
        RequestState::Connected => {
            let connected = Date::stored(accepted);
            return Row::Connection(transfer::ConnectionRow {
                id,
                from,
                to,
                created,
                viewed,
                connected,
                message,
                reply,
                position,
            });
        }
    };
    let rejected = Date::stored(rejected);
    Row::Request(transfer::RequestRow { id, from, to, state, created, viewed, rejected, message, position })
}

/// A cooldown without the rejected request, which was withdrawn, or has expired.
fn withdrawn_row(record: &Record) -> Option<Row> {
    let &Record::Cooldown { from, to, since } = record else { return None };
    Some(Row::Request(transfer::RequestRow {
        id: None,
        from: UserReference::Id(from),
        to: UserReference::Id(to),
        state: RequestRowState::Withdrawn,
        created: Date::default(),
        viewed: Date::default(),
        rejected: Date::Known(since),
        message: Default::default(),
        position: None,
    }))
}

fn block_row(row: &BlockRow) -> Row {
    let block = row.block();
    Row::Block(transfer::BlockRow {
        user: UserReference::Id(UserId::new(row.user_id)),
        other: UserReference::Id(row.blocked().other),
        created: Date::Known(block.created),
        position: Some(block.position),
    })
}
