//! A channel that only sends what it is given. In particular it enforces no deadline.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tonic::body::Body;
use tower::Service;

#[derive(Clone)]
pub struct RawChannel(SendRequest<Body>);

impl RawChannel {
    /// A channel, and the origin that a client over it needs.
    pub async fn connect(address: &str) -> (Self, Uri) {
        let origin: Uri = address.parse().expect("an address");
        let socket = TcpStream::connect(origin.authority().expect("a host").as_str()).await.expect("a connection");
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(socket)).await.expect("HTTP/2");
        // Ends with the channel.
        tokio::spawn(connection);
        (Self(sender), origin)
    }
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
