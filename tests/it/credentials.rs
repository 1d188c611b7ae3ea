//! Credentials as an operator sets them up: with `kith key` and `kith token`, from files and from a URL, and replaced.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use kith::proto::v1 as pb;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic::{Code, Request};

use crate::harness::certificates::{Authority, TlsFiles};
use crate::harness::printer::Printer;
use crate::harness::process::{Kith, command, run, run_command};
use crate::harness::tokens::{AUDIENCE, ISSUER, Signer};
use crate::harness::{Database, Engine, until};

/// What the program prints that succeeds.
async fn printed(args: &[&str]) -> String {
    let ended = run(args).await;
    assert!(ended.status.success(), "{args:?}: {ended:?}");
    ended.output
}

/// The files of an operator.
fn folder() -> TlsFiles {
    let authority = Authority::new();
    TlsFiles::new(&authority, &authority.sign())
}

/// How a read ends with a credential.
async fn read_with(kith: &Kith, credential: Option<&str>) -> Code {
    let mut request = Request::new(pb::ListUsersRequest::default());
    if let Some(credential) = credential {
        request.metadata_mut().insert("authorization", format!("Bearer {credential}").parse().unwrap());
    }
    kith.clients().users().list_users(request).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_and_its_entry_are_printed_and_two_keys_rotate() {
    let files = folder();
    let new = async || {
        let text = printed(&["key", "new", "feed.1", "--scopes=read,users,events"]).await;
        let (secret, entry) = text.split_once('\n').unwrap();
        assert!(secret.starts_with("kith_") && secret.len() == 48, "{text}");
        assert!(!entry.contains(&secret[5..]), "{text}");
        (secret.to_owned(), entry.to_owned())
    };
    let ((first, entry), (second, other)) = (new().await, new().await);
    assert_ne!(first, second);
    files.write("principals", &entry);
    let database = Database::migrated(Engine::Sqlite).await;
    let flag = format!("--principals={}", files.path("principals"));
    let kith = Kith::serve(&database.url, &[&flag]).await;
    assert_eq!(read_with(&kith, Some(&first)).await, Code::Ok);
    assert_eq!(read_with(&kith, Some(&second)).await, Code::Unauthenticated);
    assert_eq!(read_with(&kith, None).await, Code::Unauthenticated);

    // Both for a time, and then the new one alone.
    let hash = |entry: &str| entry.split('"').find(|text| text.starts_with("sha256:")).unwrap().to_owned();
    let both = format!("[feed]\nkeys = [\"{}\", \"{}\"]\nscopes = [\"read\"]\n", hash(&entry), hash(&other));
    files.write("principals", &both);
    kith.signal("HUP");
    until("the second key", async || read_with(&kith, Some(&second)).await == Code::Ok).await;
    assert_eq!(read_with(&kith, Some(&first)).await, Code::Ok);
    files.write("principals", &other);
    // Without a signal.
    until("the end of the first key", async || read_with(&kith, Some(&first)).await == Code::Unauthenticated).await;
    assert_eq!(read_with(&kith, Some(&second)).await, Code::Ok);

    files.write("principals", "[a]\nkey = \"sha256:1\"");
    kith.signal("HUP");
    until("a warning", async || kith.log().contains("cannot use the changed principals")).await;
    assert!(kith.log().contains(":2: [a]: key: must be"), "{}", kith.log());
    assert_eq!(read_with(&kith, Some(&second)).await, Code::Ok);
    for secret in [&first, &second, &hash(&other)] {
        assert!(!kith.log().contains(&secret[8..]), "{}", kith.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_developer_needs_no_other_tool_for_tokens() {
    let files = folder();
    let (key, keys, token_file) = (files.path("dev.pem"), files.path("keys.json"), files.path("token"));
    let key_set = printed(&["token", "--new-key", &key]).await;
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(printed(&["token", "--key", &key, "--jwks"]).await, key_set);
    let again = run(&["token", "--new-key", &key]).await;
    assert!(!again.status.success() && again.log.contains(&format!("--new-key {key}: ")), "{again:?}");
    fs::write(&keys, &key_set).unwrap();

    let (issuer, audience) = (format!("--issuer={ISSUER}"), format!("--audience=other,{AUDIENCE}"));
    let sign = async |args: &[&str]| {
        let begin = ["token", "--key", &key, &issuer, &audience];
        printed(&[&begin[..], args].concat()).await.trim_end().to_owned()
    };
    let database = Database::migrated(Engine::Sqlite).await;
    let flags = [format!("--jwt-keys={keys}"), format!("--jwt-issuer={ISSUER}"), format!("--jwt-audience={AUDIENCE}")];
    let kith = Kith::serve(&database.url, &flags.each_ref().map(String::as_str)).await;
    let service = sign(&["--sub=billing", "--scopes=read,users,events"]).await;
    assert_eq!(read_with(&kith, Some(&service)).await, Code::Ok);
    let events_only = sign(&["--sub=feed", "--scopes=events"]).await;
    assert_eq!(read_with(&kith, Some(&events_only)).await, Code::PermissionDenied);
    let user = sign(&["--sub=user:7", "--expires-in=5m"]).await;
    assert_eq!(read_with(&kith, Some(&user)).await, Code::PermissionDenied);
    let other = printed(&["token", "--key", &key, "--issuer=other", &audience, "--sub=billing"]).await;
    assert_eq!(read_with(&kith, Some(other.trim_end())).await, Code::Unauthenticated);

    // A client with a file.
    let watch =
        |file: &str| command(&["watch", "--server", &kith.address, "--after=0", &format!("--token-file={file}")]);
    for (content, words) in [
        (None, "cannot be read"),
        (Some(""), "is empty"),
        (Some("a\nb"), "has more than one line"),
        (Some("secret\u{1}"), "has characters that no API key or token has"),
        (Some(other.trim_end()), "Unauthenticated"),
        (Some("secret"), "Unauthenticated"),
    ] {
        content.into_iter().for_each(|content| fs::write(&token_file, content).unwrap());
        let ended = run_command(watch(&token_file)).await;
        assert!(!ended.status.success() && ended.log.contains(words), "{content:?}: {ended:?}");
        assert!(!ended.log.contains("secret"), "{ended:?}");
    }
    fs::write(&token_file, format!("{service}\n")).unwrap();
    let mut watching = Printer::start(watch(&token_file));
    let mut request = Request::new(pb::CreateUserRequest {
        user: Some(pb::User { username: "ann".to_owned(), email: "ann@example.com".to_owned(), ..Default::default() }),
        ..Default::default()
    });
    request.metadata_mut().insert("authorization", format!("Bearer {service}").parse().unwrap());
    kith.clients().users().create_user(request).await.unwrap();
    assert_eq!(watching.line().await["kind"], "EVENT_KIND_USER_CREATED");
}

/// A server of keys with TLS, which responds with a text that can be changed, and counts requests.
struct KeyServer {
    response: Arc<Mutex<(String, u32)>>,
    url: String,
    _serving: JoinSet<()>,
}

impl KeyServer {
    async fn start(files: &TlsFiles, keys: &str) -> Self {
        let certificates = CertificateDer::pem_file_iter(files.path("tls.crt")).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(files.path("tls.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = Arc::new(config.with_no_client_auth().with_single_cert(certificates, key).unwrap());
        let listener = TcpListener::bind("localhost:0").await.unwrap();
        let url = format!("https://localhost:{}/keys", listener.local_addr().unwrap().port());
        let response = Arc::new(Mutex::new((ok(keys), 0)));
        let responding = Arc::clone(&response);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // A client that does not trust the certificate ends it.
                let Ok(mut stream) = TlsAcceptor::from(Arc::clone(&config)).accept(stream).await else { continue };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                let response = {
                    let mut response = responding.lock().unwrap();
                    response.1 += 1;
                    response.0.clone()
                };
                stream.write_all(response.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        Self { response, url, _serving: serving }
    }

    fn set(&self, response: String) {
        self.response.lock().unwrap().0 = response;
    }

    fn requests(&self) -> u32 {
        self.response.lock().unwrap().1
    }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_at_a_url_follow_their_issuer_and_survive_its_failures() {
    let authority = Authority::new();
    let files = TlsFiles::new(&authority, &authority.sign());
    let (first, second) = (Signer::new("one"), Signer::new("two"));
    let keys = KeyServer::start(&files, &first.jwks()).await;
    let database = Database::migrated(Engine::Sqlite).await;
    let mut serve = command(&["--listen=127.0.0.1:0", "--database-url", &database.url, "--jwt-keys", &keys.url]);
    serve.args([format!("--jwt-issuer={ISSUER}"), format!("--jwt-audience={AUDIENCE}")]);
    // The authorities of the system.
    serve.env("SSL_CERT_FILE", files.path("ca.pem")).env_remove("SSL_CERT_DIR");
    let kith = Kith::start(serve).await;
    let [old, new] = [&first, &second].map(|signer| signer.token("billing", "read"));
    assert_eq!(read_with(&kith, Some(&old)).await, Code::Ok);
    assert_eq!(keys.requests(), 1);

    // It fails. The keys that were read remain.
    let broken = ok("{}");
    for (response, words) in [
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", "responds with the status 503"),
        (&*broken, "is no JSON Web Key Set"),
    ] {
        keys.set(response.to_owned());
        kith.signal("HUP");
        until("a warning", async || kith.log().contains(words)).await;
        assert_eq!(read_with(&kith, Some(&old)).await, Code::Ok);
    }

    // It signs with another key, and the first token with it causes a read.
    keys.set(ok(&second.jwks()));
    assert_eq!(read_with(&kith, Some(&new)).await, Code::Ok);
    assert_eq!(read_with(&kith, Some(&old)).await, Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_cannot_be_used_end_the_start_with_their_name() {
    let files = folder();
    files.write("keys", &Signer::new("one").jwks());
    files.write("empty", "");
    let (keys, empty) = (files.path("keys"), files.path("empty"));
    let flag = |name: &str, path: &str| format!("--{name}={path}");
    for (flags, words) in [
        (vec![flag("jwt-keys", &keys)], format!("--jwt-keys {keys}: needs --jwt-issuer too")),
        (
            vec![flag("jwt-keys", &keys), "--jwt-issuer=a".to_owned()],
            format!("--jwt-keys {keys}: needs --jwt-audience too"),
        ),
        (
            vec![flag("jwt-keys", &keys), "--jwt-audience=a".to_owned()],
            format!("--jwt-keys {keys}: needs --jwt-issuer too"),
        ),
        (vec!["--jwt-issuer=a".to_owned()], "--jwt-issuer: needs --jwt-keys too".to_owned()),
        (vec!["--jwt-audience=a".to_owned()], "--jwt-audience: needs --jwt-keys too".to_owned()),
        (
            vec!["--jwt-keys=http://a/".to_owned(), "--jwt-issuer=a".to_owned(), "--jwt-audience=a".to_owned()],
            "--jwt-keys http://a/: must be a file or an https:// URL".to_owned(),
        ),
        (
            vec![flag("jwt-keys", &empty), "--jwt-issuer=a".to_owned(), "--jwt-audience=a".to_owned()],
            format!("--jwt-keys {empty}: is no JSON Web Key Set"),
        ),
        (vec![flag("principals", &empty)], format!("--principals {empty}: has no principals")),
    ] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let ended =
            run(&[&["--listen=127.0.0.1:0", "--database-url=sqlite://none?mode=ro"], &flags[..]].concat()).await;
        assert!(!ended.status.success() && ended.log.contains(&words), "{flags:?}: {ended:?}");
    }
    for args in [
        &["token", "--key", &keys, "--sub=a"][..],
        &["token", "--key", &keys],
        &["token", "--sub=a"],
        &["key", "new", "a"],
        &["key", "new", "a b", "--scopes=read"],
        &["key", "new", "a", "--scopes=all"],
    ] {
        assert!(!run(args).await.status.success(), "{args:?}");
    }
}
