//! Do settings come from where the operator wrote them, and do errors say where that is?

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use clap::{Arg, CommandFactory};
use kith::config::Cli;
use kith::proto::v1 as pb;
use tempfile::TempDir;

use crate::harness::printer::Printer;
use crate::harness::process::{Ended, Kith, command, run, run_command};
use crate::harness::until;

const PASSWORD: &str = "hunter2-canary";

/// A folder with a configuration file.
struct Folder(TempDir);

impl Folder {
    fn with(text: &str) -> Self {
        let folder = TempDir::with_prefix("kith-test-").unwrap();
        fs::write(folder.path().join("kith.toml"), text).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// A command in this folder.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = command(args);
        command.current_dir(self.0.path());
        if args.first() == Some(&"config") {
            // It prints what is set, and starts no server.
            command.env_remove("KITH_METRICS_LISTEN");
        }
        command
    }
}

/// What a command prints that succeeds.
fn printed(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// The lines of `kith config` without their comments.
fn values(text: &str) -> Vec<&str> {
    text.lines().map(|line| line.split("  # ").next().unwrap().trim()).filter(|line| !line.starts_with('#')).collect()
}

/// The line of a setting.
#[track_caller]
fn line<'a>(text: &'a str, key: &str) -> &'a str {
    let begin = format!("{key} = ");
    text.lines().find(|line| line.starts_with(&begin)).unwrap_or_else(|| panic!("no {key} in {text}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flag_precedes_a_variable_and_that_precedes_the_file() {
    let folder = Folder::with("database-url = 'sqlite://file.db'\nlisten = 'unix:file.sock'\n");
    for (variable, flag, socket) in [
        (None, None, "unix:file.sock"),
        (Some("unix:variable.sock"), None, "unix:variable.sock"),
        (None, Some("--listen=unix:flag.sock"), "unix:flag.sock"),
        (Some("unix:variable.sock"), Some("--listen=unix:flag.sock"), "unix:flag.sock"),
    ] {
        // Without a subcommand, with one, and with `--config` before it.
        for begin in
            [&["--config=kith.toml"][..], &["serve", "--config", "kith.toml"], &["--config=kith.toml", "serve"]]
        {
            let args: Vec<&str> = begin.iter().copied().chain(flag).collect();
            let mut serve = folder.command(&args);
            serve.envs(variable.map(|value| ("KITH_LISTEN", value)));
            let kith = Kith::start(serve).await;
            assert_eq!(kith.address, socket, "{args:?}");
            // The file's settings differ from the defaults too.
            let settings = format!("settings=\"listen={socket} metrics-listen=off database-url=sqlite://file.db\"");
            assert!(kith.log().lines().next().is_some_and(|line| line.contains(&settings)), "{}", kith.log());
            assert!(Path::new(&folder.path("file.db")).exists());
        }
    }
    // The file may be named by a variable.
    let mut serve = folder.command(&[]);
    serve.env("KITH_CONFIG", "kith.toml");
    assert_eq!(Kith::start(serve).await.address, "unix:file.sock");
}

#[test]
fn the_settings_in_force_are_printed_with_where_they_are_from_and_can_be_read_back() {
    let folder = Folder::with("\nmax-watchers = 5\nmigrate = false\nserver = ':1'\nevent-retention = '9d'\n");
    let url = format!("postgres://kith:{PASSWORD}@db/kith?sslmode=require");
    let mut first = folder.command(&["config", "--config=kith.toml", "--event-retention=8d", "--disclose-views"]);
    first.env("KITH_DATABASE_URL", &url).env("KITH_MAX_CONNECTIONS", "0007").env("KITH_MIGRATE", "true");
    let text = printed(first);
    assert!(!text.contains(PASSWORD), "{text}");
    for (key, words) in [
        ("max-watchers", "max-watchers = 5"),
        ("max-watchers", "# kith.toml:2"),
        ("event-retention", "event-retention = \"8d\""),
        ("event-retention", "# flag"),
        ("disclose-views", "disclose-views = true"),
        ("database-url", "database-url = \"postgres://kith:***@db/kith?sslmode=require\"  # KITH_DATABASE_URL"),
        ("max-connections", "max-connections = 7 "),
        ("max-connections", "# KITH_MAX_CONNECTIONS"),
        ("migrate", "migrate = true"),
        ("listen", "listen = \"127.0.0.1:50051\""),
        ("listen", "# default"),
    ] {
        assert!(line(&text, key).contains(words), "no {words:?} in {text}");
    }
    fs::write(folder.path("second.toml"), &text).unwrap();
    let second = printed(folder.command(&["config", "--config=second.toml"]));
    assert_eq!(values(&second), values(&text));
    assert!(line(&second, "listen").contains("# second.toml:2"), "{second}");
    fs::write(folder.path("second.toml"), &second).unwrap();
    assert_eq!(printed(folder.command(&["config", "--config=second.toml"])), second);
    // What it prints is what `kith serve` takes.
    let serve = Cli::command().find_subcommand("serve").unwrap().clone();
    // The others are not set.
    let has_default = |arg: &&Arg| arg.get_env().is_some() && !arg.get_default_values().is_empty();
    let settings = serve.get_arguments().filter(has_default);
    assert_eq!(values(&text).into_iter().filter(|line| !line.is_empty()).count(), settings.count(), "{text}");
}

/// Asserts that it ended with one line that begins with these words.
#[track_caller]
fn refused(ended: &Ended, words: &str) {
    assert!(!ended.status.success() && !ended.log.contains(PASSWORD), "{ended:#?}");
    let says = ended.log.lines().filter(|line| line.starts_with("kith: ")).collect::<Vec<_>>();
    assert!(matches!(says[..], [line] if line.starts_with(&format!("kith: {words}"))), "no {words:?} in {ended:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_name_the_flag_the_variable_or_the_line_that_is_wrong() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = taken.local_addr().unwrap().to_string();
    let url = format!("postgres://kith:{PASSWORD}@localhost:port/kith");
    for (key, value, words) in [
        // Found while settings are parsed.
        ("listen", "nowhere", ": invalid value \"nowhere\": has no port"),
        ("max-call-time", "0s", ": invalid value \"0s\": must be at least 1ms"),
        ("log-format", "xml", ": invalid value \"xml\": must be one of: text, json"),
        ("database-url", &url, ": invalid value: "),
        // Found when they are used.
        ("listen", &in_use, &format!(" {in_use}: cannot listen on this address: Address already in use")),
        ("log-level", "kith=loud", " \"kith=loud\": "),
        ("database-url", "sqlite://no/such.db", " sqlite://no/such.db: "),
    ] {
        let variable = format!("KITH_{}", key.to_uppercase().replace('-', "_"));
        let folder = Folder::with(&format!("# A comment\n{key} = {value:?}\n"));
        let rest = if key == "database-url" { "--listen=127.0.0.1:0" } else { "--database-url=sqlite://kith.db" };
        let ended = run_command(folder.command(&["serve", rest, &format!("--{key}={value}")])).await;
        refused(&ended, &format!("--{key}{words}"));
        let mut serve = folder.command(&["serve", rest]);
        serve.env(&variable, value);
        refused(&run_command(serve).await, &format!("{variable}{words}"));
        let ended = run_command(folder.command(&["serve", rest, "--config=kith.toml"])).await;
        refused(&ended, &format!("kith.toml:2: {key}{words}"));
    }
    // Errors of the file itself.
    for (text, words) in [
        ("max-watcher = 1", "kith.toml:1: unknown setting \"max-watcher\"; did you mean max-watchers?"),
        ("max-watchers = 'many'", "kith.toml:1: max-watchers must be a number"),
        ("listen", "kith.toml:1: "),
    ] {
        // A setting of another subcommand is known, and an unknown one is not.
        for subcommand in ["serve", "check", "watch", "config"] {
            let folder = Folder::with(text);
            refused(&run_command(folder.command(&[subcommand, "--config=kith.toml"])).await, words);
        }
    }
    let folder = Folder::with("max-watchers = 1\nserver = ':1'\n");
    let known = folder.command(&["migrate", "--config=kith.toml"]);
    assert!(run_command(known).await.status.success());
    refused(&run_command(folder.command(&["--config=none.toml"])).await, "--config none.toml: cannot read the file: ");
    let mut serve = folder.command(&[]);
    serve.env("KITH_CONFIG", "none.toml");
    refused(&run_command(serve).await, "KITH_CONFIG none.toml: cannot read the file: ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_variable_is_a_warning_with_the_nearest_known_name() {
    let folder = Folder::with("");
    let variables = [("KITH_MAX_WATCHER", PASSWORD), ("KITH_TEST_SEED", "1"), ("KITH_SERVICE_HOST", "10.0.0.1")];
    let warned = |log: &str| {
        let warnings: Vec<_> = log.lines().filter(|line| line.contains("no such setting")).collect();
        assert!(matches!(warnings[..], [line] if line.contains("WARN")), "{log}");
        let words = "KITH_MAX_WATCHER is set, but there is no such setting; did you mean KITH_MAX_WATCHERS?";
        assert!(warnings[0].contains(words) && !log.contains(PASSWORD), "{log}");
    };
    let mut serve = folder.command(&["--listen=127.0.0.1:0"]);
    serve.envs(variables);
    let kith = Kith::start(serve).await;
    warned(&kith.log());
    for subcommand in ["migrate", "check", "export", "restore-epoch"] {
        let mut other = folder.command(&[subcommand]);
        other.envs(variables);
        warned(&run_command(other).await.log);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_serves_every_kind_of_client() {
    let folder = Folder::with("");
    let socket = format!("unix:{}", folder.path("kith.sock"));
    let serve = || folder.command(&["--listen", &socket]);
    let kith = Kith::start(serve()).await;
    assert_eq!(kith.address, socket);
    let ann = kith.clients().user("ann").await;
    let health = || async { run(&["healthcheck", "--address", &socket]).await };
    until("it is healthy", async || health().await.status.success()).await;
    // The setting that the server has is the one that the check reads.
    let mut check = command(&["healthcheck"]);
    check.env("KITH_LISTEN", &socket);
    assert!(run_command(check).await.status.success());
    fs::write(folder.path("kith.toml"), format!("listen = {socket:?}\n")).unwrap();
    assert!(run_command(folder.command(&["healthcheck", "--config=kith.toml"])).await.status.success());
    let mut watch = Printer::start(command(&["watch", "--after=0", "--server", &socket]));
    assert_eq!(watch.number("user_id").await, ann);

    // Another server does not take it from this one, and takes it after a crash.
    let second = run_command(serve()).await;
    refused(&second, &format!("--listen {socket}: cannot listen on this address: the socket is in use"));
    let user = pb::GetUserRequest { key: Some(pb::get_user_request::Key::Id(ann)), ..Default::default() };
    kith.fresh_clients().users().get_user(user.clone()).await.expect("the first still serves");
    kith.crash().await;
    refused(&health().await, &format!("--address {socket}: cannot connect: "));
    let kith = Kith::start(serve()).await;
    kith.clients().users().get_user(user).await.expect("the second serves");
    kith.signal("TERM");
    assert!(kith.wait().await.status.success());
    assert!(!Path::new(&folder.path("kith.sock")).exists(), "the socket is removed at the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_every_interface_can_be_listened_on_and_queried() {
    // The machine may have no IPv6.
    let six = std::net::TcpListener::bind("[::1]:0").is_ok().then_some(("[::1]:0", "[::1]:"));
    let four = [("localhost:0", "localhost:"), (":0", ":"), ("0.0.0.0:0", "0.0.0.0:")];
    for (listen, address) in four.into_iter().chain(six) {
        let folder = Folder::with("");
        let kith = Kith::start(folder.command(&["--listen", listen, "--insecure-allow-anonymous"])).await;
        let (_, port) = kith.address.rsplit_once(':').unwrap();
        let address = format!("{address}{port}");
        until("it is healthy", async || run(&["healthcheck", "--address", &address]).await.status.success()).await;
    }
}

#[test]
fn completions_and_manual_pages_name_every_subcommand_and_flag() {
    let mut kith = Cli::command();
    kith.build();
    let subcommands = |command: &clap::Command| -> Vec<clap::Command> {
        command.get_subcommands().filter(|command| command.get_name() != "help").cloned().collect()
    };
    // Each with the names that lead to it.
    let mut all: Vec<(Vec<String>, clap::Command)> = vec![(Vec::new(), kith)];
    let mut at = 0;
    while let Some((names, command)) = all.get(at).cloned() {
        let inner = subcommands(&command);
        all.extend(inner.into_iter().map(|inner| ([&names[..], &[inner.get_name().to_owned()]].concat(), inner)));
        at += 1;
    }
    let names: Vec<_> = all.iter().flat_map(|(names, _)| names.last()).cloned().collect();
    let flags: Vec<_> = all.iter().flat_map(|(_, command)| command.get_arguments()).filter_map(Arg::get_long).collect();
    assert!(names.len() > 30 && flags.len() > 100);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = printed(command(&["completion", shell]));
        for name in names.iter().map(String::as_str).chain(flags.iter().copied()) {
            assert!(script.contains(name), "no {name} for {shell}");
        }
    }
    for (names, subcommand) in &all {
        let words: Vec<&str> = std::iter::once("man").chain(names.iter().map(String::as_str)).collect();
        let page = printed(command(&words)).replace("\\-", "-");
        let title = ["kith"].into_iter().chain(names.iter().map(String::as_str)).collect::<Vec<_>>().join("-");
        assert!(page.contains(&format!(".TH {title} 1")), "{page}");
        for flag in subcommand.get_arguments().filter_map(Arg::get_long) {
            assert!(page.contains(&format!("--{flag}")), "no {flag} in {page}");
        }
        for inner in subcommands(subcommand) {
            assert!(page.contains(&format!("{title}-{}(1)", inner.get_name())), "no {} in {page}", inner.get_name());
        }
    }
    assert!(printed(command(&["man"])).contains(".SH DATABASE"));
}

/// A row of a table in the README: the flag, the variable and the default.
fn row(arg: &Arg) -> (String, String, Option<String>) {
    let text = |value: &OsStr| value.to_string_lossy().into_owned();
    let code = |value: String| format!("`{value}`");
    let takes_value = arg.get_action().takes_values();
    let default = arg
        .get_default_values()
        .first()
        .filter(|value| takes_value && !value.is_empty())
        .map(|value| code(text(value)));
    let variable = arg.get_env().map(|name| code(text(name))).unwrap_or_default();
    (code(format!("--{}", arg.get_long().unwrap())), variable, default)
}

/// An empty default may be described in words.
#[test]
fn the_tables_of_the_readme_are_those_of_the_flags() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    for name in ["serve", "watch", "call", "top", "import", "load", "healthcheck"] {
        let (_, table) = readme.split_once(&format!("| Flag of `kith {name}` |")).unwrap();
        let (table, _) = table.split_once("\n\n").unwrap();
        let mut rows = Vec::new();
        for line in table.lines().skip(2) {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            let ["", flags, variable, default, meaning, ""] = cells[..] else { panic!("{line}") };
            assert!(!meaning.is_empty(), "{line}");
            rows.extend(flags.split(", ").map(|flag| (flag, variable, default)));
        }
        let mut kith = Cli::command();
        kith.build();
        let command = kith.find_subcommand(name).unwrap();
        // The first table has the flag of all subcommands.
        let has_all = name == "serve";
        // What several subcommands have is in the table of the server.
        let is_shared = |arg: &Arg| name == "import" && arg.get_help_heading().is_some();
        let is_in_table = |arg: &&Arg| {
            arg.get_id() != "help" && !arg.is_positional() && (arg.get_id() != "config" || has_all) && !is_shared(arg)
        };
        for arg in command.get_arguments().filter(is_in_table) {
            let (flag, variable, default) = row(arg);
            let found = rows.iter().position(|(of, ..)| *of == flag);
            let (_, described, value) =
                rows.remove(found.unwrap_or_else(|| panic!("no {flag} in the table of {name}")));
            assert_eq!(described, variable, "{flag}");
            assert!(default.is_none_or(|default| value == default), "{flag}: {value}");
        }
        assert_eq!(rows, [], "flags that {name} does not have");
    }
}
