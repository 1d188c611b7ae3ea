//! Does the URL of a PostgreSQL database mean what it means for PostgreSQL's own tools, and do secrets stay secret?

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use crate::harness::own_postgres::{OwnPostgres, PASSWORD};
use crate::harness::process::{Ended, Kith, command, run, run_command};
use crate::harness::{Database, Engine, postgres};

/// Runs `kith check` for a database. It ends.
async fn check(url: &str) -> Ended {
    run(&["check", &format!("--database-url={url}")]).await
}

#[track_caller]
fn refused(ended: &Ended, words: &[&str]) {
    assert!(ended.status.code().is_some_and(|code| code != 0), "{ended:#?}");
    for word in words {
        assert!(ended.log.contains(word), "no {word:?} in {ended:#?}");
    }
    assert!(!ended.log.contains("hunter2") && !ended.log.contains("panicked"), "{ended:#?}");
}

/// The URL with more parameters.
fn with(url: &str, parameters: &str) -> String {
    format!("{url}{}{parameters}", if url.contains('?') { '&' } else { '?' })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_reach_postgresql() {
    let database = Database::migrated(Engine::Postgres).await;
    let sessions = |condition: &str| {
        format!("SELECT count(*) AS value FROM pg_stat_activity WHERE datname = current_database() AND {condition}")
    };
    let kith = Kith::serve(&with(&database.url, "application_name=the%20first&options=-c%20geqo%3Doff\n"), &[]).await;
    kith.clients().user("ann").await;
    assert!(database.number(&sessions("application_name = 'the first'")).await > 1);
    assert_eq!(database.number(&sessions("application_name = 'kith'")).await, 0);
    // An option that does not exist is PostgreSQL's to refuse.
    refused(&check(&with(&database.url, "options=-c%20no_such_setting%3D1")).await, &["no_such_setting"]);
    kith.crash().await;
    let _kith = Kith::serve(&database.url, &[]).await;
    assert!(database.number(&sessions("application_name = 'kith'")).await > 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_host_that_fits_is_used() {
    let database = Database::migrated(Engine::Postgres).await;
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port");
    let (login, rest) = database.url.split_once('@').expect("a user");
    let several = format!("{login}@{free},{rest}");
    for (attributes, expected) in [
        ("any", Ok(())),
        ("read-write", Ok(())),
        ("primary", Ok(())),
        ("prefer-standby", Ok(())),
        ("standby", Err("is a primary")),
        ("read-only", Err("takes writes")),
    ] {
        let url = with(&several, &format!("target_session_attrs={attributes}"));
        let ended = run(&["check", "--database-wait=0", &format!("--database-url={url}")]).await;
        match expected {
            Ok(()) => assert!(ended.status.success(), "{attributes}: {ended:#?}"),
            // Each host with its own cause.
            Err(words) => refused(&ended, &[words, &format!("{free}: "), "refused"]),
        }
    }
    database.execute(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", database.name())).await;
    let url = with(&database.url, "target_session_attrs=read-write");
    refused(&run(&["check", "--database-wait=0", &format!("--database-url={url}")]).await, &["takes no writes"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_ca_accepts_a_certificate_for_another_name_and_none_of_another_authority() {
    let Some(certificate) = &postgres::server().certificate else {
        println!("skipped: the given server's certificate is not known");
        return;
    };
    let directory = TempDir::with_prefix("kith-test-").unwrap();
    let other = directory.path().join("other.crt");
    fs::write(&other, rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem()).unwrap();
    let database = Database::migrated(Engine::Postgres).await;
    let by_number = database.url.replace("@localhost:", "@127.0.0.1:");
    for mode in ["verify-ca", "require"] {
        let url = |roots: &Path| with(&by_number, &format!("sslmode={mode}&sslrootcert={}", roots.display()));
        let accepted = check(&url(certificate)).await;
        assert!(accepted.status.success(), "{accepted:#?}");
        // At once: waiting does not change a certificate.
        let ended = check(&url(&other)).await;
        refused(&ended, &["certificate"]);
        assert!(!ended.log.contains("not there yet"), "{ended:#?}");
    }
    let url = with(&by_number, &format!("sslmode=verify-full&sslrootcert={}", certificate.display()));
    refused(&check(&url).await, &["certificate"]);
}

/// A file with this content and these permissions.
fn file(directory: &TempDir, name: &str, content: &str, mode: u32) -> String {
    let path = directory.path().join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_password_comes_from_where_libpq_has_it_or_from_a_file() {
    let mut server = OwnPostgres::prepare();
    server.start();
    let directory = TempDir::with_prefix("kith-test-").unwrap();
    let port = server.port;
    let escaped = PASSWORD.replace('\\', "\\\\").replace(':', "\\:");
    let lines = format!("other:*:*:*:wrong\nlocalhost:{port}:*:postgres:{escaped}\n*:*:*:*:wrong\n");
    let (passwords, open) = (file(&directory, "passwords", &lines, 0o600), file(&directory, "open", &lines, 0o640));
    let (password, wrong) =
        (file(&directory, "password", &format!("{PASSWORD}\n"), 0o600), file(&directory, "wrong", "wrong", 0o600));
    let encoded = PASSWORD.replace('\\', "%5C").replace(':', "%3A").replace(' ', "%20");
    let plain = format!("postgres://postgres@localhost:{port}/postgres");
    let with_password = plain.replace("postgres@", &format!("postgres:{encoded}@"));
    let url_file = file(&directory, "url", &format!("{with_password}\n"), 0o600);
    let home = directory.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::copy(&passwords, home.join(".pgpass")).unwrap();
    let home = home.display().to_string();
    let passfile = format!("{plain}?passfile={passwords}");

    let migrate = async |args: &[&str], variables: &[(&str, &str)]| {
        let mut migrate = command(&[&["migrate"], args].concat());
        migrate.env("HOME", directory.path()).env_remove("PGPASSWORD").env_remove("PGPASSFILE");
        migrate.envs(variables.iter().copied());
        run_command(migrate).await
    };
    let url = format!("--database-url={plain}");
    let full = format!("--database-url={with_password}");
    let from_passfile = format!("--database-url={passfile}");
    let (password_file, url_file) =
        (format!("--database-password-file={password}"), format!("--database-url-file={url_file}"));
    for (args, variables) in [
        (vec![&*full], vec![]),
        (vec![&*url_file], vec![]),
        (vec![&*url], vec![("PGPASSWORD", PASSWORD)]),
        (vec![&*url], vec![("PGPASSFILE", &*passwords)]),
        (vec![&*from_passfile], vec![("PGPASSFILE", "/no/such/file")]),
        (vec![&*url], vec![("HOME", &*home)]),
        (vec![&*url, &*password_file], vec![]),
        (vec![&*url], vec![("KITH_DATABASE_PASSWORD_FILE", &*password)]),
        // The earlier source counts.
        (vec![&*full], vec![("PGPASSWORD", "wrong")]),
        (vec![&*url, &*password_file], vec![("PGPASSWORD", "wrong")]),
        (vec![&*url], vec![("PGPASSWORD", PASSWORD), ("PGPASSFILE", &*wrong)]),
    ] {
        let ended = migrate(&args, &variables).await;
        assert!(ended.status.success(), "{args:?} {variables:?}: {ended:#?}");
        assert!(!ended.log.contains("hunter2"), "{ended:#?}");
    }
    let (wrong_file, missing) = (format!("--database-password-file={wrong}"), "--database-password-file=/no/such/file");
    for (args, variables, words) in [
        (vec![&*url], vec![], vec!["password missing"]),
        (vec![&*url], vec![("PGPASSFILE", &*open)], vec!["password file ignored", "0600", "password missing"]),
        (vec![&*url], vec![("PGPASSFILE", "/no/such/file")], vec!["password file ignored", "No such file"]),
        (vec![&*url, &*wrong_file], vec![], vec!["--database-url", "password authentication failed"]),
        (vec![&*full, &*password_file], vec![], vec!["--database-password-file", &*password, "the database's URL"]),
        (vec![&*url, missing], vec![], vec![missing.split('=').next().unwrap(), "/no/such/file", "No such file"]),
        (vec!["--database-url=sqlite://kith.db", &*password_file], vec![], vec!["--database-password-file", "sqlite"]),
        (vec![&*url, &*url_file], vec![], vec!["--database-url", "--database-url-file"]),
        (
            vec!["--database-url-file=/no/such/file"],
            vec![],
            vec!["--database-url-file", "/no/such/file", "No such file"],
        ),
        (vec![&*format!("--database-url-file={passwords}")], vec![], vec!["--database-url-file", "one line"]),
        (vec![&*format!("--database-url-file={wrong}")], vec![], vec!["--database-url-file", &*wrong, "sqlite://"]),
    ] {
        let ended = migrate(&args, &variables).await;
        refused(&ended, &words);
        assert!(!ended.log.contains("not there yet"), "waiting cannot mend it: {ended:#?}");
    }
    // A server with all that is logged.
    let mut serve = command(&["serve", "--listen=127.0.0.1:0", "--log-level=trace", &url, &password_file]);
    serve.env("HOME", directory.path());
    let kith = Kith::start(serve).await;
    kith.clients().user("ann").await;
    kith.signal("TERM");
    let ended = kith.wait().await;
    assert!(ended.log.contains("listening on") && !ended.log.contains("hunter2"));
}
