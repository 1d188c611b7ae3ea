//! Stored users and their counts.

use std::sync::Arc;

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sqlite::Sqlite;

use crate::domain::command::Member;
use crate::domain::counts::{Counts, SendWindow};
use crate::domain::id::{Sequence, UserId};
use crate::domain::text::{Birthday, Email, ExternalId, Line, Prose, Url, Username};
use crate::domain::user::{Gender, User, UserStatus};
use crate::store::StoreError;
use crate::store::schema::{Stamp, user_counts, users};

#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = users, check_for_backend(Pg, Sqlite))]
pub(in crate::store) struct UserRow {
    pub(in crate::store) id: i64,
    pub(in crate::store) position: i64,
    pub(in crate::store) username: String,
    #[expect(dead_code, reason = "follows from the username and the id")]
    username_key: String,
    pub(in crate::store) real_name: String,
    pub(in crate::store) email: String,
    pub(in crate::store) email_isvalid: bool,
    pub(in crate::store) date_joined: Stamp,
    pub(in crate::store) bio: String,
    pub(in crate::store) location: String,
    pub(in crate::store) birthday: String,
    pub(in crate::store) description: String,
    pub(in crate::store) gender: String,
    pub(in crate::store) status: String,
    pub(in crate::store) website: String,
    pub(in crate::store) avatar: String,
    pub(in crate::store) cover: String,
    pub(in crate::store) changed: i64,
    pub(in crate::store) external_id: Option<String>,
}

/// Converts a user, and returns it with its position.
pub(in crate::store) fn positioned(row: UserRow) -> Result<(User, Sequence), StoreError> {
    let position = Sequence::new(row.position);
    Ok((row.try_into()?, position))
}

impl TryFrom<UserRow> for User {
    type Error = StoreError;

    fn try_from(row: UserRow) -> Result<Self, StoreError> {
        let UserRow {
            id,
            position: _,
            username,
            username_key: _,
            real_name,
            email,
            email_isvalid,
            date_joined: Stamp(date_joined),
            bio,
            location,
            birthday,
            description,
            gender,
            status,
            website,
            avatar,
            cover,
            changed,
            external_id,
        } = row;
        let corrupt = |column| StoreError::corrupt(column, format_args!("user {id}"));
        Ok(Self {
            id: UserId::new(id),
            username: Username::stored(username),
            real_name: Line::stored(real_name),
            email: Email::stored(email),
            email_isvalid,
            date_joined,
            bio: Prose::stored(bio),
            location: Line::stored(location),
            birthday: Birthday::stored(birthday),
            description: Line::stored(description),
            gender: read_gender(&gender).ok_or_else(|| corrupt("users.gender"))?,
            status: read_user_status(&status).ok_or_else(|| corrupt("users.status"))?,
            website: Url::stored(website),
            avatar: Url::stored(avatar),
            cover: Url::stored(cover),
            external_id: external_id.map(ExternalId::stored),
            changed: Sequence::new(changed),
        })
    }
}

#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = user_counts, check_for_backend(Pg, Sqlite))]
pub(in crate::store) struct CountsRow {
    pub(in crate::store) user_id: i64,
    pub(in crate::store) requests_sent: i64,
    pub(in crate::store) requests_received: i64,
    pub(in crate::store) requests_unviewed: i64,
    pub(in crate::store) connections: i64,
    pub(in crate::store) sends: i64,
    pub(in crate::store) sends_since: Option<Stamp>,
    pub(in crate::store) last_visible: i64,
}

/// Converts a user with their counts.
pub(in crate::store) fn member((user, counts): (UserRow, CountsRow)) -> Result<(UserId, Member), StoreError> {
    Ok((UserId::new(counts.user_id), counts.of(Arc::new(user.try_into()?))))
}

impl CountsRow {
    pub(in crate::store) fn counts(&self) -> Counts {
        Counts {
            requests_sent: self.requests_sent,
            requests_received: self.requests_received,
            requests_unviewed: self.requests_unviewed,
            connections: self.connections,
        }
    }

    /// Adds the user, whose row it is.
    pub(in crate::store) fn of(&self, user: Arc<User>) -> Member {
        let Self {
            user_id: _,
            // In the counts.
            requests_sent: _,
            requests_received: _,
            requests_unviewed: _,
            connections: _,
            sends,
            sends_since,
            last_visible,
        } = *self;
        let sends = SendWindow { since: sends_since.map(|Stamp(since)| since), count: sends };
        Member { user, counts: self.counts(), sends, last_visible: Sequence::new(last_visible) }
    }
}

pub(in crate::store) fn gender_name(gender: Gender) -> &'static str {
    match gender {
        Gender::Unspecified => "UNSPECIFIED",
        Gender::Male => "MALE",
        Gender::Female => "FEMALE",
    }
}

fn read_gender(name: &str) -> Option<Gender> {
    let all = [Gender::Unspecified, Gender::Male, Gender::Female];
    all.into_iter().find(|gender| gender_name(*gender) == name)
}

pub(in crate::store) fn user_status_name(status: UserStatus) -> &'static str {
    match status {
        UserStatus::Approved => "APPROVED",
        UserStatus::Blocked => "BLOCKED",
        UserStatus::Unregistered => "UNREGISTERED",
    }
}

fn read_user_status(name: &str) -> Option<UserStatus> {
    let all = [UserStatus::Approved, UserStatus::Blocked, UserStatus::Unregistered];
    all.into_iter().find(|status| user_status_name(*status) == name)
}
