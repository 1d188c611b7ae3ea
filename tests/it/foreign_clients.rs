//! What clients in other languages start from: the descriptors, the service config and the templates of buf.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

use kith::proto::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_types::FileDescriptorSet;
use prost_types::method_options::IdempotencyLevel;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::process::command;
use crate::harness::terminal::Terminal;

fn read(path: &str) -> String {
    fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR")))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The methods without side effects, as `kith.v1.Service/Method`: those with one response, and those with a stream.
fn reads() -> (BTreeSet<String>, BTreeSet<String>) {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("descriptors");
    let (mut unary, mut streaming) = (BTreeSet::new(), BTreeSet::new());
    for file in set.file.iter().filter(|file| file.package() == "kith.v1") {
        for service in &file.service {
            for method in &service.method {
                let options = method.options.clone().unwrap_or_default();
                if options.idempotency_level() == IdempotencyLevel::NoSideEffects {
                    let reads = if method.server_streaming() { &mut streaming } else { &mut unary };
                    reads.insert(format!("kith.v1.{}/{}", service.name(), method.name()));
                }
            }
        }
    }
    (unary, streaming)
}

/// The methods of the entries of the service config that satisfy a condition. A method has at most one entry.
fn configured(config: &Value, condition: impl Fn(&Value) -> bool) -> BTreeSet<String> {
    let entries = config["methodConfig"].as_array().expect("a list").iter().filter(|entry| condition(entry));
    let mut methods = BTreeSet::new();
    for name in entries.flat_map(|entry| entry["name"].as_array().expect("a list")) {
        let method = format!("{}/{}", name["service"].as_str().unwrap(), name["method"].as_str().unwrap());
        assert!(methods.insert(method), "{name} is configured twice");
    }
    methods
}

#[test]
fn the_service_config_names_the_reads_and_nothing_else() {
    let config: Value = serde_json::from_str(&read("docs/service-config.json")).expect("JSON");
    let (unary, streaming) = reads();
    assert!(unary.len() >= 12 && streaming.len() >= 2, "{unary:?} {streaming:?}");
    let all = configured(&config, |_| true);
    assert_eq!(all, unary.union(&streaming).cloned().collect(), "left: the service config; right: NO_SIDE_EFFECTS");
    // A stream lasts as long as it has something to send.
    assert_eq!(configured(&config, |entry| !entry["timeout"].is_null()), unary);
    // A watch is resumed by its client, from its cursor.
    let watch = BTreeSet::from(["kith.v1.EventService/WatchEvents".to_owned()]);
    assert_eq!(configured(&config, |entry| entry["retryPolicy"].is_null()), watch);
    assert_eq!(configured(&config, |entry| entry["waitForReady"] == true), watch);
    for policy in config["methodConfig"].as_array().unwrap().iter().map(|entry| &entry["retryPolicy"]) {
        assert!(policy.is_null() || policy["retryableStatusCodes"] == serde_json::json!(["UNAVAILABLE"]), "{policy}");
    }
}

#[test]
fn the_descriptors_are_written_to_a_file_or_a_pipe() {
    let folder = TempDir::with_prefix("kith-test-").unwrap();
    let file = folder.path().join("kith.binpb");
    let piped = command(&["proto"]).stdin(Stdio::null()).output().expect("it runs");
    assert!(piped.status.success() && piped.stderr.is_empty(), "{piped:?}");
    assert!(piped.stdout == FILE_DESCRIPTOR_SET);
    let written = command(&["proto", file.to_str().unwrap()]).output().expect("it runs");
    assert!(written.status.success() && written.stdout.is_empty(), "{written:?}");
    assert!(fs::read(&file).unwrap() == FILE_DESCRIPTOR_SET);
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    assert!(set.file.iter().any(|file| file.name() == "google/protobuf/timestamp.proto"), "imports are included");
    let mut ours = set.file.iter().filter(|file| file.package() == "kith.v1");
    assert!(ours.all(|file| file.source_code_info.is_some()), "comments are included");
    let refused = command(&["proto", folder.path().join("no/such/folder").to_str().unwrap()]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("no/such/folder") && error.contains("No such file"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_descriptors_are_not_written_to_a_terminal() {
    let terminal = Terminal::run(&format!("{} proto; echo status=$?", env!("CARGO_BIN_EXE_kith")));
    terminal.shows("status=1", 0).await;
    let shown = terminal.shown();
    assert!(shown.contains("kith proto kith.binpb"), "{shown}");
    assert!(!shown.contains("kith.v1"), "{shown}");
}

/// The plugins of a template of buf, as lines, that write below a folder; the folder is left out.
fn plugins(template: &str, folder: &str) -> Vec<String> {
    let (_, list) = template.split_once("\nplugins:\n").expect("plugins");
    let mut plugins: Vec<String> = Vec::new();
    for line in list.lines().filter(|line| !line.trim_start().starts_with('#')) {
        match line.strip_prefix("  - ") {
            Some(first) => plugins.push(format!("{first}\n")),
            None => *plugins.last_mut().expect("a plugin") += &format!("{line}\n"),
        }
    }
    let out = format!("    out: {folder}\n");
    plugins.retain(|plugin| plugin.contains(&out));
    plugins.iter().map(|plugin| plugin.replace(&out, "")).collect()
}

#[test]
fn the_templates_of_the_examples_are_those_of_the_whole() {
    let whole = read("buf.gen.yaml");
    for (language, count) in [("typescript", 1), ("go", 2), ("java", 2)] {
        let own = plugins(&read(&format!("examples/{language}/buf.gen.yaml")), "gen");
        assert_eq!(own.len(), count, "{language}: {own:?}");
        assert_eq!(own, plugins(&whole, &format!("gen/{language}")), "{language}");
    }
    for language in ["python", "rust"] {
        assert!(!plugins(&whole, &format!("gen/{language}")).is_empty(), "{language}");
    }
}
