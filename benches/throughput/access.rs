//! How the generator gets access: with TLS, with a token, or with neither.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use http::HeaderValue;
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::Result;
use super::process::{own_kith, run};

/// The issuer and the audience of the tokens.
const ISSUER: &str = "https://bench.example";
const AUDIENCE: &str = "kith";

/// What a server demands of its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demands {
    pub tls: bool,
    pub token: bool,
}

/// How a client gets access to a server.
#[derive(Clone, Default)]
pub struct Access {
    tls: Option<TlsConnector>,
    /// The credential of each call.
    pub authorization: Option<HeaderValue>,
}

/// A connection of a client.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

impl Access {
    /// Connects to a server.
    pub async fn connect(&self, address: &str) -> Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(match &self.tls {
            None => Box::new(stream),
            Some(tls) => Box::new(tls.connect("localhost".try_into()?, stream).await?),
        })
    }
}

/// A certificate and a token, with the files that a server needs for them.
pub struct Credentials {
    files: TempDir,
    tls: TlsConnector,
    authorization: HeaderValue,
}

impl Credentials {
    pub fn new() -> Result<Self> {
        let files = tempfile::Builder::new().prefix("kith-bench-access-").tempdir()?;
        let path = |name: &str| files.path().join(name);
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
        fs::write(path("tls.crt"), certificate.pem())?;
        fs::write(path("tls.key"), key.serialize_pem())?;
        fs::write(path("keys.json"), token(&["--new-key"], &path("token.key"))?)?;
        let claims = ["--sub=bench", "--scopes=admin", "--expires-in=24h"];
        let issued = [format!("--issuer={ISSUER}"), format!("--audience={AUDIENCE}")];
        let arguments = [&claims[..], &[&issued[0], &issued[1], "--key"]].concat();
        let authorization = format!("Bearer {}", token(&arguments, &path("token.key"))?.trim()).parse()?;
        Ok(Self { tls: connector(certificate.der())?, files, authorization })
    }

    /// The flags of a server, and how its clients get access.
    pub fn of(&self, demands: Demands) -> (Vec<String>, Access) {
        let (mut flags, mut access) = (Vec::new(), Access::default());
        let file = |name: &str| self.files.path().join(name).display().to_string();
        if demands.tls {
            flags.push(format!("--tls-certificate={}", file("tls.crt")));
            flags.push(format!("--tls-key={}", file("tls.key")));
            access.tls = Some(self.tls.clone());
        }
        if demands.token {
            flags.push(format!("--jwt-keys={}", file("keys.json")));
            flags.extend([format!("--jwt-issuer={ISSUER}"), format!("--jwt-audience={AUDIENCE}")]);
            access.authorization = Some(self.authorization.clone());
        }
        (flags, access)
    }
}

/// Runs `kith token` with these arguments and then a path.
fn token(arguments: &[&str], path: &Path) -> Result<String> {
    run(Command::new(own_kith()?).arg("token").args(arguments).arg(path))
}

/// A client that trusts this certificate alone.
fn connector(certificate: &CertificateDer<'static>) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone())?;
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
