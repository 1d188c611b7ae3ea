//! The other end of a connection.

use std::fmt;
use std::net::SocketAddr;

/// The other end of a connection. Each request has it in its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A client over TCP, by its address. Behind a proxy, that is the proxy's.
    Tcp(SocketAddr),
    /// A client over a Unix socket. It has no address.
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}
