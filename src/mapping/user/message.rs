//! Users to messages, and the responses to writes of users.

use bytes::Bytes;
use prost::{DecodeError, Message};

use super::UserView;
use crate::domain::epoch::Position;
use crate::domain::id::UserId;
use crate::domain::outcome::{Executed, ImportRefusal, ImportSummary, Outcome, RefusalReason};
use crate::domain::text::ExternalId;
use crate::domain::user::{Gender, User, UserStatus};
use crate::mapping::mutation::{MutationResponse, responses};
use crate::mapping::timestamp;
use crate::proto::server as pb;
use crate::store::CachedUser;

impl From<UserStatus> for pb::UserStatus {
    fn from(status: UserStatus) -> Self {
        match status {
            UserStatus::Approved => Self::Approved,
            UserStatus::Blocked => Self::Blocked,
            UserStatus::Unregistered => Self::Unregistered,
        }
    }
}

impl From<Gender> for pb::Gender {
    fn from(gender: Gender) -> Self {
        match gender {
            Gender::Unspecified => Self::Unspecified,
            Gender::Male => Self::Male,
            Gender::Female => Self::Female,
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
            external_id,
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
            gender: pb::Gender::from(*gender).into(),
            status: pb::UserStatus::from(*status).into(),
            website: website.as_str().to_owned(),
            avatar: avatar.as_str().to_owned(),
            cover: cover.as_str().to_owned(),
            external_id: text(external_id.as_ref()),
        }
    }
}

fn text(external_id: Option<&ExternalId>) -> String {
    external_id.map_or_else(String::new, |id| id.as_str().to_owned())
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

/// Returns the basic view of an encoded user.
///
/// # Errors
///
/// If the bytes are not a user.
pub fn basic_of(encoded: &[u8]) -> Result<Bytes, DecodeError> {
    let pb::User { id, username, real_name, avatar, status, external_id, .. } = pb::User::decode(encoded)?;
    Ok(pb::User { id, username, real_name, avatar, status, external_id, ..pb::User::default() }.encode_to_vec().into())
}

/// Encodes a user of whom nothing but the id is known, because they were deleted.
pub fn encode_id(id: UserId) -> Bytes {
    pb::User { id: id.get(), ..Default::default() }.encode_to_vec().into()
}

/// Returns a cached user encoded for a response.
///
/// Full users are encoded only once. The other views are small, and encoded each time.
pub fn encoded(user: &CachedUser, view: UserView) -> Bytes {
    let (id, external_id) = (user.id.get(), text(user.external_id.as_ref()));
    let part = match view {
        UserView::Full => return user.encoded(encode),
        UserView::Basic => pb::User {
            id,
            username: user.username.as_str().to_owned(),
            real_name: user.real_name.as_str().to_owned(),
            avatar: user.avatar.as_str().to_owned(),
            status: pb::UserStatus::from(user.status).into(),
            external_id,
            ..pb::User::default()
        },
        UserView::Id => pb::User { id, external_id, ..pb::User::default() },
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
        Some(import_response(summary, &executed.position()))
    }
}

/// Creates the response to an import.
pub fn import_response(summary: &ImportSummary, at: &Position) -> pb::ImportUsersResponse {
    pb::ImportUsersResponse {
        created: summary.created,
        updated: summary.updated,
        unchanged: summary.unchanged,
        refused: summary.refused,
        refusals: summary.refusals.iter().map(pb::ImportRefusal::from).collect(),
        revision: at.sequence.get(),
        epoch: at.epoch.to_string(),
    }
}

impl From<&ImportRefusal> for pb::ImportRefusal {
    fn from(refusal: &ImportRefusal) -> Self {
        let reason = match refusal.reason {
            RefusalReason::InvalidFields => pb::ErrorReason::InvalidFields,
            RefusalReason::UsernameTaken => pb::ErrorReason::UsernameTaken,
            RefusalReason::UserExists => pb::ErrorReason::UserExists,
        };
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
mod tests {
    use super::*;
    use crate::domain::Time;
    use crate::domain::id::Sequence;
    use crate::domain::user::Profile;

    #[test]
    fn a_user_is_encoded_as_a_message() {
        let user = Profile { bio: "Hello".parse().expect("valid"), ..Profile::default() }.into_user(
            UserId::new(7),
            None,
            Time::UNIX_EPOCH,
        );
        assert_eq!(pb::User::decode(encode(&user)), Ok(pb::User::from(&user)));
        assert_eq!(encoded(&CachedUser::from(user.clone()), UserView::Full), encode(&user));
    }

    #[test]
    fn the_response_to_an_import_has_all_values() {
        let refusal = |position, reason, violations| ImportRefusal { position, reason, violations };
        let violation = ("user.email".to_owned(), "must be an e-mail address".to_owned());
        let refusals = vec![
            refusal(1, RefusalReason::UsernameTaken, vec![]),
            refusal(4, RefusalReason::InvalidFields, vec![violation]),
            refusal(5, RefusalReason::UserExists, vec![]),
        ];
        let summary = ImportSummary { created: 1, updated: 2, unchanged: 3, refused: 4, refusals };
        let field_violations = vec![pb::FieldViolation {
            field: "user.email".to_owned(),
            description: "must be an e-mail address".to_owned(),
        }];
        let [taken, invalid, exists] =
            [pb::ErrorReason::UsernameTaken, pb::ErrorReason::InvalidFields, pb::ErrorReason::UserExists]
                .map(i32::from);
        let expected = pb::ImportUsersResponse {
            created: 1,
            updated: 2,
            unchanged: 3,
            refused: 4,
            refusals: vec![
                pb::ImportRefusal { position: 1, reason: taken, field_violations: vec![] },
                pb::ImportRefusal { position: 4, reason: invalid, field_violations },
                pb::ImportRefusal { position: 5, reason: exists, field_violations: vec![] },
            ],
            revision: 9,
            epoch: "a".to_owned(),
        };
        assert_eq!(import_response(&summary, &Position { epoch: "a".into(), sequence: Sequence::new(9) }), expected);
        let outcome = Outcome::ImportFinished(summary);
        let revision = Sequence::new(9);
        assert_eq!(pb::ImportUsersResponse::of(&Executed { revision, epoch: "a".into(), outcome }), Some(expected));
        let other = Executed { revision, epoch: "a".into(), outcome: Outcome::UserDeleted };
        assert_eq!(pb::ImportUsersResponse::of(&other), None);
    }
}
