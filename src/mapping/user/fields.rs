//! Reads the fields of users in requests.

use chrono::DateTime;
use prost_types::Timestamp;

use super::UserView;
use crate::domain::id::UserId;
use crate::domain::policy::Policy;
use crate::domain::text::{Birthday, ExternalId, TextError, Username};
use crate::domain::user::{FieldUpdate, Gender, Profile, UserStatus};
use crate::domain::{Time, to_micros};
use crate::mapping::invalid::{Fields, ITEMS_MAX};
use crate::proto::server as pb;

/// The fields of a user that only an operator can update.
const OPERATORS_ONLY: [&str; 5] = ["username", "email", "email_isvalid", "date_joined", "status"];

impl Fields {
    /// Reads the view of a request's users.
    pub fn user_view(&mut self, value: i32) -> UserView {
        match self.known("user_view", value) {
            pb::UserView::Unspecified | pb::UserView::Full => UserView::Full,
            pb::UserView::Basic => UserView::Basic,
            pb::UserView::Id => UserView::Id,
        }
    }

    pub(super) fn profile(&mut self, user: Option<&pb::User>, policy: &Policy, now: Time) -> Profile {
        let Some(user) = user else {
            self.violation("user", "must be set");
            return Profile::default();
        };
        let pb::User {
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
        } = user;
        let is_named = username.is_empty() && !external_id.is_empty();
        Profile {
            id: self.optional_user_id("user.id", *id),
            username: if is_named { Username::default() } else { self.username("user.username", username, policy) },
            real_name: self.text("user.real_name", real_name),
            email: self.text("user.email", email),
            email_isvalid: *email_isvalid,
            date_joined: date_joined.as_ref().map(|joined| self.time("user.date_joined", joined)),
            bio: self.text("user.bio", bio),
            location: self.text("user.location", location),
            birthday: self.birthday("user.birthday", birthday, now),
            description: self.text("user.description", description),
            gender: read_gender(self.known("user.gender", *gender)),
            status: read_status(self.known("user.status", *status)),
            website: self.text("user.website", website),
            avatar: self.text("user.avatar", avatar),
            cover: self.text("user.cover", cover),
            external_id: (!external_id.is_empty()).then(|| self.external_id("user.external_id", external_id)).flatten(),
        }
    }

    /// Reads the new value of the field that a mask names.
    pub(super) fn update(
        &mut self,
        path: &str,
        user: &pb::User,
        acting: Option<UserId>,
        policy: &Policy,
        now: Time,
    ) -> Option<FieldUpdate> {
        let field = format!("user.{path}");
        Some(match path {
            _ if acting.is_some() && OPERATORS_ONLY.contains(&path) => {
                self.violation("update_mask", format!("must not name {path}, which only an operator may change"));
                return None;
            }
            "username" if user.username.is_empty() => FieldUpdate::Username(Username::default()),
            "username" => FieldUpdate::Username(self.username(&field, &user.username, policy)),
            "email" => FieldUpdate::Email(self.text(field, &user.email)),
            "email_isvalid" => FieldUpdate::EmailIsvalid(user.email_isvalid),
            "date_joined" => FieldUpdate::DateJoined(self.joined(&field, user.date_joined.as_ref())),
            "status" => FieldUpdate::Status(self.new_status(&field, user.status)),
            "real_name" => FieldUpdate::RealName(self.text(field, &user.real_name)),
            "bio" => FieldUpdate::Bio(self.text(field, &user.bio)),
            "location" => FieldUpdate::Location(self.text(field, &user.location)),
            "birthday" => FieldUpdate::Birthday(self.birthday(&field, &user.birthday, now)),
            "description" => FieldUpdate::Description(self.text(field, &user.description)),
            "gender" => FieldUpdate::Gender(read_gender(self.known(field, user.gender))),
            "website" => FieldUpdate::Website(self.text(field, &user.website)),
            "avatar" => FieldUpdate::Avatar(self.text(field, &user.avatar)),
            "cover" => FieldUpdate::Cover(self.text(field, &user.cover)),
            "id" => {
                self.violation("update_mask", "must not name id, which never changes");
                return None;
            }
            "external_id" => {
                self.violation("update_mask", "must not name external_id, which a creation or an import sets once");
                return None;
            }
            _ => {
                // The path can be any text: the message contains only what could be a name.
                let name: String = path.chars().filter(|c| !c.is_control()).take(64).collect();
                self.violation("update_mask", format!("must not name {name:?}, which is not a field of a user"));
                return None;
            }
        })
    }

    /// Reads a username by the rule that is configured.
    pub(super) fn username(&mut self, field: &str, value: &str, policy: &Policy) -> Username {
        policy.usernames.parse(value).unwrap_or_else(|error| {
            self.violation(field, error);
            Username::default()
        })
    }

    /// Reads an external id. `None` if it is invalid.
    pub(super) fn external_id(&mut self, field: impl Into<String>, value: &str) -> Option<ExternalId> {
        value.parse().map_err(|error: TextError| self.violation(field, error)).ok()
    }

    /// Reads external ids, of which a list has at most 1,000 with `others`.
    pub(super) fn external_ids(&mut self, field: &str, values: &[String], others: usize) -> Vec<ExternalId> {
        if !values.is_empty() && values.len() + others > ITEMS_MAX {
            self.violation(field, format!("must contain at most {ITEMS_MAX} external ids, less the number of ids"));
            return Vec::new();
        }
        let item = |(index, value): (usize, &String)| self.external_id(format!("{field}[{index}]"), value);
        values.iter().enumerate().filter_map(item).collect()
    }

    fn joined(&mut self, field: &str, value: Option<&Timestamp>) -> Time {
        if value.is_none() {
            self.violation(field, "must be set");
        }
        value.map(|joined| self.time(field, joined)).unwrap_or_default()
    }

    fn new_status(&mut self, field: &str, value: i32) -> UserStatus {
        let status = read_status(self.known(field, value));
        if status.is_none() && value == 0 {
            self.violation(field, "must be APPROVED, BLOCKED or UNREGISTERED");
        }
        status.unwrap_or_default()
    }

    pub(super) fn birthday(&mut self, field: &str, value: &str, now: Time) -> Birthday {
        Birthday::parse(value, now.date_naive()).unwrap_or_else(|error| {
            self.violation(field, error);
            Birthday::default()
        })
    }

    /// Reads a time in the years 1 to 9999, the range of a valid `Timestamp`.
    pub(in crate::mapping) fn time(&mut self, field: &str, value: &Timestamp) -> Time {
        const YEARS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
        let nanos = u32::try_from(value.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
        let time = nanos
            .filter(|_| YEARS.contains(&value.seconds))
            .and_then(|nanos| DateTime::from_timestamp(value.seconds, nanos));
        to_micros(time.unwrap_or_else(|| {
            self.violation(field, "must be a time from 0001-01-01T00:00:00Z to 9999-12-31T23:59:59.999999999Z");
            Time::default()
        }))
    }
}

fn read_gender(gender: pb::Gender) -> Gender {
    match gender {
        pb::Gender::Unspecified => Gender::Unspecified,
        pb::Gender::Male => Gender::Male,
        pb::Gender::Female => Gender::Female,
    }
}

fn read_status(status: pb::UserStatus) -> Option<UserStatus> {
    match status {
        pb::UserStatus::Unspecified => None,
        pb::UserStatus::Approved => Some(UserStatus::Approved),
        pb::UserStatus::Blocked => Some(UserStatus::Blocked),
        pb::UserStatus::Unregistered => Some(UserStatus::Unregistered),
    }
}
