//! The file of a SQLite database, as a URL names it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// What has another meaning in SQLite's own URI of a file (SQLite manual, "Uniform Resource Identifiers").
const IN_URI: &AsciiSet = &CONTROLS.add(b'%').add(b'?').add(b'#');

/// A SQLite file and how to open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct SqliteFile {
    path: PathBuf,
    mode: Mode,
}

/// The parameter `mode`, with SQLite's own values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// `ro`: never written.
    ReadOnly,
    /// Never written, and by nobody else either. Not a mode of a URL.
    Unchanging,
    /// `rw`: it must exist.
    ReadWrite,
    /// `rwc`, the default: created if there is none.
    Create,
}

impl SqliteFile {
    pub(in crate::store) fn path(&self) -> &Path {
        &self.path
    }

    pub(in crate::store) fn is_read_only(&self) -> bool {
        matches!(self.mode, Mode::ReadOnly | Mode::Unchanging)
    }

    /// Whether it is read as a file that nobody changes.
    pub(super) fn is_unchanging(&self) -> bool {
        self.mode == Mode::Unchanging
    }

    /// A file that exists, at this path.
    pub(in crate::store) fn existing(path: &Path) -> Self {
        Self { path: path.to_owned(), mode: Mode::ReadWrite }
    }

    /// The same file, never written.
    pub(super) fn read_only(&self) -> Self {
        Self { mode: Mode::ReadOnly, ..self.clone() }
    }

    /// The same file, read as one that nobody changes: SQLite needs nothing beside it, and takes no locks.
    pub(super) fn unchanging(&self) -> Self {
        Self { mode: Mode::Unchanging, ..self.clone() }
    }

    /// Whether opening it creates it.
    pub(in crate::store) fn may_be_created(&self) -> bool {
        self.mode == Mode::Create
    }

    /// Returns the URI for SQLite.
    pub(in crate::store) fn uri(&self) -> String {
        // The path comes from a URL, so it is valid UTF-8.
        let path = self.path.to_string_lossy();
        let path = utf8_percent_encode(&path, IN_URI);
        // Two slashes before an absolute path are an empty host, so that a path with two is not taken for one.
        let host = if self.path.is_absolute() { "//" } else { "" };
        let mode = match self.mode {
            Mode::ReadOnly => "ro",
            Mode::Unchanging => "ro&immutable=1",
            Mode::ReadWrite => "rw",
            Mode::Create => "rwc",
        };
        format!("file:{host}{path}?mode={mode}")
    }
}

/// Parses what follows `sqlite://`: a path, percent-encoded, and `?mode=ro`, `rw` or `rwc`.
impl FromStr for SqliteFile {
    type Err = String;

    fn from_str(rest: &str) -> Result<Self, String> {
        let (path, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let mut mode = Mode::Create;
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            mode = match parameter.split_once('=').unwrap_or((parameter, "")) {
                ("mode", "ro") => Mode::ReadOnly,
                ("mode", "rw") => Mode::ReadWrite,
                ("mode", "rwc") => Mode::Create,
                ("mode", other) => return Err(format!("mode is {other:?}; it can be ro, rw or rwc")),
                (name, _) => return Err(format!("unknown parameter {name:?}; SQLite's is mode")),
            };
        }
        match percent_decode_str(path).decode_utf8() {
            Err(_) => Err("the path is not UTF-8".to_owned()),
            Ok(path) if path.is_empty() => Err("sqlite:// needs the path of a file, as in sqlite://kith.db".to_owned()),
            Ok(path) if path.contains('\0') => Err("the path contains a NUL character".to_owned()),
            Ok(path) if path == ":memory:" => {
                Err("a database in memory is not supported; give the path of a file".to_owned())
            }
            Ok(path) => Ok(Self { path: PathBuf::from(path.as_ref()), mode }),
        }
    }
}

/// Formats the path as it is, without parameters.
impl fmt::Display for SqliteFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_path_and_a_mode() {
        for (rest, path, uri) in [
            ("kith.db", "kith.db", "file:kith.db?mode=rwc"),
            ("/data/kith.db?mode=rw", "/data/kith.db", "file:///data/kith.db?mode=rw"),
            ("//data/kith.db?mode=ro", "//data/kith.db", "file:////data/kith.db?mode=ro"),
            ("my%20data/k%3F%23%25.db?", "my data/k?#%.db", "file:my data/k%3F%23%25.db?mode=rwc"),
            ("50%.db?mode=rwc", "50%.db", "file:50%25.db?mode=rwc"),
            ("b\u{e4}r%C3%A4.db", "b\u{e4}r\u{e4}.db", "file:b%C3%A4r%C3%A4.db?mode=rwc"),
        ] {
            let file: SqliteFile = rest.parse().unwrap();
            assert_eq!((file.path(), file.uri().as_str()), (Path::new(path), uri), "{rest}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (rest, words) in [
            ("", "needs the path"),
            ("?mode=ro", "needs the path"),
            (":memory:", "in memory"),
            ("kith.db?mode=memory", "mode is \"memory\"; it can be ro, rw or rwc"),
            ("kith.db?mode", "mode is \"\""),
            ("kith.db?mode=rw&cache=shared", "unknown parameter \"cache\""),
            ("kith.db?vfs", "unknown parameter \"vfs\""),
            ("a%00b", "NUL"),
            ("%ff", "not UTF-8"),
        ] {
            let error = rest.parse::<SqliteFile>().unwrap_err();
            assert!(error.contains(words), "{rest}: {error}");
        }
    }
}
