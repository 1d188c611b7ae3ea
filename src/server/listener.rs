//! Accepts connections, on a TCP port or a Unix socket.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, lookup_host};
use tonic::transport::server::Connected;

use super::peer::Peer;
use crate::config::Address;

/// A socket that accepts connections.
#[derive(Debug)]
pub enum Listener {
    /// A TCP port.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(SocketFile, UnixListener),
}

/// The file of a Unix socket. It is removed on drop, before the socket is closed.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode. A file that has replaced this one is not removed.
    identity: Option<(u64, u64)>,
}

/// An accepted connection.
#[derive(Debug)]
pub enum Stream {
    /// A connection to a TCP port, from this address.
    Tcp(TcpStream, SocketAddr),
    /// A connection to a Unix socket.
    Unix(UnixStream),
}

impl Listener {
    /// Listens on an address.
    ///
    /// Of a name with several addresses, it takes the first that it can listen on, IPv4 before IPv6: clients that name
    /// the host try both. The file of a Unix socket has the permissions that the process's umask leaves. A file that a
    /// server left behind is replaced.
    ///
    /// # Errors
    ///
    /// If the name is unknown, or if no address can be listened on.
    pub async fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Everywhere(port) => {
                let both = TcpListener::bind((Ipv6Addr::UNSPECIFIED, *port)).await;
                let refused = |error: &io::Error| {
                    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
                };
                let listener = match both {
                    // The machine may have no IPv6.
                    Err(error) if !refused(&error) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).await?,
                    bound => bound?,
                };
                Ok(Self::Tcp(listener))
            }
            Address::Host { name, port } => {
                let mut addresses: Vec<_> = lookup_host((name.as_str(), *port)).await?.collect();
                addresses.sort_by_key(|address| address.is_ipv6());
                TcpListener::bind(addresses.as_slice()).await.map(Self::Tcp)
            }
            Address::Unix(path) => {
                let listener = bind_unix(path).await?;
                Ok(Self::Unix(SocketFile { path: path.clone(), identity: identity(path) }, listener))
            }
        }
    }

    /// Returns the address that it listens on, as a client would write it.
    ///
    /// # Errors
    ///
    /// If the operating system does not say.
    pub fn local_address(&self) -> io::Result<String> {
        match self {
            Self::Tcp(listener) => Ok(listener.local_addr()?.to_string()),
            Self::Unix(file, _) => Ok(Address::Unix(file.path.clone()).to_string()),
        }
    }

    /// Whether only this machine can connect to it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(listener) => listener.local_addr().is_ok_and(|address| address.ip().is_loopback()),
            Self::Unix(..) => true,
        }
    }

    /// Accepts the next connection. Cancel safe.
    ///
    /// # Errors
    ///
    /// If a connection cannot be accepted, for example without free file descriptors. A later one may be.
    pub async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Otherwise a response can wait 40 ms for the acknowledgement of the previous one. Fails only if the
                // connection is already closed, which the reader notices.
                let _closed = stream.set_nodelay(true);
                Ok((Stream::Tcp(stream, address), Peer::Tcp(address)))
            }
            Self::Unix(_, listener) => Ok((Stream::Unix(listener.accept().await?.0), Peer::Unix)),
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

/// Binds a Unix socket, over the file of a server that has ended without removing it.
async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        bound => return bound,
    }
    let in_use = |words| Err(io::Error::new(io::ErrorKind::AddrInUse, words));
    // A connection to a file that is not a socket is refused too.
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return in_use("there is a file with this name that is not a socket");
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        Ok(_) | Err(_) => in_use("the socket is in use by another process"),
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // If it stays, the next start replaces it.
            let _not_removed = fs::remove_file(&self.path);
        }
    }
}

/// Each request has the other end of its connection in its extensions.
impl Connected for Stream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        match self {
            Self::Tcp(_, address) => Peer::Tcp(*address),
            Self::Unix(_) => Peer::Unix,
        }
    }
}

/// Calls a method of the stream within.
macro_rules! delegate {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        match $self.get_mut() {
            Stream::Tcp(stream, _) => Pin::new(stream).$method($($argument),*),
            Stream::Unix(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream, _) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn bind(address: &str) -> io::Result<Listener> {
        Listener::bind(&address.parse().expect("an address")).await
    }

    #[tokio::test]
    async fn every_form_of_address_can_be_listened_on_and_connected_to() {
        // The machine may have no IPv6.
        let has_ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
        for (address, host) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::1]:0", "[::1]"),
            // IPv4 first.
            ("localhost:0", "127.0.0.1"),
            (":0", "127.0.0.1"),
        ] {
            let bound = bind(address).await;
            if host == "[::1]" && !has_ipv6 {
                bound.expect_err("no IPv6");
                continue;
            }
            let listener = bound.expect(address);
            let local = listener.local_address().expect("an address");
            let (_, port) = local.rsplit_once(':').expect("a port");
            let client = TcpStream::connect(format!("{host}:{port}")).await.expect(address);
            let (stream, peer) = listener.accept().await.expect("a connection");
            assert_eq!(stream.connect_info(), peer);
            let Peer::Tcp(peer) = peer else { panic!("{peer}") };
            assert_eq!(peer.port(), client.local_addr().expect("an address").port());
        }
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("kith.sock");
        let address = format!("unix:{}", path.display());
        // As after a crash: closed, but not removed.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
        assert!(path.exists());
        let listener = bind(&address).await.expect("the file is replaced");
        assert_eq!(listener.local_address().expect("an address"), address);
        let _client = UnixStream::connect(&path).await.expect("a connection");
        let (stream, peer) = listener.accept().await.expect("a connection");
        assert_eq!((stream.connect_info(), peer), (Peer::Unix, Peer::Unix));
        let refused = bind(&address).await.expect_err("in use");
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        assert!(refused.to_string().contains("in use by another process"), "{refused}");
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_of_another_is_neither_replaced_nor_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("kith.sock");
        let address = format!("unix:{}", path.display());
        fs::write(&path, "text").expect("a file");
        let refused = bind(&address).await.expect_err("a file");
        assert!(refused.to_string().contains("not a socket"), "{refused}");
        fs::remove_file(&path).expect("removed");
        let listener = bind(&address).await.expect("a socket");
        // Another process replaced the file.
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "text").expect("a file");
        drop(listener);
        assert!(path.exists());
    }
}
