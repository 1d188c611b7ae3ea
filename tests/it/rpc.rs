//! A file for each RPC: its effect, each reason for which it fails, its limits, and its repetition.

mod accept_connection_request;
mod batch_get_connection_statuses;
mod batch_get_users;
mod block_user;
mod cancel_connection_request;
mod create_user;
mod delete_user;
mod export_relations;
mod export_user;
mod get_connection_counts;
mod get_connection_request;
mod get_connection_status;
mod get_user;
mod import_relations;
mod import_users;
mod list_blocked_users;
mod list_connection_requests;
mod list_connections;
mod list_events;
mod list_mutual_connections;
mod list_users;
mod mark_all_connection_requests_viewed;
mod mark_connection_request_viewed;
mod reject_connection_request;
mod remove_connection;
mod restore_connection_request;
mod send_connection_request;
mod unblock_user;
mod update_user;
mod watch_events;

use std::future::Future;

use kith::proto::v1 as pb;
use tokio::task::JoinSet;

use crate::harness::App;

/// A request id, as a caller sends it.
const REQUEST_ID: &str = "0f6a3f4e-6f0b-4a65-8d0e-3a8f4f0c2b17";

/// A few new users.
async fn people<const N: usize>(app: &App) -> [i64; N] {
    let mut ids = [0; N];
    for (id, name) in ids.iter_mut().zip(["ann", "bob", "cy", "dee", "eve", "fay", "gus"]) {
        *id = app.user(name).await;
        assert_ne!(*id, 0);
    }
    ids
}

/// Creates many users, in the order of their ids.
async fn crowd(app: &App, count: i64) -> Vec<i64> {
    let ids: Vec<i64> = (100_000..100_000 + count).collect();
    let row = |id: i64| pb::ImportUsersRequest {
        user: Some(pb::User { id, username: format!("member-{id}"), ..Default::default() }),
        request_id: String::new(),
    };
    let rows: Vec<_> = ids.iter().copied().map(row).collect();
    let response = app.users().import_users(tokio_stream::iter(rows)).await.unwrap().into_inner();
    assert_eq!(response.created, count);
    ids
}

/// Makes many calls concurrently.
pub async fn at_once<T: Send + 'static, F: Future<Output = T> + Send + 'static>(calls: impl IntoIterator<Item = F>) {
    let mut under_way: JoinSet<T> = calls.into_iter().collect();
    while let Some(done) = under_way.join_next().await {
        done.unwrap();
    }
}

/// A user with every field set.
pub fn full_user(id: i64, username: &str) -> pb::User {
    pb::User {
        id,
        username: username.to_owned(),
        real_name: "Ann Example".to_owned(),
        email: "ann@example.com".to_owned(),
        email_isvalid: true,
        date_joined: Some(prost_types::Timestamp { seconds: 1_500_000_000, nanos: 123_456_000 }),
        bio: "First.\n\tSecond 👋".to_owned(),
        location: "Zürich".to_owned(),
        birthday: "2000-02-29".to_owned(),
        description: "Climber".to_owned(),
        gender: pb::Gender::Female.into(),
        status: pb::UserStatus::Approved.into(),
        website: "https://example.com/".to_owned(),
        avatar: "https://example.com/a.png".to_owned(),
        cover: "http://example.com/c.png".to_owned(),
        external_id: format!("ext {id}/{username} Ä|"),
    }
}

/// Makes a call with a request id, then another call, then the first again: it returns the first response, and nothing
/// changes. Returns that response, and the error of a different call with the same request id.
macro_rules! repeated {
    ($app:ident.$client:ident().$method:ident($request:expr), other: $other:expr, meanwhile: $meanwhile:expr) => {{
        let mut request = $request;
        request.request_id = $crate::rpc::REQUEST_ID.to_owned();
        let mut other = $other;
        other.request_id = $crate::rpc::REQUEST_ID.to_owned();
        let before = $app.revision().await;
        let first = $app.$client().$method(request.clone()).await.unwrap().into_inner();
        assert!(first.revision > before, "it changes something");
        assert_eq!(first.revision, $app.revision().await);
        $meanwhile;
        let before = $app.revision().await;
        let again = $app.$client().$method(request).await.unwrap().into_inner();
        assert_eq!(again, first);
        let reused = $app.$client().$method(other).await;
        assert_eq!($app.revision().await, before);
        (first, reused)
    }};
}

/// All pages of a list.
macro_rules! pages {
    ($app:ident.$client:ident().$method:ident($request:expr).$items:ident) => {{
        let mut request = $request;
        let mut pages = Vec::new();
        loop {
            let response = $app.$client().$method(request.clone()).await.unwrap().into_inner();
            assert_eq!(response.revision, $app.revision().await);
            pages.push(response.$items);
            if response.next_page_token.is_empty() {
                break pages;
            }
            assert!(pages.len() < 100, "the list never ends");
            request.page_token = response.next_page_token;
        }
    }};
}

/// Requests the second page of a list with altered tokens, and pages of other lists with the good token. Returns all
/// results.
macro_rules! wrong_tokens {
    ($app:ident.$client:ident().$method:ident($request:expr), others: [$($other:expr),* $(,)?]) => {{
        let mut request = $request;
        request.page_size = 1;
        let good = $app.$client().$method(request.clone()).await.unwrap().into_inner().next_page_token;
        assert!(!good.is_empty(), "there is a second page");
        let mut results = Vec::new();
        let mut changed = good.clone().into_bytes();
        changed[5] = if changed[5] == b'A' { b'B' } else { b'A' };
        for wrong in [String::from_utf8(changed).unwrap(), good[1..].to_owned(), format!("{good}A"), "\0".to_owned(),
            "page 2".to_owned(), "A".repeat(10_000)]
        {
            request.page_token = wrong;
            results.push($app.$client().$method(request.clone()).await);
        }
        $(
            let mut other = $other;
            other.page_token = good.clone();
            results.push($app.$client().$method(other).await);
        )*
        request.page_token = good;
        request.page_size = 7;
        assert!($app.$client().$method(request).await.is_ok(), "the size may change from page to page");
        results
    }};
}

/// Requests pages of many sizes of a list of more than 1,000 rows. Returns the errors for those below 0.
macro_rules! page_sizes {
    ($app:ident.$client:ident().$method:ident($request:expr).$items:ident) => {{
        let mut request = $request;
        for (size, given) in [(0, 20), (1, 1), (999, 999), (1_000, 1_000), (1_001, 1_000), (i32::MAX, 1_000)] {
            request.page_size = size;
            let response = $app.$client().$method(request.clone()).await.unwrap().into_inner();
            assert_eq!(response.$items.len(), given, "{size}");
            assert!(!response.next_page_token.is_empty());
        }
        let mut refusals = Vec::new();
        for size in [-1, i32::MIN] {
            request.page_size = size;
            refusals.push($app.$client().$method(request.clone()).await);
        }
        refusals
    }};
}

use {page_sizes, pages, repeated, wrong_tokens};
