//! Users: requests to commands, users to messages.

use std::collections::HashSet;

use bytes::Bytes;
use chrono::DateTime;
use prost::{DecodeError, Message};
use prost_types::Timestamp;
use uuid::Uuid;

use super::invalid::{Fields, Invalid};
use super::mutation::{MutationResponse, responses};
use super::page::Page;
use super::timestamp;
use crate::domain::Time;
use crate::domain::caller::Caller;
use crate::domain::command::Command;
use crate::domain::id::{Sequence, UserId};
use crate::domain::outcome::{Executed, ImportRefusal, ImportSummary, Outcome};
use crate::domain::policy::Policy;
use crate::domain::query::UserKey;
use crate::domain::text::Birthday;
use crate::domain::user::{FieldUpdate, Gender, Profile, User, UserStatus, UserUpdate};
use crate::domain::{text::Username, to_micros};
use crate::proto::server as pb;
use crate::store::CachedUser;

/// How much of a user the response to a read contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserView {
    /// Every field.
    Full,
    /// The fields that a list of users shows.
    Basic,
    /// The id alone.
    Id,
}

/// The fields of a user that only an operator can update.
const OPERATORS_ONLY: [&str; 5] = ["username", "email", "email_isvalid", "date_joined", "status"];

/// Parses the creation of a user.
pub fn create(request: &pb::CreateUserRequest, policy: &Policy, now: Time) -> Result<(Command, Option<Uuid>), Invalid> {
    let mut fields = Fields::default();
    let profile = fields.profile(request.user.as_ref(), policy, now);
    let request_id = fields.request_id(&request.request_id);
    fields.finish((Command::CreateUser(Box::new(profile)), request_id))
}

/// Parses a row of an import.
pub fn import(request: &pb::ImportUsersRequest, policy: &Policy, now: Time) -> Result<(UserId, Profile), Invalid> {
    let mut fields = Fields::default();
    let profile = fields.profile(request.user.as_ref(), policy, now);
    if request.user.as_ref().is_some_and(|user| user.id == 0) {
        fields.user_id("user.id", 0);
    }
    let id = profile.id.unwrap_or_default();
    fields.finish((id, profile))
}

/// Parses the update of a user.
pub fn update(
    request: &pb::UpdateUserRequest,
    caller: &Caller,
    policy: &Policy,
    now: Time,
) -> Result<(Command, Option<Uuid>), Invalid> {
    let mut fields = Fields::default();
    let empty = pb::User::default();
    let user = request.user.as_ref().unwrap_or(&empty);
    let id = fields.user_id("user.id", user.id);
    let acting = caller.acting(fields.optional_user_id("user_id", request.user_id));
    let paths = request.update_mask.as_ref().map(|mask| mask.paths.as_slice()).unwrap_or_default();
    if paths.is_empty() {
        fields.violation("update_mask", "must name at least one field to update");
    }
    // Each once: a request has room for 50,000 paths, and each would copy its field.
    let mut read = HashSet::new();
    let paths = paths.iter().filter(|path| read.insert(path.as_str()));
    let updates = paths.filter_map(|path| fields.update(path, user, acting, policy, now)).collect();
    let expected = fields.revision("expected_revision", request.expected_revision);
    let expected = (expected != Sequence::default()).then_some(expected);
    let request_id = fields.request_id(&request.request_id);
    fields.finish((Command::UpdateUser(UserUpdate { id, acting, fields: updates, expected }), request_id))
}

/// Parses the deletion of a user.
pub fn delete(request: &pb::DeleteUserRequest) -> Result<(Command, Option<Uuid>), Invalid> {
    let mut fields = Fields::default();
    let id = fields.user_id("id", request.id);
    let request_id = fields.request_id(&request.request_id);
    fields.finish((Command::DeleteUser(id), request_id))
}

/// Parses a query for a user: its id or username, the view and the minimum revision.
pub fn key(request: &pb::GetUserRequest, policy: &Policy) -> Result<(UserKey, UserView, Sequence), Invalid> {
    let mut fields = Fields::default();
    let key = match &request.key {
        Some(pb::get_user_request::Key::Id(id)) => UserKey::Id(fields.user_id("id", *id)),
        Some(pb::get_user_request::Key::Username(name)) => {
            UserKey::Name(fields.username("username", name, policy).key())
        }
        None => {
            fields.violation("key", "must have an id or a username");
            UserKey::Id(UserId::default())
        }
    };
    let view = fields.user_view(request.user_view);
    let min_revision = fields.revision("min_revision", request.min_revision);
    fields.finish((key, view, min_revision))
}

/// Parses a query for many users: their ids, the view and the minimum revision.
pub fn ids(request: &pb::BatchGetUsersRequest) -> Result<(Vec<UserId>, UserView, Sequence), Invalid> {
    let mut fields = Fields::default();
    let ids = fields.user_ids("ids", &request.ids);
    let view = fields.user_view(request.user_view);
    let min_revision = fields.revision("min_revision", request.min_revision);
    fields.finish((ids, view, min_revision))
}

/// Parses a list of users: the view and the page.
pub fn page(request: &pb::ListUsersRequest, key: &[u8]) -> Result<(UserView, Page), Invalid> {
    let mut fields = Fields::default();
    let view = fields.user_view(request.user_view);
    let page = fields.page(request, key);
    fields.finish((view, page))
}

impl Fields {
    /// Reads the view of a request's users.
    pub fn user_view(&mut self, value: i32) -> UserView {
        match self.known("user_view", value) {
            pb::UserView::Unspecified | pb::UserView::Full => UserView::Full,
            pb::UserView::Basic => UserView::Basic,
            pb::UserView::Id => UserView::Id,
        }
    }

    fn profile(&mut self, user: Option<&pb::User>, policy: &Policy, now: Time) -> Profile {
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
        } = user;
        Profile {
            id: self.optional_user_id("user.id", *id),
            username: self.username("user.username", username, policy),
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
        }
    }

    /// Reads the new value of the field that a mask names.
    fn update(
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
            _ => {
                // The path can be any text: the message contains only what could be a name.
                let name: String = path.chars().filter(|c| !c.is_control()).take(64).collect();
                self.violation("update_mask", format!("must not name {name:?}, which is not a field of a user"));
                return None;
            }
        })
    }

    /// Reads a username by the rule that is configured.
    fn username(&mut self, field: &str, value: &str, policy: &Policy) -> Username {
        policy.usernames.parse(value).unwrap_or_else(|error| {
            self.violation(field, error);
            Username::default()
        })
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

    fn birthday(&mut self, field: &str, value: &str, now: Time) -> Birthday {
        Birthday::parse(value, now.date_naive()).unwrap_or_else(|error| {
            self.violation(field, error);
            Birthday::default()
        })
    }

    /// Reads a time in the years 1 to 9999, the range of a valid `Timestamp`.
    fn time(&mut self, field: &str, value: &Timestamp) -> Time {
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

impl From<UserStatus> for pb::UserStatus {
    fn from(status: UserStatus) -> Self {
        match status {
            UserStatus::Approved => Self::Approved,
            UserStatus::Blocked => Self::Blocked,
            UserStatus::Unregistered => Self::Unregistered,
        }
    }
}

impl From<&User> for pb::User {
    fn from(user: &User) -> Self {
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
            // Not part of the profile.
            changed: _,
        } = user;
        Self {
            id: id.get(),
            username: username.as_str().to_owned(),
            real_name: real_name.as_str().to_owned(),
            email: email.as_str().to_owned(),
            email_isvalid: *email_isvalid,
            date_joined: Some(timestamp(*date_joined)),
            bio: bio.as_str().to_owned(),
            location: location.as_str().to_owned(),
            birthday: birthday.as_str().to_owned(),
            description: description.as_str().to_owned(),
            gender: match gender {
                Gender::Unspecified => pb::Gender::Unspecified,
                Gender::Male => pb::Gender::Male,
                Gender::Female => pb::Gender::Female,
            }
            .into(),
            status: pb::UserStatus::from(*status).into(),
            website: website.as_str().to_owned(),
            avatar: avatar.as_str().to_owned(),
            cover: cover.as_str().to_owned(),
        }
    }
}

/// Encodes a user for a response.
pub fn encode(user: &User) -> Bytes {
    pb::User::from(user).encode_to_vec().into()
}

/// Returns the id of an encoded user.
///
/// # Errors
///
/// If the bytes are not a user.
pub fn id_of(encoded: &[u8]) -> Result<UserId, DecodeError> {
    pb::User::decode(encoded).map(|user| UserId::new(user.id))
}

/// Encodes a user of whom only the id is shown.
pub fn encode_id(id: UserId) -> Bytes {
    pb::User { id: id.get(), ..Default::default() }.encode_to_vec().into()
}

/// Returns a cached user encoded for a response.
///
/// Full users are encoded only once. The other views are small, and encoded each time.
pub fn encoded(user: &CachedUser, view: UserView) -> Bytes {
    let id = user.id.get();
    let part = match view {
        UserView::Full => return user.encoded(encode),
        UserView::Basic => pb::User {
            id,
            username: user.username.as_str().to_owned(),
            real_name: user.real_name.as_str().to_owned(),
            avatar: user.avatar.as_str().to_owned(),
            status: pb::UserStatus::from(user.status).into(),
            ..pb::User::default()
        },
        UserView::Id => pb::User { id, ..pb::User::default() },
    };
    part.encode_to_vec().into()
}

responses! {
    CreateUserResponse: Outcome::UserCreated(user) => { user: encode(user) },
        users: |it| vec![&mut it.user]
    UpdateUserResponse: Outcome::UserUpdated(user) => { user: encode(user) },
        users: |it| vec![&mut it.user]
    DeleteUserResponse: Outcome::UserDeleted => {}
}

impl MutationResponse for pb::ImportUsersResponse {
    fn of(executed: &Executed) -> Option<Self> {
        let Outcome::ImportFinished(summary) = &executed.outcome else { return None };
        Some(import_response(summary, executed.revision))
    }
}

/// Creates the response to an import.
pub fn import_response(summary: &ImportSummary, revision: Sequence) -> pb::ImportUsersResponse {
    pb::ImportUsersResponse {
        created: summary.created,
        updated: summary.updated,
        unchanged: summary.unchanged,
        refused: summary.refused,
        refusals: summary.refusals.iter().map(pb::ImportRefusal::from).collect(),
        revision: revision.get(),
    }
}

impl From<&ImportRefusal> for pb::ImportRefusal {
    fn from(refusal: &ImportRefusal) -> Self {
        let reason =
            if refusal.username_taken { pb::ErrorReason::UsernameTaken } else { pb::ErrorReason::InvalidFields };
        let violation = |(field, description): &(String, String)| pb::FieldViolation {
            field: field.clone(),
            description: description.clone(),
        };
        Self {
            position: refusal.position,
            reason: reason.into(),
            field_violations: refusal.violations.iter().map(violation).collect(),
        }
    }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "7b1d3c0e-4a52-4c6f-9b0a-2f8d1e6c5a43";
    const ANN: UserId = UserId::new(7);

    fn now() -> Time {
        DateTime::from_timestamp(1_780_000_000, 0).expect("a time")
    }

    fn ann() -> pb::User {
        pb::User { id: 7, username: "Ann".to_owned(), ..Default::default() }
    }

    fn fields(invalid: &Invalid) -> Vec<&str> {
        invalid.violations.iter().map(|violation| violation.field.as_str()).collect()
    }

    fn updates(user: pb::User, paths: &[&str]) -> Result<Vec<FieldUpdate>, Invalid> {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let update_mask = Some(prost_types::FieldMask { paths });
        let request_id = ID.to_owned();
        let request =
            pb::UpdateUserRequest { user: Some(user), update_mask, request_id, user_id: 7, expected_revision: 3 };
        let (command, request_id) = update(&request, &Caller::Operator, &Policy::default(), now())?;
        assert_eq!(request_id, Uuid::parse_str(ID).ok());
        let Command::UpdateUser(UserUpdate { id, acting, fields, expected }) = command else { panic!("{command:?}") };
        assert_eq!((id, acting, expected), (ANN, Some(ANN), Some(Sequence::new(3))));
        Ok(fields)
    }

    #[test]
    fn an_update_has_the_fields_of_its_mask() {
        let url = |name: &str| format!("https://example.com/{name}");
        let user = pb::User {
            real_name: "Ann".to_owned(),
            bio: "Hello".to_owned(),
            location: "Rome".to_owned(),
            birthday: "2000-01-01".to_owned(),
            description: "Reads".to_owned(),
            gender: pb::Gender::Female.into(),
            website: url("website"),
            avatar: url("avatar"),
            cover: url("cover"),
            ..ann()
        };
        let birthday = Birthday::parse("2000-01-01", now().date_naive()).expect("a date");
        for (path, expected) in [
            ("real_name", FieldUpdate::RealName("Ann".parse().expect("valid"))),
            ("bio", FieldUpdate::Bio("Hello".parse().expect("valid"))),
            ("location", FieldUpdate::Location("Rome".parse().expect("valid"))),
            ("birthday", FieldUpdate::Birthday(birthday)),
            ("description", FieldUpdate::Description("Reads".parse().expect("valid"))),
            ("gender", FieldUpdate::Gender(Gender::Female)),
            ("website", FieldUpdate::Website(url("website").parse().expect("valid"))),
            ("avatar", FieldUpdate::Avatar(url("avatar").parse().expect("valid"))),
            ("cover", FieldUpdate::Cover(url("cover").parse().expect("valid"))),
        ] {
            assert_eq!(updates(user.clone(), &[path]), Ok(vec![expected]));
        }
        assert_eq!(updates(user.clone(), &["bio", "cover"]).map(|updates| updates.len()), Ok(2));
        assert_eq!(updates(user, &["bio", "cover", "bio", "bio"]).map(|updates| updates.len()), Ok(2));
    }

    #[test]
    fn a_mask_names_fields_that_can_be_updated() {
        assert_eq!(fields(&updates(ann(), &[]).expect_err("invalid")), ["update_mask"]);
        for (path, description) in [
            ("status", "must not name status, which only an operator may change"),
            ("nothing", "must not name \"nothing\", which is not a field of a user"),
            ("a\0b\n", "must not name \"ab\", which is not a field of a user"),
        ] {
            let invalid = updates(ann(), &["bio", path]).expect_err("invalid");
            assert_eq!(fields(&invalid), ["update_mask"]);
            assert_eq!(invalid.violations[0].description, description);
        }
        let long = updates(ann(), &[&"x".repeat(1_000)]).expect_err("invalid");
        assert!(long.violations[0].description.len() < 150, "{long:?}");
        let user = pb::User { website: "example.com".to_owned(), ..ann() };
        assert_eq!(fields(&updates(user, &["website"]).expect_err("invalid")), ["user.website"]);
    }

    #[test]
    fn an_imported_user_has_an_id() {
        let request = |user| pb::ImportUsersRequest { user, request_id: String::new() };
        let import = |user| super::import(&request(user), &Policy::default(), now());
        let (id, profile) = import(Some(ann())).expect("valid");
        assert_eq!((id, profile.username.as_str()), (ANN, "Ann"));
        let invalid = import(Some(pb::User { id: 0, ..ann() })).expect_err("invalid");
        assert_eq!(fields(&invalid), ["user.id"]);
        assert_eq!(fields(&import(None).expect_err("invalid")), ["user"]);
    }

    #[test]
    fn requests_are_parsed_with_all_their_fields() {
        use pb::get_user_request::Key;
        let id = Uuid::parse_str(ID).ok();
        let request = pb::CreateUserRequest { user: Some(ann()), request_id: ID.to_owned() };
        assert_eq!(create(&request, &Policy::default(), now()).map(|(_, id)| id), Ok(id));
        let request = pb::DeleteUserRequest { id: 7, request_id: ID.to_owned() };
        assert_eq!(delete(&request), Ok((Command::DeleteUser(ANN), id)));
        let revision = Sequence::new(9);
        let get =
            |user| key(&pb::GetUserRequest { key: user, min_revision: 9, ..Default::default() }, &Policy::default());
        assert_eq!(get(Some(Key::Id(7))), Ok((UserKey::Id(ANN), UserView::Full, revision)));
        assert_eq!(
            get(Some(Key::Username("Ann".to_owned()))),
            Ok((UserKey::Name("ann".to_owned()), UserView::Full, revision))
        );
        assert_eq!(get(None).map_err(|invalid| invalid.violations[0].field.clone()), Err("key".to_owned()));
        let request = pb::BatchGetUsersRequest { ids: vec![7, 1], min_revision: 9, ..Default::default() };
        assert_eq!(ids(&request), Ok((vec![ANN, UserId::new(1)], UserView::Full, revision)));
        let request = pb::ListUsersRequest { page_size: 3, ..Default::default() };
        assert_eq!(page(&request, b"key").map(|(_, page)| page.size), Ok(3));
    }

    #[test]
    fn a_user_is_encoded_as_a_message() {
        let user = Profile { bio: "Hello".parse().expect("valid"), ..Profile::default() }.into_user(ANN, None, now());
        assert_eq!(pb::User::decode(encode(&user)), Ok(pb::User::from(&user)));
        assert_eq!(encoded(&CachedUser::from(user.clone()), UserView::Full), encode(&user));
    }

    #[test]
    fn the_response_to_an_import_has_all_values() {
        let refusal = |position, username_taken, violations| ImportRefusal { position, username_taken, violations };
        let violation = ("user.email".to_owned(), "must be an e-mail address".to_owned());
        let refusals = vec![refusal(1, true, vec![]), refusal(4, false, vec![violation])];
        let summary = ImportSummary { created: 1, updated: 2, unchanged: 3, refused: 4, refusals };
        let field_violations = vec![pb::FieldViolation {
            field: "user.email".to_owned(),
            description: "must be an e-mail address".to_owned(),
        }];
        let (taken, invalid) = (pb::ErrorReason::UsernameTaken.into(), pb::ErrorReason::InvalidFields.into());
        let expected = pb::ImportUsersResponse {
            created: 1,
            updated: 2,
            unchanged: 3,
            refused: 4,
            refusals: vec![
                pb::ImportRefusal { position: 1, reason: taken, field_violations: vec![] },
                pb::ImportRefusal { position: 4, reason: invalid, field_violations },
            ],
            revision: 9,
        };
        assert_eq!(import_response(&summary, Sequence::new(9)), expected);
        let outcome = Outcome::ImportFinished(summary);
        let revision = Sequence::new(9);
        assert_eq!(pb::ImportUsersResponse::of(&Executed { revision, outcome }), Some(expected));
        let other = Executed { revision, outcome: Outcome::UserDeleted };
        assert_eq!(pb::ImportUsersResponse::of(&other), None);
    }
}
