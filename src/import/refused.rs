//! The file of the refused rows, to be mended and imported again.

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use super::ImportError;
use super::report::{Place, Report};
use super::source::Source;
use crate::transfer::{FORMAT, FileError, Kind, Reason, Refusal, Rules, refused};

/// Takes the refused rows: counts them in the report, and writes them to the file if there is one.
pub(super) struct Refusals {
    pub(super) report: Report,
    file: Option<RefusedFile>,
}

/// A file in the format of imports. Until it is complete, it is a temporary one without a name.
struct RefusedFile {
    file: BufWriter<File>,
    path: PathBuf,
    /// Rows that were refused after they were read, with their reasons.
    late: Vec<(Place, Reason)>,
}

impl Refusals {
    /// Counts in this report, and writes to this file.
    pub(super) fn new(report: Report, path: Option<&Path>) -> Result<Self, ImportError> {
        Ok(Self { report, file: path.map(RefusedFile::begin).transpose()? })
    }

    /// Refuses a row that was just read, with its text. `kind`: `None` if its type is not known.
    pub(super) fn refuse(
        &mut self,
        file: usize,
        kind: Option<Kind>,
        refusal: &Refusal,
        text: &str,
    ) -> Result<(), ImportError> {
        let place = Place::new(file, refusal.line);
        self.report.refuse(kind, place, refusal.reason, &refusal.detail());
        match &mut self.file {
            Some(file) => file.line(&refused(text, refusal)),
            None => Ok(()),
        }
    }

    /// Refuses a row that was read before.
    pub(super) fn refuse_late(&mut self, kind: Kind, place: Place, reason: Reason) {
        self.report.refuse(Some(kind), place, reason, "");
        if let Some(file) = &mut self.file {
            file.late.push((place, reason));
        }
    }

    /// Completes the file: reads the rows again that were refused late. Without refused rows, there is no file.
    ///
    /// Returns the report.
    pub(super) fn finish(self, sources: &[Source], rules: Rules) -> Result<Report, ImportError> {
        if let Some(mut file) = self.file.filter(|_| self.report.has_refusals()) {
            file.write_late(sources, rules)?;
            file.end()?;
        }
        Ok(self.report)
    }
}

impl RefusedFile {
    fn begin(path: &Path) -> Result<Self, ImportError> {
        let begin = || {
            // It may be the file that is imported, mended.
            if path.exists() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            tempfile::tempfile()
        };
        let file = begin().map_err(|error| ImportError::Refused { file: path.display().to_string(), error })?;
        let mut begun = Self { file: BufWriter::new(file), path: path.to_owned(), late: Vec::new() };
        begun.line(&format!("{{\"type\":\"header\",\"format\":\"{FORMAT}\",\"source\":\"refused\"}}"))?;
        Ok(begun)
    }

    fn line(&mut self, line: &str) -> Result<(), ImportError> {
        writeln!(self.file, "{line}").map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> ImportError {
        ImportError::Refused { file: self.path.display().to_string(), error }
    }

    fn write_late(&mut self, sources: &[Source], rules: Rules) -> Result<(), ImportError> {
        let mut late = std::mem::take(&mut self.late);
        late.sort_unstable();
        let mut late = late.into_iter().peekable();
        for (number, source) in sources.iter().enumerate() {
            if late.peek().is_none_or(|(place, _)| place.file() != number) {
                continue;
            }
            let mut opened = source.open(rules)?;
            while let Some((place, reason)) = late.next_if(|(place, _)| place.file() == number) {
                loop {
                    let row = opened.rows.next_row().map_err(|error| source.failed(error))?;
                    // The file was changed meanwhile.
                    let row = row.ok_or_else(|| source.failed(FileError::CutOff(place.line())))?;
                    if row.line == place.line() {
                        break;
                    }
                }
                let refusal = Refusal { line: place.line(), reason, violations: Vec::new() };
                self.line(&refused(&opened.rows.text(), &refusal))?;
            }
        }
        Ok(())
    }

    fn end(mut self) -> Result<(), ImportError> {
        self.line("{\"type\":\"footer\"}")?;
        let write = |mut temporary: BufWriter<File>| {
            temporary.flush()?;
            let mut temporary = temporary.into_inner().map_err(io::IntoInnerError::into_error)?;
            temporary.rewind()?;
            io::copy(&mut temporary, &mut File::create_new(&self.path)?)
        };
        let written = write(self.file);
        written.map(drop).map_err(|error| ImportError::Refused { file: self.path.display().to_string(), error })
    }
}
