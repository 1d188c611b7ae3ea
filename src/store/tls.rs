//! How to reach PostgreSQL: its URL, and the encryption that `sslmode` asks for.
//!
//! The modes are libpq's (PostgreSQL manual, chapter "SSL Support"), less `allow` and `verify-ca`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use diesel_async::AsyncPgConnection;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::TlsStream;
use tokio_postgres::{Client, Connection, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

/// A PostgreSQL database and how to talk to it.
#[derive(Clone)]
pub(super) struct PostgresConfig {
    config: tokio_postgres::Config,
    tls: Option<Arc<ClientConfig>>,
}

/// How long the other end may be silent before the connection is taken for lost, unless the URL says otherwise: what lies
/// between may have dropped it without a word, and the system's own limits are hours.
const SILENCE: Duration = Duration::from_secs(30);

type Cause = Box<dyn Error + Send + Sync>;

impl PostgresConfig {
    /// Reads a `postgres://` URL. `sslmode` is `disable`, `prefer` (the default), `require` or `verify-full`;
    /// `sslrootcert` names a file of certificates to trust in the place of the system's.
    pub(super) fn parse(url: &str) -> Result<Self, Cause> {
        let (rest, mode, roots) = take_tls_parameters(url)?;
        let mut config: tokio_postgres::Config = rest.parse()?;
        config.application_name("kith");
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(SILENCE);
        }
        if config.get_keepalives_idle() == tokio_postgres::Config::new().get_keepalives_idle() {
            config.keepalives_idle(SILENCE).keepalives_interval(SILENCE / 6).keepalives_retries(6);
        }
        let (ssl_mode, tls) = match mode.as_deref() {
            Some("disable") => (SslMode::Disable, None),
            None | Some("prefer") => (SslMode::Prefer, Some(any_certificate()?)),
            Some("require") => (SslMode::Require, Some(any_certificate()?)),
            Some("verify-full") => (SslMode::Require, Some(verified(roots.as_deref())?)),
            Some(other) => {
                return Err(format!("sslmode is {other:?}; it can be disable, prefer, require or verify-full").into());
            }
        };
        config.ssl_mode(ssl_mode);
        Ok(Self { config, tls: tls.map(Arc::new) })
    }

    /// A connection of which can be asked, by several who use it at the same time, whether it still stands.
    pub(super) async fn connect_shared(&self) -> Result<SharedConnection, Cause> {
        let Some(tls) = &self.tls else {
            let (client, connection) = self.config.connect(NoTls).await?;
            return share(client, connection).await;
        };
        let tls = MakeRustlsConnect::new(ClientConfig::clone(tls));
        let (client, connection) = self.config.connect(tls).await?;
        share(client, connection).await
    }

    pub(super) async fn connect(&self) -> Result<AsyncPgConnection, Cause> {
        let Some(tls) = &self.tls else {
            let (client, connection) = self.config.connect(NoTls).await?;
            return Ok(AsyncPgConnection::try_from_client_and_connection(client, connection).await?);
        };
        let tls = MakeRustlsConnect::new(ClientConfig::clone(tls));
        let (client, connection) = self.config.connect(tls).await?;
        Ok(AsyncPgConnection::try_from_client_and_connection(client, connection).await?)
    }
}

/// A connection that many use at the same time.
pub(super) struct SharedConnection {
    pub(super) conn: AsyncPgConnection,
    /// Carries the messages; ends with the connection.
    driver: JoinHandle<()>,
}

impl SharedConnection {
    /// Whether the database or the network has ended it.
    pub(super) fn is_closed(&self) -> bool {
        self.driver.is_finished()
    }
}

async fn share<S>(client: Client, connection: Connection<Socket, S>) -> Result<SharedConnection, Cause>
where
    S: TlsStream + Unpin + Send + 'static,
{
    // How it ended is told to whoever waits for an answer.
    let driver = tokio::spawn(async move { _ = connection.await });
    Ok(SharedConnection { conn: AsyncPgConnection::try_from(client).await?, driver })
}

/// Takes `sslmode` and `sslrootcert` out of the URL: the driver knows neither `verify-full` nor root files.
fn take_tls_parameters(url: &str) -> Result<(String, Option<String>, Option<PathBuf>), Cause> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (mut mode, mut roots, mut kept) = (None, None, Vec::new());
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("sslmode", value)) => mode = Some(value.to_owned()),
            Some(("sslrootcert", value)) => roots = Some(PathBuf::from(value)),
            Some(_) => kept.push(parameter),
            // Not named: after a password with a question mark it would be the rest of that.
            None => return Err("a parameter after the question mark has no value".into()),
        }
    }
    let rest = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
    Ok((rest, mode, roots))
}

fn any_certificate() -> Result<ClientConfig, Cause> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let verifier = Arc::new(AnyCertificate(provider));
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn verified(roots: Option<&Path>) -> Result<ClientConfig, Cause> {
    let mut store = RootCertStore::empty();
    match roots {
        Some(path) => {
            let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
            let certificates = read().map_err(|error| format!("sslrootcert {}: {error}", path.display()))?;
            for certificate in certificates {
                store.add(certificate)?;
            }
        }
        None => _ = store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
    }
    if store.is_empty() {
        return Err("there are no root certificates to verify the server with; give sslrootcert".into());
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    Ok(builder.with_safe_default_protocol_versions()?.with_root_certificates(store).with_no_client_auth())
}

/// Takes any certificate, as libpq does for `prefer` and `require`: the line is encrypted, the server not proven.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_parameters_are_taken_out_of_the_url() {
        let (rest, mode, roots) =
            take_tls_parameters("postgres://h/d?sslmode=verify-full&host=/tmp&sslrootcert=/ca.pem").expect("valid");
        assert_eq!(rest, "postgres://h/d?host=/tmp");
        assert_eq!(mode.as_deref(), Some("verify-full"));
        assert_eq!(roots, Some(PathBuf::from("/ca.pem")));
    }

    #[test]
    fn an_unknown_mode_is_refused() {
        let error = PostgresConfig::parse("postgres://h/d?sslmode=verify-ca").err().expect("refused");
        assert!(error.to_string().contains("verify-ca"), "{error}");
    }
}
