//! The body of a stream of responses: counts how the call ended, when it does.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::telemetry::call::Call;

/// A body whose end is that of its call. Dropping it before means that the caller went away.
pub(super) struct Streamed {
    body: Body,
    call: Arc<Call>,
}

impl Streamed {
    /// Follows the response of a call to its end.
    pub(super) fn follow(response: Response<Body>, call: &Arc<Call>) -> Response<Body> {
        response.map(|body| Body::new(Self { body, call: Arc::clone(call) }))
    }
}

impl http_body::Body for Streamed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    let status = Status::from_header_map(trailers);
                    self.call.stream_ended(status.as_ref().filter(|status| status.code() != Code::Ok));
                }
            }
            Poll::Ready(Some(Err(status))) => self.call.stream_ended(Some(status)),
            Poll::Ready(None) => self.call.stream_ended(None),
            Poll::Pending => {}
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

impl Drop for Streamed {
    fn drop(&mut self) {
        // A stream that has ended is not counted again.
        self.call.stream_ended(Some(&Status::new(Code::Cancelled, "")));
    }
}
