//! What becomes of a watcher that is slow, or whose feed changes under it: asked of the feed itself, without a wire that
//! would read ahead.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use kith::domain::caller::Caller;
use kith::domain::epoch::Epoch;
use kith::domain::event::EventKind;
use kith::domain::id::{Sequence, UserId};
use kith::domain::policy::Policy;
use kith::domain::selection::Selection;
use kith::domain::view::Viewer;
use kith::feed::{Cursor, Feed, FeedError, Message, Watcher};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::cases;
use crate::harness::App;
use crate::harness::watching::fill;

const PATIENCE: Duration = Duration::from_secs(30);
const RARELY: Duration = Duration::from_secs(300);
/// As often as a heartbeat is needed to see how far the feed was read.
const OFTEN: Duration = Duration::from_millis(100);

/// A feed of the test's own over the app's database. It ends when the sender is dropped.
fn feed(app: &App) -> (Feed, watch::Sender<bool>) {
    let (stop, stopped) = watch::channel(false);
    let (feed, _reader) = Feed::start(Arc::clone(&app.store), Arc::new(Policy::default()), 100, &app.metrics, stopped);
    (feed, stop)
}

fn everything() -> Selection {
    Selection { viewer: Viewer::Operator, users: HashSet::new(), kinds: HashSet::new(), pair: None }
}

fn about(user: i64) -> Selection {
    Selection { users: [UserId::new(user)].into(), ..everything() }
}

fn after(sequence: i64) -> Cursor {
    Cursor { after: Some(Sequence::new(sequence)), epoch: Epoch::default(), is_signed: false }
}

async fn next(watcher: &mut Watcher) -> Result<Message, FeedError> {
    timeout(PATIENCE, watcher.next()).await.expect("a message in time")
}

/// The next message's events, and whether it goes on.
async fn told(watcher: &mut Watcher) -> (Vec<i64>, bool) {
    let message = next(watcher).await.expect("a message");
    (message.events.iter().map(|event| event.sequence.get()).collect(), message.continues)
}

/// Changes a user, and waits until the reader has told that, and all that was before it, to every watcher.
async fn all_is_told(app: &App, feed: &Feed, user: i64) -> i64 {
    let mut watcher = feed.watch(&Caller::Operator, about(user), Cursor::default(), RARELY).await.unwrap();
    assert_eq!(told(&mut watcher).await, (vec![], false));
    app.update(user, "told").await;
    let revision = app.revision().await;
    assert_eq!(told(&mut watcher).await, (vec![revision], false));
    revision
}

/// How a watch ends.
async fn lost(watcher: &mut Watcher) -> FeedError {
    loop {
        if let Err(lost) = next(watcher).await {
            return lost;
        }
    }
}

cases! {
    async fn a_commit_is_ended_for_a_slow_watcher_whose_part_of_it_was_told(app: App) {
        let (feed, _stop) = feed(&app);
        let ann = app.user("ann").await;
        let mut slow = feed.watch(&Caller::Operator, about(ann), Cursor::default(), RARELY).await.unwrap();
        assert_eq!(told(&mut slow).await, (vec![], false));
        // More than is held for who is slow, and about Ann at the very beginning only.
        let count = 140 * 512;
        fill(&app.database, count, &format!("CASE i WHEN 0 THEN {ann} ELSE 800 END"), true).await;
        assert_eq!(told(&mut slow).await, (vec![2], true));
        let end = all_is_told(&app, &feed, ann).await;
        assert_eq!(end, count + 2);
        // The commit's end first, and then the next commit: not one as if it were the other.
        assert_eq!(told(&mut slow).await, (vec![], false));
        assert_eq!(told(&mut slow).await, (vec![end], false));
    }

    async fn who_is_slow_is_told_everything_once(app: App) {
        let (feed, _stop) = feed(&app);
        let ann = app.user("ann").await;
        let mut slow = feed.watch(&Caller::Operator, everything(), Cursor::default(), RARELY).await.unwrap();
        assert_eq!(told(&mut slow).await, (vec![], false));
        fill(&app.database, 70_000, "800", false).await;
        let end = all_is_told(&app, &feed, ann).await;
        for sequence in 2..=end {
            assert_eq!(told(&mut slow).await, (vec![sequence], false));
        }
        app.user("bob").await;
        assert_eq!(told(&mut slow).await, (vec![end + 1], false));
    }

    async fn a_watch_ends_when_what_follows_was_deleted(app: App) {
        let (feed, _stop) = feed(&app);
        app.user("ann").await;
        fill(&app.database, 2_000, "800", false).await;
        for selection in [everything(), about(800)] {
            let mut watcher = feed.watch(&Caller::Operator, selection, after(1), RARELY).await.unwrap();
            assert_eq!(told(&mut watcher).await, (vec![], false));
            assert_eq!(told(&mut watcher).await, (vec![2], false));
            app.database.execute("UPDATE events SET sequence = sequence + 100000 WHERE sequence <= 1500").await;
            // What was read before may still be told, and nothing after it is skipped.
            let mut last = 2;
            let oldest = loop {
                match next(&mut watcher).await {
                    Ok(message) => {
                        assert_eq!(message.events[0].sequence.get(), last + 1);
                        last += 1;
                    }
                    Err(FeedError::Expired { oldest }) => break oldest.expect("an operator may know it").get(),
                    Err(other) => panic!("{other:?}"),
                }
            };
            assert_eq!((oldest, last < 1_500), (1_501, true));
            app.database.execute("UPDATE events SET sequence = sequence - 100000 WHERE sequence > 100000").await;
        }
    }

    async fn a_watch_ends_when_the_feed_is_another_one(app: App) {
        let (feed, _stop) = feed(&app);
        let ann = app.user("ann").await;
        for selection in [everything(), about(99)] {
            let mut before = feed.watch(&Caller::Operator, selection, Cursor::default(), OFTEN).await.unwrap();
            assert_eq!(told(&mut before).await, (vec![], false));
            app.database.execute("UPDATE feed SET epoch = 'another-' || epoch").await;
            // One who begins in the new feed, perhaps before the reader has noticed, stays in it.
            let mut later = feed.watch(&Caller::Operator, about(ann), Cursor::default(), RARELY).await.unwrap();
            assert!(later.epoch().as_str().starts_with("another-"));
            assert_eq!(told(&mut later).await, (vec![], false));
            let lost = lost(&mut before).await;
            assert!(matches!(&lost, FeedError::WrongEpoch { epoch, common: None } if epoch == later.epoch()), "{lost:?}");
            app.update(ann, later.epoch().as_str()).await;
            assert_eq!(told(&mut later).await, (vec![app.revision().await], false));
        }
    }

    async fn a_watch_ends_when_what_it_told_was_undone(app: App) {
        let (feed, _stop) = feed(&app);
        let ann = app.user("ann").await;
        fill(&app.database, 10, "800", false).await;
        let mut watcher = feed.watch(&Caller::Operator, everything(), after(5), RARELY).await.unwrap();
        assert_eq!(told(&mut watcher).await, (vec![], false));
        for sequence in 6..=11 {
            assert_eq!(told(&mut watcher).await, (vec![sequence], false));
        }
        all_is_told(&app, &feed, ann).await;
        app.database.execute("DELETE FROM events WHERE sequence > 5; UPDATE feed SET last_sequence = 5").await;
        let lost = lost(&mut watcher).await;
        assert!(matches!(lost, FeedError::WrongEpoch { common: Some(common), .. } if common.get() == 5), "{lost:?}");
    }

    async fn a_feed_with_a_hole_is_not_told_as_if_it_had_none(app: App) {
        let (feed, _stop) = feed(&app);
        app.user("ann").await;
        fill(&app.database, 20, "800", false).await;
        app.database.execute("DELETE FROM events WHERE sequence = 11").await;
        let mut watcher = feed.watch(&Caller::Operator, everything(), after(0), RARELY).await.unwrap();
        assert_eq!(told(&mut watcher).await, (vec![], false));
        assert!(matches!(next(&mut watcher).await, Err(FeedError::Store(_))));
        let listed = feed.list(&*app.store, &Caller::Operator, &everything(), &after(0), 100).await;
        assert!(matches!(listed, Err(FeedError::Store(_))), "{listed:?}");
        let kinds = Selection { kinds: [EventKind::UserCreated].into(), ..everything() };
        assert!(matches!(feed.list(&*app.store, &Caller::Operator, &kinds, &after(2), 100).await, Err(FeedError::Store(_))));
        assert_eq!(feed.list(&*app.store, &Caller::Operator, &everything(), &after(11), 100).await.unwrap().events.len(), 10);
    }
}
