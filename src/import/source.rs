//! The files of an import.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;
use std::rc::Rc;

use super::ImportError;
use crate::transfer::{CsvReader, FileError, JsonReader, Kind, RowReader, Rules};

/// What is read of a file at once.
const BUFFER: usize = 256 << 10;

/// A file with rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it is.
    pub path: PathBuf,
    /// The format, and in CSV the type of the rows.
    pub format: Format,
}

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `kith.export.v1`.
    Ndjson,
    /// CSV with rows of this type.
    Csv(Kind),
}

/// A file that is read, with the bytes that were read of it.
pub(super) struct Opened {
    pub(super) rows: Box<dyn RowReader>,
    read: Rc<Cell<u64>>,
}

impl Opened {
    /// Returns the number of bytes that were read.
    pub(super) fn position(&self) -> u64 {
        self.read.get()
    }
}

impl Source {
    /// Returns the name of the file in reports.
    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Returns the size of the file in bytes.
    pub(super) fn size(&self) -> Result<u64, ImportError> {
        let metadata = std::fs::metadata(&self.path).map_err(|error| self.failed(error))?;
        Ok(metadata.len())
    }

    /// Opens the file.
    pub(super) fn open(&self, rules: Rules) -> Result<Opened, ImportError> {
        let file = File::open(&self.path).map_err(|error| self.failed(error))?;
        let read = Rc::<Cell<u64>>::default();
        let file = BufReader::with_capacity(BUFFER, Counting { file, read: Rc::clone(&read) });
        let rows: Box<dyn RowReader> = match self.format {
            Format::Ndjson => Box::new(JsonReader::new(file, rules)),
            Format::Csv(kind) => Box::new(CsvReader::new(file, kind, rules).map_err(|error| self.failed(error))?),
        };
        Ok(Opened { rows, read })
    }

    /// Adds the name of the file to an error.
    pub(super) fn failed(&self, error: impl Into<FileError>) -> ImportError {
        ImportError::File { file: self.name(), error: error.into() }
    }
}

struct Counting {
    file: File,
    read: Rc<Cell<u64>>,
}

impl Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.read.set(self.read.get() + read as u64);
        Ok(read)
    }
}
