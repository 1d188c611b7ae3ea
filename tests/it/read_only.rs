//! Does a server with `--read-only` serve all reads, change nothing, and refuse all writes?

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use kith::proto::FILE_DESCRIPTOR_SET;
use kith::proto::v1::{self as pb, ErrorReason};
use prost::Message;
use prost_types::FileDescriptorSet;
use prost_types::method_options::IdempotencyLevel;
use tonic::{Code, Response, Status};
use uuid::Uuid;

use crate::freshness::{How, Outcome, read_all};
use crate::harness::clients::Clients;
use crate::harness::process::{Kith, command, run, run_command};
use crate::harness::{Database, Engine, database, refused, until};
use crate::on_each_engine;

/// Request 3, of user 2 to user 1, is what all reads ask for. These are those of users 3 to 7 to user 1, who blocks user
/// 8.
pub struct Prepared([i64; 5]);

/// Makes what the writes of [`write_all`] need, by a server that writes.
pub async fn prepare(clients: &Clients) -> Prepared {
    for id in 1..=9 {
        clients.create(id).await.expect("a user");
        if id == 2 {
            assert_eq!(clients.send(2, 1).await, 3);
        }
    }
    let mut requests = [0; 5];
    for (request, from) in requests.iter_mut().zip(3..) {
        *request = clients.send(from, 1).await;
    }
    clients.block(1, 8).await;
    Prepared(requests)
}

macro_rules! writes {
    ($requests:ident, $($client:ident.$method:ident($rpc:literal, $request:expr);)+) => {
        /// Makes every write of the API, each of which can succeed. Returns what became of them, by RPC.
        pub async fn write_all(
            clients: &Clients,
            Prepared($requests): &Prepared,
        ) -> Vec<(&'static str, Result<i64, Status>)> {
            let import = ("ImportRelations", import_relation(clients).await);
            vec![import, $({
                let result = clients.$client().$method($request).await;
                ($rpc, result.map(Response::into_inner).map(|response| response.revision))
            }),+]
        }
    };
}

writes! { requests,
    users.create_user("CreateUser", pb::CreateUserRequest { user: Some(user(10)), request_id: id() });
    users.update_user("UpdateUser", pb::UpdateUserRequest {
        user: Some(pb::User { bio: "new".to_owned(), ..user(2) }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["bio".to_owned()] }),
        request_id: id(),
        ..Default::default()
    });
    users.import_users("ImportUsers", tokio_stream::iter([
        pb::ImportUsersRequest { user: Some(user(11)), request_id: id() }
    ]));
    requests.send_connection_request("SendConnectionRequest", pb::SendConnectionRequestRequest {
        from_user_id: 1, to_user_id: 9, message: "Hi".to_owned(), request_id: id()
    });
    requests.accept_connection_request("AcceptConnectionRequest", pb::AcceptConnectionRequestRequest {
        id: requests[0], user_id: 1, request_id: id(), ..Default::default()
    });
    requests.reject_connection_request("RejectConnectionRequest", pb::RejectConnectionRequestRequest {
        id: requests[1], user_id: 1, request_id: id()
    });
    requests.restore_connection_request("RestoreConnectionRequest", pb::RestoreConnectionRequestRequest {
        id: requests[1], user_id: 1, request_id: id()
    });
    requests.cancel_connection_request("CancelConnectionRequest", pb::CancelConnectionRequestRequest {
        id: requests[2], user_id: 5, request_id: id()
    });
    requests.mark_connection_request_viewed("MarkConnectionRequestViewed", pb::MarkConnectionRequestViewedRequest {
        id: requests[3], user_id: 1, request_id: id()
    });
    requests.mark_all_connection_requests_viewed(
        "MarkAllConnectionRequestsViewed",
        pb::MarkAllConnectionRequestsViewedRequest { user_id: 1, request_id: id() }
    );
    connections.remove_connection("RemoveConnection", pb::RemoveConnectionRequest {
        user_id: 1, other_user_id: 3, request_id: id()
    });
    blocks.block_user("BlockUser", pb::BlockUserRequest { user_id: 1, other_user_id: 7, request_id: id() });
    blocks.unblock_user("UnblockUser", pb::UnblockUserRequest { user_id: 1, other_user_id: 8, request_id: id() });
    users.delete_user("DeleteUser", pb::DeleteUserRequest { id: 4, request_id: id() });
}

/// Imports a block, and returns the last revision. Its responses are a stream.
async fn import_relation(clients: &Clients) -> Result<i64, Status> {
    let user = |id| Some(pb::UserReference { key: Some(pb::user_reference::Key::Id(id)) });
    let block = pb::BlockRow { user: user(9), other: user(8), ..Default::default() };
    let rows = vec![pb::RelationRow { row: Some(pb::relation_row::Row::Block(block)) }];
    let messages = [pb::ImportRelationsRequest { options: Some(Default::default()), rows }];
    let mut responses = clients.imports().import_relations(tokio_stream::iter(messages)).await?.into_inner();
    let mut revision = 0;
    while let Some(response) = responses.message().await? {
        revision = response.revision;
    }
    Ok(revision)
}

fn user(id: i64) -> pb::User {
    pb::User { id, username: format!("user-{id}"), ..Default::default() }
}

fn id() -> String {
    Uuid::new_v4().to_string()
}

/// The names of all RPCs that are no reads.
fn writes() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("descriptors");
    let ours = set.file.into_iter().filter(|file| file.package() == "kith.v1");
    let methods = ours.flat_map(|file| file.service).flat_map(|service| service.method);
    let is_write = |method: &prost_types::MethodDescriptorProto| {
        let level = method.options.as_ref().map(|options| options.idempotency_level()).unwrap_or_default();
        level != IdempotencyLevel::NoSideEffects
    };
    methods.filter(is_write).map(|method| method.name().to_owned()).collect()
}

/// Asserts that every write is refused.
pub async fn refuses_writes(clients: &Clients, prepared: &Prepared) {
    let refusals = write_all(clients, prepared).await;
    assert_eq!(refusals.iter().map(|(rpc, _)| (*rpc).to_owned()).collect::<BTreeSet<_>>(), writes());
    for (_, refusal) in refusals {
        refused(refusal, Code::FailedPrecondition, ErrorReason::ReadOnly);
    }
    let nothing = clients.users().import_users(tokio_stream::empty()).await;
    refused(nothing, Code::FailedPrecondition, ErrorReason::ReadOnly);
}

/// Asserts that every read reflects this revision or a later one.
pub async fn serves_reads(clients: &Clients, min_revision: i64) {
    for Outcome { rpc, result, .. } in read_all(clients, How::at(min_revision)).await {
        let revision = result.unwrap_or_else(|status| panic!("{rpc}: {status:?}"));
        assert!(revision >= min_revision, "{rpc}");
    }
}

on_each_engine! {
    async fn a_server_that_only_reads_follows_one_that_writes(engine: Engine) {
        let database = Database::migrated(engine).await;
        let writer = Kith::serve(&database.url, &[]).await;
        let (ann, bob) = (writer.clients().user("ann").await, writer.clients().user("bob").await);
        assert_eq!((ann, bob, writer.clients().send(ann, bob).await), (1, 2, 3));
        let reader = Kith::serve(&database.url, &["--read-only", "--sweep-interval=1ms"]).await;
        let clients = reader.clients();
        serves_reads(&clients, 3).await;
        let mut watching = clients.watch(pb::WatchEventsRequest::default()).await;
        assert_eq!(writer.clients().user("cy").await, 3);
        let message = watching.next_events().await;
        assert_eq!(message.events.iter().map(|event| event.user_id).collect::<Vec<_>>(), [3]);
        serves_reads(&clients, 4).await;
        // A user that the reader has cached is changed.
        writer.clients().update(1, "new").await;
        let request = pb::GetUserRequest { key: Some(pb::get_user_request::Key::Id(1)), min_revision: 5, ..Default::default() };
        assert_eq!(clients.users().get_user(request).await.expect("a user").into_inner().user.expect("a user").bio, "new");
        // It goes on when the server that writes is replaced by another one.
        writer.signal("TERM");
        assert!(writer.wait().await.status.success());
        let writer = Kith::serve(&database.url, &[]).await;
        assert_eq!(writer.clients().user("dee").await, 4);
        while watching.next_events().await.events.iter().all(|event| event.user_id != 4) {}
        // Fields are checked first.
        let invalid = clients.users().create_user(pb::CreateUserRequest::default()).await;
        refused(invalid, Code::InvalidArgument, ErrorReason::InvalidFields);
        let address = format!("--address={}", reader.address);
        assert!(run(&["healthcheck", &address]).await.status.success());
        reader.signal("TERM");
        let ended = reader.wait().await;
        assert!(ended.status.success(), "{ended:#?}");
        assert!(!ended.log.contains("WARN") && !ended.log.contains("ERROR"), "{ended:#?}");
    }

    async fn a_server_that_only_reads_refuses_every_write(engine: Engine) {
        let database = Database::migrated(engine).await;
        let writer = Kith::serve(&database.url, &[]).await;
        let prepared = prepare(&writer.clients()).await;
        let head = "SELECT last_sequence || '-' || last_batch_id AS value FROM feed";
        let before = database.values(head).await;
        let reader = Kith::serve(&database.url, &["--read-only=true"]).await;
        refuses_writes(&reader.clients(), &prepared).await;
        assert_eq!(database.values(head).await, before);
        // The same calls succeed elsewhere.
        for (rpc, written) in write_all(&writer.clients(), &prepared).await {
            written.unwrap_or_else(|status| panic!("{rpc}: {status:?}"));
        }
    }

    async fn a_server_that_only_reads_never_migrates(engine: Engine) {
        let database = Database::empty(engine).await;
        let url = format!("--database-url={}", database.url);
        let lacks = format!("lacks {} migration(s)", database::migrations());
        let expected = if engine == Engine::Sqlite { "no such file" } else { &lacks };
        let ended = run(&["serve", "--listen=127.0.0.1:0", "--read-only", "--migrate=true", &url]).await;
        assert!(!ended.status.success() && ended.log.contains(expected), "{ended:#?}");
        if engine == Engine::Sqlite {
            assert!(!fs::exists(database.path()).expect("a folder"));
        }
    }
}

const NOBODY: u32 = 65_534;

/// The same command as another user than root, who may do less.
fn as_nobody(mut command: Command) -> Command {
    if fs::metadata("/proc/self").expect("a process").uid() == 0 {
        command.uid(NOBODY);
    }
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_written_is_read() {
    let database = Database::migrated(Engine::Sqlite).await;
    let writer = Kith::serve(&database.url, &[]).await;
    writer.clients().user("ann").await;
    let folder = std::path::Path::new(database.path()).parent().expect("a folder").to_owned();
    let set = |mode, file_mode| {
        fs::set_permissions(&folder, Permissions::from_mode(mode)).expect("permissions");
        fs::set_permissions(database.path(), Permissions::from_mode(file_mode)).expect("permissions");
    };
    writer.signal("TERM");
    assert!(writer.wait().await.status.success());
    set(0o555, 0o444);
    let url = format!("--database-url={}", database.url);
    let serve = |more: &[&str]| as_nobody(command(&[&["serve", "--listen=127.0.0.1:0", &url], more].concat()));
    let ended = run_command(serve(&[])).await;
    let words = ["the database cannot be written", "may not write", "`kith serve --read-only`"];
    assert!(!ended.status.success() && words.iter().all(|word| ended.log.contains(word)), "{ended:#?}");
    let reader = Kith::start(serve(&["--read-only"])).await;
    let listed = reader.clients().users().list_users(pb::ListUsersRequest::default()).await.expect("a list");
    assert_eq!(listed.into_inner().users.len(), 1);
    until("health is reported", async || {
        run(&["healthcheck", &format!("--address={}", reader.address)]).await.status.success()
    })
    .await;
    assert!(run_command(as_nobody(command(&["check", &url]))).await.status.success());
    assert!(run_command(as_nobody(command(&["migrate", "--status", &url]))).await.status.success());
    drop(reader);
    set(0o755, 0o644);
}
