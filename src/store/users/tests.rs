use super::*;
use crate::domain::Time;
use crate::domain::epoch::{EpochChange, Lineage};
use crate::domain::ledger::Head;
use crate::domain::user::Profile;

fn user(id: i64, bio: &str) -> Arc<User> {
    let profile = Profile {
        username: format!("user-{id}").parse().expect("a name"),
        bio: bio.parse().expect("a bio"),
        ..Profile::default()
    };
    Arc::new(profile.into_user(UserId::new(id), None, Time::UNIX_EPOCH))
}

fn head(users_changed: i64) -> Head {
    Head { users_changed: Sequence::new(users_changed), ..Head::default() }
}

/// The head of the epoch `a` that a commit locked.
fn before(users_changed: i64) -> FeedHead {
    FeedHead { epoch: "a".into(), lineage: None, head: head(users_changed), batch_id: 0 }
}

fn mark(epoch: &str, users_changed: i64) -> Mark {
    let users_changed = Sequence::new(users_changed);
    Mark { epoch: epoch.into(), revision: users_changed, users_changed }
}

fn of(users: impl IntoIterator<Item = Arc<User>>) -> Vec<CachedUser> {
    users.into_iter().map(CachedUser::from).collect()
}

/// A cache that is valid at this mark and has these users.
fn cached(at: &Mark, users: impl IntoIterator<Item = CachedUser>) -> UserCache {
    let cache = UserCache::new(1 << 20, &Arc::default());
    cache.invalidate(at, Sequence::default(), None);
    cache.insert(users, at);
    cache
}

fn found(cache: &UserCache, at: &Mark) -> Vec<i64> {
    let (found, _) = cache.get((1..=3).map(UserId::new), at, Source::Replica);
    let mut ids: Vec<_> = found.keys().map(|id| id.get()).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn cached_users_are_valid_until_one_changes_and_then_all_but_that_one() {
    let (first, second) = (mark("a", 5), mark("a", 9));
    let cache = cached(&first, of([user(1, ""), user(2, "")]));
    assert_eq!(cache.outdated(&first), None);
    assert_eq!(found(&cache, &first), [1, 2]);
    assert_eq!(cache.outdated(&second), Some((Sequence::new(5), Sequence::new(9))));
    assert_eq!(found(&cache, &second), Vec::<i64>::new(), "not before it is known who changed");
    cache.invalidate(&second, Sequence::new(5), Some(vec![UserId::new(2)]));
    assert_eq!(found(&cache, &second), [1]);
    assert_eq!(found(&cache, &first), [1], "as of the mark or later");
    let (lost, _) = cache.get([UserId::new(1)], &first, Source::Primary);
    assert!(lost.is_empty(), "a primary that is behind may have lost what the cache has");
}

#[test]
fn what_a_replica_reads_that_is_behind_is_cached_unless_it_may_have_changed_since() {
    let (first, second, third) = (mark("a", 5), mark("a", 9), mark("a", 12));
    let cache = cached(&second, []);
    cache.invalidate(&third, Sequence::new(9), Some(vec![UserId::new(2)]));
    cache.insert(of([user(1, ""), user(2, "old")]), &second);
    assert_eq!(found(&cache, &third), [1]);
    assert_eq!(found(&cache, &second), [1]);
    cache.insert(of([user(3, "old")]), &first);
    assert_eq!(found(&cache, &third), [1], "what changed between the first and the second is not known");
    cache.insert(of([user(2, "new"), user(3, "")]), &third);
    assert_eq!(found(&cache, &second), [1, 2, 3]);
    // A commit of this server, and a replica that has not replayed it.
    let changes = Changes { head: head(20), users_deleted: vec![UserId::new(3)], ..Changes::default() };
    cache.committed(&before(12), &changes);
    cache.insert(of([user(3, "deleted")]), &third);
    assert_eq!(found(&cache, &third), [1, 2]);
    // A replica that follows an older primary.
    let other = mark("b", 30);
    cache.insert(of([user(1, "other")]), &other);
    assert_eq!(found(&cache, &other), Vec::<i64>::new());
    assert_eq!(cache.get([UserId::new(1)], &third, Source::Replica).0[&UserId::new(1)].bio.as_str(), "");
}

#[test]
fn as_many_changes_are_remembered_as_there_is_room_for() {
    let mut changes = LastChanges::default();
    let sequence = |number: usize| Sequence::new(number as i64);
    for number in 1..=CHANGES_MAX + 10 {
        changes.add([UserId::new(number as i64)], sequence(number));
    }
    changes.add([UserId::new(20)], sequence(CHANGES_MAX + 11));
    assert_eq!((changes.in_order.len(), changes.by_user.len()), (CHANGES_MAX, CHANGES_MAX - 1));
    assert!(!changes.is_unchanged(UserId::new(1), sequence(10)), "it is not known");
    assert!(changes.is_unchanged(UserId::new(1), sequence(11)));
    assert!(!changes.is_unchanged(UserId::new(12), sequence(11)));
    assert!(changes.is_unchanged(UserId::new(12), sequence(12)));
    assert!(!changes.is_unchanged(UserId::new(20), sequence(CHANGES_MAX + 10)));
}

#[test]
fn a_user_that_may_have_changed_since_it_was_read_is_not_cached() {
    let (first, second) = (mark("a", 5), mark("a", 9));
    let cache = cached(&first, []);
    // Read at the first mark; before it is inserted, somebody changes the user.
    cache.invalidate(&second, Sequence::new(5), Some(vec![UserId::new(1)]));
    cache.insert(of([user(1, "old")]), &first);
    assert_eq!(found(&cache, &second), Vec::<i64>::new());
}

#[test]
fn all_users_are_removed_if_it_is_not_known_who_changed_or_the_feed_is_another() {
    let first = mark("a", 5);
    for (later, changed) in [(mark("a", 9), None), (mark("b", 9), Some(vec![])), (mark("b", 5), Some(vec![]))] {
        let cache = cached(&first, of([user(1, "")]));
        assert!(cache.outdated(&later).is_some(), "{later:?}");
        cache.invalidate(&later, Sequence::new(5), changed);
        assert_eq!(found(&cache, &later), Vec::<i64>::new(), "{later:?}");
    }
}

#[test]
fn a_commit_of_this_server_updates_the_cache() {
    let changes = Changes {
        head: head(9),
        users_deleted: vec![UserId::new(2)],
        users_updated: vec![user(1, "new")],
        ..Changes::default()
    };
    let (first, second) = (mark("a", 5), mark("a", 9));
    let current = cached(&first, of([user(1, "old"), user(2, "")]));
    current.committed(&before(5), &changes);
    assert_eq!(found(&current, &second), [1]);
    let (users, _) = current.get([UserId::new(1)], &second, Source::Primary);
    assert_eq!(users[&UserId::new(1)].bio.as_str(), "new");
    // Others had changed users before, which was not noticed yet: it is not up to date now either.
    let behind = cached(&mark("a", 4), of([user(3, "")]));
    behind.committed(&before(5), &changes);
    assert!(behind.outdated(&second).is_some());
}

#[test]
fn a_commit_that_begins_an_epoch_leaves_a_cache_of_that_epoch_and_no_other() {
    let lineage = Lineage { system_identifier: None, timeline: 2 };
    let begun = EpochChange::Begun { epoch: "b".into(), first: Sequence::new(6), lineage };
    let changes = |epoch| Changes { head: head(9), epoch, users_updated: vec![user(1, "new")], ..Changes::default() };
    let current = cached(&mark("a", 5), of([user(1, "old"), user(2, "")]));
    current.committed(&before(5), &changes(Some(begun.clone())));
    assert_eq!(found(&current, &mark("b", 9)), [1], "what was read before may be of a commit that was lost");
    assert_eq!(found(&current, &mark("a", 9)), Vec::<i64>::new());
    // No user was changed: the epoch is another one all the same.
    let current = cached(&mark("a", 5), of([user(2, "")]));
    current.committed(&before(5), &Changes { head: head(5), epoch: Some(begun), ..Changes::default() });
    assert_eq!(current.outdated(&mark("b", 5)), None);
    assert_eq!(found(&current, &mark("b", 5)), Vec::<i64>::new());
    // The cache has what was lost: the numbers are equal, and the events are not.
    let lost = cached(&mark("lost", 5), of([user(2, "lost")]));
    lost.committed(&before(5), &changes(None));
    assert_eq!(found(&lost, &mark("a", 9)), Vec::<i64>::new());
    assert!(lost.outdated(&mark("a", 9)).is_some());
}

#[test]
fn the_cache_is_bounded_and_can_be_switched_off() {
    let at = mark("a", 5);
    let none = UserCache::new(0, &Arc::default());
    assert_eq!(none.outdated(&at), None);
    none.insert(of([user(1, "")]), &at);
    assert_eq!(found(&none, &at), Vec::<i64>::new());
    let small = UserCache::new(64 << 10, &Arc::default());
    small.invalidate(&at, Sequence::default(), None);
    small.insert(of((1..=1_000).map(|id| user(id, &"x".repeat(1_000)))), &at);
    let (found, _) = small.get((1..=1_000).map(UserId::new), &at, Source::Primary);
    assert!((1..=64).contains(&found.len()), "{} users in 64 KiB", found.len());
}

#[test]
fn a_user_is_encoded_once_for_all_copies_and_anew_after_a_change() {
    let at = mark("a", 5);
    let cache = cached(&at, of([user(1, "")]));
    let encode = |cache: &UserCache, at: &Mark, bytes: &'static str| {
        cache.get([UserId::new(1)], at, Source::Primary).0[&UserId::new(1)]
            .encoded(|_| Bytes::from_static(bytes.as_bytes()))
    };
    assert_eq!(encode(&cache, &at, "first"), "first");
    assert_eq!(encode(&cache, &at, "again"), "first");
    cache.committed(&before(5), &Changes { head: head(9), users_updated: vec![user(1, "new")], ..Changes::default() });
    assert_eq!(encode(&cache, &mark("a", 9), "changed"), "changed");
}
