//! Connects to a server at the address of a setting.

use std::net::IpAddr;

use tonic::transport::{Channel, Endpoint};

use super::Failure;
use crate::config::Address;
use crate::store::with_causes;

/// Connects to a server. `setting` names the setting that has the address, for errors.
pub(super) async fn channel(address: &Address, setting: &str) -> Result<Channel, Failure> {
    let endpoint = Endpoint::from_shared(url(address))
        .map_err(|error| format!("{setting} {address}: not an address to connect to: {error}"))?;
    let connected = endpoint.connect().await;
    Ok(connected.map_err(|error| format!("{setting} {address}: cannot connect: {}", with_causes(&error)))?)
}

/// The URL that tonic connects to. Of a server that listens on every interface, that is the loopback address.
fn url(address: &Address) -> String {
    let host = |ip: &str, port: u16| format!("http://{ip}:{port}");
    match address {
        Address::Everywhere(port) => host("127.0.0.1", *port),
        Address::Host { name, port } => match name.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) if ip.is_unspecified() => host("127.0.0.1", *port),
            Ok(IpAddr::V6(ip)) if ip.is_unspecified() => host("[::1]", *port),
            _ => format!("http://{address}"),
        },
        Address::Unix(_) => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_has_a_url_to_connect_to() {
        for (address, expected) in [
            ("127.0.0.1:1", "http://127.0.0.1:1"),
            ("kith:1", "http://kith:1"),
            ("[::1]:1", "http://[::1]:1"),
            (":1", "http://127.0.0.1:1"),
            ("0.0.0.0:1", "http://127.0.0.1:1"),
            ("[::]:1", "http://[::1]:1"),
            ("unix:/run/kith.sock", "unix:/run/kith.sock"),
        ] {
            assert_eq!(url(&address.parse().expect("an address")), expected);
            Endpoint::from_shared(expected).expect("an endpoint");
        }
    }
}
