//! The rows of the format, with valid values.

use super::date::Date;
use super::reference::UserReference;
use crate::domain::Time;
use crate::domain::id::{RequestId, Sequence};
use crate::domain::pair::{Message, RequestState};
use crate::domain::user::{Gender, Profile, UserStatus};

/// A row of a file.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each has the documentation of its content")]
pub enum Row {
    Header(Header),
    User(Box<UserRow>),
    Connection(ConnectionRow),
    Request(RequestRow),
    Block(BlockRow),
    Footer(Footer),
}

/// The first line of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The system that the rows come from, such as `kith`. May be empty.
    pub source: String,
    /// The epoch of the feed, if the rows come from Kith. May be empty.
    pub epoch: String,
    /// The revision that the rows reflect, if they come from Kith.
    pub revision: Option<Sequence>,
    /// When the file was made.
    pub created: Option<Time>,
}

/// The last line of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footer {
    /// The numbers of rows by type. `None`: the footer does not say.
    pub counts: Counts<Option<u64>>,
    /// The SHA-256 of all lines between the header and the footer with their ends, in hexadecimal.
    pub sha256: Option<String>,
}

/// A value for each type of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the type of its name")]
pub struct Counts<T> {
    pub users: T,
    pub connections: T,
    pub requests: T,
    pub blocks: T,
}

impl<T> Counts<T> {
    /// Returns the value of a type.
    pub fn of(&mut self, kind: Kind) -> &mut T {
        match kind {
            Kind::User => &mut self.users,
            Kind::Connection => &mut self.connections,
            Kind::Request => &mut self.requests,
            Kind::Block => &mut self.blocks,
        }
    }
}

/// The types of rows, apart from header and footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the row of its name")]
pub enum Kind {
    User,
    Connection,
    Request,
    Block,
}

impl Kind {
    /// All of them, in the order in which an export has them.
    pub const ALL: [Self; 4] = [Self::User, Self::Connection, Self::Request, Self::Block];

    /// Returns the `type` of a row.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Connection => "connection",
            Self::Request => "request",
            Self::Block => "block",
        }
    }

    /// Returns the name of its number in the footer, and of its file in CSV.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::User => "users",
            Self::Connection => "connections",
            Self::Request => "requests",
            Self::Block => "blocks",
        }
    }

    /// Returns the type with this `type` of a row.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Returns the names of the fields, in the order in which they are written.
    pub const fn fields(self) -> &'static [&'static str] {
        match self {
            Self::User => &[
                "id",
                "external_id",
                "username",
                "real_name",
                "email",
                "email_isvalid",
                "date_joined",
                "bio",
                "location",
                "birthday",
                "description",
                "gender",
                "status",
                "website",
                "avatar",
                "cover",
                "position",
            ],
            Self::Connection => &["id", "from", "to", "created", "viewed", "connected", "message", "reply", "position"],
            Self::Request => &["id", "from", "to", "state", "created", "viewed", "rejected", "message", "position"],
            Self::Block => &["user", "other", "created", "position"],
        }
    }
}

impl Row {
    /// Returns the type. `None`: a header or a footer.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::User(_) => Some(Kind::User),
            Self::Connection(_) => Some(Kind::Connection),
            Self::Request(_) => Some(Kind::Request),
            Self::Block(_) => Some(Kind::Block),
            Self::Header(_) | Self::Footer(_) => None,
        }
    }
}

/// A user.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UserRow {
    /// The profile, without `date_joined`. The username may be empty if there is an external id.
    pub profile: Profile,
    /// When the user joined. Kith itself stores any date.
    pub date_joined: Date,
    /// The sequence of the event that created the user, in the database that was exported: the order of lists of users.
    pub position: Option<Sequence>,
}

/// Two connected users.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionRow {
    /// The id of the accepted request.
    pub id: Option<RequestId>,
    /// The sender of the request.
    pub from: UserReference,
    /// The receiver of the request.
    pub to: UserReference,
    /// When the request was sent.
    pub created: Date,
    /// When the receiver first viewed it.
    pub viewed: Date,
    /// When it was accepted.
    pub connected: Date,
    /// The message of the sender.
    pub message: Message,
    /// The reply of the receiver.
    pub reply: Message,
    /// The sequence of the event that connected the two, in the database that was exported: the order of their lists.
    pub position: Option<Sequence>,
}

/// A request that is not accepted, or a rejection whose request was withdrawn.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestRow {
    /// The id.
    pub id: Option<RequestId>,
    /// The sender.
    pub from: UserReference,
    /// The receiver.
    pub to: UserReference,
    /// The state.
    pub state: RequestRowState,
    /// When it was sent.
    pub created: Date,
    /// When the receiver first viewed it.
    pub viewed: Date,
    /// When it was rejected.
    pub rejected: Date,
    /// The message of the sender.
    pub message: Message,
    /// The sequence of the event that brought it into its state, in the database that was exported.
    pub position: Option<Sequence>,
}

/// The state of a request in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RequestRowState {
    /// Neither accepted nor rejected.
    #[default]
    Pending,
    /// Rejected by its receiver.
    Rejected,
    /// Its receiver does not see it.
    Silenced,
    /// It was rejected at `rejected` and no longer exists. Only the cooldown is left.
    ///
    /// Such a row says nothing about the present state of the two users. It may stand beside a row of any other state,
    /// and beside one in the other direction.
    Withdrawn,
}

/// What begins the names of states in the JSON form of protobuf.
const STATE: &str = "CONNECTION_REQUEST_STATE_";
const STATUS: &str = "USER_STATUS_";
const GENDER: &str = "GENDER_";

impl RequestRowState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Rejected, Self::Silenced, Self::Withdrawn];

    /// Returns the name of the state as in the JSON form of protobuf.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "CONNECTION_REQUEST_STATE_PENDING",
            Self::Rejected => "CONNECTION_REQUEST_STATE_REJECTED",
            Self::Silenced => "CONNECTION_REQUEST_STATE_SILENCED",
            Self::Withdrawn => "CONNECTION_REQUEST_STATE_WITHDRAWN",
        }
    }

    /// Returns the state with this name, with or without what begins all names: `PENDING`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| is_name(name, state.name(), STATE))
    }

    /// Returns the state of the request in the database. `None` if there is none.
    pub const fn stored(self) -> Option<RequestState> {
        match self {
            Self::Pending => Some(RequestState::Pending),
            Self::Rejected => Some(RequestState::Rejected),
            Self::Silenced => Some(RequestState::Silenced),
            Self::Withdrawn => None,
        }
    }
}

/// Returns the name of a status as in the JSON form of protobuf.
pub const fn status_name(status: UserStatus) -> &'static str {
    match status {
        UserStatus::Approved => "USER_STATUS_APPROVED",
        UserStatus::Blocked => "USER_STATUS_BLOCKED",
        UserStatus::Unregistered => "USER_STATUS_UNREGISTERED",
    }
}

/// Returns the status with this name, with or without what begins all names: `APPROVED`.
pub fn read_status(name: &str) -> Option<UserStatus> {
    let all = [UserStatus::Approved, UserStatus::Blocked, UserStatus::Unregistered];
    all.into_iter().find(|status| is_name(name, status_name(*status), STATUS))
}

/// Returns the name of a gender as in the JSON form of protobuf.
pub const fn gender_name(gender: Gender) -> &'static str {
    match gender {
        Gender::Unspecified => "GENDER_UNSPECIFIED",
        Gender::Male => "GENDER_MALE",
        Gender::Female => "GENDER_FEMALE",
    }
}

/// Returns the gender with this name, with or without what begins all names: `FEMALE`.
pub fn read_gender(name: &str) -> Option<Gender> {
    let all = [Gender::Unspecified, Gender::Male, Gender::Female];
    all.into_iter().find(|gender| is_name(name, gender_name(*gender), GENDER))
}

fn is_name(text: &str, name: &str, prefix: &str) -> bool {
    text == name || name.strip_prefix(prefix) == Some(text)
}

/// A block of one user by another.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockRow {
    /// The user who blocks.
    pub user: UserReference,
    /// The user who is blocked.
    pub other: UserReference,
    /// When.
    pub created: Date,
    /// The sequence of the event that made the block, in the database that was exported.
    pub position: Option<Sequence>,
}
