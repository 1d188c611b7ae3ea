//! Certificates, and connections that use them.

use std::fs;
use std::sync::Arc;

use chrono::Datelike;
use kith::clock::Clock;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// An authority that signs certificates.
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate for `localhost`, as a server and as a client, with its key.
pub struct Signed {
    pub pem: String,
    pub key: String,
    der: CertificateDer<'static>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub fn sign(&self) -> Signed {
        self.sign_names(CertificateParams::new(vec!["localhost".to_owned()]).expect("a name"))
    }

    /// The same, valid until the beginning of the day that is this many days from now, in UTC.
    pub fn sign_for_days(&self, days: i64) -> Signed {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let end = Clock::system().now() + chrono::TimeDelta::days(days);
        let [month, day] = [end.month(), end.day()].map(|number| u8::try_from(number).expect("a date"));
        params.not_after = date_time_ymd(end.year(), month, day);
        self.sign_names(params)
    }

    /// The same for a client with this SPIFFE id.
    pub fn sign_for(&self, spiffe: &str) -> Signed {
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(SanType::URI(spiffe.try_into().expect("ASCII")));
        self.sign_names(params)
    }

    /// The same as [`Self::sign`] with this common name.
    pub fn sign_common_name(&self, name: &str) -> Signed {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        self.sign_names(params)
    }

    fn sign_names(&self, mut params: CertificateParams) -> Signed {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Signed { pem: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone() }
    }

    /// A client that trusts this authority.
    pub fn client(&self, own: Option<&Signed>, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("a certificate")).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().expect("roots");
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(vec![own.der.clone()], key).expect("a key")
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

impl Signed {
    /// Whether the server of this connection has this certificate.
    pub fn is_of(&self, stream: &TlsStream<TcpStream>) -> bool {
        stream.get_ref().1.peer_certificates().and_then(<[_]>::first) == Some(&self.der)
    }
}

/// Makes the handshake of a connection to `localhost` at this address.
pub async fn connect(address: &str, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let address = address.strip_prefix("http://").unwrap_or(address);
    let stream = TcpStream::connect(address).await.expect("a connection");
    TlsConnector::from(Arc::new(config)).connect("localhost".try_into().expect("a name"), stream).await
}

/// The files of a server.
pub struct TlsFiles(TempDir);

impl TlsFiles {
    pub fn new(authority: &Authority, signed: &Signed) -> Self {
        let files = Self(TempDir::with_prefix("kith-test-tls-").expect("a directory"));
        files.write("ca.pem", &authority.pem);
        files.replace(signed);
        files
    }

    /// Replaces the certificate and its key.
    pub fn replace(&self, signed: &Signed) {
        self.write("tls.crt", &signed.pem);
        self.write("tls.key", &signed.key);
    }

    /// Replaces a file as a whole.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path("new"), text).expect("written");
        fs::rename(self.path("new"), self.path(name)).expect("renamed");
    }

    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("text").to_owned()
    }

    /// The flags of a server.
    pub fn flags(&self) -> [String; 2] {
        [format!("--tls-certificate={}", self.path("tls.crt")), format!("--tls-key={}", self.path("tls.key"))]
    }

    /// The flag that demands certificates of clients.
    pub fn client_ca(&self) -> String {
        format!("--tls-client-ca={}", self.path("ca.pem"))
    }
}
