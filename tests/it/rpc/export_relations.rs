use std::time::Duration;

use kith::proto::v1 as pb;
use kith::proto::v1::relation_row::Row;
use kith::proto::v1::{ConnectionRequestState as State, ErrorReason};
use tonic::{Code, Status};

use super::people;
use crate::cases;
use crate::harness::raw::{RawChannel, read};
use crate::harness::{App, refused, until};

const EXPORT: &str = "/kith.v1.ImportService/ExportRelations";
/// The number of exports that may run at the same time.
const EXPORTS_MAX: usize = 2;

async fn begin(app: &App) -> Result<tonic::Streaming<pb::ExportRelationsResponse>, Status> {
    Ok(app.imports().export_relations(pb::ExportRelationsRequest::default()).await?.into_inner())
}

/// Reads an export to its end.
async fn rest(mut stream: tonic::Streaming<pb::ExportRelationsResponse>) -> Vec<pb::ExportRelationsResponse> {
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await.expect("a message") {
        messages.push(message);
    }
    messages
}

/// Users with so much text that an export is much larger than what the server sends ahead.
async fn talkative(app: &App) {
    let row = |id: i64| pb::ImportUsersRequest {
        user: Some(pb::User { id, username: format!("user-{id}"), bio: "👋".repeat(5_000), ..Default::default() }),
        request_id: String::new(),
    };
    let rows = tokio_stream::iter((1_000..1_300).map(row));
    assert_eq!(app.users().import_users(rows).await.expect("an import").into_inner().created, 300);
}

cases! {
    async fn an_export_is_not_changed_by_what_is_committed_while_it_is_read(app: App) {
        let [ann, bob, cy] = people(&app).await;
        talkative(&app).await;
        let pending = app.send(ann, bob).await;
        let revision = app.revision().await;
        let stream = begin(&app).await.expect("a stream");
        app.accept(pending, bob).await.expect("a connection");
        app.send(cy, ann).await;
        app.block(cy, bob).await;
        let messages = rest(stream).await;
        assert!(messages.len() > 20 && messages.iter().all(|message| message.revision == revision));
        let rows: Vec<_> = messages.iter().flat_map(|message| &message.rows).map(|row| row.row.as_ref().expect("a row")).collect();
        let users = rows.iter().filter(|row| matches!(row, Row::User(_))).count();
        assert_eq!(users, 303);
        let [Row::Request(request)] = rows[users..] else { panic!("{:?}", &rows[users..]) };
        assert_eq!((request.id, request.state()), (pending, State::Pending));
        assert_eq!(messages.last().expect("a footer").footer, Some(pb::RelationFooter { users: 303, requests: 1, ..Default::default() }));
        // The next one has it all.
        let messages = rest(begin(&app).await.expect("a stream")).await;
        assert_eq!(messages.last().expect("a footer").footer, Some(pb::RelationFooter { users: 303, connections: 1, requests: 1, blocks: 1 }));
    }

    #[with(|settings| settings.max_call_time = Duration::from_secs(3))]
    async fn exports_that_nobody_reads_end(app: App) {
        talkative(&app).await;
        let mut channel = RawChannel::with_window(&app.address, 4 << 10).await;
        let mut unread = Vec::new();
        for _ in 0..EXPORTS_MAX {
            unread.push(channel.post(EXPORT, pb::ExportRelationsRequest::default()).await.into_body());
        }
        refused(begin(&app).await.map(drop), Code::ResourceExhausted, ErrorReason::Overloaded);
        until("there is room again", async || begin(&app).await.is_ok()).await;
        let (bytes, trailers) = read(unread.remove(0)).await;
        assert!(bytes < 4 << 20, "{bytes} bytes of an export");
        let status = Status::from_header_map(&trailers).expect("a status");
        refused(Err::<(), _>(status), Code::DeadlineExceeded, ErrorReason::DeadlinePassed);
    }

    async fn a_revision_is_no_less_than_zero(app: App) {
        let request = pb::ExportRelationsRequest { min_revision: -1, ..Default::default() };
        let refusal = app.imports().export_relations(request).await;
        refused(refusal.map(drop), Code::InvalidArgument, ErrorReason::InvalidFields);
    }
}
