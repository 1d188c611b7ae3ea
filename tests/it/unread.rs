//! Answers that their callers do not read: their number is limited, they do not stay, and they hinder nobody else.

use std::time::Duration;

use http::HeaderMap;
use hyper::body::Incoming;
use kith::proto::v1::{self as pb, ErrorReason};
use tonic::{Code, Status};

use crate::cases;
use crate::harness::raw::{RawChannel, read};
use crate::harness::{App, refused, until};
use crate::large_pages::large_users;

const LIST_USERS: &str = "/kith.v1.UserService/ListUsers";
const GET_USER: &str = "/kith.v1.UserService/GetUser";
/// What a client lets the server send of a response that it does not read.
const WINDOW: u32 = 16 << 10;

/// A page of 3.5 MiB.
fn large_page() -> pb::ListUsersRequest {
    pb::ListUsersRequest { page_size: 1_000, ..Default::default() }
}

fn status(headers: &HeaderMap) -> Result<(), Status> {
    match Status::from_header_map(headers) {
        Some(status) if status.code() != Code::Ok => Err(status),
        _ => Ok(()),
    }
}

/// Begins to receive a page, and reads nothing of it.
async fn begun(channel: &mut RawChannel) -> Incoming {
    let response = channel.post(LIST_USERS, large_page()).await;
    status(response.headers()).expect("the beginning of a page");
    response.into_body()
}

async fn reads_a_page(app: &App) -> Result<(), Status> {
    app.users().max_decoding_message_size(4 << 20).list_users(large_page()).await.map(drop)
}

cases! {
    #[with(|settings| (settings.max_unsent, settings.max_call_time) = (16 << 20, Duration::from_secs(5)))]
    async fn answers_that_nobody_reads_are_limited_and_dropped(app: App) {
        large_users(&app).await;
        let mut channels = Vec::new();
        let mut unread = Vec::new();
        for _ in 0..4 {
            let mut channel = RawChannel::with_window(&app.address, WINDOW).await;
            unread.push(begun(&mut channel).await);
            channels.push(channel);
        }
        // A connection may have a quarter of the total, and there is not enough for a fifth connection.
        let again = channels[0].post(LIST_USERS, large_page()).await;
        refused(status(again.headers()), Code::ResourceExhausted, ErrorReason::Overloaded);
        refused(reads_a_page(&app).await, Code::ResourceExhausted, ErrorReason::Overloaded);
        // Small answers and writes go on, on these connections too.
        let key = Some(pb::get_user_request::Key::Id(1));
        let small = channels[0].post(GET_USER, pb::GetUserRequest { key, ..Default::default() }).await;
        status(small.headers()).expect("a user");
        app.create(1_000_000).await.expect("a write");
        // Their time ends, though nobody reads them.
        until("there is room again", async || reads_a_page(&app).await.is_ok()).await;
        // What was sent before is received, and then the reason.
        let (bytes, trailers) = read(unread.remove(0)).await;
        assert!(bytes < 200_000, "{bytes} bytes of a page");
        refused(status(&trailers), Code::DeadlineExceeded, ErrorReason::DeadlinePassed);
        status(channels[0].post(LIST_USERS, large_page()).await.headers()).expect("the beginning of a page");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_read_slowly_arrives_whole() {
    let app = App::start(crate::harness::Engine::Sqlite).await;
    large_users(&app).await;
    let mut channel = RawChannel::with_window(&app.address, WINDOW).await;
    let (bytes, trailers) = read(begun(&mut channel).await).await;
    assert!(bytes > 3 << 20, "{bytes} bytes of a page");
    status(&trailers).expect("a complete page");
}
