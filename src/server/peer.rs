//! The other end of a connection.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The other end of a connection. Each request has it in its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A client over TCP, by its address. Behind a proxy, that is the proxy's.
    Tcp(SocketAddr),
    /// A client over a Unix socket. It has no address.
    Unix,
}

/// The part of an IPv6 address that names a network. Its clients choose the rest, and may choose it anew for each
/// connection.
const NETWORK: u128 = u128::MAX << 64;

impl Peer {
    /// Returns the address whose connections and calls are counted together: an IPv4 address, or the network (/64) of an
    /// IPv6 one. `None` for a Unix socket.
    pub fn network(self) -> Option<IpAddr> {
        match self {
            // A socket for both has IPv4 addresses as IPv6 ones.
            Self::Tcp(address) => Some(match address.ip().to_canonical() {
                IpAddr::V4(address) => address.into(),
                IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK).into(),
            }),
            Self::Unix => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_one_ipv6_network_are_counted_together() {
        for (address, network) in [
            ("192.0.2.7:443", Some("192.0.2.7")),
            ("[::ffff:192.0.2.7]:443", Some("192.0.2.7")),
            ("[2001:db8:1:2:3:4:5:6]:443", Some("2001:db8:1:2::")),
            ("[2001:db8:1:2::]:443", Some("2001:db8:1:2::")),
            ("[2001:db8:1:3::]:443", Some("2001:db8:1:3::")),
        ] {
            let peer = Peer::Tcp(address.parse().expect("an address"));
            assert_eq!(peer.network(), network.map(|text| text.parse().expect("an address")), "{address}");
        }
        assert_eq!(Peer::Unix.network(), None);
    }
}
