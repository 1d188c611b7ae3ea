//! The layer around every call: authenticates it, holds its principal to the limits, enforces the deadline, limits what
//! waits to be sent, and logs how the call ended.
//!
//! tonic responds to a passed deadline with CANCELLED. Clients expect DEADLINE_EXCEEDED, so this layer enforces it.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use tokio::time::{Instant, sleep_until};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::answer::{Sending, Unsent};
use super::held::Held;
use super::limited::{hold, kind};
use super::peer::Peer;
use super::receiving::Receiving;
use super::streamed::Streamed;
use crate::auth::limiter::{Limiter, Permit};
use crate::auth::{Authenticator, Client, Names, Principal, Unauthenticated};
use crate::config::AuditLog;
use crate::error;
use crate::metrics::Metrics;
use crate::service::Deadline;
use crate::telemetry::call::Call as Record;
use crate::traces::{self, Tracer};

/// The method whose response is a stream without an end.
pub(super) const WATCH: &str = "/kith.v1.EventService/WatchEvents";
/// The method whose response is a stream with an end.
const EXPORT: &str = "/kith.v1.UserService/ExportUser";
/// The method whose request is a stream of messages.
pub(super) const IMPORT: &str = "/kith.v1.UserService/ImportUsers";
/// The method that imports relations: a stream each way.
pub(super) const IMPORT_RELATIONS: &str = "/kith.v1.ImportService/ImportRelations";
/// The method that exports relations.
const EXPORT_RELATIONS: &str = "/kith.v1.ImportService/ExportRelations";
/// Methods without a maximum duration: only the client's deadline limits them.
const UNLIMITED: [&str; 5] = [IMPORT, EXPORT, WATCH, IMPORT_RELATIONS, EXPORT_RELATIONS];
/// Path prefix of Kith's own services. The others (health, reflection) have streams that stay open.
pub(super) const KITH_PREFIX: &str = "/kith.v1.";
/// Path prefix of health. Its methods need no credential: load balancers have none.
pub(super) const HEALTH_PREFIX: &str = "/grpc.health.v1.";
/// How the names of methods begin that only read.
const READS: [&str; 4] = ["Get", "BatchGet", "List", "Export"];

/// Wraps a service in [`Call`].
#[derive(Clone, Debug)]
pub(super) struct CallLayer {
    pub(super) authenticator: Authenticator,
    /// Limits the calls of each principal.
    pub(super) limiter: Arc<Limiter>,
    /// Maximum duration of a call.
    pub(super) max_time: Duration,
    /// Limits the bytes of answers.
    pub(super) unsent: Unsent,
    /// Limits the bytes of requests that are not complete.
    pub(super) unfinished: Held,
    /// The calls that the audit trail has.
    pub(super) audit: AuditLog,
    /// Counts the calls.
    pub(super) metrics: Metrics,
    /// Traces the calls. `None` if none is traced.
    pub(super) tracer: Option<Tracer>,
}

impl<S> Layer<S> for CallLayer {
    type Service = Call<S>;

    fn layer(&self, inner: S) -> Call<S> {
        Call { inner, layer: self.clone() }
    }
}

/// A service that adds the principal and the deadline to each request, and logs how the call ended.
#[derive(Clone, Debug)]
pub(super) struct Call<S> {
    inner: S,
    layer: CallLayer,
}

impl<S> Service<Request<Body>> for Call<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
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
        let address = address(&request);
        let record = Arc::new(self.layer.record(&request, address));
        let deadline = self.layer.deadline(record.method(), request.headers()).map(|time| record.started() + time);
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(Deadline(deadline));
        }
        compress_only_for_those_who_do(request.headers_mut());
        request.extensions_mut().insert(Arc::clone(&record));
        let request_body = |body| Body::new(Receiving::new(body, self.layer.unfinished.clone(), address));
        let mut request = request.map(request_body);
        let (mut inner, layer) = (self.inner.clone(), self.layer.clone());
        let call = async move {
            // Before the body of the request is read.
            match layer.admit(&mut request).await {
                Ok(permit) => inner.call(request).await.map(|response| (response, permit)),
                Err(refused) => Ok((refused.into_http(), None)),
            }
        };
        let call = traces::within(record.span(), call);
        let (max_time, unsent) = (self.layer.max_time, self.layer.unsent.clone());
        Box::pin(async move {
            let open = Open(Some(&record));
            let (response, permit) = match deadline {
                Some(deadline) => tokio::select! {
                    biased;
                    response = call => response?,
                    () = sleep_until(deadline) => (error::deadline_passed().into_http(), None),
                },
                None => call.await?,
            };
            open.ended();
            let response = in_own_words(response);
            if let Some(status) = status(&response) {
                record.failed(&status);
                return Ok(response);
            }
            let method = record.method();
            // Each message is read from the service as the client takes it.
            if record.is_stream() {
                record.opened();
                return Ok(hold(Streamed::follow(response, &record), permit));
            }
            if !method.starts_with(KITH_PREFIX) {
                record.succeeded();
                return Ok(hold(response, permit));
            }
            let sending = Sending {
                unsent,
                peer: address,
                // An import may take any time until it answers.
                until: deadline.unwrap_or_else(|| Instant::now() + max_time),
                refusable: only_reads(method),
            };
            Ok(hold(sending.prepare(&record, response).await, permit))
        })
    }
}

impl CallLayer {
    /// Describes a call for the log and the audit trail.
    fn record(&self, request: &Request<Body>, address: Option<SocketAddr>) -> Record {
        let counted = self.metrics.rpcs.start(request.uri().path());
        let mut record = Record::new(request.uri(), request.headers(), address).counted(counted);
        if let Some(tracer) = &self.tracer {
            record = record.traced(tracer.call(request.uri().path(), request.headers()));
        }
        let (of_kith, reads) = {
            let method = record.method();
            (method.starts_with(KITH_PREFIX), only_reads(method) || method == WATCH)
        };
        match self.audit {
            AuditLog::Off => record,
            AuditLog::Writes => record.audited(of_kith && !reads),
            AuditLog::All => record.audited(of_kith),
        }
    }

    /// Adds the principal to the request, removes its credential, and counts the call towards the principal's limits.
    ///
    /// # Errors
    ///
    /// If the call needs a credential and has no valid one, or if the principal is at a limit.
    async fn admit(&self, request: &mut Request<Body>) -> Result<Option<Permit>, Status> {
        let principal = self.authenticate(request).await?;
        if let Some(record) = request.extensions().get::<Arc<Record>>() {
            record.authenticated(&principal);
        }
        let network = request.extensions().get().copied().and_then(Peer::network);
        let permit = match kind(request.uri().path()) {
            Some(kind) => self.limiter.admit(&principal, network, kind)?,
            None => None,
        };
        request.headers_mut().remove(AUTHORIZATION);
        request.extensions_mut().insert(principal.caller());
        request.extensions_mut().insert(principal);
        Ok(permit)
    }

    /// Returns the principal of a call. Health needs no credential.
    ///
    /// The request is borrowed mutably since its body cannot be shared between threads.
    async fn authenticate(&self, request: &mut Request<Body>) -> Result<Principal, Unauthenticated> {
        if request.uri().path().starts_with(HEALTH_PREFIX) {
            return Ok(Principal::Anonymous);
        }
        let names = request.extensions().get::<Arc<Names>>();
        let client = match request.extensions().get() {
            Some(peer @ Peer::Tcp(connection)) => {
                peer.network().map(|network| Client { connection: *connection, network })
            }
            Some(Peer::Unix) | None => None,
        };
        self.authenticator.authenticate(request.headers(), names.map(Arc::as_ref), client).await
    }

    /// Returns the time that the call has: the client's timeout or `max_time`, whichever is shorter.
    ///
    /// It starts before tonic's own timeout for the same call, and so ends first.
    fn deadline(&self, path: &str, headers: &HeaderMap) -> Option<Duration> {
        let max_time = (path.starts_with(KITH_PREFIX) && !UNLIMITED.contains(&path)).then_some(self.max_time);
        timeout(headers).into_iter().chain(max_time).min()
    }
}

/// Returns the address of the client. One over a Unix socket has none.
fn address(request: &Request<Body>) -> Option<SocketAddr> {
    match request.extensions().get()? {
        Peer::Tcp(address) => Some(*address),
        Peer::Unix => None,
    }
}

/// A call that has no response yet. Dropping it logs that its caller went away.
struct Open<'a>(Option<&'a Record>);

impl Open<'_> {
    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.into_iter().for_each(Record::abandoned);
    }
}

/// Lets tonic compress the response only if the request is compressed.
///
/// Clients on gRPC's C core (Python, Ruby, PHP) offer gzip in every call, whatever their network. Compressing takes 60 µs
/// for one user and 150 µs for a page of 20: more than the call itself. A caller that compresses says that its network is
/// worth it.
fn compress_only_for_those_who_do(headers: &mut HeaderMap) {
    if headers.get("grpc-encoding").is_none_or(|encoding| encoding != "gzip") {
        headers.remove("grpc-accept-encoding");
    }
}

/// Replaces a status that tonic made for a request that it could not read.
fn in_own_words(response: Response<Body>) -> Response<Body> {
    // Kith's own have details.
    if response.headers().contains_key("grpc-status-details-bin") {
        return response;
    }
    let own = response.extensions().get().and_then(|foreign| error::unread(foreign, super::REQUEST_BYTES_MAX));
    own.map_or(response, Status::into_http)
}

/// Returns the status of a failed call.
///
/// tonic puts it, with its source, into the response's extensions. Generated code for unknown methods puts it only into
/// the headers. An error later in a stream is logged by the service that sends it.
fn status(response: &Response<Body>) -> Option<Status> {
    response.extensions().get().cloned().or_else(|| Status::from_header_map(response.headers()))
}

/// Whether a method of Kith's changes nothing.
pub(super) fn only_reads(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|method| READS.iter().any(|read| method.starts_with(read)))
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

    #[test]
    fn methods_that_only_read_are_known_by_their_names() {
        use prost::Message;
        let protos = prost_types::FileDescriptorSet::decode(crate::proto::FILE_DESCRIPTOR_SET).unwrap();
        let services = protos.file.iter().filter(|file| file.package() == "kith.v1").flat_map(|file| &file.service);
        let mut methods = 0;
        for method in services.flat_map(|service| &service.method).filter(|method| method.name() != "WatchEvents") {
            let level = method.options.as_ref().map(prost_types::MethodOptions::idempotency_level);
            let reads = level == Some(prost_types::method_options::IdempotencyLevel::NoSideEffects);
            assert_eq!(only_reads(&format!("/kith.v1.Service/{}", method.name())), reads, "{}", method.name());
            methods += 1;
        }
        assert!(methods > 20);
    }
}
