//! Reads the values of a row's fields, from any notation: JSON, CSV, or messages of an RPC.
//!
//! All that is wrong with a row is collected, so that it can be mended at once.

use std::borrow::Cow;
use std::str::FromStr;

use super::date::{Date, NOT_A_DATE};
use super::reference::{ExternalId, UserReference};
use super::refusal::{Reason, Violation};
use super::row::{
    BlockRow, ConnectionRow, Counts, Footer, Header, Kind, RequestRow, RequestRowState, Row, UserRow, read_gender,
    read_status,
};
use crate::domain::Time;
use crate::domain::id::{ID_MAX, RequestId, Sequence, UserId};
use crate::domain::text::{Birthday, TextError, USERNAME_MAX, UsernameRule};
use crate::domain::user::Profile;

/// The fields that a file of refused rows adds to each row. They are not read.
pub(super) const NOTES: [&str; 4] = ["line", "reason", "field", "detail"];
/// The number of characters of an unknown name that a violation shows.
const NAME_SHOWN: usize = 64;

/// The fields that name users, each with its columns in CSV.
const FROM: [&str; 3] = ["from", "from_external_id", "from_username"];
const TO: [&str; 3] = ["to", "to_external_id", "to_username"];
const USER: [&str; 3] = ["user", "user_external_id", "user_username"];
const OTHER: [&str; 3] = ["other", "other_external_id", "other_username"];

/// What the validity of rows depends on.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The characters that usernames may have.
    pub usernames: UsernameRule,
    /// The time of the import. Later dates count as missing.
    pub now: Time,
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Unset.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A text.
    Text(Cow<'a, str>),
    /// A time.
    Time(Time),
    /// A cell of CSV, which may stand for any value. If it is empty, the field is unset.
    Cell(&'a str),
    /// An object.
    Object(Object<'a>),
    /// Something that no field has, such as a list.
    Other(&'static str),
}

/// The fields of a row or of a reference, in their order.
pub type Object<'a> = Vec<(Cow<'a, str>, Value<'a>)>;

impl Row {
    /// Reads a row of this `type`: that of a [`Kind`], `header` or `footer`.
    ///
    /// # Errors
    ///
    /// Why the row is refused, with all fields that are wrong.
    pub fn read(kind: &str, values: Object<'_>, rules: &Rules) -> Result<Self, (Reason, Vec<Violation>)> {
        let mut fields = Fields { values, rules, violations: Vec::new() };
        fields.values.retain(|(name, _)| !NOTES.contains(&&**name));
        let row = match Kind::from_name(kind) {
            Some(Kind::User) => Self::User(Box::new(fields.user())),
            Some(Kind::Connection) => Self::Connection(fields.connection()),
            Some(Kind::Request) => Self::Request(fields.request()),
            Some(Kind::Block) => Self::Block(fields.block()),
            None if kind == "header" => Self::Header(fields.header()),
            None if kind == "footer" => Self::Footer(fields.footer()),
            None => {
                let rule = format!("{:?} is no type of row", shown(kind));
                return Err((Reason::UnknownType, vec![Violation::new("type", rule)]));
            }
        };
        fields.finish(kind, row)
    }
}

/// Returns the part of a foreign text that an error may contain: what could be a name.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(NAME_SHOWN).collect()
}

/// The fields of a row that were not read yet, and what is wrong with the others.
struct Fields<'a> {
    values: Object<'a>,
    rules: &'a Rules,
    violations: Vec<Violation>,
}

impl<'a> Fields<'a> {
    /// Fails if a field is wrong or was not read, which means that rows of this type do not have it.
    fn finish(mut self, kind: &str, row: Row) -> Result<Row, (Reason, Vec<Violation>)> {
        for (name, _) in std::mem::take(&mut self.values) {
            self.violation(&shown(&name), format!("is not a field of a {kind}"));
        }
        if self.violations.is_empty() { Ok(row) } else { Err((Reason::InvalidFields, self.violations)) }
    }

    fn violation(&mut self, field: &str, rule: impl Into<String>) {
        self.violations.push(Violation::new(field, rule));
    }

    /// Takes the value of a field. Unset fields are `Null`.
    fn take(&mut self, name: &str) -> Value<'a> {
        let at = self.values.iter().position(|(field, _)| field == name);
        let Some(at) = at else { return Value::Null };
        let (_, value) = self.values.remove(at);
        if self.values.iter().any(|(field, _)| field == name) {
            self.values.retain(|(field, _)| field != name);
            self.violation(name, "is given more than once");
        }
        match value {
            Value::Cell("") => Value::Null,
            value => value,
        }
    }

    fn integer(&mut self, name: &str, min: i64, max: i64) -> Option<i64> {
        let number = match self.take(name) {
            Value::Null => return None,
            Value::Integer(number) => Some(number),
            Value::Cell(text) => text.parse().ok(),
            Value::Bool(_) | Value::Text(_) | Value::Time(_) | Value::Object(_) | Value::Other(_) => None,
        };
        let number = number.filter(|number| (min..=max).contains(number));
        if number.is_none() {
            self.violation(name, format!("must be a whole number from {min} to {max}"));
        }
        number
    }

    fn id(&mut self) -> Option<RequestId> {
        self.integer("id", 1, ID_MAX).map(RequestId::new)
    }

    fn position(&mut self) -> Option<Sequence> {
        self.integer("position", 1, ID_MAX).map(Sequence::new)
    }

    /// The text of a field. Unset fields have the empty text.
    fn string(&mut self, name: &str) -> Cow<'a, str> {
        match self.take(name) {
            Value::Null => Cow::default(),
            Value::Text(text) => text,
            Value::Cell(text) => Cow::Borrowed(text),
            Value::Bool(_) | Value::Integer(_) | Value::Time(_) | Value::Object(_) | Value::Other(_) => {
                self.violation(name, "must be a text");
                Cow::default()
            }
        }
    }

    fn text<T: FromStr<Err = TextError> + Default>(&mut self, name: &str) -> T {
        let text = self.string(name);
        self.parsed(name, text.parse())
    }

    fn parsed<T: Default, E: ToString>(&mut self, name: &str, parsed: Result<T, E>) -> T {
        parsed.unwrap_or_else(|rule| {
            self.violation(name, rule.to_string());
            T::default()
        })
    }

    fn flag(&mut self, name: &str) -> bool {
        match self.take(name) {
            Value::Null | Value::Cell("false" | "f" | "0") => false,
            Value::Bool(value) => value,
            Value::Cell("true" | "t" | "1") => true,
            Value::Integer(_)
            | Value::Text(_)
            | Value::Time(_)
            | Value::Cell(_)
            | Value::Object(_)
            | Value::Other(_) => {
                self.violation(name, "must be true or false");
                false
            }
        }
    }

    fn date(&mut self, name: &str) -> Date {
        let now = self.rules.now;
        let date = match self.take(name) {
            Value::Null => Ok(Date::default()),
            Value::Time(time) => Ok(Date::of(Some(time), now)),
            Value::Text(text) => Date::parse(&text, now),
            Value::Cell(text) => Date::parse(text, now),
            Value::Bool(_) | Value::Integer(_) | Value::Object(_) | Value::Other(_) => Err(NOT_A_DATE),
        };
        self.parsed(name, date)
    }

    fn named<T>(&mut self, name: &str, read: impl Fn(&str) -> Option<T>, names: &str) -> Option<T> {
        let text = self.string(name);
        if text.is_empty() {
            return None;
        }
        let value = read(&text);
        if value.is_none() {
            self.violation(name, format!("must be {names}"));
        }
        value
    }

    /// A user that the row has to name: by the field itself, or in CSV also by one of two others.
    fn reference(&mut self, [name, external_column, name_column]: [&str; 3]) -> UserReference {
        const RULE: &str = r#"must be an id, {"external_id": "…"} or {"username": "…"}"#;
        let (by_external, by_name) = (self.take(external_column), self.take(name_column));
        let mut found: Vec<Result<UserReference, String>> = Vec::new();
        match self.take(name) {
            Value::Null => {}
            Value::Integer(id) => found.push(user_id(id)),
            Value::Cell(text) => found.push(text.parse().map_err(|_| "must be an id".to_owned()).and_then(user_id)),
            Value::Object(object) => found.push(read_reference(object).unwrap_or_else(|| Err(RULE.to_owned()))),
            Value::Bool(_) | Value::Text(_) | Value::Time(_) | Value::Other(_) => found.push(Err(RULE.to_owned())),
        }
        match by_external {
            Value::Null => {}
            Value::Cell(text) => found.push(external_id(text)),
            _ => found.push(Err(RULE.to_owned())),
        }
        match by_name {
            Value::Null => {}
            Value::Cell(text) => found.push(username(text)),
            _ => found.push(Err(RULE.to_owned())),
        }
        let first = if found.len() > 1 { None } else { found.pop() };
        match first {
            Some(Ok(reference)) => return reference,
            Some(Err(rule)) => self.violation(name, rule),
            None if found.is_empty() => self.violation(name, "must be set"),
            None => self.violation(name, "must name the user in one way only"),
        }
        UserReference::Id(UserId::default())
    }

    fn user(&mut self) -> UserRow {
        let id = self.integer("id", 1, ID_MAX).map(UserId::new);
        let external_id = self.string("external_id");
        let external_id = if external_id.is_empty() { None } else { Some(external_id.parse::<ExternalId>()) };
        let external_id =
            external_id.and_then(|parsed| parsed.map_err(|rule| self.violation("external_id", rule.to_string())).ok());
        let username = self.string("username");
        let username = if username.is_empty() && external_id.is_some() {
            Default::default()
        } else {
            self.parsed("username", self.rules.usernames.parse(&username))
        };
        let birthday = self.string("birthday");
        let profile = Profile {
            id,
            username,
            real_name: self.text("real_name"),
            email: self.text("email"),
            email_isvalid: self.flag("email_isvalid"),
            date_joined: None,
            bio: self.text("bio"),
            location: self.text("location"),
            birthday: self.parsed("birthday", Birthday::parse(&birthday, self.rules.now.date_naive())),
            description: self.text("description"),
            gender: self
                .named("gender", read_gender, "GENDER_MALE, GENDER_FEMALE or GENDER_UNSPECIFIED")
                .unwrap_or_default(),
            status: self.named(
                "status",
                read_status,
                "USER_STATUS_APPROVED, USER_STATUS_BLOCKED or USER_STATUS_UNREGISTERED",
            ),
            website: self.text("website"),
            avatar: self.text("avatar"),
            cover: self.text("cover"),
            external_id,
        };
        UserRow { profile, date_joined: self.date("date_joined"), position: self.position() }
    }

    fn connection(&mut self) -> ConnectionRow {
        ConnectionRow {
            id: self.id(),
            from: self.reference(FROM),
            to: self.reference(TO),
            created: self.date("created"),
            viewed: self.date("viewed"),
            connected: self.date("connected"),
            message: self.text("message"),
            reply: self.text("reply"),
            position: self.position(),
        }
    }

    fn request(&mut self) -> RequestRow {
        let names = RequestRowState::ALL.map(RequestRowState::name).join(", ");
        RequestRow {
            id: self.id(),
            from: self.reference(FROM),
            to: self.reference(TO),
            state: self.named("state", RequestRowState::from_name, &format!("one of {names}")).unwrap_or_default(),
            created: self.date("created"),
            viewed: self.date("viewed"),
            rejected: self.date("rejected"),
            message: self.text("message"),
            position: self.position(),
        }
    }

    fn block(&mut self) -> BlockRow {
        BlockRow {
            user: self.reference(USER),
            other: self.reference(OTHER),
            created: self.date("created"),
            position: self.position(),
        }
    }

    /// The format is checked by the reader of the file.
    fn header(&mut self) -> Header {
        _ = self.take("format");
        let (source, epoch) = (self.string("source").into_owned(), self.string("epoch").into_owned());
        let revision = self.integer("revision", 0, i64::MAX).map(Sequence::new);
        Header { source, epoch, revision, created: self.date("created").given() }
    }

    fn footer(&mut self) -> Footer {
        let mut counts = Counts::default();
        for kind in Kind::ALL {
            *counts.of(kind) = self.integer(kind.plural(), 0, i64::MAX).map(i64::unsigned_abs);
        }
        let sha256 = self.string("sha256").into_owned();
        let is_digest = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !sha256.is_empty() && !is_digest {
            self.violation("sha256", "must be 64 hexadecimal digits");
        }
        Footer { counts, sha256: Some(sha256).filter(|sha256| !sha256.is_empty()) }
    }
}

/// Reads a reference in the form of an object. `None`: it is none.
fn read_reference(mut object: Object<'_>) -> Option<Result<UserReference, String>> {
    let (name, value) = object.pop()?;
    if !object.is_empty() {
        return None;
    }
    match (&*name, value) {
        ("id", Value::Integer(id)) => Some(user_id(id)),
        ("external_id", Value::Text(text)) => Some(external_id(&text)),
        ("username", Value::Text(text)) => Some(username(&text)),
        _ => None,
    }
}

fn user_id(id: i64) -> Result<UserReference, String> {
    let is_valid = (1..=ID_MAX).contains(&id);
    if is_valid { Ok(UserReference::Id(UserId::new(id))) } else { Err(format!("must be an id from 1 to {ID_MAX}")) }
}

fn external_id(text: &str) -> Result<UserReference, String> {
    text.parse().map(UserReference::ExternalId).map_err(|rule: TextError| rule.to_string())
}

/// A name that no user can have is that of no user, which the import finds out.
fn username(text: &str) -> Result<UserReference, String> {
    let is_valid = !text.is_empty() && text.chars().nth(USERNAME_MAX).is_none();
    if is_valid { Ok(UserReference::Username(text.to_owned())) } else { Err("must be a username".to_owned()) }
}
