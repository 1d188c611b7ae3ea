//! A server with TLS that knows who calls.

use http::Uri;
use rustls::ALL_VERSIONS;
use sha2::{Digest, Sha256};
use tonic::Request;

use super::certificates::{Authority, Signed, TlsFiles, connect};
use super::database::{Database, Engine};
use super::process::Kith;
use super::raw::RawChannel;
use super::tokens::{AUDIENCE, ISSUER, Signer};

/// A server with TLS, tokens and principals.
pub struct Secured {
    pub authority: Authority,
    pub signer: Signer,
    /// The API key of the service `reader`, which has the scope `read`.
    pub key: String,
    pub kith: Kith,
    _files: TlsFiles,
    _database: Database,
}

impl Secured {
    /// A server that demands certificates of its clients, or not.
    pub async fn start(demands_certificates: bool) -> Self {
        // Some tests make more calls than a user may.
        Self::with(demands_certificates, &["--limit-each-user=none"]).await
    }

    /// The same with other settings too.
    pub async fn with(demands_certificates: bool, settings: &[&str]) -> Self {
        let authority = Authority::new();
        let files = TlsFiles::new(&authority, &authority.sign());
        let signer = Signer::new("one");
        files.write("keys.json", &signer.jwks());
        let key = format!("kith_{}", "k".repeat(43));
        let hash = Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let principals = format!(
            "[reader]\nkey = \"sha256:{hash}\"\nscopes = [\"read\"]\n\
             [writer]\ncertificate = \"spiffe://example.com/writer\"\nscopes = [\"write\"]\n"
        );
        files.write("principals.toml", &principals);
        let mut flags: Vec<String> = files.flags().into();
        flags.push(format!("--principals={}", files.path("principals.toml")));
        flags.push(format!("--jwt-keys={}", files.path("keys.json")));
        flags.extend([format!("--jwt-issuer={ISSUER}"), format!("--jwt-audience={AUDIENCE}")]);
        flags.extend(demands_certificates.then(|| files.client_ca()));
        let database = Database::migrated(Engine::Sqlite).await;
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(settings.iter().copied()).collect();
        let kith = Kith::serve(&database.url, &flags).await;
        Self { authority, signer, key, kith, _files: files, _database: database }
    }

    /// Waits for its end, and returns its log.
    pub async fn ended(self) -> String {
        self.kith.wait().await.log
    }

    pub async fn connect(&self, own: Option<&Signed>) -> RawChannel {
        let stream = connect(&self.kith.address, self.authority.client(own, ALL_VERSIONS)).await.expect("a handshake");
        RawChannel::over(stream).await.expect("HTTP/2")
    }

    /// The origin that a client over a connection needs.
    pub fn origin() -> Uri {
        "https://localhost".parse().expect("an origin")
    }

    /// A request with a token of this subject and these scopes.
    pub fn request<M>(&self, (subject, scope): (&str, &str), message: M) -> Request<M> {
        let mut request = Request::new(message);
        let token = format!("Bearer {}", self.signer.token(subject, scope));
        request.metadata_mut().insert("authorization", token.parse().expect("a header"));
        request
    }
}
