//! The sending of answers: how many of their bytes wait for callers, and for how long.
//!
//! HTTP/2 sends an answer as fast as its caller reads it. hyper takes whatever piece a body gives it, and holds it until
//! the caller has room for it. So a large answer is given in small pieces, which are copies: a piece that is never read
//! does not hold the memory of the others. The rest waits here, is counted, and is dropped when the call's time is over.
//! A sweep drops it, since hyper asks for no further piece of an answer that nobody reads.
//!
//! Small answers pass untouched: they cost neither a lock nor a task. The maximum number of calls of a connection limits
//! them.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body as _, Frame};
use tokio::time::{Instant, sleep};
use tonic::Status;
use tonic::body::Body;

use super::held::{Held, Reservation};
use crate::error;
use crate::metrics::refusals::Cause;
use crate::telemetry::call::Call;

/// Maximum size of a small answer, in bytes: a page of 20 requests with both users, whose profiles are full, is one.
const SMALL: usize = 32 * 1024;
/// Size of the pieces of a larger one, in bytes: that of an HTTP/2 frame.
const PIECE: usize = 16 * 1024;
/// Interval at which answers are dropped whose time is over. One task does it for all: a timer for each answer took 10 %
/// of the CPU time of a list of 20.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// The bytes of large answers that were not yet sent.
#[derive(Clone, Debug)]
pub(super) struct Unsent(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    held: Held,
    /// The answers that are being sent, and some that were since the last sweep. While there are any, a task sweeps.
    sent: Mutex<Vec<Weak<Unsettled>>>,
}

impl Unsent {
    /// Creates a counter that allows `max` bytes.
    pub(super) fn new(max: usize) -> Self {
        Self(Arc::new(Shared { held: Held::new(max), sent: Mutex::default() }))
    }

    /// Drops what is unread of an answer when its time is over.
    fn limit_time(&self, answer: &Arc<Unsettled>) {
        let mut sent = lock(&self.0.sent);
        if sent.is_empty() {
            tokio::spawn(sweep(self.clone()));
        }
        sent.push(Arc::downgrade(answer));
    }
}

/// Drops answers whose time is over, as long as any are being sent.
async fn sweep(unsent: Unsent) {
    loop {
        sleep(SWEEP_INTERVAL).await;
        let (now, mut sent) = (Instant::now(), lock(&unsent.0.sent));
        sent.retain(|answer| answer.upgrade().is_some_and(|answer| answer.is_waiting(now)));
        if sent.is_empty() {
            return;
        }
    }
}

/// A piece of an answer. HTTP/2 drops it when it is sent.
struct Piece {
    bytes: Vec<u8>,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// How the answer to a call is sent.
pub(super) struct Sending {
    /// The bytes that wait.
    pub(super) unsent: Unsent,
    /// The address of the client, if it has one.
    pub(super) peer: Option<SocketAddr>,
    /// The time after which what is left is dropped.
    pub(super) until: Instant,
    /// Whether the answer may be refused if too many bytes wait. That of a write may not: it is committed.
    pub(super) refusable: bool,
}

impl Sending {
    /// Prepares the answer of a call with one response message. Its log line follows when it is sent.
    ///
    /// Encodes the message, so that its size is known. If too many bytes wait, the call fails.
    pub(super) async fn prepare(self, call: &Arc<Call>, response: Response<Body>) -> Response<Body> {
        let (parts, mut body) = response.into_parts();
        let first = match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            Some(Ok(frame)) => frame,
            Some(Err(status)) => return failed(call, &status),
            None => {
                call.succeeded();
                return Response::from_parts(parts, Body::empty());
            }
        };
        let bytes = match first.into_data() {
            Ok(bytes) if bytes.len() > SMALL => bytes,
            small => {
                call.succeeded();
                let first = Some(small.map_or_else(|frame| frame, Frame::data));
                return Response::from_parts(parts, Body::new(Small { first, rest: body }));
            }
        };
        let (bytes, trailers) = match rest(bytes, body).await {
            Ok(complete) => complete,
            Err(status) => return failed(call, &status),
        };
        let reservation = match self.unsent.0.held.reserve(self.peer, bytes.len()) {
            Some(reservation) => reservation,
            None if self.refusable => return failed(call, &error::overloaded(Cause::Answers)),
            None => self.unsent.0.held.count(self.peer, bytes.len()),
        };
        let unread = Mutex::new(Unread::Waiting { bytes, reservation });
        let answer = Arc::new(Unsettled { unread, until: self.until, call: Arc::clone(call) });
        self.unsent.limit_time(&answer);
        Response::from_parts(parts, Body::new(Large::new(answer, trailers)))
    }
}

/// Reads a body to its end. Returns its bytes, after those that were read before, and its trailers.
///
/// Drops the body: its buffer shares the memory of the bytes, which would outlive them.
async fn rest(mut bytes: Bytes, mut body: Body) -> Result<(Bytes, HeaderMap), Status> {
    let mut trailers = HeaderMap::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        match frame?.into_data() {
            // tonic gives the only message of a response in one frame.
            Ok(more) => bytes = [bytes, more].concat().into(),
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    Ok((bytes, trailers))
}

fn failed(call: &Call, status: &Status) -> Response<Body> {
    call.failed(status);
    status.clone().into_http()
}

/// A small answer.
struct Small {
    first: Option<Frame<Bytes>>,
    rest: Body,
}

impl http_body::Body for Small {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }
}

/// What HTTP/2 has not yet taken of a large answer.
enum Unread {
    Waiting {
        bytes: Bytes,
        reservation: Reservation,
    },
    Taken,
    /// Dropped, since the time was over.
    Expired,
}

/// A large answer that is being sent.
struct Unsettled {
    unread: Mutex<Unread>,
    until: Instant,
    call: Arc<Call>,
}

impl Unsettled {
    /// Whether there is more to send. Drops it if the time is over.
    fn is_waiting(&self, now: Instant) -> bool {
        let mut unread = lock(&self.unread);
        let waits = matches!(*unread, Unread::Waiting { .. });
        if waits && now >= self.until {
            *unread = Unread::Expired;
            self.call.failed(&error::answer_not_read());
            return false;
        }
        waits
    }
}

/// The body of a large answer.
struct Large {
    answer: Arc<Unsettled>,
    /// What follows the message.
    trailers: HeaderMap,
    ended: bool,
}

impl Large {
    fn new(answer: Arc<Unsettled>, trailers: HeaderMap) -> Self {
        Self { answer, trailers, ended: false }
    }

    /// Takes the next piece of the message. `None` after the last one.
    fn piece(&self) -> Result<Option<Bytes>, Status> {
        let mut unread = lock(&self.answer.unread);
        match &mut *unread {
            Unread::Waiting { bytes, reservation } => {
                let part = bytes.split_to(bytes.len().min(PIECE));
                let reservation = reservation.count(part.len());
                if bytes.is_empty() {
                    *unread = Unread::Taken;
                }
                Ok(Some(Bytes::from_owner(Piece { bytes: part.to_vec(), _reservation: reservation })))
            }
            Unread::Taken => Ok(None),
            Unread::Expired => Err(error::answer_not_read()),
        }
    }
}

impl http_body::Body for Large {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = self.piece();
        if let Ok(Some(piece)) = piece {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        self.ended = true;
        let mut trailers = std::mem::take(&mut self.trailers);
        match piece {
            Ok(_) => self.answer.call.succeeded(),
            Err(expired) => expired.add_header(&mut trailers)?,
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        let unread = std::mem::replace(&mut *lock(&self.answer.unread), Unread::Taken);
        // An answer that expired was logged then.
        if !self.ended && !matches!(unread, Unread::Expired) {
            self.answer.call.abandoned();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
