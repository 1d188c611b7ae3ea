//! Connects to a server at the address of a setting.

use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::client::WantsClientCert;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ConfigBuilder, WantsVerifier};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::Failure;
use crate::causes::with_causes;
use crate::config::{Address, ServerAddress, Sources};
use crate::server::listener::Stream;
use crate::tls::{AnyCertificate, provider, read_authorities, system_authorities};

/// A client's TLS without its own certificate.
type Builder = ConfigBuilder<ClientConfig, WantsClientCert>;

/// Connects to a server, with or without TLS. `setting` names the setting that has the address, for errors.
pub(super) async fn channel(
    server: &ServerAddress,
    tls: Option<ClientConfig>,
    setting: &str,
) -> Result<Channel, Failure> {
    let address = destination(&server.address);
    let invalid = |error: &dyn Error| format!("{setting} {server}: not an address to connect to: {error}");
    let endpoint = Endpoint::from_shared(url(&address, false)).map_err(|error| invalid(&error))?;
    let connected = match tls {
        None => endpoint.connect().await,
        Some(mut config) => {
            // tonic would have TLS of its own for an endpoint with https. Requests have that scheme all the same.
            let endpoint = match address {
                Address::Unix(_) => endpoint,
                Address::Everywhere(_) | Address::Host { .. } => {
                    endpoint.origin(url(&address, true).parse::<Uri>().map_err(|error| invalid(&error))?)
                }
            };
            config.alpn_protocols = vec![b"h2".to_vec()];
            let connector = TlsConnector::from(Arc::new(config));
            let connect = move |_| {
                let (connector, address) = (connector.clone(), address.clone());
                async move { handshake(connector, address).await.map(TokioIo::new) }
            };
            endpoint.connect_with_connector(service_fn(connect)).await
        }
    };
    Ok(connected.map_err(|error| format!("{setting} {server}: cannot connect: {}", with_causes(&error)))?)
}

/// Returns TLS that verifies the server, if the address demands it: by the authorities of a file, or by the system's.
///
/// Without `https://`, a file that a configuration has for other servers does not matter.
pub(super) fn verified(
    server: &ServerAddress,
    authorities: Option<&Path>,
    sources: &Sources,
) -> Result<Option<Builder>, Failure> {
    if !server.https {
        return Ok(None);
    }
    let store = match authorities {
        Some(path) => {
            read_authorities(path).map_err(|error| format!("{} {}: {error}", sources.name("tls-ca"), path.display()))?
        }
        None => system_authorities(),
    };
    Ok(Some(builder()?.with_root_certificates(store)))
}

/// Returns TLS that accepts any certificate.
pub(super) fn any_certificate() -> Result<Builder, Failure> {
    let verifier = Arc::new(AnyCertificate::new(provider()));
    Ok(builder()?.dangerous().with_custom_certificate_verifier(verifier))
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, Failure> {
    Ok(ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?)
}

/// Connects to an address without TLS.
pub(super) async fn stream(address: &Address) -> io::Result<Stream> {
    match destination(address) {
        Address::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
        Address::Everywhere(port) => tcp("localhost", port).await,
        Address::Host { name, port } => tcp(&name, port).await,
    }
}

async fn handshake(connector: TlsConnector, address: Address) -> io::Result<TlsStream<Stream>> {
    let stream = stream(&address).await?;
    let name = match address {
        Address::Unix(_) | Address::Everywhere(_) => "localhost".to_owned(),
        Address::Host { name, port: _ } => name,
    };
    let name = ServerName::try_from(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    connector.connect(name, stream).await
}

async fn tcp(name: &str, port: u16) -> io::Result<Stream> {
    let stream = TcpStream::connect((name, port)).await?;
    stream.set_nodelay(true)?;
    let address = stream.peer_addr()?;
    Ok(Stream::Tcp(stream, address))
}

/// The address to connect to. Of a server that listens on every interface, that is the loopback address.
fn destination(address: &Address) -> Address {
    let loopback = |ip: IpAddr, port: u16| Address::Host { name: ip.to_string(), port };
    match address {
        Address::Everywhere(port) => loopback(Ipv4Addr::LOCALHOST.into(), *port),
        Address::Host { name, port } => match name.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) if ip.is_unspecified() => loopback(Ipv4Addr::LOCALHOST.into(), *port),
            Ok(IpAddr::V6(ip)) if ip.is_unspecified() => loopback(Ipv6Addr::LOCALHOST.into(), *port),
            _ => address.clone(),
        },
        Address::Unix(_) => address.clone(),
    }
}

/// The URL that tonic connects to.
fn url(address: &Address, tls: bool) -> String {
    match address {
        Address::Unix(_) => address.to_string(),
        Address::Everywhere(_) | Address::Host { .. } => format!("http{}://{address}", if tls { "s" } else { "" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_has_a_url_to_connect_to() {
        for (address, tls, expected) in [
            ("127.0.0.1:1", false, "http://127.0.0.1:1"),
            ("kith:1", false, "http://kith:1"),
            ("kith:1", true, "https://kith:1"),
            ("[::1]:1", false, "http://[::1]:1"),
            (":1", false, "http://127.0.0.1:1"),
            (":1", true, "https://127.0.0.1:1"),
            ("0.0.0.0:1", false, "http://127.0.0.1:1"),
            ("[::]:1", true, "https://[::1]:1"),
            ("unix:/run/kith.sock", true, "unix:/run/kith.sock"),
        ] {
            assert_eq!(url(&destination(&address.parse().expect("an address")), tls), expected);
            Endpoint::from_shared(expected).expect("an endpoint");
        }
    }
}
