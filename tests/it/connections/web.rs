//! gRPC-Web, as a browser speaks it: over HTTP/1.1 and HTTP/2, as bytes and as text, with origins.

use std::future::poll_fn;
use std::pin::Pin;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kith::config::Origins;
use kith::proto::v1 as pb;
use prost::Message;
use tokio::net::TcpStream;
use tonic::body::Body;

use crate::harness::{App, Engine};

const ALLOWED: &str = "https://app.example.com";
const OTHER: &str = "https://evil.example.com";

async fn app(origins: &str) -> App {
    let origins: Origins = origins.parse().expect("origins");
    App::with(Engine::Sqlite, |settings| settings.grpc_web = Some(origins)).await
}

/// A response with its whole body.
struct Received {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Received {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    async fn of(response: Response<Incoming>) -> Self {
        let (parts, mut incoming) = response.into_parts();
        let mut body = Vec::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx)).await {
            body.extend(frame.expect("a frame").into_data().expect("no trailers of HTTP"));
        }
        Self { status: parts.status, headers: parts.headers, body }
    }
}

/// Sends a request over a connection of its own.
async fn send(app: &App, http_2: bool, request: Request<Body>) -> Received {
    let address = app.address.strip_prefix("http://").expect("an address");
    let socket = TokioIo::new(TcpStream::connect(address).await.expect("a connection"));
    if http_2 {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), socket).await.expect("HTTP/2");
        tokio::spawn(connection);
        Received::of(sender.send_request(request).await.expect("a response")).await
    } else {
        let (mut sender, connection) = http1::handshake(socket).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        Received::of(sender.send_request(request).await.expect("a response")).await
    }
}

/// A request as a browser sends it. Over HTTP/2 its URI has the host.
fn request(
    http_2: bool,
    method: Method,
    origin: Option<&str>,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Request<Body> {
    let path = "/kith.v1.UserService/GetUser";
    let mut request = Request::builder().method(method);
    request = if http_2 { request.uri(format!("http://kith{path}")) } else { request.uri(path).header("host", "kith") };
    for (name, value) in headers.iter().copied().chain(origin.map(|origin| ("origin", origin))) {
        request = request.header(name, value);
    }
    request.body(Body::new(String::from_utf8(body).expect("small numbers"))).expect("a request")
}

/// A call of `GetUser` for the user 1.
fn get_user(http_2: bool, origin: Option<&str>, content_type: &str) -> Request<Body> {
    let key = Some(pb::get_user_request::Key::Id(1));
    let message = pb::GetUserRequest { key, ..Default::default() }.encode_to_vec();
    let length = u8::try_from(message.len()).expect("short");
    let framed = [&[0, 0, 0, 0, length], message.as_slice()].concat();
    let body = if content_type.contains("text") { BASE64_STANDARD.encode(framed).into_bytes() } else { framed };
    request(http_2, Method::POST, origin, &[("content-type", content_type), ("accept", content_type)], body)
}

/// The question of a browser whether a page may call.
fn preflight(http_2: bool, origin: &str) -> Request<Body> {
    let headers = [
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type,x-grpc-web,x-request-id"),
    ];
    request(http_2, Method::OPTIONS, Some(origin), &headers, Vec::new())
}

/// The username of the user in a response, which has the message and then the status.
fn username(received: &Received) -> String {
    let text = received.header("content-type").expect("a type").contains("text");
    // Each frame is encoded by itself, so there is padding within.
    let decode = |four: &[u8]| BASE64_STANDARD.decode(four).expect("four characters");
    let bytes = if text { received.body.chunks(4).flat_map(decode).collect() } else { received.body.clone() };
    let length = u32::from_be_bytes(bytes[1..5].try_into().expect("four bytes"));
    let (message, trailers) = bytes[5..].split_at(usize::try_from(length).expect("small"));
    assert_eq!((bytes[0], trailers[0]), (0, 0x80), "a message, then trailers");
    assert!(String::from_utf8_lossy(&trailers[5..]).contains("grpc-status:0"), "{trailers:?}");
    pb::GetUserResponse::decode(message).expect("a response").user.expect("a user").username
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_an_allowed_origin_calls_over_either_version_of_http() {
    let app = app(ALLOWED).await;
    app.user("ann").await;
    for http_2 in [false, true] {
        let asked = send(&app, http_2, preflight(http_2, ALLOWED)).await;
        assert_eq!(asked.status, StatusCode::OK);
        assert_eq!(asked.header("access-control-allow-origin"), Some(ALLOWED));
        assert_eq!(asked.header("access-control-allow-methods"), Some("POST"));
        assert!(asked.header("access-control-allow-headers").expect("headers").contains("x-grpc-web"));
        for content_type in ["application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text"] {
            let called = send(&app, http_2, get_user(http_2, Some(ALLOWED), content_type)).await;
            assert_eq!(called.status, StatusCode::OK, "{content_type}");
            assert_eq!(called.header("access-control-allow-origin"), Some(ALLOWED));
            let exposed = called.header("access-control-expose-headers").expect("headers");
            assert!(
                ["grpc-status", "grpc-message", "grpc-status-details-bin"].iter().all(|name| exposed.contains(name))
            );
            assert_eq!(username(&called), "ann", "{content_type}");
        }
    }
    // Native calls, and clients of gRPC-Web that are no browsers.
    assert_eq!(username(&send(&app, false, get_user(false, None, "application/grpc-web")).await), "ann");
    app.user("bob").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_origin_cannot_call() {
    let app = app(ALLOWED).await;
    app.user("ann").await;
    for http_2 in [false, true] {
        for origin in [OTHER, "null"] {
            let call = get_user(http_2, Some(origin), "application/grpc-web");
            for request in [preflight(http_2, origin), call] {
                let refused = send(&app, http_2, request).await;
                assert_eq!(refused.status, StatusCode::FORBIDDEN, "{origin}");
                assert_eq!(refused.header("access-control-allow-origin"), None);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_origin_can_be_allowed() {
    let app = app("*").await;
    app.user("ann").await;
    let called = send(&app, false, get_user(false, Some(OTHER), "application/grpc-web")).await;
    assert_eq!((called.header("access-control-allow-origin"), &*username(&called)), (Some("*"), "ann"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_grpc_web_is_refused_with_it_too() {
    let app = app(ALLOWED).await;
    for (http_2, content_type, expected) in [
        (false, "application/grpc", StatusCode::HTTP_VERSION_NOT_SUPPORTED),
        (false, "application/json", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (true, "application/json", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (true, "application/grpc-web+json", StatusCode::UNSUPPORTED_MEDIA_TYPE),
    ] {
        let refused = send(&app, http_2, get_user(http_2, None, content_type)).await;
        assert_eq!(refused.status, expected, "{content_type}");
    }
    let refused = send(&app, false, request(false, Method::GET, None, &[], Vec::new())).await;
    assert_eq!(refused.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_setting_there_is_no_grpc_web() {
    let app = App::start(Engine::Sqlite).await;
    for (http_2, request, expected) in [
        (true, preflight(true, ALLOWED), StatusCode::METHOD_NOT_ALLOWED),
        (true, get_user(true, None, "application/grpc-web"), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (false, get_user(false, None, "application/grpc-web"), StatusCode::HTTP_VERSION_NOT_SUPPORTED),
    ] {
        assert_eq!(send(&app, http_2, request).await.status, expected);
    }
}
