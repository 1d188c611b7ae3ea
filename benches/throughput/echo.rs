//! A server that does no work: the same gRPC stack and messages as Kith, always with the same responses. Its rate is
//! the limit of the protocol.

use std::convert::Infallible;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use kith::proto::v1 as pb;
use prost::Message;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{Grpc, UnaryService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_prost::ProstCodec;

use super::Result;
use super::process::Process;
use super::workload::Operation;

/// The argument that starts this program as the server.
pub const ARGUMENT: &str = "echo";

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Starts the server with these responses. Returns it with its address.
pub fn start(directory: &Path, responses: &[(Operation, Vec<u8>)]) -> Result<(Process, String)> {
    for (operation, response) in responses {
        fs::write(file(directory, *operation), response)?;
    }
    let mut echo = Command::new(std::env::current_exe()?);
    echo.arg(ARGUMENT).arg(directory);
    let process = Process::start(&echo, &directory.join("echo.log"), "TERM", None)?;
    let address = process.logged("listening on ")?;
    Ok((process, address))
}

fn file(directory: &Path, operation: Operation) -> PathBuf {
    directory.join(format!("{operation:?}.response"))
}

/// Serves until the process is killed.
pub async fn serve(directory: &Path) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let echo = Echo::read(directory)?;
    println!("listening on {}", listener.local_addr()?);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Ok(Server::builder().serve_with_incoming(echo, incoming).await?)
}

/// A method with these message types.
#[derive(Clone)]
struct Method<Q, A> {
    response: Arc<A>,
    request: std::marker::PhantomData<fn(Q)>,
}

impl<Q: Message, A: Message + Clone + 'static> UnaryService<Q> for Method<Q, A> {
    type Response = A;
    type Future = Boxed<std::result::Result<tonic::Response<A>, tonic::Status>>;

    fn call(&mut self, _: tonic::Request<Q>) -> Self::Future {
        let response = Arc::clone(&self.response);
        Box::pin(async move { Ok(tonic::Response::new(A::clone(&response))) })
    }
}

macro_rules! methods {
    ($($operation:ident: $field:ident, $request:ident => $response:ident;)+) => {
        #[derive(Clone)]
        struct Echo {
            $($field: Method<pb::$request, pb::$response>,)+
        }

        impl Echo {
            fn read(directory: &Path) -> Result<Self> {
                Ok(Self {
                    $($field: Method {
                        response: Arc::new(Message::decode(&fs::read(file(directory, Operation::$operation))?[..])?),
                        request: std::marker::PhantomData,
                    },)+
                })
            }
        }

        impl Service<Request<Body>> for Echo {
            type Response = Response<Body>;
            type Error = Infallible;
            type Future = Boxed<std::result::Result<Response<Body>, Infallible>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: Request<Body>) -> Self::Future {
                match request.uri().path() {
                    $(path if path == Operation::$operation.path() => {
                        let method = self.$field.clone();
                        let codec = ProstCodec::<pb::$response, pb::$request>::default();
                        Box::pin(async move { Ok(Grpc::new(codec).unary(method, request).await) })
                    })+
                    _ => Box::pin(async { Ok(tonic::Status::unimplemented("not measured").into_http()) }),
                }
            }
        }
    };
}

methods! {
    Send: send, SendConnectionRequestRequest => SendConnectionRequestResponse;
    Accept: accept, AcceptConnectionRequestRequest => AcceptConnectionRequestResponse;
    Reject: reject, RejectConnectionRequestRequest => RejectConnectionRequestResponse;
    View: view, MarkConnectionRequestViewedRequest => MarkConnectionRequestViewedResponse;
    Received: received, ListConnectionRequestsRequest => ListConnectionRequestsResponse;
    Connections: connections, ListConnectionsRequest => ListConnectionsResponse;
    Status: status, GetConnectionStatusRequest => GetConnectionStatusResponse;
    Statuses: statuses, BatchGetConnectionStatusesRequest => BatchGetConnectionStatusesResponse;
    Counts: counts, GetConnectionCountsRequest => GetConnectionCountsResponse;
    User: user, GetUserRequest => GetUserResponse;
}
