//! Dependencies run one way: each module uses only those that it may use.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module with those that it may use. The first depends on no other.
const MAY_USE: [(&str, &[&str]); 24] = [
    ("domain", &[]),
    ("causes", &[]),
    ("progress", &[]),
    ("proto", &[]),
    ("rarely", &[]),
    ("task", &[]),
    ("tls", &[]),
    ("transfer", &["domain", "proto"]),
    ("metrics", &["domain", "proto"]),
    ("traces", &["proto", "rarely"]),
    ("auth", &["domain", "follow", "metrics", "proto", "task", "tls"]),
    ("follow", &["task"]),
    ("clock", &["domain"]),
    ("store", &["causes", "clock", "domain", "metrics", "progress", "rarely", "task", "tls", "traces", "transfer"]),
    ("import", &["clock", "domain", "mapping", "progress", "proto", "store", "transfer"]),
    ("committer", &["causes", "domain", "metrics", "store", "traces"]),
    ("feed", &["causes", "domain", "metrics", "store", "task"]),
    ("mapping", &["domain", "feed", "proto", "store", "transfer"]),
    ("error", &["auth", "committer", "domain", "feed", "mapping", "metrics", "proto", "store"]),
    (
        "service",
        &[
            "auth",
            "committer",
            "domain",
            "error",
            "feed",
            "mapping",
            "metrics",
            "proto",
            "store",
            "telemetry",
            "transfer",
        ],
    ),
    (
        "server",
        &[
            "auth",
            "causes",
            "committer",
            "config",
            "domain",
            "error",
            "feed",
            "follow",
            "metrics",
            "proto",
            "rarely",
            "service",
            "store",
            "task",
            "telemetry",
            "tls",
            "traces",
        ],
    ),
    ("config", &["auth", "domain", "import", "proto", "store", "traces", "transfer"]),
    ("telemetry", &["auth", "causes", "config", "metrics", "traces"]),
    (
        "command",
        &[
            "auth",
            "causes",
            "clock",
            "config",
            "domain",
            "follow",
            "import",
            "metrics",
            "progress",
            "proto",
            "server",
            "store",
            "telemetry",
            "tls",
            "traces",
            "transfer",
        ],
    ),
];

/// The modules of this crate that a module's files name.
fn uses(module: &str) -> BTreeSet<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![source.join(format!("{module}.rs"))];
    let mut folders: Vec<PathBuf> = [source.join(module)].into_iter().filter(|folder| folder.is_dir()).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    let name = |rest: &str| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>();
    let named = |file: PathBuf| {
        let text = fs::read_to_string(file).expect("a source");
        text.split("crate::").skip(1).map(name).collect::<Vec<_>>()
    };
    files.into_iter().flat_map(named).filter(|used| !used.is_empty() && used != module).collect()
}

#[test]
fn each_module_uses_only_those_below_it() {
    for (module, may_use) in MAY_USE {
        let allowed: BTreeSet<String> = may_use.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(uses(module), allowed, "what {module} uses is not what is written here");
    }
}

#[test]
fn every_module_is_listed() {
    let root = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/lib.rs")).expect("a source");
    let declared: BTreeSet<_> =
        root.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(declared, MAY_USE.iter().map(|(module, _)| *module).collect());
}

#[test]
fn the_domain_knows_no_wire_and_no_database() {
    let domain = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/domain");
    let mut folders = vec![domain];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let text = fs::read_to_string(&path).expect("a source");
            for foreign in ["diesel", "tonic", "prost", "tokio", "async fn", "Utc::now"] {
                assert!(!text.contains(foreign), "{} knows of {foreign}", path.display());
            }
        }
    }
    assert!(files > 10);
}
