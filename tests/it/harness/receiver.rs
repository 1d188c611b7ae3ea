//! A receiver of traces, by OTLP over gRPC, from the published protos.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use super::certificates::Signed;
use super::process::PATIENCE;

/// A running receiver. It ends when this is dropped.
pub struct Receiver {
    pub address: SocketAddr,
    received: watch::Receiver<Vec<Received>>,
    server: JoinHandle<()>,
}

/// One request to the receiver.
#[derive(Clone, Debug)]
pub struct Received {
    pub metadata: MetadataMap,
    pub request: ExportTraceServiceRequest,
}

struct Sink(Arc<watch::Sender<Vec<Received>>>);

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.0.send_modify(|received| received.push(Received { metadata, request }));
        Ok(Response::default())
    }
}

impl Receiver {
    pub async fn start() -> Self {
        Self::with(None).await
    }

    /// The same with TLS, if there is a certificate.
    pub async fn with(certificate: Option<&Signed>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sender, received) = watch::channel(Vec::new());
        let service = TraceServiceServer::new(Sink(Arc::new(sender))).accept_compressed(CompressionEncoding::Gzip);
        let mut server = Server::builder();
        if let Some(signed) = certificate {
            let identity = Identity::from_pem(&signed.pem, &signed.key);
            server = server.tls_config(ServerTlsConfig::new().identity(identity)).expect("a certificate");
        }
        let server = server.add_service(service).serve_with_incoming(TcpIncoming::from(listener));
        let server = tokio::spawn(async move { server.await.expect("a receiver") });
        Self { address, received, server }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far.
    pub fn received(&self) -> Vec<Received> {
        self.received.borrow().clone()
    }

    /// The spans so far.
    pub fn spans(&self) -> Vec<Span> {
        spans(&self.received.borrow())
    }

    /// Waits until the spans so far have something, and returns it.
    pub async fn until<T>(&self, what: &str, find: impl Fn(&[Span]) -> Option<T>) -> T {
        let mut received = self.received.clone();
        let found = timeout(PATIENCE, async {
            loop {
                let found = find(&spans(&received.borrow_and_update()));
                match found {
                    Some(found) => return found,
                    None => received.changed().await.expect("a receiver"),
                }
            }
        });
        found.await.unwrap_or_else(|_| panic!("no {what} in {:#?}", self.spans()))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn spans(received: &[Received]) -> Vec<Span> {
    let resources = received.iter().flat_map(|received| &received.request.resource_spans);
    resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
}

/// Attributes with their values as text.
pub fn attributes(attributes: &[KeyValue]) -> BTreeMap<&str, String> {
    attributes.iter().map(|attribute| (attribute.key.as_str(), text(attribute.value.as_ref()))).collect()
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Bytes of an id as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
