//! The sending of spans to a receiver, in the background.
//!
//! Spans wait in a bounded queue, and a thread of the SDK sends them in batches. A receiver that is slow or gone never
//! holds up a call: spans that find no room, or cannot be sent, are lost, and the log has their number once a minute.

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::Uri;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, OTEL_BSP_MAX_QUEUE_SIZE, OTEL_BSP_MAX_QUEUE_SIZE_DEFAULT, Sampler,
    SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor,
};
use tokio::task::spawn_blocking;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tracing::subscriber::{NoSubscriber, with_default};
use uuid::Uuid;

use super::Tracer;
use crate::rarely::Rarely;

/// The name of the service, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` has another.
const SERVICE: &str = "kith";
/// Maximum links of a span: those of a batch to its calls.
const LINKS_MAX: u32 = 512;
/// Maximum time for a connection to the receiver.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Interval at which an open connection is checked while spans are sent.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Time that the last spans have to be sent, even if nothing is left of the drain.
const FLUSH_MIN: Duration = Duration::from_secs(1);
/// The same if much is left of it.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// Where spans are sent, and which calls are sampled.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// Its URL: `http://HOST:PORT` or `https://HOST:PORT`.
    pub url: String,
    /// The certificates of the authorities that are trusted, in PEM. `None`: those of the system.
    pub authorities: Option<Vec<u8>>,
    /// Maximum time for one request to it.
    pub timeout: Duration,
    /// The share of calls that are traced, of those whose caller does not say. `None`: what `OTEL_TRACES_SAMPLER` says,
    /// or all of them.
    pub ratio: Option<f64>,
}

/// Sends spans to a receiver.
#[derive(Clone, Debug)]
pub struct Exporter {
    tracer: Tracer,
    provider: SdkTracerProvider,
    queue: Arc<Queue>,
}

impl Exporter {
    /// Starts to send spans. The connection is made when there are some. `database` is the name of the database's system.
    ///
    /// # Errors
    ///
    /// If the settings are wrong, in words that follow the name of the receiver's setting.
    pub fn start(receiver: &Receiver, database: &'static str) -> Result<Self, String> {
        let channel = endpoint(receiver)?.connect_lazy();
        let exporter = OtlpExporter::builder().with_tonic().with_channel(channel).build();
        let exporter = exporter.map_err(|error| error.to_string())?;
        let queue = Arc::new(Queue::new(queue_size()));
        let sending = Counted { inner: exporter, queue: Arc::clone(&queue) };
        let processor = BatchSpanProcessor::builder(sending)
            .with_batch_config(BatchConfigBuilder::default().with_max_queue_size(queue.max).build())
            .build();
        let mut provider = SdkTracerProvider::builder()
            .with_span_processor(Bounded { inner: processor, queue: Arc::clone(&queue) })
            .with_max_links_per_span(LINKS_MAX)
            .with_resource(resource());
        if let Some(ratio) = receiver.ratio {
            provider = provider.with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))));
        }
        let provider = provider.build();
        let scope = InstrumentationScope::builder(SERVICE).with_version(env!("CARGO_PKG_VERSION")).build();
        let tracer = Tracer { tracer: provider.tracer_with_scope(scope), database };
        Ok(Self { tracer, provider, queue })
    }

    /// Starts the spans that are sent.
    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// Sends the spans that wait and ends, within about the time that is left of a drain. Later spans are lost.
    pub async fn end(self, left: Duration) {
        let provider = self.provider;
        let time = left.clamp(FLUSH_MIN, FLUSH_MAX);
        // It blocks. What the SDK would log is in the line below.
        let shutdown =
            spawn_blocking(move || with_default(NoSubscriber::default(), || provider.shutdown_with_timeout(time)));
        // A panic was logged where it happened.
        _ = shutdown.await;
        self.queue.end();
    }
}

/// Describes the connection to the receiver.
fn endpoint(receiver: &Receiver) -> Result<Endpoint, String> {
    let invalid = || "is not a URL of the form http://HOST:PORT or https://HOST:PORT".to_owned();
    // tonic's own parser takes paths of sockets too.
    let uri: Uri = receiver.url.parse().map_err(|_| invalid())?;
    // A user and a password would be in the log.
    if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
        return Err(invalid());
    }
    let endpoint = match uri.scheme_str() {
        Some("http") => Endpoint::from(uri),
        Some("https") => {
            let tls = match &receiver.authorities {
                Some(authorities) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authorities)),
                None => ClientTlsConfig::new().with_native_roots(),
            };
            Endpoint::from(uri).tls_config(tls).map_err(|error| format!("cannot have TLS: {error}"))?
        }
        _ => return Err(invalid()),
    };
    let endpoint = endpoint.timeout(receiver.timeout).connect_timeout(CONNECT_TIME);
    Ok(endpoint.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE))
}

/// Describes this server: by the standard's variables, and what they leave out.
fn resource() -> Resource {
    let resource = Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", SERVICE),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", Uuid::new_v4().to_string()),
        ])
        .with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())]);
    match env::var("OTEL_SERVICE_NAME").ok().filter(|name| !name.is_empty()) {
        Some(name) => resource.with_service_name(name).build(),
        None => resource.build(),
    }
}

/// The number of spans that may wait, as the standard's variable has it.
fn queue_size() -> usize {
    let given = env::var(OTEL_BSP_MAX_QUEUE_SIZE).ok().and_then(|size| size.parse().ok());
    given.filter(|size| *size > 0).unwrap_or(OTEL_BSP_MAX_QUEUE_SIZE_DEFAULT)
}

/// The spans that wait or are being sent, and those that were lost.
///
/// The SDK's own queue never gets full, since this one counts those that are being sent too. So no loss goes uncounted.
#[derive(Debug)]
struct Queue {
    max: usize,
    waiting: AtomicUsize,
    /// Lost since the last line of the log.
    lost: AtomicU64,
    line: Rarely,
}

impl Queue {
    fn new(max: usize) -> Self {
        Self { max, waiting: AtomicUsize::new(0), lost: AtomicU64::new(0), line: Rarely::default() }
    }

    /// Takes a place. False if there is none.
    fn enter(&self) -> bool {
        let entered = self.waiting.fetch_add(1, Ordering::Relaxed) < self.max;
        if !entered {
            self.leave(1);
        }
        entered
    }

    fn leave(&self, spans: usize) {
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
    }

    /// Counts spans that were lost, and logs it if no line did so within the last minute.
    fn lose(&self, spans: usize, cause: &str) {
        self.lost.fetch_add(u64::try_from(spans).unwrap_or(u64::MAX), Ordering::Relaxed);
        if self.line.due().is_some() {
            self.log(cause);
        }
    }

    /// Logs what is lost with the end of the server.
    fn end(&self) {
        let waiting = u64::try_from(self.waiting.load(Ordering::Relaxed)).unwrap_or(u64::MAX);
        if self.lost.fetch_add(waiting, Ordering::Relaxed) + waiting > 0 {
            self.log("the server ended before they were sent");
        }
    }

    fn log(&self, cause: &str) {
        let spans = self.lost.swap(0, Ordering::Relaxed);
        tracing::warn!(spans, cause, "spans of traces were lost");
    }
}

/// The SDK's queue, which takes spans only if there is room.
#[derive(Debug)]
struct Bounded {
    inner: BatchSpanProcessor,
    queue: Arc<Queue>,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, cx: &Context) {
        self.inner.on_start(span, cx);
    }

    fn on_end(&self, span: SpanData) {
        if self.queue.enter() {
            self.inner.on_end(span);
        } else {
            self.queue.lose(1, "too many wait to be sent");
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// An exporter that counts what it sends. A failure is logged here, and is none to the SDK, which would log each.
#[derive(Debug)]
struct Counted {
    inner: OtlpExporter,
    queue: Arc<Queue>,
}

impl SpanExporter for Counted {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let sent = self.inner.export(batch).await;
        self.queue.leave(spans);
        if let Err(error) = sent {
            self.queue.lose(spans, &error.to_string());
        }
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_takes_no_span_until_one_has_left() {
        let queue = Queue::new(2);
        assert_eq!([queue.enter(), queue.enter(), queue.enter()], [true, true, false]);
        queue.leave(1);
        assert_eq!([queue.enter(), queue.enter()], [true, false]);
        queue.leave(2);
        assert_eq!(queue.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn lost_spans_are_counted_until_a_line_has_them() {
        let queue = Queue::new(1);
        queue.lose(3, "first");
        assert_eq!(queue.lost.load(Ordering::Relaxed), 0, "the line has them");
        queue.lose(3, "second");
        queue.lose(4, "third");
        assert_eq!(queue.lost.load(Ordering::Relaxed), 7);
        queue.end();
        assert_eq!(queue.lost.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn only_urls_without_credentials_name_a_receiver() {
        let endpoint = |url: &str| {
            let timeout = Duration::from_secs(1);
            super::endpoint(&Receiver { url: url.to_owned(), authorities: None, timeout, ratio: None })
        };
        for url in ["http://localhost:4317", "http://[::1]:4317", "http://collector"] {
            assert!(endpoint(url).is_ok(), "{url}");
        }
        for url in ["", "localhost:4317", "ftp://localhost", "unix:/run/x", "http://ann:s3cret@localhost:4317"] {
            let error = endpoint(url).expect_err(url);
            assert!(error.starts_with("is not a URL") && !error.contains("s3cret"), "{error}");
        }
    }
}
