//! The layer around every call: identifies the caller, enforces the deadline, and logs failures.
//!
//! tonic responds to a passed deadline with CANCELLED. Clients expect DEADLINE_EXCEEDED, so this layer enforces it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use tokio::time::{Instant, sleep_until};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::domain::caller::Caller;
use crate::error;
use crate::service::Deadline;

/// Methods without a maximum duration: only the client's deadline limits them.
const UNLIMITED: [&str; 2] = ["/kith.v1.UserService/ImportUsers", "/kith.v1.EventService/WatchEvents"];
/// Path prefix of Kith's own services. The others (health, reflection) have streams that stay open.
const KITH_PREFIX: &str = "/kith.v1.";

/// Wraps a service in [`Call`].
#[derive(Clone, Copy, Debug)]
pub(super) struct CallLayer {
    max_time: Duration,
}

impl CallLayer {
    /// Creates a layer that limits calls to `max_time`.
    pub(super) fn new(max_time: Duration) -> Self {
        Self { max_time }
    }
}

impl<S> Layer<S> for CallLayer {
    type Service = Call<S>;

    fn layer(&self, inner: S) -> Call<S> {
        Call { inner, max_time: self.max_time }
    }
}

/// A service that adds the caller and the deadline to each request, and logs how the call ended.
#[derive(Clone, Debug)]
pub(super) struct Call<S> {
    inner: S,
    max_time: Duration,
}

impl<S> Service<Request<Body>> for Call<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let started = Instant::now();
        // Cheap: the clone shares the bytes of the URI.
        let uri = request.uri().clone();
        let deadline = self.deadline(uri.path(), request.headers()).map(|time| started + time);
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(Deadline(deadline));
        }
        // Callers are identified only here. Without authentication, every caller is an operator.
        request.extensions_mut().insert(Caller::Operator);
        let call = self.inner.call(request);
        Box::pin(async move {
            let response = match deadline {
                Some(deadline) => tokio::select! {
                    biased;
                    response = call => response?,
                    () = sleep_until(deadline) => error::deadline_passed().into_http(),
                },
                None => call.await?,
            };
            let response = if is_undecodable(&response) { error::undecodable().into_http() } else { response };
            log(uri.path(), &response, started);
            Ok(response)
        })
    }
}

impl<S> Call<S> {
    /// Returns the time that the call has: the client's timeout or `max_time`, whichever is shorter.
    ///
    /// It starts before tonic's own timeout for the same call, and so ends first.
    fn deadline(&self, path: &str, headers: &HeaderMap) -> Option<Duration> {
        let max_time = (path.starts_with(KITH_PREFIX) && !UNLIMITED.contains(&path)).then_some(self.max_time);
        timeout(headers).into_iter().chain(max_time).min()
    }
}

/// Parses the `grpc-timeout` header (gRPC over HTTP/2, "Timeout").
///
/// `None` if it is missing or malformed.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Whether tonic could not decode the request.
///
/// tonic then responds with INTERNAL and the decoder's message. Kith's own internal errors always have details.
fn is_undecodable<B>(response: &Response<B>) -> bool {
    let code = response.headers().get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()));
    code == Some(Code::Internal) && !response.headers().contains_key("grpc-status-details-bin")
}

/// Logs how the call ended.
///
/// tonic puts the status of a failed call, with its source, into the response's extensions. Generated code for unknown
/// methods puts it only into the headers. An error later in a stream is logged by the service that sends it.
fn log(method: &str, response: &Response<Body>, started: Instant) {
    let status = response.extensions().get().cloned().or_else(|| Status::from_header_map(response.headers()));
    match status {
        Some(status) => error::log(method, &status, started.elapsed()),
        None => tracing::debug!(method, ms = started.elapsed().as_secs_f64() * 1_000.0, "call done"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(text: &[u8]) -> Option<HeaderMap> {
        Some(HeaderMap::from_iter([("grpc-timeout".parse().ok()?, http::HeaderValue::from_bytes(text).ok()?)]))
    }

    /// Parses a timeout by the protocol's grammar, in nanoseconds.
    fn nanoseconds(text: &str) -> Option<u128> {
        let unit = match text.chars().last()? {
            'H' => 3_600_000_000_000,
            'M' => 60_000_000_000,
            'S' => 1_000_000_000,
            'm' => 1_000_000,
            'u' => 1_000,
            'n' => 1,
            _ => return None,
        };
        let digits = &text[..text.len() - 1];
        let is_number = (1..=8).contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_digit());
        is_number
            .then(|| digits.chars().fold(0, |number, c| number * 10 + u128::from(c.to_digit(10).unwrap_or(0))) * unit)
    }

    proptest! {
        #[test]
        fn a_timeout_is_what_the_grammar_says(
            text in prop_oneof!["[0-9+ -]?[0-9]{0,8}[HMSmunhs]?", "[0-9]{8,9}[HMSmun]", "[ -~]{0,9}"],
        ) {
            let headers = header(text.as_bytes()).expect("visible characters");
            prop_assert_eq!(timeout(&headers).map(|time| time.as_nanos()), nanoseconds(&text));
        }

        #[test]
        fn no_header_makes_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            if let Some(headers) = header(&bytes) {
                timeout(&headers);
            }
        }
    }

    #[test]
    fn timeouts_are_read_as_the_protocol_has_them() {
        for (text, expected) in [
            ("5S", Some(Duration::from_secs(5))),
            ("100m", Some(Duration::from_millis(100))),
            ("0n", Some(Duration::ZERO)),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3_600))),
            ("", None),
            ("S", None),
            ("5", None),
            ("-5S", None),
            ("+5S", None),
            ("999999999S", None),
            ("5 S", None),
            ("5x", None),
        ] {
            let headers = HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), text.parse().unwrap())]);
            assert_eq!(timeout(&headers), expected, "{text:?}");
        }
    }
}
