//! The first step of an import: reads the files, finds the users of each row, and dates it.
//!
//! The users of a relation may follow it. Such a row waits until all files are read.

use std::borrow::Cow;
use std::io;

use super::record::{RelationRecord, UserRecord, WaitingRecord, micros};
use super::refused::Refusals;
use super::report::{Place, Report};
use super::sorter::{Sorter, ordered};
use super::source::{Format, Source};
use super::users::{Directory, Names};
use super::{ImportError, Options, SORTED};
use crate::domain::Time;
use crate::domain::id::{Sequence, UserId};
use crate::domain::import::Dating;
use crate::domain::text::{ExternalId, Username};
use crate::domain::user::{Profile, UserStatus};
use crate::progress::{Progress, Step};
use crate::transfer::{
    BlockRow, ConnectionRow, Kind, Object, Reason, Refusal, RequestRow, Row, Rules, Stated, UserReference, UserRow,
    Value, Violation, relation,
};

/// The rows between two reports of the progress.
const REPORTED: u64 = 4_096;

/// What was read.
pub(super) struct Read {
    pub(super) directory: Directory,
    /// Users, in the order in which they joined.
    pub(super) users: Sorter,
    /// Relations, by pair.
    pub(super) relations: Sorter,
    pub(super) refusals: Refusals,
    /// The largest revision of the headers.
    pub(super) revision: Sequence,
}

/// Reads all files.
pub(super) fn read(
    options: &Options,
    now: Time,
    directory: Directory,
    progress: &Progress,
) -> Result<Read, ImportError> {
    let report = Report::of_files(options.sources.iter().map(Source::name).collect());
    let rules = Rules { usernames: options.policy.usernames, now };
    let read = Read {
        directory,
        users: Sorter::new(SORTED),
        relations: Sorter::new(SORTED),
        refusals: Refusals::new(report, options.refused.as_deref())?,
        revision: Sequence::default(),
    };
    let mut reader = Reader { options, now, rules, read, waiting: Sorter::new(SORTED / 4) };
    let sizes: Vec<u64> = options.sources.iter().map(Source::size).collect::<Result<_, _>>()?;
    let (mut done, total) = (0, sizes.iter().sum());
    for (number, (source, size)) in options.sources.iter().zip(sizes).enumerate() {
        let shown = |position: u64| {
            let (doing, total) = (source.name().into(), Some(total));
            progress.report(Step { phase: "reading", unit: "bytes", done: done + position, current: 0, total, doing });
        };
        shown(0);
        // sqlite3 prints not even the names of the fields if there are no rows.
        if size > 0 || source.format == Format::Ndjson {
            reader.file(number, source, shown)?;
        }
        done += size;
    }
    reader.finish_waiting()?;
    Ok(reader.read)
}

struct Reader<'a> {
    options: &'a Options,
    now: Time,
    rules: Rules,
    read: Read,
    /// Rows whose users were not found yet.
    waiting: Sorter,
}

/// A row that is not imported.
struct Refuse(Reason, Vec<Violation>);

impl From<Reason> for Refuse {
    fn from(reason: Reason) -> Self {
        Self(reason, Vec::new())
    }
}

/// Users of a relation, by the names of their fields.
type Users<'a> = [(&'static str, &'a UserReference); 2];

/// What became of a row.
enum Done {
    Taken,
    /// A user may follow.
    Waits,
}

impl Reader<'_> {
    fn file(&mut self, number: usize, source: &Source, shown: impl Fn(u64)) -> Result<(), ImportError> {
        let mut opened = source.open(self.rules)?;
        let mut rows = 0_u64;
        while let Some(row) = opened.rows.next_row().map_err(|error| source.failed(error))? {
            rows += 1;
            if rows.is_multiple_of(REPORTED) {
                shown(opened.position());
            }
            let place = Place::new(number, row.line);
            let (kind, done) = match row.row {
                Ok(Row::Header(header)) => {
                    self.read.revision = self.read.revision.max(header.revision.unwrap_or_default());
                    continue;
                }
                Ok(Row::Footer(_)) => continue,
                Ok(row) => (row.kind(), self.row(place, &row)?),
                Err(Refusal { line: _, reason, violations }) => {
                    (kind_of(&opened.rows.text()), Err(Refuse(reason, violations)))
                }
            };
            if let Some(kind) = kind {
                self.read.refusals.report.of(kind).rows += 1;
            }
            match done {
                Ok(Done::Taken) => {}
                Ok(Done::Waits) => {
                    let text = opened.rows.text().into_owned();
                    self.waiting.push([place.0, 0, 0], &WaitingRecord { text }).map_err(ImportError::Temporary)?;
                }
                Err(refuse) => self.refuse(place, kind, refuse, &opened.rows.text())?,
            }
        }
        Ok(())
    }

    fn refuse(&mut self, place: Place, kind: Option<Kind>, refuse: Refuse, text: &str) -> Result<(), ImportError> {
        let Refuse(reason, violations) = refuse;
        self.read.refusals.refuse(place.file(), kind, &Refusal { line: place.line(), reason, violations }, text)
    }

    /// Takes a row, unless it is refused.
    fn row(&mut self, place: Place, row: &Row) -> Result<Result<Done, Refuse>, ImportError> {
        let done = match row {
            Row::User(user) => self.user(place, user).map(|record| {
                let joined = record.date_joined.unwrap_or_else(|| micros(self.now));
                self.read.users.push([ordered(joined), ordered(record.position), place.0], &record)
            }),
            Row::Connection(_) | Row::Request(_) | Row::Block(_) => match self.relation(place, row) {
                Ok(Some(record)) => Ok(self.push(&record)),
                Ok(None) => return Ok(Ok(Done::Waits)),
                Err(refuse) => Err(refuse),
            },
            Row::Header(_) | Row::Footer(_) => Ok(Ok(())),
        };
        Ok(match done {
            Ok(pushed) => pushed.map(|()| Ok(Done::Taken)).map_err(ImportError::Temporary)?,
            Err(refuse) => Err(refuse),
        })
    }

    fn push(&mut self, record: &RelationRecord) -> io::Result<()> {
        let (low, high) = (record.from.min(record.to), record.from.max(record.to));
        self.read.relations.push([ordered(low), ordered(high), record.place], record)
    }

    fn user(&mut self, place: Place, row: &UserRow) -> Result<UserRecord, Refuse> {
        let UserRow { profile, date_joined, position } = row;
        let external = profile.external_id.as_ref().map(ExternalId::as_str);
        let names = Names { id: profile.id, username: &profile.username, external_id: external };
        // Whatever the source says, no relation begins later than now.
        let joined = date_joined.given();
        let id = self.read.directory.add_row(names, joined.unwrap_or(self.now).min(self.now))?;
        let profile = Profile { date_joined: joined, ..profile.clone() };
        let mut record = UserRecord::new(id, &profile, place);
        record.position = position.filter(|_| self.options.keep_ids).map_or(0, Sequence::get);
        Ok(record)
    }

    /// Returns the record of a relation; `None` if a user is missing who may follow.
    fn relation(&mut self, place: Place, row: &Row) -> Result<Option<RelationRecord>, Refuse> {
        let Some(users) = users_of(row) else { return Ok(None) };
        let [one, other] = users.map(|(_, reference)| self.read.directory.find(reference));
        let (Some(one), Some(other)) = (one, other) else { return Ok(None) };
        self.dated(place, row, one, other).map(Some)
    }

    fn dated(&mut self, place: Place, row: &Row, from: UserId, to: UserId) -> Result<RelationRecord, Refuse> {
        let kind = row.kind().ok_or(Reason::UnknownType)?;
        let directory = &self.read.directory;
        let later = || directory.joined(from).max(directory.joined(to)).unwrap_or(self.now);
        let fallback = self.options.default_date.unwrap_or_else(later);
        let dating = Dating { now: self.now, policy: &self.options.policy, pending_since: self.options.pending_since };
        let stated = relation(row, (from, to), fallback, &dating);
        let Stated { mut relation, made_up, renewed } =
            stated.map_err(|(reason, violations)| Refuse(reason, violations))?;
        if !self.options.keep_ids {
            relation.forget_numbers();
        }
        let report = &mut self.read.refusals.report;
        report.made_up += u64::from(made_up);
        report.renewed += u64::from(renewed.is_some());
        // Requests that begin now are in the order in which they were sent.
        Ok(RelationRecord::new(&relation, kind, place, renewed.map_or(0, micros)))
    }

    /// Takes or refuses the rows that wait, once all users are known.
    fn finish_waiting(&mut self) -> Result<(), ImportError> {
        let mut waiting =
            std::mem::replace(&mut self.waiting, Sorter::new(0)).sorted().map_err(ImportError::Temporary)?;
        while let Some(([place, ..], WaitingRecord { text })) = waiting.next().map_err(ImportError::Temporary)? {
            let place = Place(place);
            let row = reread(&text, &self.rules);
            let kind = row.as_ref().ok().and_then(Row::kind);
            let done = match &row {
                Ok(row) => self.waited(place, row)?,
                Err(reason) => Err((*reason).into()),
            };
            if let Err(refuse) = done {
                self.refuse(place, kind, refuse, &text)?;
            }
        }
        Ok(())
    }

    fn waited(&mut self, place: Place, row: &Row) -> Result<Result<Done, Refuse>, ImportError> {
        let mut missing = Vec::new();
        for (field, reference) in users_of(row).into_iter().flatten() {
            let is_there = self.read.directory.find(reference).is_some();
            if !is_there && !(self.options.create_missing_users && self.placeholder(place, reference)?) {
                missing.push(Violation::new(field, format!("there is no user {reference}")));
            }
        }
        if missing.is_empty() { self.row(place, row) } else { Ok(Err(Refuse(Reason::UserNotFound, missing))) }
    }

    /// Makes a user whom a row names. Returns whether there is one now.
    fn placeholder(&mut self, place: Place, reference: &UserReference) -> Result<bool, ImportError> {
        let (id, username, external_id) = match reference {
            UserReference::Id(id) => (Some(*id), Username::stored(format!("missing-{id}")), None),
            UserReference::ExternalId(id) => (None, Username::default(), Some(id)),
            UserReference::Username(name) => match self.rules.usernames.parse(name) {
                Ok(username) => (None, username, None),
                Err(_) => return Ok(false),
            },
        };
        let names = Names { id, username: &username, external_id: external_id.map(|id| id.as_str()) };
        let Ok(user) = self.read.directory.add_row(names, self.now) else { return Ok(false) };
        let external_id = external_id.cloned();
        let status = Some(UserStatus::Unregistered);
        let record = UserRecord::new(user, &Profile { username, external_id, status, ..Profile::default() }, place);
        self.read.refusals.report.placeholders += 1;
        let key = [ordered(micros(self.now)), 0, place.0];
        self.read.users.push(key, &record).map_err(ImportError::Temporary)?;
        Ok(true)
    }
}

fn users_of(row: &Row) -> Option<Users<'_>> {
    match row {
        Row::Connection(ConnectionRow { from, to, .. }) | Row::Request(RequestRow { from, to, .. }) => {
            Some([("from", from), ("to", to)])
        }
        Row::Block(BlockRow { user, other, .. }) => Some([("user", user), ("other", other)]),
        Row::Header(_) | Row::User(_) | Row::Footer(_) => None,
    }
}

/// Returns the type of a row that is refused.
fn kind_of(text: &str) -> Option<Kind> {
    let Ok(Value::Object(fields)) = serde_json::from_str(text) else { return None };
    type_of(&fields).and_then(Kind::from_name)
}

fn type_of<'a>(fields: &'a Object<'_>) -> Option<&'a str> {
    fields.iter().find_map(|(name, value)| match value {
        Value::Text(kind) if name == "type" => Some(kind.as_ref()),
        Value::Text(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Integer(_)
        | Value::Time(_)
        | Value::Cell(_)
        | Value::Object(_)
        | Value::Other(_) => None,
    })
}

/// Reads a row again that was valid.
fn reread(text: &str, rules: &Rules) -> Result<Row, Reason> {
    let Ok(Value::Object(mut fields)) = serde_json::from_str::<Value<'_>>(text) else {
        return Err(Reason::UnknownType);
    };
    let kind = type_of(&fields).unwrap_or_default().to_owned();
    fields.retain(|(name, _): &(Cow<'_, str>, _)| name != "type");
    Row::read(&kind, fields, rules).map_err(|(reason, _)| reason)
}
