//! The contract of `Store`, case by case, on each engine.

use std::sync::Arc;

use chrono::TimeDelta;
use kith::committer::{CommitError, Committer};
use kith::domain::caller::Caller;
use kith::domain::command::{
    Batch, Command, EncodedResponse, Idempotency, IdempotencyKey, Reply, RequestAction, Submission, UserAction,
};
use kith::domain::decide::Rejection;
use kith::domain::id::{RequestId, Sequence, UserId};
use kith::domain::outcome::{Executed, Imported, Outcome};
use kith::domain::pair::Message;
use kith::domain::policy::Policy;
use kith::domain::query::UserKey;
use kith::domain::user::{FieldUpdate, Profile, UserUpdate};
use kith::domain::view::Status;
use kith::proto::v1 as pb;
use kith::proto::v1::ErrorReason;
use kith::store::{self, Options};
use tonic::Code;
use uuid::Uuid;

use crate::cases;
use crate::harness::{App, refused};

/// Commits these commands in one batch at the app's time.
async fn commit(app: &App, commands: impl IntoIterator<Item = Command>) -> Vec<Result<Executed, Rejection>> {
    let submissions = commands
        .into_iter()
        .map(|command| Submission { caller: Caller::Operator, command, idempotency: None })
        .collect();
    let replies = submit(app, submissions, Policy::default()).await;
    let fresh = |reply| match reply {
        Reply::Fresh(executed) => *executed,
        Reply::Stored(_) => panic!("not expected"),
    };
    replies.into_iter().map(|reply| reply.map(fresh)).collect()
}

async fn submit(app: &App, submissions: Vec<Submission>, policy: Policy) -> Vec<Result<Reply, Rejection>> {
    let batch = Batch { submissions, policy: Arc::new(policy) };
    app.store.commit(Arc::new(batch)).await.expect("a commit")
}

fn create(id: Option<i64>, username: &str) -> Command {
    let username = username.parse().expect("a name");
    Command::CreateUser(Box::new(Profile { id: id.map(UserId::new), username, ..Profile::default() }))
}

fn update(id: i64, field: FieldUpdate) -> Command {
    Command::UpdateUser(UserUpdate { id: UserId::new(id), acting: None, fields: vec![field], expected: None })
}

fn send(from: i64, to: i64) -> Command {
    Command::Send { from: UserId::new(from), to: UserId::new(to), message: Message::default() }
}

async fn events(app: &App) -> Vec<String> {
    let values = app.database.values("SELECT kind AS value FROM events ORDER BY sequence").await;
    values.into_iter().flatten().collect()
}

fn encode_revision(executed: &Executed) -> Option<EncodedResponse> {
    let response = executed.revision.get().to_be_bytes().to_vec();
    Some(EncodedResponse { without_profiles: response.clone(), response })
}

cases! {
    async fn the_commands_of_a_batch_see_those_before_them(app: App) {
        let outcomes = commit(&app, [create(Some(1), "ann"), create(Some(2), "bob"), send(1, 2), send(2, 1)]).await;
        let crossed = outcomes[3].as_ref().expect("connected");
        assert_eq!(crossed.revision.get(), 4);
        let Outcome::Sent(sent) = &crossed.outcome else { panic!("{crossed:?}") };
        assert_eq!(sent.status, Status::Connected);
        assert_eq!(sent.request.as_ref().map(|full| full.request.id), Some(RequestId::new(3)));
        assert_eq!(app.counts(1).await, [0, 0, 0, 1]);
        assert_eq!(events(&app).await, ["USER_CREATED", "USER_CREATED", "REQUEST_CREATED", "CONNECTION_CREATED"]);
    }

    async fn a_refused_command_does_not_touch_the_others(app: App) {
        commit(&app, [create(Some(1), "ann"), create(Some(2), "bob"), create(Some(3), "cy")]).await;
        let outcomes = commit(&app, [send(1, 2), send(1, 9), send(1, 2), send(1, 3)]).await;
        assert!(outcomes[0].is_ok() && outcomes[3].is_ok());
        assert_eq!(outcomes[1], Err(Rejection::UserNotFound(UserId::new(9))));
        assert_eq!(outcomes[2], Err(Rejection::RequestPending(RequestId::new(4))));
        assert_eq!(app.counts(1).await, [2, 0, 0, 0]);
    }

    async fn one_request_id_has_one_effect_even_within_a_batch(app: App) {
        commit(&app, [create(Some(1), "ann"), create(Some(2), "bob")]).await;
        let encode = encode_revision;
        let key = Idempotency { id: Uuid::from_u128(7), fingerprint: [7; 32], encode };
        let again = Submission { caller: Caller::Operator, command: send(1, 2), idempotency: Some(key) };
        let other = Submission { idempotency: Some(Idempotency { fingerprint: [8; 32], ..key }), ..again.clone() };
        let replies = submit(&app, vec![again.clone(), again.clone(), other], Policy::default()).await;
        assert!(matches!(&replies[0], Ok(Reply::Fresh(executed)) if executed.revision.get() == 3), "{replies:?}");
        let first = Reply::Stored(3_i64.to_be_bytes().to_vec());
        assert_eq!(replies[1], Ok(first.clone()));
        assert_eq!(replies[2], Err(Rejection::RequestIdReused(key.id)));
        assert_eq!(submit(&app, vec![again], Policy::default()).await, [Ok(first)]);
        assert_eq!(events(&app).await.len(), 3);
    }

    async fn two_callers_may_use_the_same_request_id(app: App) {
        commit(&app, [create(Some(1), "ann"), create(Some(2), "bob"), create(Some(3), "cy")]).await;
        let encode = encode_revision;
        let id = Uuid::from_u128(7);
        let call = |caller: Caller, to: i64| {
            let fingerprint = [u8::try_from(to).expect("small"); 32];
            Submission { caller, command: send(1, to), idempotency: Some(Idempotency { id, fingerprint, encode }) }
        };
        let (operator, ann) = (Caller::Operator, Caller::User(UserId::new(1)));
        let both = [call(operator.clone(), 2), call(ann.clone(), 3)];
        let replies = submit(&app, both.to_vec(), Policy::default()).await;
        assert!(replies.iter().all(|reply| matches!(reply, Ok(Reply::Fresh(_)))), "{replies:?}");
        // In the batch that executed them, and in a later one.
        let first = [4_i64, 5].map(|revision| Ok(Reply::Stored(revision.to_be_bytes().to_vec())));
        assert_eq!(submit(&app, both.to_vec(), Policy::default()).await, first);
        let reused = submit(&app, vec![call(operator.clone(), 3), call(ann.clone(), 2)], Policy::default()).await;
        assert_eq!(reused, [Err(Rejection::RequestIdReused(id)), Err(Rejection::RequestIdReused(id))]);
        for (caller, expected) in [(operator, Some(4_i64)), (ann, Some(5)), (Caller::User(UserId::new(2)), None)] {
            let stored = app.store.idempotent_response(IdempotencyKey::new(&caller, id)).await.expect("a read");
            let response = stored.map(|stored| stored.encoded.response);
            assert_eq!(response, expected.map(|revision| revision.to_be_bytes().to_vec()), "{caller:?}");
        }
        assert_eq!(app.counts(1).await, [2, 0, 0, 0]);
    }

    async fn events_about_a_user_have_their_caller_as_the_actor_and_its_kind(app: App) {
        let by = |caller, command| Submission { caller, command, idempotency: None };
        let (ann, location) = (UserId::new(1), "Rome".parse().expect("a location"));
        let submissions = vec![
            by(Caller::Operator, create(Some(1), "ann")),
            by(Caller::User(ann), update(1, FieldUpdate::Location(location))),
            by(Caller::Service("service:users".into()), create(Some(2), "bob")),
            by(Caller::Service("service:users".into()), send(2, 1)),
            by(Caller::System, Command::DeleteUser(ann)),
        ];
        let replies = submit(&app, submissions, Policy::default()).await;
        assert!(replies.iter().all(Result::is_ok), "{replies:?}");
        let actors = "SELECT actor || ' by ' || principal AS value FROM events ORDER BY sequence";
        let actors = app.database.values(actors).await.into_iter().flatten().collect::<Vec<_>>();
        let expected = [
            "OPERATOR by ANONYMOUS",
            "USER by USER",
            "OPERATOR by SERVICE",
            "USER by SERVICE",
            "SYSTEM by SYSTEM",
            "SYSTEM by SYSTEM",
        ];
        assert_eq!(actors, expected);
        let list = async || {
            let listed = app.events().list_events(pb::ListEventsRequest::default()).await.expect("events");
            let events = listed.into_inner().events;
            events.iter().map(pb::Event::principal).collect::<Vec<_>>()
        };
        use pb::EventPrincipal::{Anonymous, Service, System, Unspecified, User};
        assert_eq!(list().await, [Anonymous, User, Service, Service, System, System]);
        // Those of an earlier version.
        app.database.execute("UPDATE events SET principal = NULL").await;
        assert_eq!(list().await, [Unspecified; 6]);
    }

    async fn a_panic_takes_one_command_with_it_and_no_more(app: App) {
        commit(&app, [create(Some(1), "ann"), create(Some(2), "bob"), create(Some(3), "cy")]).await;
        let (committer, _task) = Committer::start(Arc::clone(&app.store), Arc::default(), 8, &app.metrics);
        let encode: fn(&Executed) -> Option<EncodedResponse> = |_| panic!("this is a test");
        let key = Idempotency { id: Uuid::from_u128(7), fingerprint: [7; 32], encode };
        let bad = committer.submit(Submission { caller: Caller::Operator, command: send(1, 2), idempotency: Some(key) });
        let good = committer.submit(Submission { caller: Caller::Operator, command: send(1, 3), idempotency: None });
        let (bad, good) = tokio::join!(bad, good);
        assert_eq!(bad, Err(CommitError::Internal));
        assert!(good.is_ok(), "{good:?}");
        assert!(committer.submit(Submission { caller: Caller::Operator, command: send(2, 3), idempotency: None }).await.is_ok());
        assert_eq!(app.counts(1).await, [1, 0, 0, 0]);
    }

    async fn a_user_may_go_and_come_back_within_a_batch(app: App) {
        commit(&app, [create(Some(1), "ann"), create(Some(2), "bob"), send(1, 2)]).await;
        let move_to = FieldUpdate::Location("Rome".parse().expect("a place"));
        let update = update(1, move_to);
        let delete = Command::DeleteUser(UserId::new(1));
        let outcomes = commit(&app, [delete, create(Some(1), "Ann"), update, send(2, 1)]).await;
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        assert_eq!((app.counts(1).await, app.counts(2).await), ([0, 1, 1, 0], [1, 0, 0, 0]));
        let user = app.store.user(UserKey::Name("ann".to_owned())).await.expect("read").value.expect("there");
        assert_eq!((user.username.as_str(), user.location.as_str()), ("Ann", "Rome"));
    }

    async fn each_user_has_the_sequence_of_their_last_change(app: App) {
        let place = |place: &str| FieldUpdate::Location(place.parse().expect("a place"));
        commit(&app, [create(Some(1), "ann"), create(Some(2), "bob"), create(Some(3), "cy"), send(1, 2)]).await;
        let again = Command::ImportUser(Box::new(Profile { id: Some(UserId::new(3)),
            username: "cy".parse().expect("a name"), ..Profile::default()
        }));
        let expecting = |id: i64, revision: i64| {
            let (acting, fields) = (None, vec![place("Oslo")]);
            let expected = Some(Sequence::new(revision));
            Command::UpdateUser(UserUpdate { id: UserId::new(id), acting, fields, expected })
        };
        let batch = [update(1, place("Rome")), update(1, place("Rome")), again, expecting(1, 4), expecting(1, 5), expecting(1, 5)];
        let outcomes = commit(&app, batch).await;
        let conflict = |changed| Err(Rejection::Conflict { user: UserId::new(1), changed: Sequence::new(changed) });
        assert_eq!((&outcomes[3], &outcomes[5]), (&conflict(5), &conflict(6)));
        assert!(outcomes[4].is_ok(), "{outcomes:?}");
        let changed = "SELECT changed AS value FROM users ORDER BY id";
        assert_eq!(app.database.values(changed).await, ["6", "2", "3"].map(|text| Some(text.to_owned())));
    }

    async fn a_batch_that_deletes_a_user_deletes_what_it_created_for_them(app: App) {
        commit(&app, [create(Some(1), "ann"), create(Some(2), "bob"), create(Some(3), "cy")]).await;
        let block = Command::ActOnUser(UserId::new(2), UserId::new(3), UserAction::Block);
        let connect = [send(1, 2), Command::ActOnRequest(RequestId::new(4), UserId::new(2), RequestAction::Accept(Message::default()))];
        let outcomes = commit(&app, connect.into_iter().chain([block, Command::DeleteUser(UserId::new(2))])).await;
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        assert_eq!(app.counts(1).await, [0; 4]);
        for table in ["connection_requests", "blocks"] {
            assert_eq!(app.database.number(&format!("SELECT count(*) AS value FROM {table}")).await, 0);
        }
        assert_eq!(app.database.number("SELECT count(*) AS value FROM users").await, 2);
        assert_eq!(app.database.number("SELECT count(*) AS value FROM user_counts").await, 2);
    }

    async fn a_batch_that_changes_nothing_writes_nothing(app: App) {
        commit(&app, [create(Some(1), "ann"), create(Some(2), "bob"), send(1, 2)]).await;
        let accept = Command::ActOnRequest(RequestId::new(3), UserId::new(2), RequestAction::Accept(Message::default()));
        commit(&app, [accept.clone()]).await;
        let outcomes = commit(&app, [accept, send(1, 2)]).await;
        assert_eq!(outcomes[0].as_ref().map(|outcome| outcome.revision.get()), Ok(4));
        assert_eq!(outcomes[1], Err(Rejection::AlreadyConnected(RequestId::new(3))));
        assert_eq!(app.revision().await, 4);
    }


    async fn an_assigned_id_never_comes_back(app: App) {
        let first = app.user("ann").await;
        let delete = pb::DeleteUserRequest { id: first, request_id: String::new() };
        app.users().delete_user(delete).await.expect("deleted");
        assert!(app.user("ann").await > first);
        commit(&app, [create(Some(1_000), "bob")]).await;
        assert_eq!(app.user("cy").await, first + 2);
    }

    async fn an_assigned_id_is_one_that_nobody_has_before_or_within_the_batch(app: App) {
        commit(&app, [create(Some(1), "ann"), create(Some(4), "bob")]).await;
        let delete = Command::DeleteUser(UserId::new(1));
        let made = [create(None, "cy"), create(Some(3), "dee"), create(None, "Dee"), create(None, "eve")];
        let made = commit(&app, [delete].into_iter().chain(made).chain([create(Some(5), "fay"), create(None, "gus")])).await;
        let ids: Vec<_> = made[1..].iter().map(|made| match made {
            Ok(Executed { outcome: Outcome::UserCreated(user), .. }) => Ok(user.id.get()),
            Ok(other) => panic!("{other:?}"),
            Err(rejection) => Err(rejection.clone()),
        }).collect();
        let (taken, exists) = (Rejection::UsernameTaken("Dee".to_owned()), Rejection::UserExists(UserId::new(5)));
        assert_eq!(ids, [Ok(2), Ok(3), Err(taken), Ok(5), Err(exists), Ok(6)]);
        let last = "SELECT last_assigned_user_id AS value FROM feed";
        assert_eq!(app.database.number(last).await, 6);
        // A refused creation alone writes nothing, not even the counter.
        let head = "SELECT last_batch_id AS value FROM feed";
        let before = app.database.number(head).await;
        assert!(commit(&app, [create(None, "cy")]).await[0].is_err());
        assert_eq!(app.database.number(head).await, before);
    }

    async fn everything_is_there_after_a_restart(app: App) {
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        let id = app.connect(ann, bob).await;
        let again = store::connect(&app.database.url(), Options::default()).await.expect("a store");
        assert_eq!(again.position().await.expect("a position").sequence.get(), app.revision().await);
        assert_eq!(again.token_key(), app.store.token_key());
        let listed = again.request(RequestId::new(id)).await.expect("read");
        assert_eq!(listed.rows.len(), 1);
    }

    async fn an_expired_request_is_gone_immediately_for_every_viewer(app: App) {
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        let id = app.send(ann, bob).await;
        app.clock.advance(TimeDelta::days(180) - TimeDelta::microseconds(1));
        assert_eq!((app.counts(ann).await, app.counts(bob).await), ([1, 0, 0, 0], [0, 1, 1, 0]));
        app.clock.advance(TimeDelta::microseconds(1));
        assert_eq!((app.counts(ann).await, app.counts(bob).await), ([0; 4], [0; 4]));
        for viewer in [ann, bob, 0] {
            refused(app.request(id, viewer).await, Code::NotFound, ErrorReason::RequestNotFound);
        }
        assert_eq!(app.status(bob, ann).await, pb::ConnectionStatus::None);
        refused(app.accept(id, bob).await, Code::NotFound, ErrorReason::RequestNotFound);
        assert!(app.send(ann, bob).await > id);
        assert_eq!(app.database.number("SELECT count(*) AS value FROM connection_requests").await, 1);
        let kinds = events(&app).await;
        assert_eq!(kinds[2..], ["REQUEST_CREATED", "REQUEST_EXPIRED", "REQUEST_CREATED"]);
    }

    #[with(|settings| settings.policy.max_sent_requests = Some(2))]
    async fn an_expired_request_makes_room_for_another(app: App) {
        let ann = app.user("ann").await;
        let others = [app.user("bob").await, app.user("cy").await, app.user("dee").await, app.user("eve").await];
        app.send(ann, others[0]).await;
        app.clock.advance(TimeDelta::days(100));
        app.send(ann, others[1]).await;
        refused(app.try_send(ann, others[2]).await, Code::ResourceExhausted, ErrorReason::LimitReached);
        app.clock.advance(TimeDelta::days(80));
        app.send(ann, others[2]).await;
        assert_eq!(app.counts(ann).await, [2, 0, 0, 0]);
        refused(app.try_send(ann, others[3]).await, Code::ResourceExhausted, ErrorReason::LimitReached);
    }

    async fn a_sweep_expires_requests_in_steps(app: App) {
        let users = 60;
        commit(&app, (1..=users).map(|id| create(Some(id), &format!("user{id}")))).await;
        let pairs: Vec<_> = (1..=users).flat_map(|low| (low + 1..=users).map(move |high| (low, high))).collect();
        for chunk in pairs.chunks(500) {
            commit(&app, chunk.iter().map(|(low, high)| send(*low, *high))).await;
        }
        app.clock.advance(TimeDelta::days(180));
        let fresh = commit(&app, [create(Some(100), "late"), send(100, 1)]).await;
        assert!(fresh.iter().all(Result::is_ok));
        let mut steps = Vec::new();
        loop {
            // Old events are deleted in separate steps.
            let policy = Policy { event_retention: None, ..Policy::default() };
            let swept = submit(&app, vec![Submission { caller: Caller::Operator, command: Command::Sweep, idempotency: None }], policy).await;
            let [Ok(Reply::Fresh(swept))] = swept.as_slice() else { panic!("{swept:?}") };
            let Outcome::Swept { rows, more: _ } = swept.outcome else { panic!("{swept:?}") };
            if rows.total() == 0 {
                break;
            }
            steps.push(rows.requests);
        }
        assert_eq!(steps, [500, 500, 500, 270]);
        assert_eq!(app.database.number("SELECT count(*) AS value FROM connection_requests").await, 1);
        assert_eq!(app.database.number("SELECT sum(requests_sent) AS value FROM user_counts").await, 1);
        assert_eq!(app.database.number("SELECT sum(requests_unviewed) AS value FROM user_counts").await, 1);
        let expired = "SELECT count(*) AS value FROM events WHERE kind = 'REQUEST_EXPIRED' AND actor = 'SYSTEM' \
                       AND principal = 'SYSTEM'";
        assert_eq!(app.database.number(expired).await, 1_770);
    }

    async fn a_sweep_deletes_cooldowns_that_are_over_and_old_responses(app: App) {
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        let id = app.send(ann, bob).await;
        app.reject(id, bob).await.expect("rejected");
        let request_id = Uuid::from_u128(1).to_string();
        let cancel = pb::CancelConnectionRequestRequest { id, user_id: ann, request_id };
        app.requests().cancel_connection_request(cancel).await.expect("cancelled");
        let rows = ["cooldowns", "request_ids"].map(|table| format!("SELECT count(*) AS value FROM {table}"));
        let revision = app.revision().await;
        app.clock.advance(TimeDelta::hours(24));
        commit(&app, [Command::Sweep]).await;
        assert_eq!((app.database.number(&rows[0]).await, app.database.number(&rows[1]).await), (1, 0));
        app.clock.advance(TimeDelta::days(29));
        commit(&app, [Command::Sweep]).await;
        assert_eq!(app.database.number(&rows[0]).await, 0);
        assert_eq!(app.revision().await, revision, "nobody saw it: there is no event");
    }

    async fn users_of_one_batch_may_exchange_their_names(app: App) {
        let named = |id: i64, name: &str| {
            let username = name.parse().expect("a name");
            Profile { id: Some(UserId::new(id)), username, ..Profile::default() }
        };
        commit(&app, [create(Some(1), "ann"), create(Some(2), "bob"), create(Some(3), "cy")]).await;
        // In one command, in several, and to a user who is new.
        let together = Command::ImportTogether(vec![named(1, "Bob"), named(2, "Cy"), named(3, "Ann"), named(4, "ann")]);
        let outcomes = commit(&app, [together]).await;
        let updated = || Ok(Imported::Updated);
        let taken = Err(Rejection::UsernameTaken("ann".to_owned()));
        let expected = Outcome::UsersImported(vec![updated(), updated(), updated(), taken]);
        assert_eq!(outcomes[0].as_ref().map(|executed| &executed.outcome), Ok(&expected));
        let rename = |id, name: &str| update(id, FieldUpdate::Username(name.parse().expect("a name")));
        let outcomes = commit(&app, [rename(1, "x"), rename(2, "bob"), create(Some(5), "Cy"), rename(1, "dee")]).await;
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        let names = "SELECT username || id AS value FROM users ORDER BY id";
        assert_eq!(app.database.values(names).await.into_iter().flatten().collect::<Vec<_>>(), ["dee1", "bob2", "Ann3", "Cy5"]);
        for (name, id) in [("dee", 1), ("bob", 2), ("ann", 3), ("cy", 5)] {
            let user = app.store.user(UserKey::Name(name.to_owned())).await.expect("read").value.expect("there");
            assert_eq!(user.id.get(), id);
        }
    }

    async fn two_users_may_exchange_their_names_in_one_import(app: App) {
        let row = |id, username: &str| {
            let user = pb::User { id, username: username.to_owned(), ..Default::default() };
            pb::ImportUsersRequest { user: Some(user), request_id: String::new() }
        };
        let import = async |rows: Vec<pb::ImportUsersRequest>| {
            app.users().import_users(tokio_stream::iter(rows)).await.expect("an import").into_inner()
        };
        assert_eq!(import(vec![row(1, "ann"), row(2, "bob")]).await.created, 2);
        let swapped = import(vec![row(1, "other"), row(2, "ann"), row(1, "bob")]).await;
        assert_eq!((swapped.updated, swapped.refused), (3, 0), "{swapped:?}");
        let name = |id| app.store.user(UserKey::Id(UserId::new(id)));
        assert_eq!(name(1).await.unwrap().value.unwrap().username.as_str(), "bob");
        assert_eq!(name(2).await.unwrap().value.unwrap().username.as_str(), "ann");
    }
}
