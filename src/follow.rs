//! Values of files, which are read again when the files change.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use crate::task::persistent;

/// Interval between two checks whether the files have changed.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// A file with the name of its setting, for errors.
#[derive(Clone, Debug)]
pub struct NamedFile {
    /// The setting, as it was given.
    pub setting: String,
    /// The path.
    pub path: PathBuf,
}

impl fmt::Display for NamedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.setting, self.path.display())
    }
}

/// The value of one or more files.
///
/// A task reads the files again when they have changed. If they cannot be used, the previous value remains, and the task
/// tries again. It ends with the last clone.
pub struct Followed<T> {
    value: Arc<Value<T>>,
    _following: Arc<JoinSet<()>>,
}

/// Reads the files into a value. Its error names the setting and the file.
type Load<T> = Box<dyn Fn() -> Result<T, String> + Send + Sync>;

/// The value in force, and where it is from.
struct Value<T> {
    /// What the files have, for the log: a plural noun.
    what: &'static str,
    files: Vec<NamedFile>,
    load: Load<T>,
    /// Counts the reads that fail.
    failures: Counter,
    in_force: RwLock<Arc<T>>,
    last_read: Mutex<LastRead>,
    /// Notified when the files are to be read again even if they have not changed.
    again: Notify,
}

/// When the files were last read.
struct LastRead {
    stamps: Stamps,
    /// Why they could not be used.
    failure: Option<String>,
}

/// What changes when a file is written or replaced. `None` for a file that is not there.
type Stamps = Vec<Option<[i64; 6]>>;

impl<T: Send + Sync + 'static> Followed<T> {
    /// Reads the files by `load`, and follows them from now on. `what` names the value in the log, as a plural noun.
    /// `failures` counts the later reads that fail, each attempt.
    ///
    /// It needs the runtime, for the task.
    ///
    /// # Errors
    ///
    /// That of `load`.
    pub fn start(
        what: &'static str,
        files: Vec<NamedFile>,
        failures: Counter,
        load: impl Fn() -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        // Before they are read: a change in between is noticed later.
        let last_read = Mutex::new(LastRead { stamps: stamps(&files), failure: None });
        let in_force = RwLock::new(Arc::new(load()?));
        let load = Box::new(load);
        let value = Arc::new(Value { what, files, load, failures, in_force, last_read, again: Notify::new() });
        let followed = Arc::clone(&value);
        let mut following = JoinSet::new();
        following.spawn(persistent(what, move || Arc::clone(&followed).follow()));
        Ok(Self { value, _following: Arc::new(following) })
    }

    /// Returns the value in force.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.value.in_force.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files again soon, even if they have not changed.
    pub fn read_again(&self) {
        self.value.again.notify_one();
    }
}

impl<T: Send + Sync + 'static> Value<T> {
    /// Reads the files again whenever they have changed.
    async fn follow(self: Arc<Self>) {
        loop {
            let asked = timeout(CHECK_INTERVAL, self.again.notified()).await.is_ok();
            let checked = Arc::clone(&self);
            // A file system can be slow.
            if let Err(error) = spawn_blocking(move || checked.check(asked)).await
                && let Ok(panic) = error.try_into_panic()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }

    /// Reads the files again if they have changed, or if they could not be used before.
    fn check(&self, asked: bool) {
        let mut last = self.last_read.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.files);
        let changed = stamps != last.stamps;
        if !(asked || changed || last.failure.is_some()) {
            return;
        }
        last.stamps = stamps;
        let what = self.what;
        let loaded = (self.load)().inspect_err(|_| _ = self.failures.inc());
        match loaded {
            Ok(value) => {
                *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
                last.failure = None;
                tracing::info!("read the {what} again; new connections and calls use them");
            }
            // One that has not changed was already logged.
            Err(failure) if !asked && !changed && last.failure.as_ref() == Some(&failure) => {}
            Err(failure) => {
                tracing::warn!(%failure, "cannot use the changed {what}; the previous ones remain in force");
                last.failure = Some(failure);
            }
        }
    }
}

impl<T> Clone for Followed<T> {
    fn clone(&self) -> Self {
        let Self { value, _following } = self;
        Self { value: Arc::clone(value), _following: Arc::clone(_following) }
    }
}

/// Without the value, which may have secrets.
impl<T> fmt::Debug for Followed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Followed").field("files", &self.value.files).finish_non_exhaustive()
    }
}

fn stamps(files: &[NamedFile]) -> Stamps {
    let stamp = |file: &NamedFile| {
        let file = fs::metadata(&file.path).ok()?;
        let (inode, size) = (file.ino().cast_signed(), file.size().cast_signed());
        Some([inode, size, file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()])
    };
    files.iter().map(stamp).collect()
}
