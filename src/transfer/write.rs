//! Writes files in NDJSON.

use std::io::Write;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::date::{Date, format_time};
use super::fields::{NOTES, Value};
use super::json::hex;
use super::reference::UserReference;
use super::refusal::Refusal;
use super::row::{
    BlockRow, ConnectionRow, Counts, Footer, Header, Kind, RequestRow, Row, UserRow, gender_name, status_name,
};
use super::{FORMAT, FileError};
use crate::domain::user::{Gender, Profile};

/// A writer of NDJSON that writes the footer with its counts and digest.
///
/// It writes a line at a time, so it needs a buffered destination.
pub struct JsonWriter<W> {
    destination: W,
    line: Vec<u8>,
    digest: Sha256,
    counts: Counts<u64>,
}

impl<W: Write> JsonWriter<W> {
    /// Begins a file with its header.
    ///
    /// # Errors
    ///
    /// If it cannot be written, here and below.
    pub fn new(destination: W, header: Header) -> Result<Self, FileError> {
        let (line, digest) = (Vec::new(), Sha256::new());
        let mut writer = Self { destination, line, digest, counts: Counts::default() };
        writer.line(&Row::Header(header))?;
        Ok(writer)
    }

    /// Writes a row, which is neither a header nor a footer.
    pub fn row(&mut self, row: &Row) -> Result<(), FileError> {
        let Some(kind) = row.kind() else { return Ok(()) };
        self.line(row)?;
        self.digest.update(&self.line);
        *self.counts.of(kind) += 1;
        Ok(())
    }

    /// Ends the file with its footer. Returns the destination, which is not flushed, and the numbers of rows.
    pub fn finish(mut self) -> Result<(W, Counts<u64>), FileError> {
        let mut counts = Counts::default();
        for kind in Kind::ALL {
            *counts.of(kind) = Some(*self.counts.of(kind));
        }
        let sha256 = Some(hex(&std::mem::take(&mut self.digest).finalize()));
        self.line(&Row::Footer(Footer { counts, sha256 }))?;
        Ok((self.destination, self.counts))
    }

    fn line(&mut self, row: &Row) -> Result<(), FileError> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, row).map_err(std::io::Error::from)?;
        self.line.push(b'\n');
        self.destination.write_all(&self.line)?;
        Ok(())
    }
}

/// Returns a refused row as a line of a file that can be mended and imported again.
///
/// It is the row as it was read, with more fields, which are not read again: the line, the reason, the first field that is
/// wrong, and all that is wrong. A line that is no JSON object becomes a row of the type `unreadable` with the line as its
/// `text`.
pub fn refused(text: &str, refusal: &Refusal) -> String {
    let Refusal { line, reason, violations } = refusal;
    let field = violations.first().map(|first| first.field.as_str()).unwrap_or_default();
    let values = [(*line).into(), reason.name().into(), field.into(), refusal.detail().into()];
    let notes = NOTES.into_iter().zip(values).filter(|(_, value): &(_, Json)| value.as_str() != Some(""));
    let notes: Vec<_> = notes.map(|(name, value)| format!("\"{name}\":{value}")).collect();
    let (row, notes) = (text.trim(), notes.join(","));
    let is_object = serde_json::from_str::<Value<'_>>(row).is_ok_and(|value| matches!(value, Value::Object(_)));
    let Some(body) = row.strip_suffix('}').filter(|_| is_object) else {
        return format!(r#"{{"type":"unreadable","text":{},{notes}}}"#, Json::from(text));
    };
    let comma = if body.trim_end().ends_with('{') { "" } else { "," };
    format!("{body}{comma}{notes}}}")
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = Map(serializer.serialize_map(None)?);
        match self {
            Self::Header(header) => map.header(header)?,
            Self::User(user) => map.user(user)?,
            Self::Connection(connection) => map.connection(connection)?,
            Self::Request(request) => map.request(request)?,
            Self::Block(block) => map.block(block)?,
            Self::Footer(footer) => map.footer(footer)?,
        }
        map.0.end()
    }
}

/// An object that is written. Fields that are unset are left out.
struct Map<M>(M);

impl<M: SerializeMap> Map<M> {
    fn set<T: Serialize>(&mut self, name: &'static str, value: T) -> Result<(), M::Error> {
        self.0.serialize_entry(name, &value)
    }

    fn some<T: Serialize>(&mut self, name: &'static str, value: Option<T>) -> Result<(), M::Error> {
        value.map_or(Ok(()), |value| self.set(name, value))
    }

    fn text(&mut self, name: &'static str, text: &str) -> Result<(), M::Error> {
        self.some(name, Some(text).filter(|text| !text.is_empty()))
    }

    fn date(&mut self, name: &'static str, date: Date) -> Result<(), M::Error> {
        self.some(name, date.given().map(format_time))
    }

    fn header(&mut self, header: &Header) -> Result<(), M::Error> {
        let Header { source, epoch, revision, created } = header;
        self.set("type", "header")?;
        self.set("format", FORMAT)?;
        self.text("source", source)?;
        self.text("epoch", epoch)?;
        self.some("revision", revision.map(|revision| revision.get()))?;
        self.some("created", created.map(format_time))
    }

    fn user(&mut self, user: &UserRow) -> Result<(), M::Error> {
        let UserRow { profile, date_joined, position } = user;
        let Profile {
            id,
            username,
            real_name,
            email,
            email_isvalid,
            // The row has its own.
            date_joined: _,
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
        self.set("type", Kind::User.name())?;
        self.some("id", id.map(|id| id.get()))?;
        self.some("external_id", external_id.as_ref().map(|id| id.as_str()))?;
        self.text("username", username.as_str())?;
        self.text("real_name", real_name.as_str())?;
        self.text("email", email.as_str())?;
        self.some("email_isvalid", Some(true).filter(|_| *email_isvalid))?;
        self.date("date_joined", *date_joined)?;
        self.text("bio", bio.as_str())?;
        self.text("location", location.as_str())?;
        self.text("birthday", birthday.as_str())?;
        self.text("description", description.as_str())?;
        self.some("gender", Some(*gender).filter(|gender| *gender != Gender::Unspecified).map(gender_name))?;
        self.some("status", status.map(status_name))?;
        self.text("website", website.as_str())?;
        self.text("avatar", avatar.as_str())?;
        self.text("cover", cover.as_str())?;
        self.some("position", position.map(|position| position.get()))
    }

    fn connection(&mut self, connection: &ConnectionRow) -> Result<(), M::Error> {
        let ConnectionRow { id, from, to, created, viewed, connected, message, reply, position } = connection;
        self.set("type", Kind::Connection.name())?;
        self.some("id", id.map(|id| id.get()))?;
        self.set("from", from)?;
        self.set("to", to)?;
        self.date("created", *created)?;
        self.date("viewed", *viewed)?;
        self.date("connected", *connected)?;
        self.text("message", message.as_str())?;
        self.text("reply", reply.as_str())?;
        self.some("position", position.map(|position| position.get()))
    }

    fn request(&mut self, request: &RequestRow) -> Result<(), M::Error> {
        let RequestRow { id, from, to, state, created, viewed, rejected, message, position } = request;
        self.set("type", Kind::Request.name())?;
        self.some("id", id.map(|id| id.get()))?;
        self.set("from", from)?;
        self.set("to", to)?;
        self.set("state", state.name())?;
        self.date("created", *created)?;
        self.date("viewed", *viewed)?;
        self.date("rejected", *rejected)?;
        self.text("message", message.as_str())?;
        self.some("position", position.map(|position| position.get()))
    }

    fn block(&mut self, block: &BlockRow) -> Result<(), M::Error> {
        let BlockRow { user, other, created, position } = block;
        self.set("type", Kind::Block.name())?;
        self.set("user", user)?;
        self.set("other", other)?;
        self.date("created", *created)?;
        self.some("position", position.map(|position| position.get()))
    }

    fn footer(&mut self, footer: &Footer) -> Result<(), M::Error> {
        let Footer { mut counts, sha256 } = footer.clone();
        self.set("type", "footer")?;
        for kind in Kind::ALL {
            self.some(kind.plural(), *counts.of(kind))?;
        }
        self.some("sha256", sha256)
    }
}

impl Serialize for UserReference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (name, text) = match self {
            Self::Id(id) => return serializer.serialize_i64(id.get()),
            Self::ExternalId(id) => ("external_id", id.as_str()),
            Self::Username(username) => ("username", username.as_str()),
        };
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(name, text)?;
        map.end()
    }
}
