//! What hostile clients do to a server. Each returns whether the server closed the connection because of it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use kith::proto::v1 as pb;
use prost::Message;
use rustls::ALL_VERSIONS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::body::Body;

use super::client::{Client, connected};
use crate::harness::certificates::Authority;
use crate::harness::frames::*;
use crate::harness::raw::{RawChannel, post};

const GET_USER: &str = "/kith.v1.UserService/GetUser";
const LIST_USERS: &str = "/kith.v1.UserService/ListUsers";
const NO_METHOD: &str = "/kith.v1.UserService/None";
const WATCH: &str = "/kith.v1.EventService/WatchEvents";

/// Rounds of 200 calls after which a server has nothing more to send.
const STABLE_ROUNDS: usize = 20;

/// The numbers of a client's streams, in order.
fn streams() -> impl Iterator<Item = u32> {
    (1..).step_by(2)
}

async fn flood(address: &str, frame: &[u8], times: usize) -> bool {
    Client::connect(address, OPENING).await.is_cut_after(frame, times).await
}

pub async fn pings(address: String) -> bool {
    flood(&address, &ping(), 20_000).await
}

/// One call for so many PINGs that they would be a flood without it.
pub async fn pings_with_some_calls(address: String) -> bool {
    let mut client = Client::connect(&address, OPENING).await;
    for stream in streams().take(20) {
        let open = client.send(&call(stream, GET_USER, &[])).await && client.is_heard().await;
        if !open || client.is_cut_after(&ping(), 900).await {
            return true;
        }
    }
    false
}

pub async fn settings(address: String) -> bool {
    flood(&address, &frame(SETTINGS, 0, 0, &[]), 20_000).await
}

pub async fn priorities(address: String) -> bool {
    flood(&address, &frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16]), 20_000).await
}

pub async fn unknown_frames(address: String) -> bool {
    flood(&address, &frame(0xfa, 0, 0, &[0; 8]), 20_000).await
}

pub async fn window_updates(address: String) -> bool {
    flood(&address, &window_update(0, 1), 100_000).await
}

pub async fn empty_data(address: String) -> bool {
    let mut client = Client::connect(&address, &[OPENING, &begun_call(1, GET_USER)].concat()).await;
    client.is_cut_after(&frame(DATA, 0, 1, &[]), 20_000).await
}

pub async fn continuations(address: String) -> bool {
    let headers = frame(HEADERS, 0, 1, &call_headers(GET_USER));
    let mut client = Client::connect(&address, &[OPENING, &headers].concat()).await;
    // A header of 100 bytes in each.
    let more = [&[0x00, 1, b'x', 100][..], &[b'a'; 100]].concat();
    client.is_cut_after(&frame(CONTINUATION, 0, 1, &more), 20_000).await
}

/// CVE-2023-44487: calls that are reset before the server accepts them.
pub async fn rapid_resets(address: String) -> bool {
    let mut client = Client::connect(&address, OPENING).await;
    let resets: Vec<u8> = streams().take(5_000).flat_map(reset_call).collect();
    !(client.send(&resets).await && client.is_heard().await)
}

/// The same, after the server has accepted them: it has begun to respond.
pub async fn resets_of_accepted_calls(address: String) -> bool {
    const AT_ONCE: usize = 100;
    let mut client = Client::connect(&address, OPENING).await;
    let mut streams = streams();
    for round in 1..300 {
        let numbers: Vec<u32> = streams.by_ref().take(AT_ONCE).collect();
        let calls: Vec<u8> = numbers.iter().flat_map(|stream| call(*stream, WATCH, &[])).collect();
        let resets: Vec<u8> = numbers.iter().flat_map(|stream| reset(*stream)).collect();
        if !(client.send(&calls).await && client.has_responses(round * AT_ONCE).await && client.send(&resets).await) {
            return true;
        }
    }
    !client.is_heard().await
}

/// CVE-2025-8671: errors for which the server has to reset calls.
pub async fn errors_that_need_resets(address: String) -> bool {
    let mut client = Client::connect(&address, OPENING).await;
    // A window that grows beyond the largest.
    let call = |stream| [begun_call(stream, GET_USER), window_update(stream, (1 << 31) - 1)].concat();
    let calls: Vec<u8> = streams().take(5_000).flat_map(call).collect();
    !(client.send(&calls).await && client.is_heard().await)
}

/// Resets of a call that has ended.
pub async fn resets_of_nothing(address: String) -> bool {
    let mut client = Client::connect(&address, &[OPENING, &call(1, GET_USER, &[])].concat()).await;
    client.is_heard().await && client.is_cut_after(&reset(1), 100_000).await
}

/// Calls that are refused before their messages come, and not by any fault of the client's.
pub async fn late_messages(address: String) -> bool {
    const AT_ONCE: usize = 200;
    let mut client = Client::connect(&address, OPENING).await;
    let mut streams = streams();
    for round in 1..=20 {
        let numbers: Vec<u32> = streams.by_ref().take(AT_ONCE).collect();
        let begun: Vec<u8> = numbers.iter().flat_map(|stream| begun_call(*stream, NO_METHOD)).collect();
        let message = enveloped(&[], false);
        let messages: Vec<u8> = numbers.iter().flat_map(|stream| frame(DATA, END_STREAM, *stream, &message)).collect();
        if !(client.send(&begun).await && client.has_ended(round * AT_ONCE).await && client.send(&messages).await) {
            return true;
        }
    }
    !client.is_heard().await
}

/// More calls at once than the server allows.
pub async fn too_many_calls(address: String) -> bool {
    let mut client = Client::connect(&address, OPENING).await;
    let calls: Vec<u8> = streams().take(10_000).flat_map(|stream| begun_call(stream, GET_USER)).collect();
    !(client.send(&calls).await && client.is_heard().await)
}

/// A page that is taken byte by byte.
pub async fn bytewise_windows(address: String) -> bool {
    const INITIAL_WINDOW_SIZE: u8 = 4;
    let settings = frame(SETTINGS, 0, 0, &[0, INITIAL_WINDOW_SIZE, 0, 0, 0, 0]);
    let list = pb::ListUsersRequest { page_size: 1_000, ..Default::default() }.encode_to_vec();
    let mut client = Client::connect(&address, &[PREFACE, &settings, &call(1, LIST_USERS, &list)].concat()).await;
    client.is_cut_after(&window_update(1, 1), 200_000).await
}

/// Headers that are large only when HPACK has expanded them: 200 kB, and then 48 MB.
pub async fn header_bombs(address: String) -> bool {
    let mut client = Client::connect(&address, OPENING).await;
    let mut streams = streams();
    for names in [50, 12_000] {
        let bomb = header_bomb(names);
        for stream in streams.by_ref().take(200) {
            let headers = frame(HEADERS, END_HEADERS | END_STREAM, stream, &bomb);
            if !(client.send(&headers).await && client.is_heard().await) {
                assert_eq!(names, 12_000, "headers over the limit refuse their call alone");
                return true;
            }
        }
    }
    false
}

/// Messages that are large only when they are decompressed.
pub async fn gzip_bombs(address: String) -> bool {
    let message = enveloped(&gzip_bomb(30 << 20), true);
    let encoding = [&[0x00, 13][..], b"grpc-encoding", &[4], b"gzip"].concat();
    let headers = [call_headers(GET_USER), encoding].concat();
    let mut client = Client::connect(&address, OPENING).await;
    for stream in streams().take(20) {
        let open = client.send(&frame(HEADERS, END_HEADERS, stream, &headers)).await;
        // The window of a call has 64 KiB. What the server reads, it gives back.
        let mut parts = message.chunks(16_000).peekable();
        while let Some(part) = parts.next() {
            let flags = if parts.peek().is_none() { END_STREAM } else { 0 };
            client.send(&frame(DATA, flags, stream, part)).await;
            client.is_heard().await;
        }
        if !open {
            return true;
        }
    }
    !client.is_heard().await
}

/// Updates that name a large field as often as fits into a request.
pub async fn repeated_masks(address: String) -> bool {
    let user = pb::User { id: 1, bio: "\u{1F600}".repeat(5_000), ..Default::default() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["bio".to_owned(); 40_000] });
    let request = pb::UpdateUserRequest { user: Some(user), update_mask, ..Default::default() };
    let (mut channel, _) = RawChannel::connect(&format!("http://{address}")).await;
    for _ in 0..3 {
        channel.post("/kith.v1.UserService/UpdateUser", request.clone()).await;
    }
    false
}

/// Connections of which the server hears nothing, not even that they begin. Some are refused, if there is a maximum.
pub async fn silence(address: String) -> bool {
    drop(silent(&address).await);
    false
}

/// The same, until the server closes them.
pub async fn patient_silence(address: String) -> bool {
    for mut stream in silent(&address).await {
        _ = stream.read(&mut [0]).await;
    }
    false
}

async fn silent(address: &str) -> Vec<TcpStream> {
    let mut silent = Vec::new();
    for _ in 0..5_000 {
        silent.push(connected(address).await);
    }
    silent
}

/// Handshakes of which the server sees only the beginning.
pub async fn stalled_handshakes(address: String) -> bool {
    let mut stalled = Vec::new();
    for _ in 0..500 {
        let mut stream = connected(&address).await;
        // A record of 512 bytes, a ClientHello in it, and 100 of them.
        let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &[7; 100]].concat();
        _ = stream.write_all(&hello).await;
        stalled.push(stream);
    }
    false
}

/// Complete handshakes, with nothing after them.
pub async fn handshakes_for_nothing(address: String) -> bool {
    let authority = Authority::new();
    for _ in 0..200 {
        // It does not trust the server, and breaks off.
        _ = crate::harness::certificates::connect(&address, authority.client(None, ALL_VERSIONS)).await;
    }
    false
}

/// Calls whose responses nobody reads.
struct Unread {
    connections: usize,
    /// On each connection.
    calls: usize,
    path: &'static str,
    message: Vec<u8>,
}

/// Large pages.
fn pages() -> Unread {
    let list = pb::ListUsersRequest { page_size: 1_000, ..Default::default() };
    Unread { connections: 3, calls: 1_000, path: LIST_USERS, message: list.encode_to_vec() }
}

/// Users of 20 kB.
fn users() -> Unread {
    let get = pb::GetUserRequest { key: Some(pb::get_user_request::Key::Id(1)), ..Default::default() };
    Unread { connections: 3, calls: 1_000, path: GET_USER, message: get.encode_to_vec() }
}

/// Watches from the beginning.
fn watches() -> Unread {
    let request = pb::WatchEventsRequest { after_sequence: Some(0), ..Default::default() };
    Unread { connections: 1, calls: 200, path: WATCH, message: request.encode_to_vec() }
}

impl Unread {
    /// Makes the calls on connections whose windows are open, and reads nothing.
    async fn open(&self, address: &str) -> Vec<TcpStream> {
        let calls = streams().take(self.calls).flat_map(|number| call(number, self.path, &self.message));
        let bytes = [opening_with_open_windows(), calls.collect()].concat();
        let mut open = Vec::new();
        for _ in 0..self.connections {
            let mut stream = connected(address).await;
            _ = stream.write_all(&bytes).await;
            open.push(stream);
        }
        open
    }

    /// The same, until the connections take no more, and the server had time to fill what it has of its own.
    async fn fill(&self, address: &str) -> bool {
        let open = self.open(address).await;
        let mut buffer = vec![0; 16 << 20];
        let (mut before, mut same) = (Vec::new(), 0);
        while same < STABLE_ROUNDS {
            let mut waiting = Vec::new();
            for stream in &open {
                waiting.push(stream.peek(&mut buffer).await.expect("an open connection"));
            }
            same = if waiting == before { same + 1 } else { 0 };
            before = waiting;
            let mut client = Client::connect(address, OPENING).await;
            for stream in streams().take(200) {
                client.send(&call(stream, GET_USER, &[])).await;
                client.is_heard().await;
            }
        }
        false
    }

    /// The same for ever, without a call more.
    async fn hold(&self, address: &str) -> bool {
        let _open = self.open(address).await;
        std::future::pending().await
    }
}

pub async fn unread_pages(address: String) -> bool {
    pages().fill(&address).await
}

pub async fn unread_users(address: String) -> bool {
    users().fill(&address).await
}

pub async fn never_read_pages(address: String) -> bool {
    pages().hold(&address).await
}

pub async fn never_read_users(address: String) -> bool {
    users().hold(&address).await
}

pub async fn never_read_watches(address: String) -> bool {
    watches().hold(&address).await
}

/// 200 watches, for as long as the connection is open.
pub async fn open_watches(address: &str) -> Vec<TcpStream> {
    watches().open(address).await
}

/// A request of which a part is sent, and then nothing more.
struct Unfinished(Option<Bytes>);

impl HttpBody for Unfinished {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.take().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(Frame::data(bytes)))))
    }
}

/// Large requests whose last bytes never come.
pub async fn unfinished_requests(address: String) -> bool {
    const BYTES: u32 = 250_000;
    let part = [&[0][..], &BYTES.to_be_bytes(), &vec![0; BYTES as usize - 1_000]].concat();
    let part = Bytes::from(part);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let Ok(mut channel) = RawChannel::over(connected(&address).await).await else { return true };
        for _ in 0..1_000 {
            let call = tower::Service::call(&mut channel, post(GET_USER, Body::new(Unfinished(Some(part.clone())))));
            calls.spawn(async move { _ = call.await });
        }
    }
    // Until the time of the calls is over, or they are refused.
    while calls.join_next().await.is_some() {}
    false
}
