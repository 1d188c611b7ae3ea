//! TLS on the port: who gets in, which certificate they see, and what the log says of the others.

use std::time::Duration;

use kith::follow::NamedFile;
use kith::metrics::Metrics;
use kith::proto::v1 as pb;
use kith::proto::v1::user_service_client::UserServiceClient;
use kith::server::tls::{Files, Tls};
use rustls::client::ClientConnection;
use rustls::version::{TLS12, TLS13};
use rustls::{ALL_VERSIONS, ClientConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Code;

use crate::harness::certificates::{Authority, Signed, TlsFiles, connect};
use crate::harness::daemon::free_port;
use crate::harness::printer::Printer;
use crate::harness::process::{Kith, command, run, run_command};
use crate::harness::raw::RawChannel;
use crate::harness::{App, Database, Engine, until};

/// What a plaintext client of HTTP/2 sends first: the preface and its SETTINGS.
const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Starts a server with these files and further flags.
async fn serve(files: &TlsFiles, flags: &[&str]) -> (Database, Kith) {
    let database = Database::migrated(Engine::Sqlite).await;
    let own = files.flags();
    let all: Vec<&str> = own.iter().map(String::as_str).chain(flags.iter().copied()).collect();
    let kith = Kith::serve(&database.url, &all).await;
    (database, kith)
}

/// A call that fails because the user does not exist. Any other failure is one of the connection.
async fn get_nobody(channel: &RawChannel) -> Result<(), String> {
    let mut users = UserServiceClient::with_origin(channel.clone(), "https://localhost".parse().expect("an origin"));
    let request = pb::GetUserRequest { key: Some(pb::get_user_request::Key::Id(1)), ..Default::default() };
    let status = users.get_user(request).await.expect_err("no user");
    if status.code() == Code::NotFound { Ok(()) } else { Err(status.to_string()) }
}

/// Makes a connection and a call. With TLS 1.3, a client learns of its refusal only after the handshake.
async fn call(address: &str, config: ClientConfig) -> Result<(), String> {
    let stream = connect(address, config).await.map_err(|error| error.to_string())?;
    let channel = RawChannel::over(stream).await.map_err(|error| error.to_string())?;
    get_nobody(&channel).await
}

/// Reads until the server closes the connection.
async fn rest(mut stream: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    // Cut off and closed count the same.
    _ = timeout(Duration::from_secs(60), stream.read_to_end(&mut bytes)).await.expect("the server closes it");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The warnings of a log.
async fn warnings(kith: Kith) -> Vec<String> {
    kith.signal("TERM");
    let log = kith.wait().await.log;
    log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_call_by_both_versions_of_tls_and_only_if_they_trust_the_server() {
    let (authority, other) = (Authority::new(), Authority::new());
    let signed = authority.sign();
    let (_database, kith) = serve(&TlsFiles::new(&authority, &signed), &[]).await;
    for version in [&TLS12, &TLS13] {
        let config = authority.client(None, &[version]);
        let stream = connect(&kith.address, config.clone()).await.expect("a handshake");
        let (_, session) = stream.get_ref();
        assert_eq!(session.protocol_version(), Some(version.version));
        assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
        assert!(signed.is_of(&stream));
        call(&kith.address, config).await.expect("a call");
        let error = call(&kith.address, other.client(None, &[version])).await.expect_err("no trust");
        assert!(error.contains("invalid peer certificate"), "{error}");
    }
    // Clients that negotiate no protocol still speak HTTP/2.
    let mut config = authority.client(None, ALL_VERSIONS);
    config.alpn_protocols.clear();
    call(&kith.address, config).await.expect("a call");
    assert_eq!(warnings(kith).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_without_tls_or_http_2_are_refused_and_leave_one_line_in_the_log() {
    let authority = Authority::new();
    let (_database, kith) = serve(&TlsFiles::new(&authority, &authority.sign()), &[]).await;
    for _ in 0..3 {
        for bytes in [OPENING, b"GET / HTTP/1.1\r\nhost: kith\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n"] {
            let mut stream = TcpStream::connect(&kith.address).await.expect("a connection");
            stream.write_all(bytes).await.expect("sent");
            let response = rest(stream).await;
            if bytes.starts_with(b"GET") {
                assert!(response.starts_with("HTTP/1.1 400 ") && response.ends_with("with TLS.\r\n"), "{response}");
            } else {
                assert_eq!(response, "");
            }
        }
        let mut config = authority.client(None, ALL_VERSIONS);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        call(&kith.address, config).await.expect_err("no common protocol");
    }
    // Encrypted, but HTTP/1.1 without gRPC-Web.
    let mut config = authority.client(None, ALL_VERSIONS);
    config.alpn_protocols.clear();
    let mut stream = connect(&kith.address, config).await.expect("a handshake");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: kith\r\n\r\n").await.expect("sent");
    let response = rest(stream).await;
    assert!(response.starts_with("HTTP/1.1 505 "), "{response}");
    let lines = warnings(kith).await;
    assert_eq!(lines.len(), 3, "{lines:#?}");
    for (line, words) in lines.iter().zip([
        "a client speaks without TLS to this port",
        "refused the TLS handshake of a client",
        "a client speaks HTTP/1.1 to this port",
    ]) {
        assert!(line.contains(words) && line.contains("peer=127.0.0.1:"), "no {words:?} in {line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_authority_for_clients_only_those_with_its_certificate_get_in() {
    let (authority, other) = (Authority::new(), Authority::new());
    let files = TlsFiles::new(&authority, &authority.sign());
    let (_database, kith) = serve(&files, &[&files.client_ca()]).await;
    let (own, foreign) = (authority.sign(), other.sign());
    for version in [&TLS12, &TLS13] {
        call(&kith.address, authority.client(Some(&own), &[version])).await.expect("a call");
        for wrong in [None, Some(&foreign)] {
            call(&kith.address, authority.client(wrong, &[version])).await.expect_err("no certificate");
        }
    }
    let lines = warnings(kith).await;
    let [line] = &lines[..] else { panic!("not one line: {lines:#?}") };
    assert!(line.contains("refused the TLS handshake of a client") && line.contains("certificate"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resumed_session_does_not_replace_a_certificate() {
    let authority = Authority::new();
    let files = TlsFiles::new(&authority, &authority.sign());
    let (_database, kith) = serve(&files, &[&files.client_ca()]).await;
    for version in [&TLS12, &TLS13] {
        // The sessions of a configuration are shared by its connections.
        let config = authority.client(Some(&authority.sign()), &[version]);
        for _ in 0..2 {
            let stream = connect(&kith.address, config.clone()).await.expect("a handshake");
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full), "{version:?}");
            let channel = RawChannel::over(stream).await.expect("HTTP/2");
            get_nobody(&channel).await.expect("a call");
        }
    }
}

/// Whether new connections see this certificate.
async fn is_in_force(kith: &Kith, authority: &Authority, signed: &Signed) -> bool {
    let stream = connect(&kith.address, authority.client(None, ALL_VERSIONS)).await.expect("a handshake");
    signed.is_of(&stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_files_are_used_for_new_connections_and_broken_ones_are_not() {
    let authority = Authority::new();
    let [first, second, third] = [authority.sign(), authority.sign(), authority.sign()];
    let files = TlsFiles::new(&authority, &first);
    let (_database, kith) = serve(&files, &[]).await;
    let stream = connect(&kith.address, authority.client(None, ALL_VERSIONS)).await.expect("a handshake");
    assert!(first.is_of(&stream));
    let old = RawChannel::over(stream).await.expect("HTTP/2");

    // Unchanged files are read only at the signal.
    kith.signal("HUP");
    until("they are read", async || kith.log().contains("read the TLS files again")).await;
    files.replace(&second);
    kith.signal("HUP");
    until("the second certificate", async || is_in_force(&kith, &authority, &second).await).await;
    get_nobody(&old).await.expect("the connection remains");

    // The certificate is written, and its key not yet.
    files.write("tls.crt", &third.pem);
    kith.signal("HUP");
    until("a warning", async || kith.log().contains("cannot use the changed TLS files")).await;
    assert!(kith.log().contains("is not the key of --tls-certificate"), "{}", kith.log());
    assert!(is_in_force(&kith, &authority, &second).await);
    // Without a signal.
    files.write("tls.key", &third.key);
    until("the third certificate", async || is_in_force(&kith, &authority, &third).await).await;

    files.write("tls.key", "");
    until("another warning", async || kith.log().contains("has no private key in PEM")).await;
    assert!(is_in_force(&kith, &authority, &third).await);
    get_nobody(&old).await.expect("the connection remains");
    // It ends although the connection is open.
    let lines = warnings(kith).await;
    assert!(lines.iter().all(|line| line.contains("cannot use the changed TLS files")), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_stalls_is_closed_and_so_is_silence_after_it() {
    let authority = Authority::new();
    let files = TlsFiles::new(&authority, &authority.sign());
    let file = |name: &str| NamedFile { setting: name.to_owned(), path: files.path(name).into() };
    let named = Files { certificate: file("tls.crt"), key: file("tls.key"), client_ca: None };
    let tls = Tls::start(named, false, &Metrics::default()).expect("TLS");
    let app = App::with(Engine::Sqlite, |settings| {
        settings.tls = Some(tls);
        settings.opening_time = Duration::from_millis(300);
    })
    .await;
    let config = || authority.client(None, ALL_VERSIONS);
    let mut hello = Vec::new();
    let mut session =
        ClientConnection::new(config().into(), "localhost".try_into().expect("a name")).expect("a client");
    session.write_tls(&mut hello).expect("written");
    for bytes in [&b""[..], &hello[..1], &hello[..20], &hello] {
        let address = app.address.strip_prefix("http://").expect("an address");
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(bytes).await.expect("sent");
        let response = rest(stream).await;
        // To a whole hello, the server responds with its own.
        assert_eq!(response.is_empty(), bytes.len() < hello.len());
    }
    for bytes in [&b""[..], &OPENING[..10]] {
        let mut stream = connect(&app.address, config()).await.expect("a handshake");
        stream.write_all(bytes).await.expect("sent");
        assert_eq!(rest(stream).await, "");
    }
    call(&app.address, config()).await.expect("a call");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_cannot_be_used_are_named_at_the_start() {
    let authority = Authority::new();
    let files = TlsFiles::new(&authority, &authority.sign());
    files.write("other.key", &authority.sign().key);
    files.write("empty", "");
    files.write("broken", "-----BEGIN CERTIFICATE-----\nMIIB");
    files.write("broken.key", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0");
    let path = |name: &str| files.path(name);
    let flag = |name: &str, file: &str| format!("--tls-{name}={}", path(file));
    let (certificate, key) = (flag("certificate", "tls.crt"), flag("key", "tls.key"));
    for (flags, words) in [
        (vec![certificate.clone()], format!("--tls-certificate {}: needs --tls-key too", path("tls.crt"))),
        (vec![key.clone()], format!("--tls-key {}: needs --tls-certificate too", path("tls.key"))),
        (
            vec![files.client_ca()],
            format!("--tls-client-ca {}: needs --tls-certificate and --tls-key too", path("ca.pem")),
        ),
        (
            vec![flag("certificate", "missing"), key.clone()],
            format!("--tls-certificate {}: cannot be read: No such file", path("missing")),
        ),
        (
            vec![flag("certificate", "empty"), key.clone()],
            format!("--tls-certificate {}: has no certificate in PEM", path("empty")),
        ),
        (
            vec![flag("certificate", "broken"), key.clone()],
            format!("--tls-certificate {}: is not valid PEM: missing section end", path("broken")),
        ),
        (
            vec![certificate.clone(), flag("key", "tls.crt")],
            format!("--tls-key {}: has no private key in PEM", path("tls.crt")),
        ),
        (
            vec![certificate.clone(), flag("key", "broken.key")],
            format!("--tls-key {}: is not valid PEM", path("broken.key")),
        ),
        (
            vec![certificate.clone(), flag("key", "other.key")],
            format!("--tls-key {}: is not the key of --tls-certificate {}", path("other.key"), path("tls.crt")),
        ),
        (
            vec![certificate.clone(), key.clone(), flag("client-ca", "tls.key")],
            format!("--tls-client-ca {}: has no certificate in PEM", path("tls.key")),
        ),
    ] {
        let flags: Vec<&str> = ["--listen=127.0.0.1:0"].into_iter().chain(flags.iter().map(String::as_str)).collect();
        let ended = run(&flags).await;
        assert!(!ended.status.success(), "{ended:#?}");
        let last = ended.log.lines().last().expect("a line");
        assert!(last.contains(&words) && !ended.log.contains("c2VjcmV0"), "no {words:?} in {ended:#?}");
    }
    // A setting is named as it was given.
    let mut serve = command(&["--listen=127.0.0.1:0", &certificate]);
    serve.env("KITH_TLS_KEY", path("missing"));
    let ended = run_command(serve).await;
    assert!(ended.log.contains(&format!("KITH_TLS_KEY {}: cannot be read", path("missing"))), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_a_variable_and_a_flag_can_have_the_settings() {
    let authority = Authority::new();
    let files = TlsFiles::new(&authority, &authority.sign());
    files.write("kith.toml", &format!("tls-certificate = {:?}\n", files.path("tls.crt")));
    let database = Database::migrated(Engine::Sqlite).await;
    let url = format!("--database-url={}", database.url);
    let ca = files.client_ca();
    let mut serve = command(&["serve", "--config", &files.path("kith.toml"), "--listen=127.0.0.1:0", &url, &ca]);
    serve.env("KITH_TLS_KEY", files.path("tls.key"));
    let kith = Kith::start(serve).await;
    call(&kith.address, authority.client(None, ALL_VERSIONS)).await.expect_err("no certificate");
    call(&kith.address, authority.client(Some(&authority.sign()), ALL_VERSIONS)).await.expect("a call");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_web_is_negotiated_as_http_1_1() {
    let authority = Authority::new();
    let (_database, kith) = serve(&TlsFiles::new(&authority, &authority.sign()), &["--grpc-web"]).await;
    for (offered, chosen) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"], "http/1.1")] {
        let mut config = authority.client(None, ALL_VERSIONS);
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let mut stream = connect(&kith.address, config).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(chosen.as_bytes()));
        if chosen == "http/1.1" {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: kith\r\nconnection: close\r\n\r\n").await.expect("sent");
            let response = rest(stream).await;
            assert!(response.starts_with("HTTP/1.1 405 "), "{response}");
        }
    }
}

/// Runs `kith healthcheck` with these arguments and variables. Returns what it says, which is nothing if all is well.
async fn health(args: &[&str], variables: &[(&str, &str)]) -> String {
    let mut check = command(&[&["healthcheck"], args].concat());
    check.envs(variables.iter().copied());
    let ended = run_command(check).await;
    assert_eq!(ended.status.success(), ended.log.is_empty(), "{ended:#?}");
    ended.log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_of_the_program_speak_tls() {
    let (authority, other) = (Authority::new(), Authority::new());
    let files = TlsFiles::new(&authority, &authority.sign());
    files.write("other.pem", &other.pem);
    let (_database, kith) = serve(&files, &[]).await;
    let address = kith.address.replace("127.0.0.1", "https://localhost");
    let trust = format!("--tls-ca={}", files.path("ca.pem"));
    let verified = async || health(&["--address", &address, &trust], &[]).await;
    until("it is healthy", async || verified().await.is_empty()).await;
    // By the server's own settings, as in its container.
    let own = [("KITH_LISTEN", &*kith.address), ("KITH_TLS_CERTIFICATE", &files.path("tls.crt"))];
    assert_eq!(health(&[], &own).await, "");
    for (flags, words) in [
        (vec!["--address", &address], "invalid peer certificate"),
        (vec!["--address", &address, &format!("--tls-ca={}", files.path("other.pem"))], "invalid peer certificate"),
        (vec!["--address", &kith.address.replace("127.0.0.1", "https://127.0.0.1"), &trust], "not valid for name"),
        (vec!["--address", &address, "--tls-ca=/no/such/file"], "--tls-ca /no/such/file: cannot be read"),
        (vec!["--address", &kith.address], ""),
    ] {
        let said = health(&flags, &[]).await;
        assert!(!said.is_empty() && said.contains(words), "no {words:?} in {said}");
    }
    let channel = connect(&kith.address, authority.client(None, ALL_VERSIONS)).await.expect("a handshake");
    let channel = RawChannel::over(channel).await.expect("HTTP/2");
    let mut users = UserServiceClient::with_origin(channel, "https://localhost".parse().expect("an origin"));
    let user = pb::User { id: 7, username: "ann".to_owned(), ..Default::default() };
    users.create_user(pb::CreateUserRequest { user: Some(user), ..Default::default() }).await.expect("a user");
    let mut watch = Printer::start(command(&["watch", "--after=0", "--server", &address, &trust]));
    assert_eq!(watch.number("user_id").await, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_shows_the_certificate_of_the_server_if_one_is_demanded() {
    let authority = Authority::new();
    let files = TlsFiles::new(&authority, &authority.sign());
    let socket = format!("unix:{}", files.path("kith.sock"));
    let (_database, kith) = serve(&files, &[&files.client_ca()]).await;
    let certificate = ("KITH_TLS_CERTIFICATE", &*files.path("tls.crt"));
    let key = ("KITH_TLS_KEY", &*files.path("tls.key"));
    let listen = ("KITH_LISTEN", &*kith.address);
    until("it is healthy", async || health(&[], &[listen, certificate, key]).await.is_empty()).await;
    let said = health(&[], &[listen, certificate]).await;
    assert!(said.starts_with("kith: KITH_LISTEN 127.0.0.1:"), "{said}");
    // A socket has TLS too.
    let database = Database::migrated(Engine::Sqlite).await;
    let own = files.flags();
    let url = format!("--database-url={}", database.url);
    let _kith = Kith::start(command(&["--listen", &socket, &url, &own[0], &own[1]])).await;
    until("it is healthy", async || health(&["--address", &socket], &[certificate]).await.is_empty()).await;
    assert_ne!(health(&["--address", &socket], &[]).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_waits_for_its_database_has_tls_too() {
    let authority = Authority::new();
    let files = TlsFiles::new(&authority, &authority.sign());
    let address = format!("127.0.0.1:{}", free_port());
    let own = files.flags();
    let mut serve = command(&["serve", "--listen", &address, "--database-wait=10m", &own[0], &own[1]]);
    serve.env("KITH_DATABASE_URL", format!("postgres://postgres@localhost:{}/postgres", free_port()));
    let kith = Kith::start_early(serve, address.clone());
    until("a report", async || kith.log().contains("not there yet")).await;
    let own = [("KITH_LISTEN", &*address), ("KITH_TLS_CERTIFICATE", &files.path("tls.crt"))];
    let said = health(&[], &own).await;
    assert!(said.contains("is NOT_SERVING"), "{said}");
    let said = health(&["--address", &address], &[]).await;
    assert!(!said.contains("NOT_SERVING"), "{said}");
    kith.signal("TERM");
    assert!(kith.wait().await.status.success());
}
