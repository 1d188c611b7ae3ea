//! Users: requests to commands, users to messages.

mod fields;
mod message;
mod refusal;

use std::collections::HashSet;

use uuid::Uuid;

pub use self::message::{basic_of, encode, encode_id, encoded, id_of, import_response};
pub use self::refusal::{EXTERNAL_ID_FIXED, NO_ID_LEFT, USERNAME_NEEDED, refusal};
use super::invalid::{Fields, Invalid};
use super::page::Page;
use crate::domain::Time;
use crate::domain::caller::Caller;
use crate::domain::command::Command;
use crate::domain::epoch::Position;
use crate::domain::id::{Sequence, UserId};
use crate::domain::policy::Policy;
use crate::domain::query::UserKey;
use crate::domain::text::ExternalId;
use crate::domain::user::{Profile, UserUpdate};
use crate::proto::server as pb;

/// How much of a user the response to a read contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserView {
    /// Every field.
    Full,
    /// The fields that a list of users shows.
    Basic,
    /// The id and the external id alone.
    Id,
}

/// Parses the creation of a user.
pub fn create(request: &pb::CreateUserRequest, policy: &Policy, now: Time) -> Result<(Command, Option<Uuid>), Invalid> {
    let mut fields = Fields::default();
    let profile = fields.profile(request.user.as_ref(), policy, now);
    let request_id = fields.request_id(&request.request_id);
    fields.finish((Command::CreateUser(Box::new(profile)), request_id))
}

/// Parses a row of an import.
pub fn import(request: &pb::ImportUsersRequest, policy: &Policy, now: Time) -> Result<Profile, Invalid> {
    let mut fields = Fields::default();
    let profile = fields.profile(request.user.as_ref(), policy, now);
    if request.user.as_ref().is_some_and(|user| user.id == 0 && user.external_id.is_empty()) {
        fields.violation("user.id", "must be set unless external_id is");
    }
    fields.finish(profile)
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

/// Parses a query for a user: its id, username or external id, the view and the minimum revision.
pub fn key(request: &pb::GetUserRequest, policy: &Policy) -> Result<(UserKey, UserView, Position), Invalid> {
    let mut fields = Fields::default();
    let key = match &request.key {
        Some(pb::get_user_request::Key::Id(id)) => UserKey::Id(fields.user_id("id", *id)),
        Some(pb::get_user_request::Key::Username(name)) => {
            UserKey::Name(fields.username("username", name, policy).key().unwrap_or_default())
        }
        Some(pb::get_user_request::Key::ExternalId(id)) => {
            fields.external_id("external_id", id).map_or(UserKey::Id(UserId::default()), UserKey::ExternalId)
        }
        None => {
            fields.violation("key", "must have an id, a username or an external id");
            UserKey::Id(UserId::default())
        }
    };
    let view = fields.user_view(request.user_view);
    let min_revision = fields.min_revision(request.min_revision, &request.min_revision_epoch);
    fields.finish((key, view, min_revision))
}

/// The users that a query names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Some by their ids.
    pub ids: Vec<UserId>,
    /// Some by their external ids.
    pub external_ids: Vec<ExternalId>,
}

/// Parses a query for many users: whom it names, each once, the view and the minimum revision.
pub fn named(request: &pb::BatchGetUsersRequest) -> Result<(Named, UserView, Position), Invalid> {
    let mut fields = Fields::default();
    let pb::BatchGetUsersRequest { ids, external_ids, min_revision, min_revision_epoch, user_view } = request;
    // The error of a request that names no user is about `ids`.
    let ids = if external_ids.is_empty() || !ids.is_empty() { fields.user_ids("ids", ids) } else { Vec::new() };
    let external_ids = fields.external_ids("external_ids", external_ids, request.ids.len());
    let view = fields.user_view(*user_view);
    let min_revision = fields.min_revision(*min_revision, min_revision_epoch);
    fields.finish((Named { ids, external_ids }, view, min_revision))
}

/// Parses a list of users: the view and the page.
pub fn page(request: &pb::ListUsersRequest, key: &[u8]) -> Result<(UserView, Page), Invalid> {
    let mut fields = Fields::default();
    let view = fields.user_view(request.user_view);
    let page = fields.page(request, key);
    fields.finish((view, page))
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::domain::text::{Birthday, Username};
    use crate::domain::user::{FieldUpdate, Gender};

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
        updates_of(Some(ANN), user, paths)
    }

    fn updates_of(acting: Option<UserId>, user: pb::User, paths: &[&str]) -> Result<Vec<FieldUpdate>, Invalid> {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let update_mask = Some(prost_types::FieldMask { paths });
        let (request_id, user_id) = (ID.to_owned(), acting.map_or(0, UserId::get));
        let request =
            pb::UpdateUserRequest { user: Some(user), update_mask, request_id, user_id, expected_revision: 3 };
        let (command, request_id) = update(&request, &Caller::Operator, &Policy::default(), now())?;
        assert_eq!(request_id, Uuid::parse_str(ID).ok());
        let Command::UpdateUser(UserUpdate { id, acting: who, fields, expected }) = command else {
            panic!("{command:?}")
        };
        assert_eq!((id, who, expected), (ANN, acting, Some(Sequence::new(3))));
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
            ("external_id", "must not name external_id, which a creation or an import sets once"),
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
    fn a_user_without_a_username_has_an_external_id() {
        let read = |username: &str, external_id: &str| {
            let (username, external_id) = (username.to_owned(), external_id.to_owned());
            let user = Some(pb::User { username, external_id, ..ann() });
            let request = pb::CreateUserRequest { user, request_id: String::new() };
            let (command, _) = create(&request, &Policy::default(), now())?;
            let Command::CreateUser(profile) = command else { panic!("{command:?}") };
            Ok(profile)
        };
        for (username, external_id, invalid) in [
            ("ann", "a-1", vec![]),
            ("ann", "", vec![]),
            ("", "a-1", vec![]),
            ("", "", vec!["user.username"]),
            ("", "a ", vec!["user.external_id"]),
            ("a b", "a-1", vec!["user.username"]),
            ("a b", "\n", vec!["user.username", "user.external_id"]),
        ] {
            match read(username, external_id) {
                Ok(profile) => {
                    let stored = profile.external_id.as_ref().map(|id| id.as_str());
                    assert_eq!((profile.username.as_str(), stored.unwrap_or_default()), (username, external_id));
                    assert_eq!(stored.is_none(), external_id.is_empty());
                    assert!(invalid.is_empty(), "{username:?} {external_id:?}");
                }
                Err(error) => assert_eq!(fields(&error), invalid, "{username:?} {external_id:?}"),
            }
        }
        // An update may clear it, as far as the request shows.
        let cleared = updates_of(None, pb::User { username: String::new(), ..ann() }, &["username"]);
        assert_eq!(cleared, Ok(vec![FieldUpdate::Username(Username::default())]));
    }

    #[test]
    fn a_query_names_at_most_a_thousand_users_in_both_ways_together() {
        let ask = |ids: usize, external_ids: usize| {
            let id = |number: usize| i64::try_from(number).expect("few") + 1;
            let ids = (0..ids).map(id).collect();
            let external_ids = (0..external_ids).map(|number| format!("x-{number}")).collect();
            named(&pb::BatchGetUsersRequest { ids, external_ids, ..Default::default() })
                .map(|(named, ..)| (named.ids.len(), named.external_ids.len()))
                .map_err(|invalid| fields(&invalid).into_iter().map(str::to_owned).collect::<Vec<_>>())
        };
        for (ids, external_ids) in [(1, 0), (0, 1), (1_000, 0), (0, 1_000), (500, 500)] {
            assert_eq!(ask(ids, external_ids), Ok((ids, external_ids)));
        }
        for (ids, external_ids, field) in [
            (0, 0, "ids"),
            (1_001, 0, "ids"),
            (0, 1_001, "external_ids"),
            (1, 1_000, "external_ids"),
            (1_000, 1, "external_ids"),
        ] {
            assert_eq!(ask(ids, external_ids), Err(vec![field.to_owned()]), "{ids} and {external_ids}");
        }
        let external_ids = ["a", "", "b "].map(str::to_owned).into();
        let request = pb::BatchGetUsersRequest { external_ids, ..Default::default() };
        assert_eq!(fields(&named(&request).expect_err("invalid")), ["external_ids[1]", "external_ids[2]"]);
    }

    #[test]
    fn an_imported_user_has_an_id_or_an_external_id() {
        let request = |user| pb::ImportUsersRequest { user, request_id: String::new() };
        let import = |user| super::import(&request(user), &Policy::default(), now());
        let profile = import(Some(ann())).expect("valid");
        assert_eq!((profile.id, profile.username.as_str()), (Some(ANN), "Ann"));
        let invalid = import(Some(pb::User { id: 0, ..ann() })).expect_err("invalid");
        assert_eq!(fields(&invalid), ["user.id"]);
        let external_id = "a-1".to_owned();
        let profile = import(Some(pb::User { id: 0, external_id, ..ann() })).expect("valid");
        assert_eq!((profile.id, profile.external_id), (None, "a-1".parse().ok()));
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
        let revision = Position::from(Sequence::new(9));
        let get =
            |user| key(&pb::GetUserRequest { key: user, min_revision: 9, ..Default::default() }, &Policy::default());
        assert_eq!(get(Some(Key::Id(7))), Ok((UserKey::Id(ANN), UserView::Full, revision.clone())));
        assert_eq!(
            get(Some(Key::Username("Ann".to_owned()))),
            Ok((UserKey::Name("ann".to_owned()), UserView::Full, revision.clone()))
        );
        assert_eq!(
            get(Some(Key::ExternalId("a-1".to_owned()))),
            Ok((UserKey::ExternalId("a-1".parse().expect("valid")), UserView::Full, revision.clone()))
        );
        assert_eq!(get(None).map_err(|invalid| invalid.violations[0].field.clone()), Err("key".to_owned()));
        let request = pb::BatchGetUsersRequest { ids: vec![7, 1], min_revision: 9, ..Default::default() };
        let asked = Named { ids: vec![ANN, UserId::new(1)], external_ids: vec![] };
        assert_eq!(named(&request), Ok((asked, UserView::Full, revision.clone())));
        let request = pb::BatchGetUsersRequest { external_ids: vec!["a-1".to_owned()], ..Default::default() };
        let asked = Named { ids: vec![], external_ids: vec!["a-1".parse().expect("valid")] };
        assert_eq!(named(&request).map(|(asked, ..)| asked), Ok(asked));
        let request = pb::ListUsersRequest { page_size: 3, ..Default::default() };
        assert_eq!(page(&request, b"key").map(|(_, page)| page.size), Ok(3));
    }
}
