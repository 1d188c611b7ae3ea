//! Reads a small document from an https URL.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, HOST, USER_AGENT};
use http::uri::{Authority, PathAndQuery};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::tls::provider;

/// Maximum duration of a read.
const MAX_TIME: Duration = Duration::from_secs(10);
/// Maximum size of the document, in bytes.
const MAX_SIZE: usize = 256 << 10;
/// The port of a URL that names none.
const HTTPS_PORT: u16 = 443;

/// A document at an https URL.
pub(super) struct Document {
    authority: Authority,
    path: PathAndQuery,
    name: ServerName<'static>,
    connector: TlsConnector,
}

impl Document {
    /// Parses a URL. The server needs a certificate of one of the authorities.
    ///
    /// # Errors
    ///
    /// In words that follow the URL.
    pub(super) fn new(url: &str, authorities: RootCertStore) -> Result<Self, String> {
        let invalid = || "is not a URL of the form https://HOST:PORT/PATH".to_owned();
        let parts = url.parse::<Uri>().map_err(|_| invalid())?.into_parts();
        let is_https = parts.scheme.is_some_and(|scheme| scheme.as_str() == "https");
        let authority = parts.authority.filter(|authority| is_https && !authority.as_str().contains('@'));
        let authority = authority.ok_or_else(invalid)?;
        let name = ServerName::try_from(host(&authority).to_owned()).map_err(|_| invalid())?;
        if authorities.is_empty() {
            return Err("cannot be verified: the system has no certificates of authorities".to_owned());
        }
        let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let config = config.map_err(|error| error.to_string())?.with_root_certificates(authorities);
        let path = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        Ok(Self { authority, path, name, connector: TlsConnector::from(Arc::new(config.with_no_client_auth())) })
    }

    /// Reads the document. Redirections are not followed.
    ///
    /// # Errors
    ///
    /// In words that follow the URL.
    pub(super) async fn read(&self) -> Result<Vec<u8>, String> {
        let read = timeout(MAX_TIME, self.exchange()).await;
        read.unwrap_or_else(|_| Err(format!("was not read within {MAX_TIME:?}")))
    }

    async fn exchange(&self) -> Result<Vec<u8>, String> {
        let port = self.authority.port_u16().unwrap_or(HTTPS_PORT);
        let stream = TcpStream::connect((host(&self.authority), port))
            .await
            .map_err(|error| format!("cannot be reached: {error}"))?;
        let stream = self.connector.connect(self.name.clone(), stream).await;
        let stream = stream.map_err(|error| format!("has no TLS that can be verified: {error}"))?;
        let failed = |error: hyper::Error| format!("sends no HTTP response: {error}");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        // Ends with this function.
        let mut driving = JoinSet::new();
        driving.spawn(connection);
        let request = Request::get(self.path.as_str())
            .header(HOST, self.authority.as_str())
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("kith/", env!("CARGO_PKG_VERSION")))
            .body(String::new())
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(failed)?;
        if response.status() != StatusCode::OK {
            return Err(format!("responds with the status {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_SIZE).collect().await;
        let body =
            body.map_err(|error| format!("cannot be read up to its end, of at most {MAX_SIZE} bytes: {error}"))?;
        Ok(body.to_bytes().into())
    }
}

/// The host without the brackets of an IPv6 address.
fn host(authority: &Authority) -> &str {
    let host = authority.host();
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests;
