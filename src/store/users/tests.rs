use super::*;
use crate::domain::Time;
use crate::domain::user::Profile;

fn user(id: i64, bio: &str) -> Arc<User> {
    let profile = Profile {
        username: format!("user-{id}").parse().expect("a name"),
        bio: bio.parse().expect("a bio"),
        ..Profile::default()
    };
    Arc::new(profile.into_user(UserId::new(id), None, Time::UNIX_EPOCH))
}

fn mark(epoch: &str, users_changed: i64) -> Mark {
    let users_changed = Sequence::new(users_changed);
    Mark { epoch: epoch.to_owned(), revision: users_changed, users_changed }
}

fn of(users: impl IntoIterator<Item = Arc<User>>) -> Users {
    users.into_iter().map(|user| (user.id, user)).collect()
}

/// Memory that is up to date at this mark and holds these users.
fn kept(at: &Mark, users: &Users) -> KeptUsers {
    let kept = KeptUsers::new(1 << 20);
    kept.catch_up(at, Sequence::default(), None);
    kept.keep(users, at);
    kept
}

fn found(kept: &KeptUsers, at: &Mark) -> Vec<i64> {
    let (found, _) = kept.find((1..=3).map(UserId::new), at);
    let mut ids: Vec<_> = found.keys().map(|id| id.get()).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn what_is_kept_serves_until_a_user_changes_and_then_all_but_that_one() {
    let (first, second) = (mark("a", 5), mark("a", 9));
    let kept = kept(&first, &of([user(1, ""), user(2, "")]));
    assert_eq!(kept.behind(&first), None);
    assert_eq!(found(&kept, &first), [1, 2]);
    assert_eq!(kept.behind(&second), Some((Sequence::new(5), Sequence::new(9))));
    assert_eq!(found(&kept, &second), Vec::<i64>::new(), "not before it is known who changed");
    kept.catch_up(&second, Sequence::new(5), Some(vec![UserId::new(2)]));
    assert_eq!(found(&kept, &second), [1]);
    assert_eq!(found(&kept, &first), Vec::<i64>::new(), "who read the head before reads the rest too");
}

#[test]
fn nothing_is_kept_that_may_have_changed_since_it_was_read() {
    let (first, second) = (mark("a", 5), mark("a", 9));
    let kept = kept(&first, &Users::new());
    // Read at the first mark; before it is kept, somebody changes the user.
    kept.catch_up(&second, Sequence::new(5), Some(vec![UserId::new(1)]));
    kept.keep(&of([user(1, "old")]), &first);
    assert_eq!(found(&kept, &second), Vec::<i64>::new());
}

#[test]
fn all_is_forgotten_where_it_is_not_known_who_changed_or_the_feed_is_another() {
    let first = mark("a", 5);
    for (later, changed) in [(mark("a", 9), None), (mark("b", 9), Some(vec![])), (mark("b", 5), Some(vec![]))] {
        let kept = kept(&first, &of([user(1, "")]));
        assert!(kept.behind(&later).is_some(), "{later:?}");
        kept.catch_up(&later, Sequence::new(5), changed);
        assert_eq!(found(&kept, &later), Vec::<i64>::new(), "{later:?}");
    }
}

#[test]
fn a_commit_of_this_server_tells_what_it_changed() {
    let head = |users_changed| Head { users_changed: Sequence::new(users_changed), ..Head::default() };
    let changes = Changes {
        head: head(9),
        users_deleted: vec![UserId::new(2)],
        users_updated: vec![user(1, "new")],
        ..Changes::default()
    };
    let (first, second) = (mark("a", 5), mark("a", 9));
    let current = kept(&first, &of([user(1, "old"), user(2, "")]));
    current.committed(&head(5), &changes);
    assert_eq!(found(&current, &second), [1]);
    let (users, _) = current.find([UserId::new(1)], &second);
    assert_eq!(users[&UserId::new(1)].bio.as_str(), "new");
    // Others had changed users before, which was not noticed yet: it is not up to date now either.
    let behind = kept(&mark("a", 4), &of([user(3, "")]));
    behind.committed(&head(5), &changes);
    assert!(behind.behind(&second).is_some());
}

#[test]
fn memory_is_bounded_and_can_be_none() {
    let at = mark("a", 5);
    let none = KeptUsers::new(0);
    assert_eq!(none.behind(&at), None);
    none.keep(&of([user(1, "")]), &at);
    assert_eq!(found(&none, &at), Vec::<i64>::new());
    let small = KeptUsers::new(64 << 10);
    small.catch_up(&at, Sequence::default(), None);
    small.keep(&of((1..=1_000).map(|id| user(id, &"x".repeat(1_000)))), &at);
    let (found, _) = small.find((1..=1_000).map(UserId::new), &at);
    assert!((1..=64).contains(&found.len()), "{} users in 64 KiB", found.len());
}
