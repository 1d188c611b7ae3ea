//! A database of another system, from which the queries of its page read.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::Fixture;
use super::page::Page;
use crate::harness::postgres::binaries;
use crate::harness::{Database, Engine};

/// A fixture in a database of its own.
pub struct Source {
    page: Page,
    has_text_keys: bool,
    database: Database,
    /// Deleted with this.
    _folder: Option<TempDir>,
}

/// The folder with the dump, the CSV and what is expected.
pub fn folder(fixture: &Fixture) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/moving-in").join(fixture.name)
}

impl Source {
    pub async fn load(fixture: &Fixture, engine: Engine) -> Self {
        let page = Page::read(fixture.page);
        let has_text_keys = fixture.has_text_keys;
        if let Some(script) = page.script("load.sh") {
            let (folder, database) = load_files(&folder(fixture).join("mongoexport"), script);
            return Self { page, has_text_keys, database, _folder: Some(folder) };
        }
        let source = Self { page, has_text_keys, database: Database::empty(engine).await, _folder: None };
        let tables = match engine {
            Engine::Sqlite => "sqlite.sql",
            Engine::Postgres => "postgres.sql",
        };
        let files = [tables, "rows.sql"].map(|file| fs::read_to_string(folder(fixture).join(file)).unwrap_or_default());
        assert!(!files[0].is_empty(), "{}: no {tables}", fixture.name);
        source.shell(&[], &files.concat());
        source
    }

    /// Runs the query of the page for this file, as the guide says. Returns what it prints; `None` without a query.
    pub fn output(&self, file: &str) -> Option<String> {
        let engine = self.database.engine;
        // The review is for people, and prints keys as they are stored.
        let query = self.page.query(engine, file).filter(|_| file != "review.csv" || !self.has_text_keys)?;
        let query = match (self.has_text_keys, Page::read("README").script("strings.sed")) {
            (true, Some(script)) => piped(Command::new("sed").args(["-e", script]), query),
            _ => query.to_owned(),
        };
        let csv = match engine {
            Engine::Sqlite => self.shell(&["-csv", "-header"], &query),
            Engine::Postgres => self.shell(&["--csv"], &query),
        };
        let hyphens = self.page.script("hyphens.sed").filter(|_| self.has_text_keys && engine == Engine::Sqlite);
        Some(match hyphens {
            Some(script) => piped(Command::new("sed").args(["-E", "-e", script]), &csv),
            None => csv,
        })
    }

    /// Runs a script with the shell of the database.
    fn shell(&self, args: &[&str], script: &str) -> String {
        match self.database.engine {
            Engine::Sqlite => piped(Command::new("sqlite3").arg("-bail").args(args).arg(self.database.path()), script),
            Engine::Postgres => {
                let mut psql = Command::new(binaries().join("psql"));
                psql.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname", &self.database.url]);
                piped(psql.args(args).env("PGTZ", "UTC"), script)
            }
        }
    }
}

/// Runs the script of a page that loads files, in a copy of their folder.
fn load_files(files: &Path, script: &str) -> (TempDir, Database) {
    let folder = tempfile::tempdir().expect("a folder");
    for file in fs::read_dir(files).expect("a folder") {
        let file = file.expect("a file");
        fs::copy(file.path(), folder.path().join(file.file_name())).expect("a copy");
    }
    piped(Command::new("sh").arg("-e").current_dir(folder.path()), script);
    let loaded = fs::read_dir(folder.path()).expect("a folder").map(|file| file.expect("a file").path());
    let loaded = loaded.into_iter().find(|file| file.extension().is_some_and(|extension| extension == "db"));
    let url = format!("sqlite://{}", loaded.expect("a database").display());
    (folder, Database::at(&url, Engine::Sqlite))
}

/// Runs a program with this input. Returns what it prints.
pub fn piped(command: &mut Command, input: &str) -> String {
    let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut program = started.unwrap_or_else(|error| {
        panic!("{command:?}: {error}; scripts/install-test-tools installs what the tests need");
    });
    let mut stdin = program.stdin.take().expect("a pipe");
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input.as_bytes()).expect("a program that reads"));
        let output = program.wait_with_output().expect("a program that ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{command:?}: {said}");
        String::from_utf8(output.stdout).expect("UTF-8")
    })
}
