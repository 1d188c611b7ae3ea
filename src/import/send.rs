//! The rows of files in the order in which `kith load` sends them to a server.
//!
//! Users come first, as the files have them. Relations follow in the order of their dates, those of one pair together, so
//! that the server settles them in one chunk. A pair is known by how its rows name the users: rows that name a user in two
//! ways are of two pairs here.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use prost::Message;

use super::refused::Refusals;
use super::report::{Place, Report};
use super::sorter::{Key, Sorted, Sorter, ordered};
use super::source::Source;
use super::{ImportError, REPORTED, SORTED};
use crate::domain::Time;
use crate::mapping::relation::message;
use crate::progress::{Progress, Step};
use crate::proto::v1 as pb;
use crate::transfer::{BlockRow, ConnectionRow, Date, Kind, Reason, Refusal, RequestRow, Row, Rules, UserReference};

/// The maximum number of rows in a message, and the size in bytes after which it takes no further pair.
const MESSAGE: (usize, usize) = (1_000, 100 << 10);
/// The types of rows, by the numbers of their records.
const TYPES: [Kind; 4] = Kind::ALL;

/// A row between reading and sending.
#[derive(Clone, PartialEq, prost::Message)]
struct SentRecord {
    #[prost(uint64, tag = "1")]
    place: u64,
    /// The index of the type.
    #[prost(uint32, tag = "2")]
    kind: u32,
    /// The date by which rows are ordered, in microseconds.
    #[prost(int64, tag = "3")]
    date: i64,
    /// The encoded message.
    #[prost(bytes = "vec", tag = "4")]
    row: Vec<u8>,
}

/// A row that is to be sent.
#[derive(Clone, Debug)]
pub struct Outgoing {
    place: Place,
    kind: Kind,
    /// The message.
    pub row: pb::RelationRow,
}

/// The rows of files, and what becomes of them.
pub struct Load {
    sources: Arc<Vec<Source>>,
    rules: Rules,
    users: Sorted,
    relations: Sorted,
    /// A row that was read and did not fit into the message before, with its pair.
    next: Option<(Key, SentRecord)>,
    refusals: Refusals,
    total: u64,
}

impl Load {
    /// Reads files and sorts their rows. Rows that are not valid are refused here. A refused row is written to `refused`.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or is damaged.
    pub fn read(
        sources: Vec<Source>,
        refused: Option<&Path>,
        rules: Rules,
        progress: &Progress,
    ) -> Result<Self, ImportError> {
        let report = Report::of_files(sources.iter().map(Source::name).collect());
        let mut reader = Reader {
            rules,
            users: Sorter::new(SORTED),
            pairs: Sorter::new(SORTED),
            refusals: Refusals::new(report, refused)?,
            progress,
        };
        for (number, source) in sources.iter().enumerate() {
            reader.file(number, source)?;
        }
        let Reader { users, pairs, refusals, .. } = reader;
        let total = users.len() + pairs.len();
        let relations = by_date(pairs).and_then(Sorter::sorted).map_err(ImportError::Temporary)?;
        let users = users.sorted().map_err(ImportError::Temporary)?;
        Ok(Self { sources: Arc::new(sources), rules, users, relations, next: None, refusals, total })
    }

    /// Returns the number of rows to send.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Returns the rows of the next message. Empty at the end.
    ///
    /// # Errors
    ///
    /// If a temporary file cannot be read.
    pub fn message(&mut self) -> Result<Vec<Outgoing>, ImportError> {
        let (mut rows, mut bytes, mut last) = (Vec::new(), 0, None);
        while let Some((key, record)) = self.next_record()? {
            // A pair is not cut apart, unless it alone has more rows than a message may have.
            let is_same = last.is_some_and(|last: Key| last[..2] == key[..2]);
            let is_full = rows.len() >= MESSAGE.0 || bytes >= MESSAGE.1 && !is_same;
            if is_full {
                self.next = Some((key, record));
                break;
            }
            bytes += record.row.len();
            last = Some(key);
            rows.push(outgoing(&record)?);
        }
        Ok(rows)
    }

    fn next_record(&mut self) -> Result<Option<(Key, SentRecord)>, ImportError> {
        if let Some(next) = self.next.take() {
            return Ok(Some(next));
        }
        let next = match self.users.next().map_err(ImportError::Temporary)? {
            Some(user) => Some(user),
            None => self.relations.next().map_err(ImportError::Temporary)?,
        };
        Ok(next)
    }

    /// Counts a row that the server refused, or stored with a warning.
    pub fn refuse(&mut self, row: &Outgoing, reason: Reason) {
        self.refusals.refuse_late(row.kind, row.place, reason);
    }

    /// Writes the file of the refused rows. Returns the reasons for which rows were refused, in lines, and whether there are
    /// any.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn finish(self) -> Result<(String, bool), ImportError> {
        let report = self.refusals.finish(&self.sources, self.rules)?;
        Ok((report.reasons(), report.has_refusals()))
    }
}

fn outgoing(record: &SentRecord) -> Result<Outgoing, ImportError> {
    let SentRecord { place, kind, date: _, row } = record;
    let damaged = || ImportError::Temporary(std::io::ErrorKind::InvalidData.into());
    let kind = usize::try_from(*kind).ok().and_then(|kind| TYPES.get(kind)).ok_or_else(damaged)?;
    let row = pb::RelationRow::decode(row.as_slice()).map_err(|_| damaged())?;
    Ok(Outgoing { place: Place(*place), kind: *kind, row })
}

/// Sorts relations that are sorted by pair by the earliest date of their pair.
fn by_date(pairs: Sorter) -> std::io::Result<Sorter> {
    let (mut pairs, mut sorted) = (pairs.sorted()?, Sorter::new(SORTED));
    let (mut pair, mut number): (Vec<SentRecord>, u64) = (Vec::new(), 0);
    let mut last: Option<Key> = None;
    loop {
        let next = pairs.next::<SentRecord>()?;
        let is_same = next.as_ref().zip(last).is_some_and(|((key, _), last)| key[..2] == last[..2]);
        if !is_same {
            let date = pair.iter().map(|record| record.date).min().unwrap_or_default();
            for record in pair.drain(..) {
                sorted.push([ordered(date), number, record.place], &record)?;
            }
            number += 1;
        }
        let Some((key, record)) = next else { return Ok(sorted) };
        last = Some(key);
        pair.push(record);
    }
}

struct Reader<'a> {
    rules: Rules,
    users: Sorter,
    /// Relations by pair.
    pairs: Sorter,
    refusals: Refusals,
    progress: &'a Progress,
}

impl Reader<'_> {
    fn file(&mut self, number: usize, source: &Source) -> Result<(), ImportError> {
        let (mut opened, size) = (source.open(self.rules)?, source.size()?);
        let mut rows = 0_u64;
        while let Some(read) = opened.rows.next_row().map_err(|error| source.failed(error))? {
            rows += 1;
            if rows.is_multiple_of(REPORTED) {
                let (doing, done, total) = (source.name().into(), opened.position(), Some(size));
                self.progress.report(Step { phase: "reading", unit: "bytes", done, current: 0, total, doing });
            }
            let place = Place::new(number, read.line);
            match read.row {
                Ok(row) => self.row(place, row).map_err(ImportError::Temporary)?,
                Err(Refusal { line, reason, violations }) => {
                    let refusal = Refusal { line, reason, violations };
                    self.refusals.refuse(number, None, &refusal, &opened.rows.text())?;
                }
            }
        }
        Ok(())
    }

    fn row(&mut self, place: Place, row: Row) -> std::io::Result<()> {
        let (users, date) = match &row {
            Row::User(_) => (None, Date::default()),
            Row::Connection(ConnectionRow { from, to, created, connected, .. }) => {
                let connected = connected.known().map_or(*created, Date::Known);
                (Some([from, to]), connected)
            }
            Row::Request(RequestRow { from, to, created, .. }) => (Some([from, to]), *created),
            Row::Block(BlockRow { user, other, created, .. }) => (Some([user, other]), *created),
            Row::Header(_) | Row::Footer(_) => return Ok(()),
        };
        let Some(kind) = row.kind() else { return Ok(()) };
        let kind = TYPES.iter().zip(0..).find(|(known, _)| **known == kind).map_or(0, |(_, index)| index);
        let pair = users.map(pair_of);
        let date = date.known().map_or(i64::MIN, |date: Time| date.timestamp_micros());
        let Some(row) = message(row) else { return Ok(()) };
        let record = SentRecord { place: place.0, kind, date, row: row.encode_to_vec() };
        match pair {
            None => self.users.push([0, place.0, 0], &record),
            Some([low, high]) => self.pairs.push([low, high, place.0], &record),
        }
    }
}

/// The two users of a pair in one order, by hashes of how they are named.
fn pair_of(users: [&UserReference; 2]) -> [u64; 2] {
    let mut hashes = users.map(|user| {
        let mut hasher = DefaultHasher::new();
        user.hash(&mut hasher);
        hasher.finish()
    });
    hashes.sort_unstable();
    hashes
}
