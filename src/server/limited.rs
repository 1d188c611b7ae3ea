//! What a call counts as for the limits of its principal, and until when.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use super::call::{HEALTH_PREFIX, IMPORT, IMPORT_RELATIONS, KITH_PREFIX, WATCH, only_reads};
use crate::auth::limiter::Permit;
use crate::auth::limits::Kind;

/// Returns what a call counts as. `None` for health, which anybody may call: load balancers depend on its answer.
pub(super) fn kind(path: &str) -> Option<Kind> {
    if path.starts_with(HEALTH_PREFIX) {
        return None;
    }
    Some(match path {
        WATCH => Kind::Watch,
        IMPORT | IMPORT_RELATIONS => Kind::Import,
        path if path.starts_with(KITH_PREFIX) && !only_reads(path) => Kind::Write,
        // Reflection and unknown methods too.
        _ => Kind::Read,
    })
}

/// Holds the permit of a call until the end of its answer.
pub(super) fn hold(response: Response<Body>, permit: Option<Permit>) -> Response<Body> {
    match permit {
        Some(permit) => response.map(|body| Body::new(Permitted { body, permit: Some(permit) })),
        None => response,
    }
}

/// The body of an answer whose call has a permit.
struct Permitted {
    body: Body,
    permit: Option<Permit>,
}

impl http_body::Body for Permitted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        // Before the caller can receive the end: its next call must find the permit returned.
        if let Poll::Ready(frame) = &frame
            && frame.as_ref().is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers))
        {
            self.permit = None;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_counts_as_what_it_does() {
        for (path, expected) in [
            ("/kith.v1.UserService/GetUser", Some(Kind::Read)),
            ("/kith.v1.ConnectionService/BatchGetConnectionStatuses", Some(Kind::Read)),
            ("/kith.v1.EventService/ListEvents", Some(Kind::Read)),
            ("/kith.v1.EventService/WatchEvents", Some(Kind::Watch)),
            ("/kith.v1.UserService/ImportUsers", Some(Kind::Import)),
            ("/kith.v1.UserService/DeleteUser", Some(Kind::Write)),
            ("/kith.v1.ConnectionRequestService/SendConnectionRequest", Some(Kind::Write)),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Some(Kind::Read)),
            ("/grpc.health.v1.Health/Check", None),
            ("/grpc.health.v1.Health/Watch", None),
            ("/unknown", Some(Kind::Read)),
            ("", Some(Kind::Read)),
        ] {
            assert_eq!(kind(path), expected, "{path}");
        }
    }
}
