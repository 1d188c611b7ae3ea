//! Are the totals in the head those of the tables, and does every server know them?

use kith::domain::totals::Totals;
use kith::proto::v1 as pb;
use kith::store::{self, Options, Seen};

use crate::cases;
use crate::harness::app::options;
use crate::harness::{App, until};

/// Counts the tables.
async fn counted(app: &App) -> Totals {
    let query = "SELECT (SELECT count(*) FROM users) AS value UNION ALL SELECT (SELECT count(*) FROM blocks) \
                 UNION ALL SELECT count(CASE WHEN state = 'PENDING' THEN 1 END) FROM connection_requests \
                 UNION ALL SELECT count(CASE WHEN state = 'SILENCED' THEN 1 END) FROM connection_requests \
                 UNION ALL SELECT count(CASE WHEN state = 'REJECTED' THEN 1 END) FROM connection_requests \
                 UNION ALL SELECT count(CASE WHEN state = 'CONNECTED' THEN 1 END) FROM connection_requests";
    let counted = app.database.values(query).await;
    let mut counted = counted.into_iter().map(|value| value.expect("a number").parse().expect("a number"));
    let mut next = || counted.next().expect("a number");
    let (users, blocks) = (next(), next());
    Totals { users, blocks, pending: next(), silenced: next(), rejected: next(), connected: next() }
}

/// Fails if the totals that a server has seen from its own commits are not those of the tables.
///
/// Nobody else may write meanwhile.
pub async fn compare(app: &App) {
    let Seen { revision, totals } = app.store.seen();
    assert_eq!(totals, counted(app).await);
    assert_eq!(revision.get(), app.revision().await);
}

cases! {
    async fn a_server_knows_the_totals_from_its_own_commits(app: App) {
        let none = Totals::default();
        assert_eq!(app.store.seen(), Seen::default());
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        let seen = || app.store.seen().totals;
        assert_eq!(seen(), Totals { users: 2, ..none });
        let id = app.send(ann, bob).await;
        assert_eq!(seen(), Totals { users: 2, pending: 1, ..none });
        // It counts although it has expired, and until the sweep deletes it.
        app.clock.advance(chrono::TimeDelta::days(181));
        assert_eq!(app.counts(bob).await, [0, 0, 0, 0]);
        assert_eq!(seen(), Totals { users: 2, pending: 1, ..none });
        crate::history::sweep(&app).await;
        assert_eq!(seen(), Totals { users: 2, ..none });
        assert!(app.accept(id, bob).await.is_err());
        app.accept(app.send(ann, bob).await, bob).await.expect("a connection");
        assert_eq!(seen(), Totals { users: 2, connected: 1, ..none });
        app.block(bob, ann).await;
        let silenced = app.send(ann, bob).await;
        assert_eq!(seen(), Totals { users: 2, silenced: 1, blocks: 1, ..none });
        app.unblock(bob, ann).await;
        app.reject(silenced, bob).await.expect("a rejection");
        assert_eq!(seen(), Totals { users: 2, rejected: 1, ..none });
        app.users().delete_user(pb::DeleteUserRequest { id: ann, ..Default::default() }).await.expect("deleted");
        assert_eq!(seen(), Totals { users: 1, ..none });
        compare(&app).await;
    }

    async fn servers_know_the_totals_that_others_wrote(app: App) {
        app.user("ann").await;
        let other = app.another(|_| {}).await;
        assert_eq!(other.store.seen(), app.store.seen(), "known from the start");
        let reading = store::connect(&app.database.url(), Options { read_only: true, ..options() }).await.expect("a store");
        app.connect(app.user("bob").await, app.user("cy").await).await;
        let expected = app.store.seen();
        assert_eq!((expected.totals.users, expected.totals.connected), (3, 1));
        // By the health check, with no call.
        until("the other server sees them", async || other.store.seen() == expected).await;
        assert_ne!(reading.seen(), expected);
        reading.position().await.expect("a position");
        assert_eq!(reading.seen(), expected);
        // At its next commit, with those that it adds.
        app.user("dan").await;
        other.user("eve").await;
        assert_eq!(other.store.seen().totals, Totals { users: 5, ..expected.totals });
        compare(&other).await;
        let metrics = crate::metrics::read(&other);
        let connected = metrics.value("kith_requests{state=\"connected\"}");
        assert_eq!((metrics.value("kith_users"), connected), (5.0, 1.0));
    }
}
