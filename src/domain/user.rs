//! Users and the changes of their fields.

use super::Time;
use super::id::{Sequence, UserId};
use super::text::{Birthday, Email, Line, Prose, Url, Username};

/// A user, as described by the system that owns the profiles.
///
/// The fields and limits are those of `user.proto`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the proto documents each field; these have the same names")]
pub struct User {
    pub id: UserId,
    pub username: Username,
    pub real_name: Line<255>,
    pub email: Email,
    pub email_isvalid: bool,
    pub date_joined: Time,
    pub bio: Prose<5000>,
    pub location: Line<100>,
    pub birthday: Birthday,
    pub description: Line<50>,
    pub gender: Gender,
    pub status: UserStatus,
    pub website: Url,
    pub avatar: Url,
    pub cover: Url,
    /// The sequence of the event that last changed the user, or created them. Not part of the profile.
    pub changed: Sequence,
}

impl User {
    /// Returns the total length of all texts in bytes.
    pub fn text_len(&self) -> usize {
        let names = self.username.as_str().len() + self.real_name.as_str().len() + self.email.as_str().len();
        let words = self.bio.as_str().len() + self.location.as_str().len() + self.description.as_str().len();
        let links = self.website.as_str().len() + self.avatar.as_str().len() + self.cover.as_str().len();
        names + words + links + self.birthday.as_str().len()
    }
}

/// The gender that a user states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gender {
    /// Not stated.
    #[default]
    Unspecified,
    /// Male.
    Male,
    /// Female.
    Female,
}

/// The status of a user, which decides what they may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UserStatus {
    /// Not restricted.
    #[default]
    Approved,
    /// Blocked by a moderator. Cannot send or receive new requests, nor accept or restore any.
    Blocked,
    /// Not registered. Restricted like a blocked user.
    Unregistered,
}

/// A user to be created or imported: like [`User`], but some fields may be unset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the proto documents each field; these have the same names")]
pub struct Profile {
    /// `None`: Kith assigns an id that no user has.
    pub id: Option<UserId>,
    pub username: Username,
    pub real_name: Line<255>,
    pub email: Email,
    pub email_isvalid: bool,
    /// `None`: the value of an existing user, else the current time.
    pub date_joined: Option<Time>,
    pub bio: Prose<5000>,
    pub location: Line<100>,
    pub birthday: Birthday,
    pub description: Line<50>,
    pub gender: Gender,
    /// `None`: the value of an existing user, else approved.
    pub status: Option<UserStatus>,
    pub website: Url,
    pub avatar: Url,
    pub cover: Url,
}

impl Profile {
    /// Returns the user with this profile and id.
    ///
    /// Unset fields are taken from `before`, the existing user. Without one, `date_joined` is `now`. `changed` is not set
    /// to a new event yet.
    pub fn into_user(self, id: UserId, before: Option<&User>, now: Time) -> User {
        User {
            id,
            username: self.username,
            real_name: self.real_name,
            email: self.email,
            email_isvalid: self.email_isvalid,
            date_joined: self.date_joined.or(before.map(|user| user.date_joined)).unwrap_or(now),
            bio: self.bio,
            location: self.location,
            birthday: self.birthday,
            description: self.description,
            gender: self.gender,
            status: self.status.or(before.map(|user| user.status)).unwrap_or_default(),
            website: self.website,
            avatar: self.avatar,
            cover: self.cover,
            changed: before.map(|user| user.changed).unwrap_or_default(),
        }
    }
}

/// An update of some fields of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserUpdate {
    /// The user to update.
    pub id: UserId,
    /// The acting user. `None`: nobody, so that the caller itself is the actor.
    pub acting: Option<UserId>,
    /// The new values.
    pub fields: Vec<FieldUpdate>,
    /// The revision after which the user must not have been changed. `None`: any changes are overwritten.
    pub expected: Option<Sequence>,
}

impl UserUpdate {
    /// Returns the new username, if the update names one.
    pub fn username(&self) -> Option<&Username> {
        self.fields.iter().rev().find_map(|field| match field {
            FieldUpdate::Username(username) => Some(username),
            FieldUpdate::RealName(_)
            | FieldUpdate::Email(_)
            | FieldUpdate::EmailIsvalid(_)
            | FieldUpdate::DateJoined(_)
            | FieldUpdate::Bio(_)
            | FieldUpdate::Location(_)
            | FieldUpdate::Birthday(_)
            | FieldUpdate::Description(_)
            | FieldUpdate::Gender(_)
            | FieldUpdate::Status(_)
            | FieldUpdate::Website(_)
            | FieldUpdate::Avatar(_)
            | FieldUpdate::Cover(_) => None,
        })
    }
}

/// A new value for one updatable field.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the field of its name")]
pub enum FieldUpdate {
    Username(Username),
    RealName(Line<255>),
    Email(Email),
    EmailIsvalid(bool),
    DateJoined(Time),
    Bio(Prose<5000>),
    Location(Line<100>),
    Birthday(Birthday),
    Description(Line<50>),
    Gender(Gender),
    Status(UserStatus),
    Website(Url),
    Avatar(Url),
    Cover(Url),
}

impl FieldUpdate {
    /// Sets the field of the user to the new value.
    pub fn apply(&self, user: &mut User) {
        match self.clone() {
            Self::Username(value) => user.username = value,
            Self::RealName(value) => user.real_name = value,
            Self::Email(value) => user.email = value,
            Self::EmailIsvalid(value) => user.email_isvalid = value,
            Self::DateJoined(value) => user.date_joined = value,
            Self::Bio(value) => user.bio = value,
            Self::Location(value) => user.location = value,
            Self::Birthday(value) => user.birthday = value,
            Self::Description(value) => user.description = value,
            Self::Gender(value) => user.gender = value,
            Self::Status(value) => user.status = value,
            Self::Website(value) => user.website = value,
            Self::Avatar(value) => user.avatar = value,
            Self::Cover(value) => user.cover = value,
        }
    }
}
