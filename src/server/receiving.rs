//! The body of a request: how much of large messages the server holds until they are complete.
//!
//! tonic collects a message before it decodes it. Without a limit, a client that begins large requests and does not end
//! them would fill the memory with one connection: 1,024 calls of 256 KiB.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use super::held::{Held, Reservation};
use crate::error;
use crate::metrics::refusals::Cause;

/// Maximum bytes of large messages that are not yet complete. Further ones are refused.
///
/// The part of one connection is enough for the largest profile in each of its calls.
pub(super) const UNFINISHED_MAX: usize = 128 << 20;
/// Maximum size of a message that is not counted, in bytes. The maximum number of calls limits these.
const SMALL: usize = 16 << 10;
/// Bytes before each message: whether it is compressed, and its length.
const HEADER_BYTES: usize = 5;

/// A request's body. While a large message is incomplete, its size is counted.
pub(super) struct Receiving {
    body: Body,
    held: Held,
    peer: Option<SocketAddr>,
    /// The header of the next message, as far as it was received.
    header: [u8; HEADER_BYTES],
    header_length: usize,
    /// Bytes of the current message that are still to come.
    missing: usize,
    reservation: Option<Reservation>,
}

impl Receiving {
    pub(super) fn new(body: Body, held: Held, peer: Option<SocketAddr>) -> Self {
        let header = [0; HEADER_BYTES];
        Self { body, held, peer, header, header_length: 0, missing: 0, reservation: None }
    }

    /// Follows the messages in the bytes. Fails if too many bytes of incomplete ones are held.
    fn receive(&mut self, mut bytes: &[u8]) -> Result<(), Status> {
        loop {
            let received = self.missing.min(bytes.len());
            self.missing -= received;
            bytes = &bytes[received..];
            if self.missing > 0 {
                return Ok(());
            }
            self.reservation = None;
            if bytes.is_empty() {
                return Ok(());
            }
            let read = (HEADER_BYTES - self.header_length).min(bytes.len());
            self.header[self.header_length..][..read].copy_from_slice(&bytes[..read]);
            self.header_length += read;
            bytes = &bytes[read..];
            if self.header_length == HEADER_BYTES {
                self.header_length = 0;
                self.begin(bytes.len())?;
            }
        }
    }

    /// Begins a message, of which so many bytes are there, and maybe more than belong to it.
    fn begin(&mut self, there: usize) -> Result<(), Status> {
        let [_, length @ ..] = self.header;
        self.missing = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        // What tonic refuses for its size is not held.
        if self.missing > there && (SMALL..=super::REQUEST_BYTES_MAX).contains(&self.missing) {
            let reservation =
                self.held.reserve(self.peer, self.missing).ok_or_else(|| error::overloaded(Cause::RequestMemory))?;
            self.reservation = Some(reservation);
        }
        Ok(())
    }
}

impl http_body::Body for Receiving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(bytes) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
            // The frame is dropped with the error: nothing of the message is held.
            self.receive(bytes)?;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn receiving(held: &Held, number: u16) -> Receiving {
        Receiving::new(Body::empty(), held.clone(), Some(([127, 0, 0, 1], number).into()))
    }

    fn message(length: u32) -> Vec<u8> {
        [&[0][..], &length.to_be_bytes(), &vec![0; length as usize]].concat()
    }

    #[test]
    fn large_messages_are_counted_while_they_are_incomplete_however_they_are_cut() {
        let large = message(20_000);
        let stream = [&message(10)[..], &large, &large, &message(0), &message(16_000), &large].concat();
        for piece in [1, 4, 5, 999, 20_005, 20_025, 100_000] {
            let held = Held::new(1 << 20);
            let mut body = receiving(&held, 1);
            let mut most = 0;
            for part in stream.chunks(piece) {
                body.receive(part).expect("it fits");
                most = most.max(held.counted().0);
            }
            assert_eq!(held.counted(), (0, 0), "{piece}");
            assert_eq!(most, if piece == 100_000 { 0 } else { 20_000 }, "{piece}");
            body.receive(&large[..100]).expect("it fits");
            assert_eq!(held.counted(), (20_000, 1));
            drop(body);
            assert_eq!(held.counted(), (0, 0), "{piece}");
        }
    }

    #[test]
    fn too_many_are_refused_and_small_or_oversized_ones_never() {
        let held = Held::new(200_000);
        let begun = message(20_000)[..100].to_vec();
        let mut bodies: Vec<_> = (0..2).map(|_| receiving(&held, 1)).collect();
        bodies.iter_mut().for_each(|body| body.receive(&begun).expect("it fits"));
        let refused = receiving(&held, 1).receive(&begun).expect_err("a quarter is the part of a connection");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        for length in [16_000, 256 * 1024 + 1] {
            receiving(&held, 1).receive(&message(length)[..100]).expect("it is not counted");
        }
        receiving(&held, 2).receive(&begun).expect("that of another connection");
        bodies.clear();
        receiving(&held, 1).receive(&begun).expect("there is room again");
    }
}
