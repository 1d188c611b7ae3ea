//! The line that the log has for each call, and those of the audit trail.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Uri};
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::audit::{Outcome, Subject, Trail};
use crate::auth::Principal;
use crate::causes::Causes;
use crate::metrics::rpc::OpenCall;
use crate::traces::Span;

/// The maximum length of a request id in the log, in characters. A longer one is cut.
const REQUEST_ID_LEN_MAX: usize = 128;
/// The maximum length of a method in the audit trail, in characters. Kith's own are shorter.
const METHOD_LEN_MAX: usize = 128;

/// What the log says about one call.
///
/// Its values are formatted only if a line is written.
#[derive(Debug)]
pub struct Call {
    uri: Uri,
    /// The address of the client. `None` for a Unix socket.
    peer: Option<SocketAddr>,
    request_id: Option<HeaderValue>,
    traceparent: Option<HeaderValue>,
    started: Instant,
    /// `None` if the audit trail is off.
    trail: Option<Box<Trail>>,
    /// `None` if the call is not counted.
    counted: Option<OpenCall>,
    /// `None` if the call is not traced.
    span: Option<Span>,
}

/// A stream that has begun. Dropping it writes the line of its end to the audit trail, and ends its span.
#[derive(Debug)]
pub struct Stream(Arc<Call>);

impl Call {
    /// Describes a call that starts now. Cheap: it shares the bytes of the request.
    pub fn new(uri: &Uri, headers: &HeaderMap, peer: Option<SocketAddr>) -> Self {
        Self {
            uri: uri.clone(),
            peer,
            request_id: headers.get("x-request-id").cloned(),
            traceparent: headers.get("traceparent").cloned(),
            started: Instant::now(),
            trail: None,
            counted: None,
            span: None,
        }
    }

    /// Counts the end of the call among the metrics.
    #[must_use]
    pub fn counted(mut self, counted: OpenCall) -> Self {
        self.counted = Some(counted);
        self
    }

    /// Adds the call to a trace. `None` if it is not sampled.
    #[must_use]
    pub fn traced(mut self, span: Option<Span>) -> Self {
        self.span = span;
        self
    }

    /// The span of the call, if it is traced.
    pub fn span(&self) -> Option<Span> {
        self.span.clone()
    }

    /// Adds the call to the audit trail: whatever its outcome, or only if it is denied.
    #[must_use]
    pub fn audited(mut self, always: bool) -> Self {
        self.trail = Some(Box::new(Trail::new(always)));
        self
    }

    /// Records for the audit trail who calls.
    pub fn authenticated(&self, principal: &Principal) {
        self.trail.iter().for_each(|trail| trail.authenticated(principal));
    }

    /// Records for the audit trail what the request names.
    pub fn about(&self, subject: impl FnOnce() -> Subject) {
        if let Some(trail) = &self.trail {
            trail.about(subject());
        }
    }

    /// Records for the audit trail and the trace the revision that a write returns.
    pub fn changed(&self, revision: i64) {
        self.span.iter().for_each(|span| span.changed(revision));
        self.trail.iter().for_each(|trail| trail.changed(revision));
    }

    /// Writes to the audit trail that a stream begins.
    pub fn began(&self) {
        self.trail.iter().for_each(|trail| trail.began(self));
    }

    /// The method's path, such as `/kith.v1.UserService/GetUser`.
    pub fn method(&self) -> &str {
        self.uri.path()
    }

    /// Whether the response is a stream of messages.
    pub fn is_stream(&self) -> bool {
        self.counted.as_ref().is_some_and(OpenCall::is_stream)
    }

    /// The time at which the call started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Logs that the call succeeded.
    pub fn succeeded(&self) {
        self.done();
        self.audit(Outcome::Succeeded, Code::Ok);
        self.count(None);
        self.end(Code::Ok, || None);
    }

    /// Logs that the call succeeded and that the stream of its response begins.
    pub fn opened(&self) {
        self.done();
        self.began();
    }

    fn done(&self) {
        // tracing evaluates the fields only if the line is written.
        tracing::debug!(
            method = self.method(),
            code = ?Code::Ok,
            ms = self.ms(),
            peer = self.peer(),
            request_id = self.request_id(),
            trace_id = self.trace_id(),
            "call done"
        );
    }

    /// Logs that the call failed, with its cause: at a level that says whether operators should act on it.
    pub fn failed(&self, status: &Status) {
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    $level,
                    method = self.method(),
                    code = ?status.code(),
                    reason = reason(status),
                    ms = self.ms(),
                    peer = self.peer(),
                    request_id = self.request_id(),
                    trace_id = self.trace_id(),
                    error = status.source().map(Causes).map(tracing::field::display),
                    "call failed"
                )
            };
        }
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "a foreign enum; all other codes are errors of the caller or normal"
        )]
        match status.code() {
            Code::Unknown | Code::Internal | Code::DataLoss => line!(tracing::Level::ERROR),
            Code::Unavailable | Code::DeadlineExceeded => line!(tracing::Level::WARN),
            _ => line!(tracing::Level::DEBUG),
        }
        if let Some(trail) = &self.trail {
            trail.ended(self, Outcome::of(status.code()), Some(status.code()), reason(status).as_deref());
        }
        self.end(status.code(), || reason(status));
        self.count(Some(status));
    }

    /// Counts that the stream of the response has ended, unless that was counted before.
    pub fn stream_ended(&self, status: Option<&Status>) {
        self.count(status);
    }

    /// Logs that the caller went away before the response.
    pub fn abandoned(&self) {
        tracing::debug!(
            method = self.method(),
            code = ?Code::Cancelled,
            ms = self.ms(),
            peer = self.peer(),
            request_id = self.request_id(),
            trace_id = self.trace_id(),
            "call cancelled: its caller went away"
        );
        self.audit(Outcome::Abandoned, Code::Cancelled);
        self.end(Code::Cancelled, || None);
        self.count(Some(&Status::new(Code::Cancelled, "")));
    }

    /// Counts the end of the call. Only the first end counts.
    fn count(&self, status: Option<&Status>) {
        self.counted.iter().for_each(|counted| counted.end(status, self.started.elapsed()));
    }

    /// Ends the span of the call. Only the first end counts.
    fn end(&self, code: Code, reason: impl FnOnce() -> Option<String>) {
        if let Some(span) = &self.span {
            span.end_call(code, reason);
        }
    }

    fn audit(&self, outcome: Outcome, code: Code) {
        self.trail.iter().for_each(|trail| trail.ended(self, outcome, Some(code), None));
    }

    /// Returns the method, cut if it is too long to be one of Kith's.
    pub(super) fn short_method(&self) -> &str {
        let method = self.method();
        method.get(..METHOD_LEN_MAX).unwrap_or(method)
    }

    pub(super) fn ms(&self) -> f64 {
        self.started.elapsed().as_secs_f64() * 1_000.0
    }

    pub(super) fn peer(&self) -> String {
        self.peer.map_or_else(|| "unix".to_owned(), |address| address.to_string())
    }

    /// Returns the id of the call's trace, if it is traced.
    fn trace_id(&self) -> Option<String> {
        self.span.as_ref().map(Span::trace_id)
    }

    /// Returns the id that the caller gave the call: its `x-request-id`, or else the trace id of its `traceparent`.
    pub(super) fn request_id(&self) -> Option<String> {
        let given = self.request_id.as_ref().map(|value| visible(value.as_bytes())).filter(|id| !id.is_empty());
        given.or_else(|| trace_id(self.traceparent.as_ref()?.to_str().ok()?))
    }
}

impl Stream {
    /// The stream of this call.
    pub fn new(call: Arc<Call>) -> Self {
        Self(call)
    }

    /// Logs that the stream ends with an error.
    pub fn failed(&self, status: &Status) {
        self.0.failed(status);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.trail.iter().for_each(|trail| trail.ended(&self.0, Outcome::Ended, None, None));
        self.0.end(Code::Ok, || None);
    }
}

/// Returns the reason in the status's `ErrorInfo`.
fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}

/// Returns the first visible ASCII characters. All others are dropped: a header must not change how the log reads.
fn visible(bytes: &[u8]) -> String {
    bytes.iter().filter(|byte| byte.is_ascii_graphic()).take(REQUEST_ID_LEN_MAX).map(|byte| char::from(*byte)).collect()
}

/// Returns the trace id of a `traceparent` header (W3C Trace Context): 32 hexadecimal digits, not all zero.
fn trace_id(traceparent: &str) -> Option<String> {
    let id = traceparent.split('-').nth(1)?;
    let is_id =
        id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) && id.bytes().any(|byte| byte != b'0');
    is_id.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn request_id(headers: &[(&'static str, &[u8])]) -> Option<String> {
        let header =
            |(name, value): &(&'static str, &[u8])| Some((name.parse().ok()?, HeaderValue::from_bytes(value).ok()?));
        let headers = headers.iter().map(|pair| header(pair).expect("a header")).collect();
        Call::new(&Uri::from_static("/x"), &headers, None).request_id()
    }

    #[test]
    fn a_call_has_the_request_id_of_its_headers() {
        let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let trace: (&str, &[u8]) = ("traceparent", traceparent.as_bytes());
        for (headers, expected) in [
            (&[][..], None),
            (&[("x-request-id", &b"7f-3"[..])], Some("7f-3")),
            (&[trace], Some(TRACE)),
            (&[trace, ("x-request-id", b"7f-3")], Some("7f-3")),
            (&[trace, ("x-request-id", b" \t")], Some(TRACE)),
            (&[("x-request-id", b"a b\tc\xff")], Some("abc")),
            (&[("traceparent", b"00-4bf92f35-00f067aa0ba902b7-01")], None),
            (&[("traceparent", b"00-00000000000000000000000000000000-00f067aa0ba902b7-01")], None),
            (&[("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e473x-00f067aa0ba902b7-01")], None),
            (&[("traceparent", b"")], None),
        ] {
            assert_eq!(request_id(headers).as_deref(), expected, "{headers:?}");
        }
        let long = request_id(&[("x-request-id", &[b'x'; 5_000])]);
        assert_eq!(long, Some("x".repeat(REQUEST_ID_LEN_MAX)));
    }
}
