//! `kith export`: writes all users and relations to a file while servers use the database.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempPath};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::database::Database;
use super::{Failure, print, progress, start_log};
use crate::clock::Clock;
use crate::config::{Export, Sources};
use crate::domain::id::Sequence;
use crate::progress::{Progress, Step};
use crate::store::{self, Snapshot};
use crate::telemetry::Log;
use crate::transfer::{CsvWriter, FileError, JsonWriter, Kind, Row};

/// The exit status after a signal, as shells report it for SIGINT.
const INTERRUPTED: i32 = 130;
/// The number of pages that are read before they are written.
const PAGES_AHEAD: usize = 2;
/// The name for standard output.
const STANDARD_OUTPUT: &str = "-";

pub(super) async fn run(args: Export, sources: &Sources) -> Result<(), Failure> {
    let log = start_log(&args.common, false, sources)?;
    let Export { file, csv, common } = &args;
    let (destination, output) = Destination::open(file)?;
    let kind = csv.as_deref().and_then(|plural| Kind::ALL.into_iter().find(|kind| kind.plural() == plural));
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let database = Database::reach(common, sources).await?;
    let progress = Progress::default();
    let exporting = async {
        let snapshot = store::snapshot(&database.url).await.map_err(|error| database.failure(&error))?;
        let header = snapshot.header(Clock::system().now());
        let format = match kind {
            None => Format::Json(JsonWriter::new(output, header)?),
            Some(kind) => Format::Csv(CsvWriter::new(output, kind)?),
        };
        export(snapshot, format, &database, &progress).await
    };
    let exported = tokio::select! {
        exported = progress::shown(&progress, &log, common.log_format, exporting) => exported,
        _ = interrupt.recv() => interrupted(destination, log),
        _ = terminate.recv() => interrupted(destination, log),
    };
    let Exported { rows, revision, epoch, output } = match exported {
        Ok(exported) => exported,
        // Whoever reads standard output has seen enough.
        Err(error) if destination.is_standard_output() && is_broken_pipe(&error) => return Ok(()),
        Err(error) => return Err(destination.failure(&error)),
    };
    let summary = format!("exported {rows} rows; revision {revision}, epoch {epoch}");
    if destination.is_standard_output() {
        tracing::info!(database = %database.url, "{summary}");
        return Ok(());
    }
    let name = file.display();
    destination.finish(output)?;
    print(&format!("{summary}; {name}\n"))
}

/// What is written, and where to.
type Output = BufWriter<Box<dyn Write + Send>>;

enum Format {
    Json(JsonWriter<Output>),
    Csv(CsvWriter<Output>),
}

impl Format {
    fn row(&mut self, row: &Row) -> Result<(), FileError> {
        match self {
            Self::Json(writer) => writer.row(row),
            Self::Csv(writer) => writer.row(row),
        }
    }

    /// Ends the file, and hands everything to the system.
    fn finish(self) -> Result<Output, FileError> {
        let mut output = match self {
            Self::Json(writer) => writer.finish()?.0,
            Self::Csv(writer) => writer.finish()?,
        };
        output.flush()?;
        Ok(output)
    }
}

/// An export that was written.
struct Exported {
    rows: u64,
    revision: Sequence,
    epoch: String,
    output: Output,
}

/// Reads the rows, and writes them in a thread of its own.
async fn export(
    mut snapshot: Snapshot,
    format: Format,
    database: &Database,
    progress: &Progress,
) -> Result<Exported, Failure> {
    let (revision, epoch) = (snapshot.revision(), snapshot.epoch().to_string());
    let total = snapshot.total();
    let (pages, received) = mpsc::channel(PAGES_AHEAD);
    let writing = spawn_blocking(move || write(format, received));
    let mut rows = 0;
    loop {
        let total = Some(total.max(rows));
        progress.report(Step { phase: "exporting", unit: "rows", done: rows, current: 0, total, doing: "".into() });
        let page = snapshot.rows().await.map_err(|error| database.failure(&error))?;
        let count = u64::try_from(page.len()).unwrap_or_default();
        // If it cannot be written, the thread says why.
        if pages.send(page).await.is_err() || count == 0 {
            break;
        }
        rows += count;
    }
    let output = writing.await??;
    Ok(Exported { rows, revision, epoch, output })
}

/// Writes pages of rows until an empty one, which is the end.
///
/// # Errors
///
/// If they cannot be written, or if they cease before the end. Then there is no footer: the export is not complete.
fn write(mut format: Format, mut pages: mpsc::Receiver<Vec<Row>>) -> Result<Output, FileError> {
    while let Some(rows) = pages.blocking_recv() {
        if rows.is_empty() {
            return format.finish();
        }
        for row in &rows {
            format.row(row)?;
        }
    }
    Err(io::Error::from(ErrorKind::Interrupted).into())
}

/// Where the export goes.
enum Destination {
    StandardOutput,
    /// A file, which has another name until it is complete.
    File {
        unfinished: TempPath,
        file: File,
        name: PathBuf,
    },
}

impl Destination {
    /// Creates the file that becomes the export: in the directory of its name, and readable for its owner only.
    ///
    /// Nothing is overwritten, which is checked here and when the file gets its name.
    fn open(name: &Path) -> Result<(Self, Output), Failure> {
        if name == Path::new(STANDARD_OUTPUT) {
            return Ok((Self::StandardOutput, BufWriter::new(Box::new(io::stdout()))));
        }
        if std::fs::symlink_metadata(name).is_ok() {
            return Err(exists(name));
        }
        let create = || {
            let name = std::path::absolute(name)?;
            let (file, unfinished) = NamedTempFile::with_prefix_in(".kith-export-", directory(&name)?)?.into_parts();
            let output = file.try_clone()?;
            Ok((Self::File { unfinished, file, name }, BufWriter::new(Box::new(output) as Box<dyn Write + Send>)))
        };
        create().map_err(|error: io::Error| format!("cannot write {}: {error}", name.display()).into())
    }

    fn is_standard_output(&self) -> bool {
        matches!(self, Self::StandardOutput)
    }

    /// Names the file in an error of writing to it.
    fn failure(&self, error: &Failure) -> Failure {
        match self {
            Self::File { unfinished: _, file: _, name } if error.is::<FileError>() => {
                format!("cannot write {}: {error}", name.display()).into()
            }
            Self::StandardOutput | Self::File { .. } => error.to_string().into(),
        }
    }

    /// Flushes the file to the disk and gives it its name.
    fn finish(self, output: Output) -> Result<(), Failure> {
        let Self::File { unfinished, file, name } = self else { return Ok(()) };
        drop(output);
        let failed = |error: io::Error| -> Failure { format!("cannot write {}: {error}", name.display()).into() };
        file.sync_all().map_err(failed)?;
        match unfinished.persist_noclobber(&name) {
            Err(refused) if refused.error.kind() == ErrorKind::AlreadyExists => Err(exists(&name)),
            Err(refused) => Err(failed(refused.error)),
            Ok(()) => directory(&name).and_then(File::open).and_then(|directory| directory.sync_all()).map_err(failed),
        }
    }
}

fn exists(name: &Path) -> Failure {
    format!("{} exists already; name another file, or remove it first", name.display()).into()
}

fn directory(name: &Path) -> io::Result<&Path> {
    name.parent().ok_or_else(|| ErrorKind::IsADirectory.into())
}

fn is_broken_pipe(error: &Failure) -> bool {
    let written = error.downcast_ref::<FileError>();
    matches!(written, Some(FileError::Io(error)) if error.kind() == ErrorKind::BrokenPipe)
}

/// Ends the process, and does not wait for the thread that writes. Deletes the unfinished file.
fn interrupted(destination: Destination, log: Log) -> ! {
    drop(destination);
    tracing::warn!("interrupted; there is no export");
    drop(log);
    std::process::exit(INTERRUPTED)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::transfer::{BlockRow, Date, Header, UserReference};

    /// A destination that others can look into.
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("a lock").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written of these pages, and whether the export is complete.
    fn written(pages: impl IntoIterator<Item = Vec<Row>>) -> (String, bool) {
        let shared = Shared::default();
        let output: Output = BufWriter::new(Box::new(shared.clone()));
        let format = Format::Json(JsonWriter::new(output, Header::default()).expect("written"));
        let (sender, receiver) = mpsc::channel(9);
        pages.into_iter().for_each(|page| sender.try_send(page).expect("room"));
        drop(sender);
        let is_complete = write(format, receiver).is_ok();
        let text = shared.0.lock().expect("a lock").clone();
        (String::from_utf8(text).expect("text"), is_complete)
    }

    #[test]
    fn an_export_that_is_not_complete_has_no_footer() {
        let user = |id| UserReference::Id(crate::domain::id::UserId::new(id));
        let row = Row::Block(BlockRow { user: user(1), other: user(2), created: Date::default(), position: None });
        let (complete, is_complete) = written([vec![row.clone()], vec![]]);
        assert!(is_complete && complete.ends_with("\"}\n") && complete.contains("\"footer\""), "{complete}");
        for pages in [vec![], vec![vec![row]]] {
            let (text, is_complete) = written(pages);
            assert!(!is_complete && !text.contains("footer"), "{text}");
        }
    }
}
