//! Users and the changes of their fields.

use super::Time;
use super::id::{Sequence, UserId};
use super::text::{Birthday, Email, ExternalId, Line, Prose, Url, Username};

/// A user, as described by the system that owns the profiles.
///
/// The fields and limits are those of `user.proto`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the proto documents each field; these have the same names")]
pub struct User {
    pub id: UserId,
    /// Empty only if there is an external id.
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
    /// Set once, and never changed.
    pub external_id: Option<ExternalId>,
    /// The sequence of the event that last changed the user, or created them. Not part of the profile.
    pub changed: Sequence,
}

impl User {
    /// Returns the total length of all texts in bytes.
    pub fn text_len(&self) -> usize {
        let Self {
            id: _,
            username,
            real_name,
            email,
            email_isvalid: _,
            date_joined: _,
            bio,
            location,
            birthday,
            description,
            gender: _,
            status: _,
            website,
            avatar,
            cover,
            external_id,
            changed: _,
        } = self;
        let keys = username.as_str().len() + external_id.as_ref().map_or(0, |id| id.as_str().len());
        let names = keys + real_name.as_str().len() + email.as_str().len();
        let words = bio.as_str().len() + location.as_str().len() + description.as_str().len();
        let links = website.as_str().len() + avatar.as_str().len() + cover.as_str().len();
        names + words + links + birthday.as_str().len()
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
    /// `None`: the user with the external id, if this is an import. Without one, Kith assigns an id that no user has.
    pub id: Option<UserId>,
    /// Empty only if there is an external id.
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
    /// `None`: the value of an existing user, else none.
    pub external_id: Option<ExternalId>,
}

impl Profile {
    /// Returns the user with this profile and id.
    ///
    /// Unset fields are taken from `before`, the existing user. Without one, `date_joined` is `now`. `changed` is not set
    /// to a new event yet.
    pub fn into_user(self, id: UserId, before: Option<&User>, now: Time) -> User {
        let Self {
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
        } = self;
        User {
            id,
            username,
            real_name,
            email,
            email_isvalid,
            date_joined: date_joined.or(before.map(|user| user.date_joined)).unwrap_or(now),
            bio,
            location,
            birthday,
            description,
            gender,
            status: status.or(before.map(|user| user.status)).unwrap_or_default(),
            website,
            avatar,
            cover,
            external_id: external_id.or(before.and_then(|user| user.external_id.clone())),
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

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: UserId = UserId::new(7);

    fn text<T: std::str::FromStr>(text: &str) -> T {
        text.parse().unwrap_or_else(|_| panic!("{text:?} is valid"))
    }

    /// A user with texts of 1, 2, 4, … bytes, so that each sum of lengths is unique. URLs are longer.
    fn ann() -> User {
        let words = |length: usize| "x".repeat(length);
        let url = |length: usize| format!("http://{}", "x".repeat(length - 7));
        User {
            username: text("a"),
            real_name: text(&words(2)),
            email: text("ann@ex.eu"),
            bio: text(&words(16)),
            location: text(&words(32)),
            birthday: Birthday::stored("2000-01-01".to_owned()),
            description: text(&words(50)),
            website: text(&url(100)),
            avatar: text(&url(150)),
            cover: text(&url(200)),
            external_id: Some(text(&words(128))),
            ..Profile::default().into_user(ANN, None, Time::UNIX_EPOCH)
        }
    }

    #[test]
    fn the_length_of_a_user_is_that_of_all_texts() {
        assert_eq!(ann().text_len(), 1 + 2 + 9 + 16 + 32 + 10 + 50 + 100 + 150 + 200 + 128);
    }

    #[test]
    fn unset_fields_are_those_of_the_existing_user() {
        let (first, now) = (Time::UNIX_EPOCH, Time::UNIX_EPOCH + chrono::TimeDelta::days(1));
        let before = User { status: UserStatus::Blocked, date_joined: first, ..ann() };
        let values = |profile: Profile, before| {
            let user = profile.into_user(ANN, before, now);
            (user.status, user.date_joined, user.external_id)
        };
        let kept = before.external_id.clone();
        assert_eq!(values(Profile::default(), None), (UserStatus::Approved, now, None));
        assert_eq!(values(Profile::default(), Some(&before)), (UserStatus::Blocked, first, kept));
        let (status, external_id) = (Some(UserStatus::Unregistered), Some(text::<ExternalId>("new")));
        let set = Profile { status, date_joined: Some(now), external_id: external_id.clone(), ..Profile::default() };
        assert_eq!(values(set, Some(&before)), (UserStatus::Unregistered, now, external_id));
    }

    #[test]
    fn an_update_changes_its_field_only() {
        let url = || text::<Url>("http://example.com/new");
        let birthday = Birthday::stored("1999-12-31".to_owned());
        for (update, expected) in [
            (FieldUpdate::RealName(text("new")), User { real_name: text("new"), ..ann() }),
            (FieldUpdate::Bio(text("new")), User { bio: text("new"), ..ann() }),
            (FieldUpdate::Location(text("new")), User { location: text("new"), ..ann() }),
            (FieldUpdate::Birthday(birthday.clone()), User { birthday, ..ann() }),
            (FieldUpdate::Description(text("new")), User { description: text("new"), ..ann() }),
            (FieldUpdate::Gender(Gender::Female), User { gender: Gender::Female, ..ann() }),
            (FieldUpdate::Website(url()), User { website: url(), ..ann() }),
            (FieldUpdate::Avatar(url()), User { avatar: url(), ..ann() }),
            (FieldUpdate::Cover(url()), User { cover: url(), ..ann() }),
        ] {
            let mut user = ann();
            update.apply(&mut user);
            assert_eq!(user, expected);
        }
    }
}
