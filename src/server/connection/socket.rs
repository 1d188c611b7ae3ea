//! A connection's socket: gives back the bytes that were read to find out the protocol, notes activity, ends floods of
//! frames, and closes without losing the last bytes.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::activity::Activity;
use super::frames::{Achieved, Frames};
use super::opening::Opening;

/// Time that the client has to close the connection after the server did.
const LINGERING_TIME: Duration = Duration::from_secs(1);

/// A stream whose first bytes were already read.
#[derive(Debug)]
pub(super) struct Socket<S> {
    stream: S,
    opening: Opening,
    /// Bytes of the opening that were given back.
    given_back: usize,
    activity: Arc<Activity>,
    /// For HTTP/2.
    frames: Option<Frames>,
    /// The rest of [`LINGERING_TIME`], once the end was sent.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl<S> Socket<S> {
    pub(super) fn new(stream: S, opening: Opening, activity: Arc<Activity>) -> Self {
        let frames = opening.first_frame().map(|first| {
            let mut frames = Frames::new();
            frames.excess(first, Achieved::default());
            frames
        });
        Self { stream, opening, given_back: 0, activity, frames, lingering: None }
    }

    /// Notes whether bytes were written.
    fn noted(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes @ 1..)) = written {
            self.activity.note_written(bytes);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let rest = &this.opening.bytes()[this.given_back..];
        if !rest.is_empty() {
            let length = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..length]);
            this.given_back += length;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let new = &buffer.filled()[before..];
        if !new.is_empty() {
            this.activity.note_read();
            let excess = this.frames.as_mut().and_then(|frames| frames.excess(new, this.activity.achieved()));
            if let Some(excess) = excess {
                this.activity.note_flood();
                return Poll::Ready(Err(io::Error::other(excess)));
            }
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.noted(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.noted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Sends the end, and reads what the client still sends until it closes the connection too, or for
    /// [`LINGERING_TIME`].
    ///
    /// A socket that is closed with unread bytes, or that receives more, resets the connection. The client may then lose
    /// the last responses, which it has received and not read: HAProxy does.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        let lingering = this.lingering.get_or_insert_with(|| Box::pin(sleep(LINGERING_TIME)));
        let mut unread = [0; 1_024];
        loop {
            let mut buffer = ReadBuf::new(&mut unread);
            match Pin::new(&mut this.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                // Its end, or a lost connection.
                Poll::Ready(Ok(()) | Err(_)) => return Poll::Ready(Ok(())),
                Poll::Pending => return lingering.as_mut().poll(cx).map(Ok),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn every_byte_is_read_once_in_order() {
        let bytes: Vec<u8> = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".iter().copied().chain(0..100).collect();
        // The reader's buffers end within the opening, at its end, and after it.
        for size in [1, 7, 33, 40] {
            let (mut client, mut server) = duplex(1_024);
            client.write_all(&bytes).await.expect("written");
            drop(client);
            let mut opening = Opening::new();
            opening.read(&mut server).await.expect("read");
            let mut socket = Socket::new(server, opening, Arc::default());
            let (mut read, mut buffer) = (Vec::new(), vec![0; size]);
            loop {
                match socket.read(&mut buffer).await.expect("read") {
                    0 => break,
                    length => read.extend_from_slice(&buffer[..length]),
                }
            }
            assert_eq!(read, bytes, "{size}");
        }
    }

    async fn opened() -> (tokio::io::DuplexStream, Socket<tokio::io::DuplexStream>) {
        let (mut client, mut server) = duplex(64);
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n123456789").await.expect("written");
        let mut opening = Opening::new();
        opening.read(&mut server).await.expect("read");
        (client, Socket::new(server, opening, Arc::default()))
    }

    #[tokio::test]
    async fn what_the_client_sends_after_the_end_is_read_until_it_closes_too() {
        let (mut client, mut socket) = opened().await;
        let closing = tokio::spawn(async move { socket.shutdown().await });
        assert_eq!(client.read(&mut [0; 8]).await.expect("read"), 0, "the end is sent first");
        // More than the pipe holds.
        client.write_all(&[0; 10_000]).await.expect("nothing is reset");
        drop(client);
        closing.await.expect("no panic").expect("closed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_close_is_left_after_a_while() {
        let (client, mut socket) = opened().await;
        socket.shutdown().await.expect("closed");
        drop((client, socket));
    }
}
