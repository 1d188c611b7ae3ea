//! What happens on a connection: its open calls, what it has achieved, and whether bytes are exchanged.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use super::frames::Achieved;

/// Counts the calls of a connection, and its reads and writes.
#[derive(Debug, Default)]
pub(super) struct Activity {
    open_calls: AtomicUsize,
    /// Reads and writes that moved bytes. It may wrap around, as the numbers below may.
    moves: AtomicUsize,
    /// Calls, and messages of their responses.
    steps: AtomicUsize,
    /// Responses that hyper has taken to their ends.
    responses: AtomicUsize,
    written: AtomicUsize,
    flooded: AtomicBool,
    /// Open watches of the health service.
    health_watches: AtomicUsize,
}

impl Activity {
    /// Notes that bytes were read.
    pub(super) fn note_read(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that bytes were written.
    pub(super) fn note_written(&self, bytes: usize) {
        self.moves.fetch_add(1, Ordering::Relaxed);
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The number of reads and writes so far.
    pub(super) fn moves(&self) -> usize {
        self.moves.load(Ordering::Relaxed)
    }

    /// What the connection has achieved so far.
    pub(super) fn achieved(&self) -> Achieved {
        Achieved {
            steps: self.steps.load(Ordering::Relaxed),
            responses: self.responses.load(Ordering::Relaxed),
            bytes: self.written.load(Ordering::Relaxed),
        }
    }

    /// Notes a call, or a message of a response.
    pub(super) fn advance(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that the client sent too many frames of a kind.
    pub(super) fn note_flood(&self) {
        self.flooded.store(true, Ordering::Relaxed);
    }

    /// Whether it did.
    pub(super) fn is_flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }

    /// Whether there are open calls.
    pub(super) fn has_calls(&self) -> bool {
        self.open_calls.load(Ordering::Relaxed) > 0
    }
}

/// An open call of a connection. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct OpenCall {
    activity: Arc<Activity>,
    counter: Counter,
}

/// The calls with which an open call is counted.
#[derive(Clone, Copy, Debug)]
enum Counter {
    /// Those of Kith's services.
    Calls,
    /// Watches of the health service.
    HealthWatches,
}

impl Activity {
    fn counted(&self, counter: Counter) -> &AtomicUsize {
        match counter {
            Counter::Calls => &self.open_calls,
            Counter::HealthWatches => &self.health_watches,
        }
    }
}

impl OpenCall {
    pub(super) fn new(activity: &Arc<Activity>) -> Self {
        activity.open_calls.fetch_add(1, Ordering::Relaxed);
        Self { activity: Arc::clone(activity), counter: Counter::Calls }
    }

    /// A watch of the health service. `None` if `maximum` of them are open.
    pub(super) fn health_watch(activity: &Arc<Activity>, maximum: usize) -> Option<Self> {
        let one_more = |open| (open < maximum).then_some(open + 1);
        activity.health_watches.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Self { activity: Arc::clone(activity), counter: Counter::HealthWatches })
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.activity.counted(self.counter).fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response's body. The call is open until hyper has taken all of it.
#[derive(Debug)]
pub(in crate::server) struct CallBody {
    body: Body,
    activity: Arc<Activity>,
    /// Whether trailers were taken, or the end.
    ended: bool,
    _call: Option<OpenCall>,
}

impl CallBody {
    pub(super) fn new(body: Body, activity: Arc<Activity>, call: Option<OpenCall>) -> Self {
        Self { body, activity, ended: false, _call: call }
    }
}

impl http_body::Body for CallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                self.activity.advance();
                self.ended = frame.is_trailers();
            }
            Poll::Ready(None) => self.ended = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for CallBody {
    fn drop(&mut self) {
        // A response without a body is never polled.
        if self.ended || self.body.is_end_stream() {
            self.activity.responses.fetch_add(1, Ordering::Relaxed);
        }
    }
}
