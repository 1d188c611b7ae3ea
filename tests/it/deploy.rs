//! The files of `deploy/` use what Kith has: its settings, its version, its services, its ports and its times.
//!
//! `make deploy-check` checks them with the tools that use them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use kith::config::Cli;
use kith::server::SERVICES;

use crate::harness::process::command;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files that start Kith: those below `deploy/` but for the dashboard and the rules, and the image's.
fn files() -> Vec<(String, String)> {
    fn below(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            // The chart has links to the dashboard and the rules.
            if path.is_symlink() || path.ends_with("deploy/grafana") || path.ends_with("deploy/prometheus") {
                continue;
            }
            if path.is_dir() { below(&path, found) } else { found.push(path) }
        }
    }
    let mut found = vec![root().join("Dockerfile")];
    below(&root().join("deploy"), &mut found);
    found.sort();
    let name = |path: &Path| path.strip_prefix(root()).unwrap().display().to_string();
    found.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

/// What follows `begin` in a text, each time, up to the first character that does not fit.
fn following<'a>(text: &'a str, begin: &str, fits: impl Fn(char) -> bool) -> Vec<&'a str> {
    let rests = text.match_indices(begin).map(|(at, _)| &text[at + begin.len()..]);
    rests.map(|rest| rest.split(|c| !fits(c)).next().unwrap_or_default()).collect()
}

/// The value of a variable in a manifest, in seconds.
fn variable(text: &str, name: &str) -> u64 {
    let (_, rest) = text.split_once(&format!("- name: {name}\n")).unwrap();
    numbers(rest, "value:")[0]
}

/// The number in the lines with this key that have one, without its unit.
fn numbers(text: &str, key: &str) -> Vec<u64> {
    let values = text.lines().filter_map(|line| line.trim().strip_prefix(key));
    values.filter_map(|value| value.trim().trim_matches(['"', 's']).parse().ok()).collect()
}

#[test]
fn every_variable_is_a_setting() {
    let command = Cli::command();
    let commands = || std::iter::once(&command).chain(command.get_subcommands());
    let mut known: BTreeSet<String> = commands()
        .flat_map(clap::Command::get_arguments)
        .filter_map(|arg| Some(arg.get_env()?.to_str().unwrap().to_owned()))
        .collect();
    // Which image compose takes, and the commit of a build.
    known.extend(["KITH_IMAGE", "KITH_BUILD_REVISION"].map(str::to_owned));
    let mut used = 0;
    for (file, text) in files() {
        for name in following(&text, "KITH_", |c| c.is_ascii_uppercase() || c == '_') {
            assert!(known.contains(&format!("KITH_{name}")), "{file}: KITH_{name} is no setting of Kith");
            used += 1;
        }
    }
    assert!(used > 40, "only {used} variables were found");
}

#[test]
fn every_flag_is_one_of_its_subcommand() {
    let mut command = Cli::command();
    // Gives the subcommands the flags that all of them have.
    command.build();
    let mut used = 0;
    for (file, text) in files() {
        // As a line of a shell, and as the array of a probe.
        for line in text.lines().map(|line| line.replace("\", \"", " ")) {
            for subcommand in command.get_subcommands() {
                let Some((_, rest)) = line.split_once(&format!("/kith {} ", subcommand.get_name())) else { continue };
                for flag in following(rest, "--", |c| c.is_ascii_lowercase() || c == '-') {
                    let known = subcommand.get_arguments().any(|arg| arg.get_long() == Some(flag));
                    assert!(known, "{file}: kith {} has no flag --{flag}", subcommand.get_name());
                    used += 1;
                }
            }
        }
    }
    assert!(used >= 5, "only {used} flags were found");
}

#[test]
fn the_configuration_file_of_the_package_is_valid_with_its_examples_too() {
    let text = read("deploy/systemd/kith.toml");
    // An example begins with `#`, a comment with `# `.
    let example = |line| str::strip_prefix(line, '#').filter(|rest| rest.starts_with(char::is_alphabetic));
    let examples: Vec<_> = text.lines().map(|line| example(line).unwrap_or(line)).collect();
    let examples = examples.join("\n");
    assert!(examples.lines().any(|line| line.starts_with("tls-key = ")), "there is no example:\n{examples}");
    let folder = tempfile::TempDir::with_prefix("kith-test-").unwrap();
    let path = folder.path().join("kith.toml");
    fs::write(&path, examples).unwrap();
    let output = command(&["config", &format!("--config={}", path.display())]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_version_is_that_of_kith_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    for (file, line) in [
        ("deploy/helm/kith/Chart.yaml", format!("version: {version}")),
        ("deploy/helm/kith/Chart.yaml", format!("appVersion: \"{version}\"")),
        ("deploy/compose/compose.yaml", format!("image: ${{KITH_IMAGE:-kith:{version}}}")),
        ("deploy/kubernetes/overlays/postgres/deployment.yaml", format!("image: ghcr.io/kith-rs/kith:{version}")),
        ("deploy/kubernetes/overlays/sqlite/statefulset.yaml", format!("image: ghcr.io/kith-rs/kith:{version}")),
        ("Dockerfile", format!("ARG VERSION={version}")),
    ] {
        assert!(read(file).lines().any(|each| each.trim() == line), "{file} lacks the line {line:?}");
    }
    for (file, text) in files().into_iter().filter(|(file, _)| file.starts_with("deploy/kubernetes")) {
        for label in following(&text, "app.kubernetes.io/version: \"", |c| c != '"') {
            assert_eq!(label, version, "{file}");
        }
    }
}

#[test]
fn probes_ask_for_services_that_exist() {
    let mut probes = 0;
    for (file, text) in files().into_iter().filter(|(file, _)| file.starts_with("deploy/")) {
        for service in following(&text, "kith.v1.", |c| c.is_ascii_alphanumeric()) {
            assert!(SERVICES.contains(&format!("kith.v1.{service}").as_str()), "{file}: kith.v1.{service}");
            probes += 1;
        }
    }
    assert!(probes >= 4, "only {probes} probes were found");
}

#[test]
fn a_server_has_the_time_to_end_that_its_settings_give_it() {
    for file in ["overlays/postgres/deployment.yaml", "overlays/sqlite/statefulset.yaml"] {
        let text = read(&format!("deploy/kubernetes/{file}"));
        let (delay, drain) = (variable(&text, "KITH_DRAIN_DELAY"), variable(&text, "KITH_DRAIN_TIME"));
        let grace = numbers(&text, "terminationGracePeriodSeconds:");
        // The drain time counts twice: for open calls, and then for the writes in the queue.
        assert!(matches!(grace[..], [grace] if grace > delay + 2 * drain), "{file}: {grace:?}, {delay}, {drain}");
    }
    let settings = Cli::command();
    let serve = settings.find_subcommand("serve").unwrap();
    let drain = serve.get_arguments().find(|arg| arg.get_id() == "drain_time").unwrap();
    let drain: u64 = drain.get_default_values()[0].to_str().unwrap().trim_end_matches('s').parse().unwrap();
    let unit = numbers(&read("deploy/systemd/kith.service"), "TimeoutStopSec=");
    // And 5 s of delay, which is the default on an address that other machines reach.
    assert!(matches!(unit[..], [stop] if stop > 5 + 2 * drain), "{unit:?}, {drain}");
    let compose = numbers(&read("deploy/compose/compose.yaml"), "stop_grace_period:");
    assert!(matches!(compose.first(), Some(stop) if *stop > 2 * drain), "{compose:?}, {drain}");
}
