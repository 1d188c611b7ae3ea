//! The body of a request: what a call leaves unread of it is read after the call.
//!
//! A call can end before its request: one that is refused by its headers does. If the body were dropped, h2 would reset
//! the stream, and forget it soon when there are many. A message that arrives afterwards is an error then, and a
//! connection with a thousand of them is closed as an attack, though its client does nothing wrong.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::STREAM_WINDOW;

/// Time that the rest of a request has after its call. Then the stream is reset.
const REST_TIME: Duration = Duration::from_secs(1);
/// Maximum of the rest, in bytes: what the client may have sent before it could know that the call ended.
const REST_MAX: usize = STREAM_WINDOW as usize;

/// The body of a request.
pub(super) struct RequestBody(Option<Incoming>);

impl RequestBody {
    pub(super) fn new(body: Incoming) -> Self {
        Self(Some(body))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some(body) = self.0.take().filter(|body| !body.is_end_stream()) else { return };
        // Without a runtime the connection has ended.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(timeout(REST_TIME, read_rest(body)));
        }
    }
}

/// Reads to the end of the body, or until it is too much.
async fn read_rest(mut body: Incoming) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > REST_MAX {
            return;
        }
    }
}
