//! The first bytes of a connection: which protocol they begin.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// What every HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of the preface and of the header of the frame that must follow it, the client's SETTINGS.
pub(super) const OPENING_BYTES: usize = PREFACE.len() + 9;
/// What a connection begins with whose proxy sends the client's address by version 2 of the PROXY protocol.
const PROXY_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The same for version 1.
const PROXY_1: &[u8] = b"PROXY ";
/// Bytes of the longest registered method of HTTP (UPDATEREDIRECTREF).
const METHOD_BYTES_MAX: usize = 17;

/// The protocol that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http2,
    /// HTTP/1.1 or 1.0.
    Http1,
    Tls,
    /// The PROXY protocol of HAProxy.
    Proxy,
    Other,
}

/// The bytes that were read to find out the protocol.
#[derive(Debug)]
pub(super) struct Opening {
    bytes: [u8; OPENING_BYTES],
    length: usize,
}

impl Opening {
    pub(super) fn new() -> Self {
        Self { bytes: [0; OPENING_BYTES], length: 0 }
    }

    /// Reads until the protocol is known. `None` if the client closed the connection before.
    ///
    /// Cancel safe: the bytes that were read remain.
    pub(super) async fn read(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Protocol>> {
        loop {
            if let Some(protocol) = protocol(self.bytes()) {
                return Ok(Some(protocol));
            }
            let read = stream.read(&mut self.bytes[self.length..]).await?;
            if read == 0 {
                return Ok(None);
            }
            self.length += read;
        }
    }

    /// The bytes that were read after the preface of HTTP/2, if that is the protocol.
    pub(super) fn first_frame(&self) -> Option<&[u8]> {
        self.bytes().strip_prefix(PREFACE)
    }

    /// The bytes that were read.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Returns the protocol that these bytes begin, or `None` if more are needed.
///
/// HTTP/2 needs [`OPENING_BYTES`]. No other protocol needs as many.
fn protocol(bytes: &[u8]) -> Option<Protocol> {
    let begins = |whole: &[u8]| bytes.starts_with(whole) || whole.starts_with(bytes);
    if begins(PREFACE) {
        return (bytes.len() >= OPENING_BYTES).then_some(Protocol::Http2);
    }
    if begins(PROXY_2) {
        return (bytes.len() >= PROXY_2.len()).then_some(Protocol::Proxy);
    }
    // A record of TLS: the handshake, and a version whose first byte is 3 in all of them.
    if begins(&[0x16, 0x03]) {
        return (bytes.len() >= 2).then_some(Protocol::Tls);
    }
    let letters = bytes.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    match bytes.get(letters) {
        Some(b' ') if bytes.starts_with(PROXY_1) => Some(Protocol::Proxy),
        Some(b' ') if (1..=METHOD_BYTES_MAX).contains(&letters) => Some(Protocol::Http1),
        None if letters <= METHOD_BYTES_MAX => None,
        Some(_) | None => Some(Protocol::Other),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    /// The preface and an empty SETTINGS frame.
    const HTTP_2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

    #[test]
    fn the_first_bytes_say_which_protocol_it_is() {
        for (bytes, expected) in [
            (HTTP_2, Protocol::Http2),
            (b"GET / HTTP/1.1\r\n", Protocol::Http1),
            (b"POST /kith.v1.UserService/GetUser HTTP/1.1\r\n", Protocol::Http1),
            (b"PRI /", Protocol::Http1),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", Protocol::Proxy),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11", Protocol::Proxy),
            (b"\x16\x03\x01\x02\x00\x01", Protocol::Tls),
            (b"\x16\x02", Protocol::Other),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Protocol::Other),
            (b"get / HTTP/1.1\r\n", Protocol::Other),
            (b" GET", Protocol::Other),
            (b"ABCDEFGHIJKLMNOPQR ", Protocol::Other),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Protocol::Other),
        ] {
            assert_eq!(protocol(bytes), Some(expected), "{:?}", bytes.escape_ascii().to_string());
        }
    }

    /// However a client cuts its bytes into packets.
    #[tokio::test]
    async fn bytes_may_come_one_by_one_and_none_is_lost() {
        for (bytes, expected) in [
            (HTTP_2, Protocol::Http2),
            (b"POST /", Protocol::Http1),
            (b"PROXY ", Protocol::Proxy),
            (b"\r\n\r\n\0\r\nQUIT\n", Protocol::Proxy),
            (b"\x16\x03", Protocol::Tls),
        ] {
            let (mut client, mut server) = duplex(1);
            let mut opening = Opening::new();
            let (read, _) = tokio::join!(opening.read(&mut server), client.write_all(bytes));
            assert_eq!(read.expect("bytes"), Some(expected));
            assert!(bytes.starts_with(opening.bytes()));
            let mut closed = Opening::new();
            let cut = &bytes[..opening.bytes().len() - 1];
            assert_eq!(closed.read(&mut &cut[..]).await.expect("bytes"), None);
            assert_eq!(closed.bytes(), cut);
        }
    }
}
