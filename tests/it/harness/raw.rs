//! A channel that only sends what it is given. In particular it enforces no deadline, and reads no response by itself.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response, Uri};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tonic::body::Body;
use tonic::codec::{Codec, EncodeBody};
use tonic_prost::ProstCodec;
use tower::Service;

#[derive(Clone)]
pub struct RawChannel(SendRequest<Body>);

impl RawChannel {
    /// A channel, and the origin that a client over it needs.
    pub async fn connect(address: &str) -> (Self, Uri) {
        let origin: Uri = address.parse().expect("an address");
        let socket = TcpStream::connect(origin.authority().expect("a host").as_str()).await.expect("a connection");
        (Self::over(socket).await.expect("HTTP/2"), origin)
    }

    /// A channel over a connection.
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> hyper::Result<Self> {
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        // Ends with the channel.
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// A channel that lets the server send so many bytes of a response, until they are read.
    pub async fn with_window(address: &str, bytes: u32) -> Self {
        let host = address.strip_prefix("http://").expect("an address");
        let socket = TcpStream::connect(host).await.expect("a connection");
        let mut builder = Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(bytes);
        let (sender, connection) = builder.handshake(TokioIo::new(socket)).await.expect("HTTP/2");
        tokio::spawn(connection);
        Self(sender)
    }

    /// Calls a method with one message. Returns once the response has begun.
    pub async fn post(&mut self, path: &str, message: impl Message + Default + 'static) -> Response<Incoming> {
        let encoder = ProstCodec::<_, ()>::default().encoder();
        let body = Body::new(EncodeBody::new_client(encoder, tokio_stream::iter([Ok(message)]), None, None));
        self.0.send_request(post(path, body)).await.expect("a response")
    }
}

/// A request of a method.
pub fn post(path: &str, body: Body) -> Request<Body> {
    let request = Request::post(format!("http://localhost{path}"));
    request.header("content-type", "application/grpc").header("te", "trailers").body(body).expect("a request")
}

/// Reads a response to its end. Returns the number of its bytes, and its trailers.
pub async fn read(body: Incoming) -> (usize, HeaderMap) {
    read_at(body, usize::MAX).await
}

/// The same at this rate, in bytes per second.
pub async fn read_at(mut body: Incoming, rate: usize) -> (usize, HeaderMap) {
    let begun = Instant::now();
    let (mut bytes, mut trailers) = (0, HeaderMap::new());
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        match frame.expect("a frame").into_data() {
            Ok(data) => bytes += data.len(),
            Err(frame) => trailers = frame.into_trailers().expect("trailers"),
        }
        sleep_until(begun + Duration::from_secs_f64(bytes as f64 / rate as f64)).await;
    }
    (bytes, trailers)
}

impl Service<Request<Body>> for RawChannel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
