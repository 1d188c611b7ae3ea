//! A page of `docs/moving-in`: its queries and scripts.

use std::fs;
use std::path::Path;

use crate::harness::Engine;

/// What a page has in its blocks of code.
pub struct Page {
    text: String,
    pub queries: Vec<Query>,
    /// Scripts for sed and the shell by their names.
    scripts: Vec<(String, String)>,
}

/// A block such as `-- PostgreSQL: users.csv`.
pub struct Query {
    pub engine: String,
    pub file: String,
    pub sql: String,
}

/// The name of an engine in the first line of a query.
pub fn name(engine: Engine) -> &'static str {
    match engine {
        Engine::Sqlite => "SQLite",
        Engine::Postgres => "PostgreSQL",
    }
}

impl Page {
    pub fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/moving-in/{name}.md"));
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut page = Self { text, queries: Vec::new(), scripts: Vec::new() };
        for (language, block) in blocks(&page.text) {
            let first = block.lines().next().unwrap_or_default();
            if language == "sql" {
                let title = first.strip_prefix("-- ").and_then(|title| title.split_once(": "));
                let (engines, file) = title.unwrap_or_else(|| panic!("{name}: a query without a title: {first}"));
                page.queries.extend(engines.split(" and ").map(|engine| Query {
                    engine: engine.to_owned(),
                    file: file.to_owned(),
                    sql: block.clone(),
                }));
            } else if let Some(title) = first.strip_prefix("# ") {
                let script = title.split([':', ' ']).next().unwrap_or_default();
                page.scripts.push((script.to_owned(), block));
            }
        }
        page
    }

    /// The query that prints this file.
    pub fn query(&self, engine: Engine, file: &str) -> Option<&str> {
        let is_it = |query: &&Query| query.file == file && [name(engine), "Any"].contains(&query.engine.as_str());
        self.queries.iter().find(is_it).map(|query| query.sql.as_str())
    }

    pub fn script(&self, name: &str) -> Option<&str> {
        self.scripts.iter().find(|(script, _)| script == name).map(|(_, text)| text.as_str())
    }

    /// The names of the other pages of this folder to which it links.
    pub fn links(&self) -> Vec<String> {
        let targets = self.text.split("](").skip(1).filter_map(|rest| rest.split_once(".md)"));
        targets.map(|(page, _)| page.to_owned()).filter(|page| !page.contains(['/', ')'])).collect()
    }
}

/// The blocks of code with their languages. Those in lists are indented.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else { continue };
        let indent = line.len() - line.trim_start().len();
        let body = lines.by_ref().take_while(|line| !line.trim_start().starts_with("```"));
        let body = body.map(|line| format!("{}\n", line.get(indent..).unwrap_or_default())).collect();
        blocks.push((language.to_owned(), body));
    }
    blocks
}
