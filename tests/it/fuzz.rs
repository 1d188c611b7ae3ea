//! Input that no client makes: each target of `fuzz/` on its corpus and on changed copies of it, and any bytes as the
//! request of every method. Nothing panics, no answer is INTERNAL or UNKNOWN, and the service goes on.
//!
//! `make fuzz` runs the targets for longer, guided by what code they reach.

mod mutation;
mod seeds;
#[path = "../../fuzz/targets.rs"]
mod targets;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use kith::proto::v1::{self as pb, ErrorReason};
use prost::Message;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;

use self::mutation::{Mutator, text};
use self::seeds::{delimited, methods};
use crate::cases;
use crate::harness::frames::enveloped;
use crate::harness::raw::{RawChannel, post};
use crate::harness::refused;

/// Changed copies of each input of a corpus.
const COPIES: usize = 150;
/// Requests for each method.
const CALLS: usize = 60;
/// Those of them at a time: some wait for a revision that does not come.
const CALLS_AT_ONCE: usize = 10;
/// Changed copies of a page token.
const TOKENS: usize = 100;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn inputs(target: &str) -> Vec<Vec<u8>> {
    let folder = fs::read_dir(corpus(target)).unwrap_or_else(|error| panic!("no corpus of {target}: {error}"));
    let mut files: Vec<_> = folder.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("an input")).collect()
}

#[test]
fn targets_bear_their_corpus_and_changed_copies_of_it() {
    for (number, (name, run)) in targets::targets().enumerate() {
        let is_message = methods().iter().any(|method| method.name == name);
        let mut mutator = Mutator::new(number.try_into().expect("few"));
        for input in inputs(name) {
            run(&input);
            for _ in 0..COPIES {
                let copy = if is_message { mutator.message(&input) } else { mutator.bytes(&input) };
                let ended = std::panic::catch_unwind(|| run(&copy));
                ended.unwrap_or_else(|_| panic!("{name} fails with {:?}", copy.escape_ascii().to_string()));
            }
        }
    }
}

#[test]
fn every_method_has_a_target_and_every_target_a_corpus() {
    let methods: BTreeSet<_> = methods().iter().map(|method| method.name.as_str()).collect();
    let names = targets::names();
    for method in &methods {
        assert!(names.contains(method), "fuzz/targets.rs has no target {method}");
    }
    let folders = fs::read_dir(corpus("")).expect("the corpora");
    let folders: BTreeSet<_> =
        folders.map(|it| it.expect("an entry").file_name().into_string().expect("text")).collect();
    assert_eq!(folders, names.iter().map(|name| (*name).to_owned()).collect());
}

/// Calls a method with these bytes. Returns those of the response, and its status.
///
/// A watch goes on once it has begun, and is not read.
async fn answer(
    channel: &mut RawChannel,
    path: &str,
    bytes: Vec<u8>,
    header: (&'static str, &str),
) -> (Vec<u8>, Status) {
    let mut request = post(path, Body::new(String::new()));
    if let Ok(value) = header.1.parse() {
        request.headers_mut().insert(header.0, value);
    }
    let shown = bytes[..bytes.len().min(200)].escape_ascii().to_string();
    let request = request.map(|_| Body::new(Full(Some(bytes.into()))));
    let response = channel.call(request).await.unwrap_or_else(|error| panic!("{path} {shown} {header:?}: {error:?}"));
    assert_eq!(response.status(), http::StatusCode::OK);
    let headers = response.headers().clone();
    let (bytes, trailers) =
        if path.ends_with("/WatchEvents") { Default::default() } else { all(response.into_body()).await };
    let status = Status::from_header_map(&trailers).or_else(|| Status::from_header_map(&headers));
    (bytes, status.unwrap_or_else(|| Status::ok("")))
}

async fn all(mut body: Incoming) -> (Vec<u8>, HeaderMap) {
    let (mut bytes, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        match frame.expect("a frame").into_data() {
            Ok(data) => bytes.extend(data),
            Err(frame) => trailers = frame.into_trailers().expect("trailers"),
        }
    }
    (bytes, trailers)
}

/// A body of one piece.
struct Full(Option<Bytes>);

impl http_body::Body for Full {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// The first page of each list, with one row of several.
fn lists() -> [(&'static str, Vec<u8>); 6] {
    let page_size = 1;
    let sent = pb::ConnectionRequestDirection::Sent.into();
    [
        ("ListUsers", pb::ListUsersRequest { page_size, ..Default::default() }.encode_to_vec()),
        ("ListEvents", pb::ListEventsRequest { page_size, ..Default::default() }.encode_to_vec()),
        (
            "ListConnectionRequests",
            pb::ListConnectionRequestsRequest { user_id: 1, direction: sent, page_size, ..Default::default() }
                .encode_to_vec(),
        ),
        ("ListConnections", pb::ListConnectionsRequest { user_id: 1, page_size, ..Default::default() }.encode_to_vec()),
        (
            "ListMutualConnections",
            pb::ListMutualConnectionsRequest { user_id: 1, other_user_id: 2, page_size, ..Default::default() }
                .encode_to_vec(),
        ),
        (
            "ListBlockedUsers",
            pb::ListBlockedUsersRequest { user_id: 1, page_size, ..Default::default() }.encode_to_vec(),
        ),
    ]
}

cases! {
    async fn every_method_answers_any_bytes_with_a_status_that_is_no_failure(app: App) {
        for id in 1..4 {
            app.create(id).await.expect("a user");
        }
        app.connect(1, 3).await;
        let mut mutator = Mutator::new(7);
        let (channel, _) = RawChannel::connect(&app.address).await;
        let (mut valid, mut calls) = (0, 0);
        for number in 0..CALLS / CALLS_AT_ONCE {
            let mut answers = JoinSet::new();
            for method in (0..CALLS_AT_ONCE).flat_map(|_| methods()) {
                let message = if number == 0 { method.seed.clone() } else { mutator.message(&method.seed) };
                let envelope = enveloped(&message, mutator.below(20) == 0);
                let body = if mutator.below(20) == 0 { mutator.bytes(&envelope) } else { envelope };
                let name = ["grpc-timeout", "grpc-encoding", "x-words", "grpc-accept-encoding"][mutator.below(4)];
                let value = String::from_utf8_lossy(&mutator.bytes(b"60S")).into_owned();
                let shown = body[..body.len().min(200)].escape_ascii().to_string();
                let mut channel = channel.clone();
                answers.spawn(async move {
                    let (_, status) = answer(&mut channel, &method.path, body, (name, &value)).await;
                    let shown = format!("{}: {shown} {name}: {value:?}: {status:?}", method.name);
                    assert!(!matches!(status.code(), Code::Internal | Code::Unknown), "{shown}");
                    status.code() == Code::Ok
                });
            }
            while let Some(is_valid) = answers.join_next().await {
                valid += usize::from(is_valid.expect("an answer"));
                calls += 1;
            }
        }
        assert!(valid * 20 > calls, "only {valid} of {calls} requests were valid");
        app.create(1_000_000).await.expect("a user");
        assert_eq!(app.counts(1_000_000).await, [0; 4]);
    }

    async fn a_page_token_that_was_changed_is_refused_by_every_list(app: App) {
        for id in 1..9 {
            app.create(id).await.expect("a user");
        }
        for other in [3, 4] {
            app.connect(1, other).await;
            app.connect(2, other).await;
            app.send(1, other + 2).await;
            app.block(1, other + 4).await;
        }
        let mut mutator = Mutator::new(7);
        let (mut channel, _) = RawChannel::connect(&app.address).await;
        let mut tokens: Vec<Vec<u8>> = Vec::new();
        let (lists, header) = (lists(), ("x-words", ""));
        for method in methods() {
            let Some((in_request, in_response)) = method.page_tokens else { continue };
            let list = lists.iter().find(|(name, _)| *name == method.name);
            let (_, request) = list.unwrap_or_else(|| panic!("no page of {}", method.name));
            let (bytes, status) = answer(&mut channel, &method.path, enveloped(request, false), header).await;
            assert_eq!(status.code(), Code::Ok, "{status:?}");
            let token = text(&bytes[5..], in_response).expect("a token");
            let others = tokens.iter().cloned();
            let changed: Vec<_> = (0..TOKENS).map(|_| mutator.bytes(&token)).chain(others).collect();
            for other in changed.into_iter().filter(|other| !other.is_empty() && *other != token) {
                let mut message = request.clone();
                delimited(&mut message, in_request, &other);
                let (_, status) = answer(&mut channel, &method.path, enveloped(&message, false), header).await;
                // What is no text is no protobuf either.
                let is_text = str::from_utf8(&other).is_ok();
                let reason = if is_text { ErrorReason::InvalidPageToken } else { ErrorReason::InvalidFields };
                refused(Err::<(), _>(status), Code::InvalidArgument, reason);
            }
            tokens.push(token);
        }
        assert_eq!(tokens.len(), lists.len());
    }
}
