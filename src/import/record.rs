//! Rows between the steps of an import, as they are sorted and stored in temporary files.
//!
//! Times are microseconds since 1970. Texts were validated when the rows were read.

use chrono::DateTime;

use super::report::Place;
use crate::domain::Time;
use crate::domain::id::{RequestId, Sequence, UserId};
use crate::domain::import::{Action, Fact, Relation};
use crate::domain::pair::{Block, Message, Request, RequestState};
use crate::domain::text::{Birthday, Email, ExternalId, Line, Prose, Url, Username};
use crate::domain::user::{Gender, Profile, UserStatus};
use crate::transfer::Kind;

/// Returns the microseconds of a time.
pub(super) fn micros(time: Time) -> i64 {
    time.timestamp_micros()
}

/// Returns the time of these microseconds. They came from a time.
pub(super) fn time(micros: i64) -> Time {
    DateTime::from_timestamp_micros(micros).unwrap_or_default()
}

/// A row that waits for users who may follow.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WaitingRecord {
    #[prost(string, tag = "1")]
    pub(super) text: String,
}

/// A user to import.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct UserRecord {
    /// See [`Directory`](super::users::Directory).
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
    #[prost(string, optional, tag = "2")]
    external_id: Option<String>,
    #[prost(string, tag = "3")]
    username: String,
    #[prost(string, tag = "4")]
    real_name: String,
    #[prost(string, tag = "5")]
    email: String,
    #[prost(bool, tag = "6")]
    email_isvalid: bool,
    #[prost(int64, optional, tag = "7")]
    pub(super) date_joined: Option<i64>,
    #[prost(string, tag = "8")]
    bio: String,
    #[prost(string, tag = "9")]
    location: String,
    #[prost(string, tag = "10")]
    birthday: String,
    #[prost(string, tag = "11")]
    description: String,
    #[prost(uint32, tag = "12")]
    gender: u32,
    #[prost(uint32, optional, tag = "13")]
    status: Option<u32>,
    #[prost(string, tag = "14")]
    website: String,
    #[prost(string, tag = "15")]
    avatar: String,
    #[prost(string, tag = "16")]
    cover: String,
    #[prost(int64, tag = "17")]
    pub(super) position: i64,
    #[prost(uint64, tag = "18")]
    pub(super) place: u64,
}

const GENDERS: [Gender; 3] = [Gender::Unspecified, Gender::Male, Gender::Female];
const STATUSES: [UserStatus; 3] = [UserStatus::Approved, UserStatus::Blocked, UserStatus::Unregistered];

fn index<T: PartialEq>(values: &[T], value: &T) -> u32 {
    (0..).zip(values).find(|(_, known)| *known == value).map_or(0, |(index, _)| index)
}

fn at<T: Copy>(values: &[T], index: u32) -> Option<T> {
    values.get(usize::try_from(index).ok()?).copied()
}

impl UserRecord {
    pub(super) fn new(id: UserId, profile: &Profile, place: Place) -> Self {
        let Profile {
            id: _,
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
        } = profile;
        Self {
            id: id.get(),
            external_id: external_id.as_ref().map(|id| id.as_str().to_owned()),
            username: username.as_str().to_owned(),
            real_name: real_name.as_str().to_owned(),
            email: email.as_str().to_owned(),
            email_isvalid: *email_isvalid,
            date_joined: date_joined.map(micros),
            bio: bio.as_str().to_owned(),
            location: location.as_str().to_owned(),
            birthday: birthday.as_str().to_owned(),
            description: description.as_str().to_owned(),
            gender: index(&GENDERS, gender),
            status: status.as_ref().map(|status| index(&STATUSES, status)),
            website: website.as_str().to_owned(),
            avatar: avatar.as_str().to_owned(),
            cover: cover.as_str().to_owned(),
            position: 0,
            place: place.0,
        }
    }

    /// Returns the profile, for a user with this id.
    pub(super) fn profile(self, id: UserId) -> Profile {
        let Self {
            id: _,
            external_id,
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
            position: _,
            place: _,
        } = self;
        Profile {
            id: Some(id),
            username: Username::stored(username),
            real_name: Line::stored(real_name),
            email: Email::stored(email),
            email_isvalid,
            date_joined: date_joined.map(time),
            bio: Prose::stored(bio),
            location: Line::stored(location),
            birthday: Birthday::stored(birthday),
            description: Line::stored(description),
            gender: at(&GENDERS, gender).unwrap_or_default(),
            status: status.and_then(|status| at(&STATUSES, status)),
            website: Url::stored(website),
            avatar: Url::stored(avatar),
            cover: Url::stored(cover),
            external_id: external_id.map(ExternalId::stored),
        }
    }
}

/// A relation, with the row that states it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RelationRecord {
    /// An index of [`STATES`], or one of the two after them.
    #[prost(uint32, tag = "1")]
    state: u32,
    #[prost(int64, tag = "2")]
    pub(super) from: i64,
    #[prost(int64, tag = "3")]
    pub(super) to: i64,
    #[prost(int64, tag = "4")]
    id: i64,
    #[prost(int64, tag = "5")]
    position: i64,
    #[prost(int64, tag = "6")]
    created: i64,
    #[prost(int64, optional, tag = "7")]
    viewed: Option<i64>,
    #[prost(int64, optional, tag = "8")]
    answered: Option<i64>,
    #[prost(string, tag = "9")]
    message: String,
    #[prost(string, tag = "10")]
    reply: String,
    /// The date of a request that was renewed, by which it is ordered.
    #[prost(int64, tag = "11")]
    pub(super) sent: i64,
    #[prost(uint64, tag = "12")]
    pub(super) place: u64,
    /// The type of the row.
    #[prost(uint32, tag = "13")]
    kind: u32,
}

const STATES: [RequestState; 4] =
    [RequestState::Pending, RequestState::Silenced, RequestState::Rejected, RequestState::Connected];
const COOLDOWN: u32 = 4;
const BLOCK: u32 = 5;

impl RelationRecord {
    pub(super) fn new(relation: &Relation, kind: Kind, place: Place, sent: i64) -> Self {
        let row = Self { place: place.0, kind: index(&Kind::ALL, &kind), sent, ..Self::default() };
        match relation {
            Relation::Request(request) => {
                let Request { id, from, to, state, position, message, created, viewed, rejected, accepted, reply } =
                    request;
                Self {
                    state: index(&STATES, state),
                    from: from.get(),
                    to: to.get(),
                    id: id.get(),
                    position: position.get(),
                    created: micros(*created),
                    viewed: viewed.map(micros),
                    answered: rejected.or(*accepted).map(micros),
                    message: message.as_str().to_owned(),
                    reply: reply.as_str().to_owned(),
                    ..row
                }
            }
            Relation::Cooldown { from, to, since } => {
                Self { state: COOLDOWN, from: from.get(), to: to.get(), created: micros(*since), ..row }
            }
            Relation::Block { user, other, block: Block { created, position } } => Self {
                state: BLOCK,
                from: user.get(),
                to: other.get(),
                created: micros(*created),
                position: position.get(),
                ..row
            },
        }
    }

    pub(super) fn kind(&self) -> Kind {
        at(&Kind::ALL, self.kind).unwrap_or(Kind::Request)
    }

    /// Returns the relation between users with these ids.
    pub(super) fn relation(self, from: UserId, to: UserId) -> Relation {
        let created = time(self.created);
        let position = Sequence::new(self.position);
        let Some(state) = at(&STATES, self.state) else {
            return match self.state {
                COOLDOWN => Relation::Cooldown { from, to, since: created },
                _ => Relation::Block { user: from, other: to, block: Block { created, position } },
            };
        };
        let answered = self.answered.map(time);
        Relation::Request(Request {
            id: RequestId::new(self.id),
            from,
            to,
            state,
            position,
            message: Message::stored(self.message),
            created,
            viewed: self.viewed.map(time),
            rejected: answered.filter(|_| state == RequestState::Rejected),
            accepted: answered.filter(|_| state == RequestState::Connected),
            reply: Message::stored(self.reply),
        })
    }
}

/// The actions of steps. That of the user is the user of the step.
const ACTIONS: [Action; 8] = [
    Action::Create,
    Action::CreateSilenced,
    Action::View,
    Action::Silence,
    Action::Reject,
    Action::Connect,
    Action::Cool(UserId::new(0)),
    Action::Block(UserId::new(0)),
];

impl StepRecord {
    /// Sets the action.
    pub(super) fn of(action: Action) -> Self {
        let action = match action {
            Action::Cool(_) => ACTIONS[6],
            Action::Block(_) => ACTIONS[7],
            Action::Create
            | Action::CreateSilenced
            | Action::View
            | Action::Silence
            | Action::Reject
            | Action::Connect => action,
        };
        Self { action: index(&ACTIONS, &action), ..Self::default() }
    }

    /// Returns the action.
    pub(super) fn action(&self) -> Action {
        let user = UserId::new(self.user);
        match at(&ACTIONS, self.action) {
            Some(Action::Cool(_)) => Action::Cool(user),
            Some(Action::Block(_)) | None => Action::Block(user),
            Some(action) => action,
        }
    }
}

/// A step of a pair in an empty database.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StepRecord {
    /// The number of the pair.
    #[prost(uint64, tag = "1")]
    pub(super) pair: u64,
    /// An index of [`ACTIONS`].
    #[prost(uint32, tag = "2")]
    pub(super) action: u32,
    #[prost(int64, tag = "3")]
    pub(super) user: i64,
    #[prost(int64, tag = "4")]
    pub(super) other: i64,
    /// The id that the request keeps, or 0.
    #[prost(int64, tag = "6")]
    pub(super) id: i64,
    /// What is stored with this step.
    #[prost(message, optional, tag = "5")]
    pub(super) stored: Option<RelationRecord>,
}

/// A pair for a database that is not empty.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PairRecord {
    /// What it consists of.
    #[prost(message, repeated, tag = "1")]
    pub(super) relations: Vec<RelationRecord>,
    /// The rows that state it.
    #[prost(message, repeated, tag = "2")]
    pub(super) rows: Vec<RowRecord>,
}

/// A row, and the fact that it states.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RowRecord {
    #[prost(uint64, tag = "1")]
    pub(super) place: u64,
    #[prost(uint32, tag = "2")]
    pub(super) kind: u32,
    /// 0: the request. 1: the block by the user. 2: the cooldown of the user's requests.
    #[prost(uint32, tag = "3")]
    pub(super) fact: u32,
    #[prost(int64, tag = "4")]
    pub(super) user: i64,
}

impl RowRecord {
    pub(super) fn new(place: Place, kind: Kind, fact: Fact) -> Self {
        let (fact, user) = match fact {
            Fact::Request => (0, UserId::default()),
            Fact::Block(user) => (1, user),
            Fact::Cooldown(user) => (2, user),
        };
        Self { place: place.0, kind: index(&Kind::ALL, &kind), fact, user: user.get() }
    }

    pub(super) fn kind(&self) -> Kind {
        at(&Kind::ALL, self.kind).unwrap_or(Kind::Request)
    }

    pub(super) fn fact(&self) -> Fact {
        let user = UserId::new(self.user);
        match self.fact {
            0 => Fact::Request,
            1 => Fact::Block(user),
            _ => Fact::Cooldown(user),
        }
    }
}
