//! Does every response fit into what clients accept, however large the users are?
//!
//! gRPC clients refuse messages of more than 4 MiB unless they are configured otherwise. A page ends before 3.5 MiB.

use kith::proto::v1::{self as pb, ConnectionRequestDirection as Direction};
use prost::Message;

use crate::cases;
use crate::harness::clients::Clients;

/// Enough for more than two pages of users of 20 kB.
const USERS: i64 = 400;
const LARGEST: usize = 7 << 19;
const PAGE: i32 = 1_000;

/// Gives every user a bio of the maximum size, in characters of four bytes.
pub async fn large_users(app: &Clients) {
    let bio = "\u{1F600}".repeat(5_000);
    let row = |id| pb::ImportUsersRequest {
        user: Some(pb::User { id, username: format!("user-{id}"), bio: bio.clone(), ..Default::default() }),
        request_id: String::new(),
    };
    let rows: Vec<_> = (1..=USERS).map(row).collect();
    let imported = app.users().import_users(tokio_stream::iter(rows)).await.expect("an import").into_inner();
    assert_eq!(imported.created, USERS);
}

/// Reads a list to its end. Returns the ids of its users, in order.
async fn all<M: Message>(
    mut page: impl AsyncFnMut(String) -> M,
    read: impl Fn(&M) -> (Vec<i64>, String),
) -> (Vec<i64>, usize) {
    let (mut ids, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let message = page(token).await;
        assert!(message.encoded_len() <= LARGEST, "{} bytes", message.encoded_len());
        let (more, next) = read(&message);
        ids.extend(more);
        pages += 1;
        if next.is_empty() {
            return (ids, pages);
        }
        token = next;
    }
}

fn id(user: Option<&pb::User>) -> i64 {
    user.expect("a user").id
}

cases! {
    #[with(|settings| (settings.policy.max_sends_per_hour, settings.policy.max_sends_per_pair) = (None, None))]
    async fn pages_of_large_users_end_early_and_miss_nobody(app: App) {
        large_users(&app).await;
        for other in 2..=USERS / 2 {
            app.send(other, 1).await;
        }
        for other in USERS / 2 + 1..USERS {
            app.connect(other, USERS).await;
            app.block(1, other).await;
        }

        let (found, pages) = all(
            async |page_token| {
                let request = pb::ListUsersRequest { page_size: PAGE, page_token, ..Default::default() };
                app.users().list_users(request).await.expect("a page").into_inner()
            },
            |page| (page.users.iter().map(|user| user.id).collect(), page.next_page_token.clone()),
        )
        .await;
        assert_eq!(found, (1..=USERS).rev().collect::<Vec<_>>());
        assert!(pages > 2, "{pages} pages");

        let (found, pages) = all(
            async |page_token| {
                let direction = Direction::Received.into();
                let request = pb::ListConnectionRequestsRequest {
                    user_id: 1, direction, page_size: PAGE, page_token, ..Default::default()
                };
                app.requests().list_connection_requests(request).await.expect("a page").into_inner()
            },
            |page| {
                let senders = page.connection_requests.iter().map(|request| id(request.from_user.as_ref()));
                (senders.collect(), page.next_page_token.clone())
            },
        )
        .await;
        assert_eq!(found, (2..=USERS / 2).rev().collect::<Vec<_>>());
        assert!(pages > 2, "{pages} pages");

        let (found, _) = all(
            async |page_token| {
                let request =
                    pb::ListConnectionsRequest { user_id: USERS, page_size: PAGE, page_token, ..Default::default() };
                app.connections().list_connections(request).await.expect("a page").into_inner()
            },
            |page| {
                let others = page.connections.iter().map(|connection| id(connection.user.as_ref()));
                (others.collect(), page.next_page_token.clone())
            },
        )
        .await;
        assert_eq!(found, (USERS / 2 + 1..USERS).rev().collect::<Vec<_>>());

        let (found, _) = all(
            async |page_token| {
                let request =
                    pb::ListBlockedUsersRequest { user_id: 1, page_size: PAGE, page_token, ..Default::default() };
                app.blocks().list_blocked_users(request).await.expect("a page").into_inner()
            },
            |page| {
                (page.blocks.iter().map(|block| id(block.user.as_ref())).collect(), page.next_page_token.clone())
            },
        )
        .await;
        assert_eq!(found, (USERS / 2 + 1..USERS).rev().collect::<Vec<_>>());
    }

    async fn a_batch_of_large_users_names_those_that_it_leaves_out(app: App) {
        large_users(&app).await;
        let (mut ids, mut found, mut calls): (Vec<i64>, Vec<i64>, _) = ((1..=USERS).collect(), Vec::new(), 0);
        // An id in the middle that does not exist.
        ids.insert(3, 9_999);
        while !ids.is_empty() {
            let request = pb::BatchGetUsersRequest { ids: ids.clone(), ..Default::default() };
            let batch = app.users().batch_get_users(request).await.expect("users").into_inner();
            assert!(batch.encoded_len() <= LARGEST, "{} bytes", batch.encoded_len());
            assert_eq!(batch.not_found_ids, if calls == 0 { vec![9_999] } else { vec![] });
            found.extend(batch.users.iter().map(|user| user.id));
            ids = batch.omitted_ids;
            calls += 1;
        }
        assert_eq!(found, (1..=USERS).collect::<Vec<_>>());
        assert!(calls > 2, "{calls} calls");
    }
}
