//! More calls than the database takes: those beyond the queue are refused while the others wait, cost no capacity, and
//! leave nothing behind. `make overload` measures the same under load.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kith::proto::v1 as pb;
use kith::proto::v1::ErrorReason;
use tonic::{Code, Status};

use crate::faults::reveals_nothing;
use crate::harness::App;
use crate::harness::faulty::{Fault, Faulty};
use crate::on_each_engine;

/// The writes that the queue has room for.
const QUEUED: i64 = 16;
/// How many more are offered.
const TIMES: i64 = 10;

async fn send(app: &App, from_user_id: i64, to_user_id: i64) -> Result<(), Status> {
    let request = pb::SendConnectionRequestRequest { from_user_id, to_user_id, ..Default::default() };
    app.requests().send_connection_request(request).await.map(drop)
}

on_each_engine! {
    async fn ten_times_the_writes_that_have_room_are_refused_without_waiting_and_none_of_the_others_is_lost(engine: Engine) {
        let (app, store) = Faulty::app(engine, |settings| {
            settings.max_queued_writes = usize::try_from(QUEUED).unwrap();
            (settings.policy.max_sends_per_hour, settings.policy.max_sends_per_pair) = (None, None);
        })
        .await;
        let ann = app.user("ann").await;
        let mut others = Vec::new();
        for number in 0..3 * (TIMES * QUEUED + 1) {
            others.push(app.user(&format!("user-{number}")).await);
        }
        let (mut sent, mut others) = (0, others.into_iter());
        for round in 1..=3 {
            store.commits(Fault::Blocks);
            let begun = store.begun_so_far();
            // The batch that the database holds.
            let mut first = Box::pin(send(&app, ann, others.next().unwrap()));
            tokio::select! {
                result = &mut first => panic!("it was not held: {result:?}"),
                () = store.begun(begun + 1) => {}
            }
            let offered = others.by_ref().take(usize::try_from(TIMES * QUEUED).unwrap());
            let mut calls: FuturesUnordered<_> = offered.map(|other| send(&app, ann, other)).collect();
            // Each of them is refused while the database still does nothing.
            for _ in 0..(TIMES - 1) * QUEUED {
                let result = calls.next().await.expect("a call");
                reveals_nothing(result, Code::ResourceExhausted, ErrorReason::Overloaded);
            }
            // Reads have a queue of their own.
            let counts = pb::GetConnectionCountsRequest { user_id: ann, min_revision: 0, ..Default::default() };
            app.connections().get_connection_counts(counts.clone()).await.expect("counts");
            store.commits(Fault::None);
            first.await.expect("the one that was held");
            while let Some(result) = calls.next().await {
                result.expect("one that had room");
            }
            sent += 1 + QUEUED;
            let counts = app.connections().get_connection_counts(counts).await.expect("counts").into_inner();
            assert_eq!(counts.requests_sent, sent, "round {round}");
        }
    }
}
