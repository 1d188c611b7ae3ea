use rcgen::{CertificateParams, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A certificate for `localhost` that is its own authority, with its key.
fn certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::NoCa;
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    (certificate, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
}

fn trusting(certificate: CertificateDer<'static>) -> RootCertStore {
    let mut authorities = RootCertStore::empty();
    authorities.add(certificate).unwrap();
    authorities
}

/// What a server does with its only request.
#[derive(Clone, Copy)]
enum Behaviour {
    /// Sends this, and closes the connection.
    Sends(&'static str),
    /// Sends this, and then zeros without end.
    Floods(&'static str),
    /// Sends this, and then nothing.
    Hangs(&'static str),
}

/// Starts a server on `localhost`. Its task returns the request and how many bytes of a flood the client took.
async fn server(behaviour: Behaviour) -> (Document, JoinHandle<(String, usize)>) {
    let (certificate, key) = certificate();
    let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
    let listener = TcpListener::bind("localhost:0").await.unwrap();
    let url = format!("https://localhost:{}/keys?a=b", listener.local_addr().unwrap().port());
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        let (Behaviour::Sends(text) | Behaviour::Floods(text) | Behaviour::Hangs(text)) = behaviour;
        stream.write_all(text.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let mut taken = 0;
        match behaviour {
            Behaviour::Sends(_) => stream.shutdown().await.unwrap(),
            Behaviour::Floods(_) => {
                while stream.write_all(&[0; 1 << 14]).await.is_ok() {
                    taken += 1 << 14;
                }
            }
            Behaviour::Hangs(_) => std::future::pending().await,
        }
        (String::from_utf8(request).unwrap(), taken)
    });
    (Document::new(&url, trusting(certificate)).unwrap(), serving)
}

#[tokio::test]
async fn a_document_is_read_with_one_request() {
    let (document, serving) = server(Behaviour::Sends("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{\"a\"}")).await;
    assert_eq!(document.read().await, Ok(b"{\"a\"}".to_vec()));
    let (request, _) = serving.await.unwrap();
    assert!(request.starts_with("GET /keys?a=b HTTP/1.1\r\n"), "{request}");
    let host = format!("host: {}\r\n", document.authority);
    assert!(request.contains(&host) && request.contains("user-agent: kith/"), "{request}");
}

#[tokio::test]
async fn what_is_no_document_is_an_error() {
    for (response, words) in [
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}", "responds with the status 404 Not Found"),
        ("HTTP/1.1 302 Found\r\nlocation: https://localhost/\r\n\r\n", "responds with the status 302 Found"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{}", "cannot be read up to its end"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "cannot be read up to its end"),
        ("hello\r\n\r\n", "sends no HTTP response"),
        ("", "sends no HTTP response"),
    ] {
        let (document, _serving) = server(Behaviour::Sends(response)).await;
        let refused = document.read().await.unwrap_err();
        assert!(refused.contains(words), "{response:?}: {refused}");
    }
}

#[tokio::test]
async fn a_document_without_end_is_not_read_to_its_end() {
    for head in
        ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n", "HTTP/1.1 200 OK\r\na: "]
    {
        let (document, serving) = server(Behaviour::Floods(head)).await;
        document.read().await.unwrap_err();
        let (_, taken) = serving.await.unwrap();
        // What was read, and what the buffers of the system hold.
        assert!(taken < 16 << 20, "{head:?}: {taken}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_is_given_up() {
    for head in ["", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"] {
        let (document, _serving) = server(Behaviour::Hangs(head)).await;
        assert_eq!(document.read().await, Err("was not read within 10s".to_owned()));
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_verified_is_not_asked() {
    let (mut document, serving) = server(Behaviour::Sends("")).await;
    let port = document.authority.port_u16().unwrap();
    let other = trusting(certificate().0);
    document = Document::new(&format!("https://localhost:{port}/"), other).unwrap();
    let refused = document.read().await.unwrap_err();
    assert!(refused.starts_with("has no TLS that can be verified"), "{refused}");
    assert!(serving.await.is_err(), "the handshake failed on its side too");
    let refused = document.read().await.unwrap_err();
    assert!(refused.starts_with("cannot be reached"), "{refused}");
}

#[test]
fn only_https_urls_are_read() {
    let authorities = trusting(certificate().0);
    for (url, host_and_path) in [
        ("https://example.com", Some(("example.com", "/"))),
        ("https://example.com:8443/jwks?a=b", Some(("example.com", "/jwks?a=b"))),
        ("https://[::1]:1/a", Some(("::1", "/a"))),
        ("http://example.com", None),
        ("example.com/jwks", None),
        ("https://", None),
        ("https:///jwks", None),
        ("https://ann:secret@example.com/", None),
        ("https://exa mple.com/", None),
    ] {
        let document = Document::new(url, authorities.clone());
        let read = document.as_ref().ok().map(|document| (host(&document.authority), document.path.as_str()));
        assert_eq!(read, host_and_path, "{url}");
    }
    let unverifiable = Document::new("https://example.com", RootCertStore::empty()).err().unwrap();
    assert!(unverifiable.contains("no certificates of authorities"), "{unverifiable}");
}
