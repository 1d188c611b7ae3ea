//! Does a reader of pages see every row once, in order, while others write?

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kith::proto::v1::{self as pb, ConnectionRequestDirection as Direction};
use tokio::task::JoinSet;

use crate::cases;
use crate::harness::clients::Clients;
use crate::harness::{App, invariants};

const CONNECTED: i64 = 1;
const CONNECTED_TOO: i64 = 2;
const RECEIVER: i64 = 3;
const SENDER: i64 = 4;
const BLOCKER: i64 = 5;
/// The users of rows that never change.
const PERMANENT: std::ops::Range<i64> = 1_000..2_000;
/// The users of rows that are added and removed.
const PASSING: std::ops::Range<i64> = 5_000..5_050;
const PAGE: i32 = 7;

async fn import(clients: &Clients, ids: impl Iterator<Item = i64>) {
    let rows: Vec<_> = ids
        .map(|id| pb::ImportUsersRequest {
            user: Some(pb::User { id, username: format!("user-{id}"), ..Default::default() }),
            request_id: String::new(),
        })
        .collect();
    let (expected, mut users) = (i64::try_from(rows.len()).unwrap(), clients.users());
    let done = users.import_users(tokio_stream::iter(rows)).await.expect("an import").into_inner();
    assert_eq!(done.created, expected);
}

/// Adds a row with this user to every list and removes it again.
async fn come_and_go(clients: &Clients, user: i64) {
    let (received, sent) = (clients.send(user, RECEIVER).await, clients.send(SENDER, user).await);
    clients.connect(user, CONNECTED).await;
    clients.connect(CONNECTED_TOO, user).await;
    clients.block(BLOCKER, user).await;
    clients.cancel(received, user).await.expect("no request");
    clients.cancel(sent, SENDER).await.expect("no request");
    clients.remove(user, CONNECTED).await.expect("no connection");
    clients.remove(CONNECTED_TOO, user).await.expect("no connection");
    clients.unblock(BLOCKER, user).await;
    clients.users().delete_user(pb::DeleteUserRequest { id: user, request_id: String::new() }).await.expect("no user");
    import(clients, std::iter::once(user)).await;
}

/// Reads a list to its end. Returns the users of its rows.
async fn read(app: &App, what: &str, expected: &str, mut page: impl AsyncFnMut(String) -> (Vec<i64>, String)) {
    let (mut read, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let (rows, next) = page(token).await;
        assert!(rows.len() <= usize::try_from(PAGE).unwrap(), "{what}: a page of {}", rows.len());
        read.extend(rows);
        pages += 1;
        if next.is_empty() {
            break;
        }
        token = next;
    }
    let once: HashSet<_> = read.iter().copied().collect();
    // With a viewer, a removed row may return in the other section before that is read. A permanent row cannot.
    assert!(once.len() == read.len() || what == "connections with a viewer", "{what}: a row was received twice");
    read.retain(|user| PERMANENT.contains(user));
    let expected = app.database.values(expected).await.into_iter().flatten();
    let expected: Vec<i64> = expected.map(|id| id.parse().unwrap()).filter(|id| PERMANENT.contains(id)).collect();
    assert_eq!(expected.len(), PERMANENT.count());
    assert_eq!(read, expected, "{what}: in another order, or with rows missing");
    assert!(pages >= PERMANENT.count() / usize::try_from(PAGE).unwrap(), "{what}: {pages} pages");
}

async fn read_requests(app: &App, user_id: i64, direction: Direction, expected: &str) {
    read(app, direction.as_str_name(), expected, async |page_token| {
        let direction = direction.into();
        let request =
            pb::ListConnectionRequestsRequest { user_id, direction, page_size: PAGE, page_token, ..Default::default() };
        let page = app.requests().list_connection_requests(request).await.unwrap().into_inner();
        let other = |row: pb::ConnectionRequest| {
            let users = [row.from_user.unwrap().id, row.to_user.unwrap().id];
            users.into_iter().find(|id| *id != user_id).unwrap()
        };
        (page.connection_requests.into_iter().map(other).collect(), page.next_page_token)
    })
    .await;
}

async fn read_connections(app: &App, user_id: i64, viewer_user_id: i64) {
    let expected =
        format!("SELECT other_user_id AS value FROM connections WHERE user_id = {user_id} ORDER BY position DESC");
    let what = if viewer_user_id == 0 { "connections" } else { "connections with a viewer" };
    read(app, what, &expected, async |page_token| {
        let request =
            pb::ListConnectionsRequest { user_id, viewer_user_id, page_size: PAGE, page_token, ..Default::default() };
        let page = app.connections().list_connections(request).await.unwrap().into_inner();
        (page.connections.into_iter().map(|row| row.user.unwrap().id).collect(), page.next_page_token)
    })
    .await;
}

/// Reads the feed to its moving end: every event once, and the last page up to its revision.
async fn read_events(app: &App) {
    let mut request = pb::ListEventsRequest { page_size: 97, ..Default::default() };
    let (mut last, mut pages) = (0, 0);
    loop {
        let page = app.events().list_events(request.clone()).await.unwrap().into_inner();
        pages += 1;
        for event in page.events {
            assert_eq!(event.sequence, last + 1, "an event is missing, or was received twice");
            last = event.sequence;
        }
        if page.next_page_token.is_empty() {
            assert_eq!(page.revision, last);
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert!(last >= 6 * i64::try_from(PERMANENT.count()).unwrap() && pages > 50, "{last} events on {pages} pages");
}

cases! {
    #[with(|settings| {
        settings.policy.max_sends_per_hour = None;
        settings.policy.max_sent_requests = None;
        settings.policy.cooldown = None;
    })]
    async fn every_list_returns_each_row_once_while_others_write(app: App) {
        let clients = Clients(app.channel());
        import(&clients, (1..=BLOCKER).chain(PERMANENT).chain(PASSING)).await;
        let mut rows = JoinSet::new();
        for user in PERMANENT {
            let clients = clients.clone();
            rows.spawn(async move {
                clients.send(user, RECEIVER).await;
                clients.send(SENDER, user).await;
                // In both directions, so that each page has both.
                let (from, to) = if user % 2 == 0 { (user, CONNECTED) } else { (CONNECTED, user) };
                clients.connect(from, to).await;
                let (from, to) = if user % 3 == 0 { (user, CONNECTED_TOO) } else { (CONNECTED_TOO, user) };
                clients.connect(from, to).await;
                clients.block(BLOCKER, user).await;
            });
        }
        assert_eq!(rows.join_all().await.len(), PERMANENT.count());

        let (stop, changes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut writers = JoinSet::new();
        for first in 0..2 {
            let (clients, stop, changes) = (clients.clone(), Arc::clone(&stop), Arc::clone(&changes));
            writers.spawn(async move {
                for user in PASSING.skip(first).step_by(2).cycle() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    come_and_go(&clients, user).await;
                    changes.fetch_add(1, Ordering::SeqCst);
                }
            });
        }

        read_requests(&app, RECEIVER, Direction::Received, "SELECT from_user_id AS value FROM connection_requests WHERE to_user_id = 3 ORDER BY position DESC").await;
        read_requests(&app, SENDER, Direction::Sent, "SELECT to_user_id AS value FROM connection_requests WHERE from_user_id = 4 ORDER BY id DESC").await;
        read_connections(&app, CONNECTED, 0).await;
        // With a viewer who shares all of them: one section, by the other statement.
        read_connections(&app, CONNECTED, CONNECTED_TOO).await;
        read(&app, "blocks", "SELECT other_user_id AS value FROM blocks WHERE user_id = 5 ORDER BY position DESC", async |page_token| {
            let request = pb::ListBlockedUsersRequest { user_id: BLOCKER, page_size: PAGE, page_token, ..Default::default() };
            let page = app.blocks().list_blocked_users(request).await.unwrap().into_inner();
            (page.blocks.into_iter().map(|row| row.user.unwrap().id).collect(), page.next_page_token)
        })
        .await;
        read(&app, "users", "SELECT id AS value FROM users ORDER BY position DESC", async |page_token| {
            let request = pb::ListUsersRequest { page_size: PAGE, page_token, ..Default::default() };
            let page = app.users().list_users(request).await.unwrap().into_inner();
            (page.users.into_iter().map(|user| user.id).collect(), page.next_page_token)
        })
        .await;
        let mutual = "SELECT other_user_id AS value FROM connections WHERE user_id = 1 ORDER BY position DESC";
        read(&app, "mutual connections", mutual, async |page_token| {
            let request = pb::ListMutualConnectionsRequest { user_id: CONNECTED, other_user_id: CONNECTED_TOO, page_size: PAGE, page_token, ..Default::default() };
            let page = app.connections().list_mutual_connections(request).await.unwrap().into_inner();
            assert!(page.total >= i64::try_from(PERMANENT.count()).unwrap());
            (page.users.into_iter().map(|user| user.id).collect(), page.next_page_token)
        })
        .await;

        read_events(&app).await;

        stop.store(true, Ordering::SeqCst);
        while let Some(writer) = writers.join_next().await {
            writer.expect("a writer that ends well");
        }
        let changes = changes.load(Ordering::SeqCst);
        println!("{:?}: {changes} rows came to each list and went", app.database.engine);
        assert!(changes >= 20, "{changes}");
        invariants::check(&app.database).await;
    }
}
