//! TLS on the port: handshakes, and the certificate, which is read again when its files change.

use std::io;
use std::sync::Arc;

use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{InconsistentKeys, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use crate::follow::{Followed, NamedFile};
use crate::metrics::Metrics;
use crate::tls::{provider, read_authorities, read_certificates, read_key};

/// The files of a server with TLS, all in PEM.
#[derive(Clone, Debug)]
pub struct Files {
    /// The server's certificate and those between it and its authority, in this order.
    pub certificate: NamedFile,
    /// The private key of the certificate.
    pub key: NamedFile,
    /// The authorities of clients. With them, a client without a certificate of theirs is refused.
    pub client_ca: Option<NamedFile>,
}

/// Accepts handshakes by the certificate in force. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tls(Followed<ServerConfig>);

impl Tls {
    /// Reads the files, and follows them from now on. `http1` says whether clients may speak HTTP/1.1.
    ///
    /// It needs the runtime, for the task.
    ///
    /// # Errors
    ///
    /// If the files cannot be used. The text names the setting and the file.
    pub fn start(files: Files, http1: bool, metrics: &Metrics) -> Result<Self, String> {
        let Files { certificate, key, client_ca } = files.clone();
        let followed = [certificate, key].into_iter().chain(client_ca).collect();
        let metrics = Arc::clone(&metrics.server);
        let failures = metrics.reload_failures.certificate.clone();
        let load = move || {
            let (config, end) = load(&files, http1)?;
            end.into_iter().for_each(|end| metrics.certificate_ends(end));
            Ok(config)
        };
        Followed::start("TLS files", followed, failures, load).map(Self)
    }

    /// Reads the files again soon, even if they have not changed.
    pub fn read_again(&self) {
        self.0.read_again();
    }

    /// Makes the handshake of a connection.
    ///
    /// # Errors
    ///
    /// If the connection is lost, or if one side refuses the other.
    pub(super) async fn accept<T>(&self, stream: T) -> io::Result<TlsStream<T>>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        TlsAcceptor::from(self.0.get()).accept(stream).await
    }
}

/// Whether the server refused the client: for its certificate, for want of one, or for its protocols.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    use rustls::Error::{InvalidCertificate, NoApplicationProtocol, NoCertificatesPresented};
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(InvalidCertificate(_) | NoApplicationProtocol | NoCertificatesPresented))
}

/// Reads the files into a configuration. Returns the end of the certificate too, if it can be read.
fn load(files: &Files, http1: bool) -> Result<(ServerConfig, Option<i64>), String> {
    let Files { certificate, key, client_ca } = files;
    let of = |file: &NamedFile| {
        let file = file.to_string();
        move |error: String| format!("{file}: {error}")
    };
    let chain = read_certificates(&certificate.path).map_err(of(certificate))?;
    let end = chain.first().and_then(|certificate| end(certificate));
    let private = read_key(&key.path).map_err(of(key))?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let authorities = Arc::new(read_authorities(&file.path).map_err(of(file))?);
            let verifier = WebPkiClientVerifier::builder_with_provider(authorities, provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| format!("{file}: {error}"))?)
        }
    };
    let mut config = builder.with_single_cert(chain, private).map_err(|error| {
        if matches!(error, rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) {
            format!("{key}: is not the key of {certificate}")
        } else {
            format!("{certificate}: cannot be used with {key}: {error}")
        }
    })?;
    config.alpn_protocols = if http1 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"h2".to_vec()] };
    // Connections live long, so few would be resumed, and a resumed one does not verify the client's certificate again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok((config, end))
}

/// Returns when a certificate ends, in seconds since 1970.
fn end(certificate: &[u8]) -> Option<i64> {
    let validity = Certificate::from_der(certificate).ok()?.tbs_certificate.validity;
    i64::try_from(validity.not_after.to_unix_duration().as_secs()).ok()
}
