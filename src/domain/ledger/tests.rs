//! Does a batch that is laid over what was loaded before it make of that what it is afterwards?

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use super::*;
use crate::domain::command::{Answer, Idempotency, Relation};
use crate::domain::pair::Message;
use crate::domain::user::Profile;

const USERS: i64 = 5;

fn loaded() -> Snapshot {
    let member = |id| {
        let profile = Profile { username: format!("user-{id}").parse().expect("a name"), ..Profile::default() };
        let user = Arc::new(profile.into_user(UserId::new(id), None, Time::UNIX_EPOCH));
        Member { user, counts: Counts::default(), sends: SendWindow::default() }
    };
    Snapshot { members: (1..=USERS).map(member).collect(), ..Snapshot::default() }
}

fn batch(submissions: &[Submission]) -> Batch {
    // Few enough that limits are met.
    let policy = Policy { max_sent_requests: Some(2), max_sends_per_hour: Some(6), ..Policy::default() };
    Batch { submissions: submissions.to_vec(), policy: Arc::new(policy), now: Time::UNIX_EPOCH }
}

fn any_submission(random: &mut StdRng) -> Submission {
    let mut user = || UserId::new(random.random_range(1..=USERS));
    let (user, other) = (user(), user());
    let request = RequestId::new(random.random_range(1..30));
    let answers = [Answer::Accept, Answer::Reject, Answer::Restore, Answer::Cancel, Answer::MarkViewed];
    let relations = [Relation::Remove, Relation::Block, Relation::Unblock];
    let command = match random.random_range(0..10) {
        0..4 => Command::Send { from: user, to: other, message: Message::default() },
        4..8 => Command::Answer(request, user, *answers.choose(random).expect("one")),
        8 => Command::MarkAllViewed(user),
        _ => Command::Relate(user, other, *relations.choose(random).expect("one")),
    };
    let id = Uuid::from_u128(random.random_range(0..8));
    let key = Idempotency {
        id,
        fingerprint: [0; 32],
        encode: |executed| Some(executed.revision.get().to_be_bytes().to_vec()),
    };
    Submission { caller: Caller::Operator, command, idempotency: random.random_bool(0.2).then_some(key) }
}

#[test]
fn batches_laid_over_what_was_loaded_before_them_decide_as_one_batch_of_all() {
    let (mut changed, mut refused) = (0, 0);
    for seed in 0..500 {
        let mut random = StdRng::seed_from_u64(seed);
        let submissions: Vec<_> = (0..40).map(|_| any_submission(&mut random)).collect();
        let (expected, all) = run(&batch(&submissions), loaded());

        let (mut replies, mut events, mut before) = (Vec::new(), Vec::new(), Vec::<Changes>::new());
        for some in submissions.chunks(3) {
            let mut snapshot = loaded();
            // Twice what was saved while it was loaded.
            before.iter().chain(before.last()).for_each(|changes| snapshot.lay_over(changes));
            // A batch without events moves it a little, and one batch of all does not.
            snapshot.head.time = Time::UNIX_EPOCH;
            let (more, changes) = run(&batch(some), snapshot);
            replies.extend(more);
            events.extend(changes.events.clone());
            assert!(changes.can_be_laid_over(), "seed {seed}: {changes:?}");
            before.push(changes);
        }
        assert_eq!(replies.len(), expected.len());
        for (place, (reply, expected)) in replies.iter().zip(&expected).enumerate() {
            assert_eq!(reply, expected, "seed {seed}, {:?}", submissions[place]);
        }
        assert_eq!(events, all.events, "seed {seed}");
        changed += events.len();
        refused += expected.iter().filter(|reply| reply.is_err()).count();
    }
    assert!(changed > 1_000 && refused > 1_000, "{changed} {refused}");
}

#[test]
fn what_changes_users_is_not_laid_over() {
    for command in [Command::DeleteUser(UserId::new(1)), Command::Sweep] {
        let submission = Submission { caller: Caller::Operator, command, idempotency: None };
        let due = Due { replays: 1, ..Due::default() };
        let (_, changes) = run(&batch(&[submission]), Snapshot { due, ..loaded() });
        assert!(!changes.is_empty() && !changes.can_be_laid_over(), "{changes:?}");
    }
}

#[test]
fn every_batch_that_changes_something_leaves_another_head() {
    let mut eventless = 0;
    for seed in 0..500 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut snapshot = loaded();
        for _ in 0..40 {
            let before = snapshot.head;
            let (_, changes) = run(&batch(&[any_submission(&mut random)]), snapshot.clone());
            if changes.is_empty() {
                continue;
            }
            assert_ne!(changes.head, before, "seed {seed}: {changes:?}");
            eventless += usize::from(changes.events.is_empty());
            snapshot.lay_over(&changes);
        }
    }
    assert!(eventless > 100, "{eventless}");
}
