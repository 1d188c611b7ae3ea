//! The encryption of connections to PostgreSQL, and whom it verifies.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::config::Cause;
use crate::tls::{AnyCertificate, provider, system_authorities};

/// Accepts any certificate, as libpq does for `prefer` and `require`.
pub(super) fn any_certificate() -> Result<ClientConfig, Cause> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let verifier = Arc::new(AnyCertificate::new(provider));
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Verifies that the server has a certificate of the roots for its own name.
pub(super) fn verified(roots: Option<&Path>) -> Result<ClientConfig, Cause> {
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(certificates(roots)?).with_no_client_auth())
}

/// Verifies that the server has a certificate of the roots, for whatever name.
pub(super) fn verified_chain(roots: Option<&Path>) -> Result<ClientConfig, Cause> {
    let provider = provider();
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(certificates(roots)?), Arc::clone(&provider));
    let verifier = Arc::new(AnyName(verifier.build()?));
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Reads the certificates to trust: those of a file, or the system's.
fn certificates(roots: Option<&Path>) -> Result<RootCertStore, Cause> {
    let store = match roots {
        Some(path) => {
            let mut store = RootCertStore::empty();
            let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
            let certificates = read().map_err(|error| format!("sslrootcert {}: {error}", path.display()))?;
            for certificate in certificates {
                store.add(certificate)?;
            }
            store
        }
        None => system_authorities(),
    };
    if store.is_empty() {
        return Err("no root certificates to verify the server with; set sslrootcert".into());
    }
    Ok(store)
}

/// Verifies a certificate, but not for whom it is.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // The name is verified last: all else is in order.
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
