//! The format `kith.export.v1`, in which users and their relations move in and out: rows, and files of them.
//!
//! `docs/moving-in/format.md` describes the format. A file in NDJSON begins with a header and ends with a footer; a file
//! in CSV has rows of one type. Both are read row by row with bounded memory. A row that is not valid is a [`Refusal`],
//! and the next one is read. A file that is cut off or changed is a [`FileError`].
//!
//! Reading compares nothing with a database: what becomes of a row is the import's part.

mod csv;
mod date;
mod fields;
mod json;
mod reference;
mod refusal;
mod relation;
mod row;
mod write;

use std::borrow::Cow;
use std::io;

pub use self::csv::{CsvReader, CsvWriter};
pub use self::date::{Date, Missing, format_time};
pub use self::fields::{Object, Rules, Value};
pub use self::json::JsonReader;
pub use self::reference::{ExternalId, UserReference};
pub use self::refusal::{Reason, Refusal, Violation};
pub use self::relation::{Stated, relation};
pub use self::row::{
    BlockRow, ConnectionRow, Counts, Footer, Header, Kind, RequestRow, RequestRowState, Row, UserRow, gender_name,
    read_gender, read_status, status_name,
};
pub use self::write::{JsonWriter, refused};

/// The name of the format, which is in the header of each file.
pub const FORMAT: &str = "kith.export.v1";

/// Reads rows one after the other.
pub trait RowReader {
    /// Reads the next row; `None` at the end of the file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is cut off, or was changed. Rows that were read before may be parts of a damaged file.
    fn next_row(&mut self) -> Result<Option<ReadRow>, FileError>;

    /// Returns the last row as a line of NDJSON without the end of the line: as it was read, or converted from CSV.
    fn text(&self) -> Cow<'_, str>;
}

/// A row that was read, with its position in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadRow {
    /// The number of its first line, from 1.
    pub line: u64,
    /// The row, or why it is refused.
    pub row: Result<Row, Refusal>,
}

/// An error of a whole file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It does not begin with a header.
    #[error(
        "line {0}: not a header of {FORMAT}; the first line must be {{\"type\":\"header\",\"format\":\"{FORMAT}\"}}"
    )]
    NoHeader(u64),
    /// It is of another version of the format.
    #[error("the file has the format {0:?}, and this version of Kith reads {FORMAT}")]
    OtherFormat(String),
    /// The header or the footer is invalid, or is where it must not be.
    #[error("line {line}: the {what} {problem}")]
    Frame {
        /// The line.
        line: u64,
        /// `header` or `footer`.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// It ends without a footer.
    #[error("the file ends without a footer, after line {0}: it was cut off; copy or export it again")]
    CutOff(u64),
    /// The footer has another number of rows of a type than the file.
    #[error("the footer says {expected} {kind}, and the file has {found}: rows were lost or added")]
    Count {
        /// The plural of the type.
        kind: &'static str,
        /// In the footer.
        expected: u64,
        /// In the file.
        found: u64,
    },
    /// The rows are not those over which the digest was made.
    #[error(
        "the rows do not match the SHA-256 of the footer: the file was damaged or edited; export it again, or remove \
         \"sha256\" from the footer if you edited it"
    )]
    Digest,
    /// A CSV file cannot be read as such.
    #[error("{0}")]
    Csv(String),
}

#[cfg(test)]
mod tests;
