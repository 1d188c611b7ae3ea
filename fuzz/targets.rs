//! What is fuzzed: a function of any bytes for each request message, and for each other text that Kith reads.
//!
//! A target panics if it finds a fault. `make test` runs each on its corpus and on changed copies of it; `make fuzz`
//! runs them under libFuzzer. A new RPC needs a target: a test compares them with the protos.

#[path = "credentials.rs"]
mod credentials;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::str::FromStr;

use kith::auth::Principal;
use kith::auth::rights::{Governed, authorize};
use kith::config::{Address, Cli, Origins, Refused, ServerAddress};
use kith::domain::Time;
use kith::domain::caller::Caller;
use kith::domain::command::{Command, RequestAction, UserAction};
use kith::domain::id::UserId;
use kith::domain::policy::Policy;
use kith::domain::text::UsernameRule;
use kith::mapping::idempotency::idempotency;
use kith::mapping::invalid::{Fields, Invalid};
use kith::mapping::mutation::Mutation;
use kith::mapping::page::{Paged, token};
use kith::mapping::{connection, connection_request, event, export, relation, user};
use kith::proto::server as pb;
use kith::store::DatabaseUrl;
use kith::transfer::{CsvReader, Header, JsonReader, JsonWriter, Kind, Row, RowReader, Rules, refused};
use prost::Message;
use tempfile::NamedTempFile;
use uuid::Uuid;

/// A function of any bytes, with the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// The key of page tokens.
const KEY: &[u8] = b"key";
/// The principal whose requests are tried beside those of an operator.
const USER: UserId = UserId::new(7);

/// All targets.
pub fn targets() -> impl Iterator<Item = Target> {
    [READS, MUTATIONS, PAGES, FILES, SETTINGS, credentials::CREDENTIALS].into_iter().flatten().copied()
}

fn rules() -> Rules {
    Rules { usernames: UsernameRule::Open, now: now() }
}

fn now() -> Time {
    Time::from_timestamp(1_780_000_000, 0).expect("a time")
}

/// Decodes a request and parses it, on behalf of an operator and of a user.
fn read<M, T>(bytes: &[u8], parse: impl Fn(&M, &Caller) -> Result<T, Invalid>)
where
    M: Message + Governed + Clone + Default + PartialEq,
{
    let Ok(mut request) = M::decode(bytes) else { return };
    let decoded = M::decode(&*request.encode_to_vec()).expect("its own encoding");
    assert!(decoded == request, "it is decoded as it was");
    let check = |request: &M, caller: &Caller| {
        if let Err(invalid) = parse(request, caller) {
            assert!(!invalid.violations.is_empty(), "it says what is invalid");
        }
    };
    check(&request, &Caller::Operator);
    if authorize(&Principal::User(USER), &mut request).is_ok() {
        let acting = request.acting().map(|acting| *acting);
        assert!(acting.is_none_or(|acting| acting == USER.get()), "it acts for {acting:?}");
        check(&request, &Caller::User(USER));
    }
}

/// The same for a request that may be repeated.
fn mutation<M>(bytes: &[u8], parse: impl Fn(&M, &Caller) -> Result<(Command, Option<Uuid>), Invalid>)
where
    M: Mutation + Governed + Clone + Default + PartialEq,
{
    read(bytes, |request: &M, caller: &Caller| {
        let (_, id) = parse(request, caller)?;
        id.into_iter().for_each(|id| _ = idempotency(id, request));
        Ok(())
    });
}

macro_rules! targets {
    ($list:ident = $run:ident: $($name:ident($request:ident) => $parse:expr,)+) => {
        const $list: &[Target] = &[$((stringify!($name), |bytes| $run::<pb::$request, _>(bytes, $parse))),+];
    };
}

macro_rules! mutations {
    ($($name:ident($request:ident) => $parse:expr,)+) => {
        const MUTATIONS: &[Target] = &[$((stringify!($name), |bytes| mutation::<pb::$request>(bytes, $parse))),+];
    };
}

targets! { READS = read:
    GetUser(GetUserRequest) => |request, _| user::key(request, &Policy::default()),
    BatchGetUsers(BatchGetUsersRequest) => |request, _| user::named(request),
    ListUsers(ListUsersRequest) => |request, _| user::page(request, KEY),
    ExportUser(ExportUserRequest) => export::export,
    ImportUsers(ImportUsersRequest) => |request, _| user::import(request, &Policy::default(), now()),
    GetConnectionRequest(GetConnectionRequestRequest) => connection_request::get,
    ListConnectionRequests(ListConnectionRequestsRequest) =>
        |request, _| connection_request::list(request, &Policy::default(), KEY),
    ListConnections(ListConnectionsRequest) => |request, _| connection::list(request, KEY),
    GetConnectionStatus(GetConnectionStatusRequest) => |request, _| connection::status(request),
    BatchGetConnectionStatuses(BatchGetConnectionStatusesRequest) => |request, _| connection::statuses(request),
    GetConnectionCounts(GetConnectionCountsRequest) => |request, _| connection::counts(request),
    ListMutualConnections(ListMutualConnectionsRequest) => |request, _| connection::mutual(request, KEY),
    ListBlockedUsers(ListBlockedUsersRequest) => |request, _| connection::blocked(request, KEY),
    WatchEvents(WatchEventsRequest) => event::watch,
    ListEvents(ListEventsRequest) => |request, caller| event::list(request, caller, KEY),
    ImportRelations(ImportRelationsRequest) => |request, _| {
        request.rows.iter().for_each(|row| drop(relation::row(row, &rules()).inspect_err(|(_, wrong)| assert!(!wrong.is_empty()))));
        Ok::<_, Invalid>(())
    },
    ExportRelations(ExportRelationsRequest) => |request, _| relation::export(request),
}

mutations! {
    CreateUser(CreateUserRequest) => |request, _| user::create(request, &Policy::default(), now()),
    UpdateUser(UpdateUserRequest) => |request, caller| user::update(request, caller, &Policy::default(), now()),
    DeleteUser(DeleteUserRequest) => |request, _| user::delete(request),
    SendConnectionRequest(SendConnectionRequestRequest) => |request, _| connection_request::send(request),
    AcceptConnectionRequest(AcceptConnectionRequestRequest) => |request, _| connection_request::accept(request),
    RejectConnectionRequest(RejectConnectionRequestRequest) => |request, _|
        connection_request::act_on_request(RequestAction::Reject, request.id, request.user_id, &request.request_id),
    RestoreConnectionRequest(RestoreConnectionRequestRequest) => |request, _|
        connection_request::act_on_request(RequestAction::Restore, request.id, request.user_id, &request.request_id),
    CancelConnectionRequest(CancelConnectionRequestRequest) => |request, _|
        connection_request::act_on_request(RequestAction::Cancel, request.id, request.user_id, &request.request_id),
    MarkConnectionRequestViewed(MarkConnectionRequestViewedRequest) => |request, _|
        connection_request::act_on_request(RequestAction::MarkViewed, request.id, request.user_id, &request.request_id),
    MarkAllConnectionRequestsViewed(MarkAllConnectionRequestsViewedRequest) => |request, _|
        connection_request::mark_all(request),
    RemoveConnection(RemoveConnectionRequest) => |request, _|
        connection::act_on_user(UserAction::Remove, request.user_id, request.other_user_id, &request.request_id),
    BlockUser(BlockUserRequest) => |request, _|
        connection::act_on_user(UserAction::Block, request.user_id, request.other_user_id, &request.request_id),
    UnblockUser(UnblockUserRequest) => |request, _|
        connection::act_on_user(UserAction::Unblock, request.user_id, request.other_user_id, &request.request_id),
}

/// Page tokens. One that is accepted is the one that Kith makes for its position.
const PAGES: &[Target] = &[("PageToken", |bytes| {
    let page_token = String::from_utf8_lossy(bytes).into_owned();
    let list = pb::ListBlockedUsersRequest { user_id: 1, page_token, ..Default::default() };
    let mut fields = Fields::default();
    let page = fields.page(&list, KEY);
    match fields.finish(()) {
        Ok(()) => assert!(
            list.page_token().is_empty()
                || page.seen.is_some_and(|seen| token(&list, page.cursor, &seen, KEY) == list.page_token())
        ),
        Err(invalid) => assert_eq!(invalid.violations[0].field, "page_token"),
    }
})];

/// Files that are imported.
const FILES: &[Target] = &[
    ("ExportFile", |bytes| read_rows(JsonReader::new(bytes, rules()))),
    ("CsvFile", |bytes| {
        for kind in Kind::ALL {
            match CsvReader::new(bytes, kind, rules()) {
                Ok(reader) => read_rows(reader),
                Err(error) => assert!(!error.to_string().is_empty(), "it says what is wrong"),
            }
        }
    }),
];

/// Reads a file to its end. A row that is valid is the same when it is written and read again; one that is refused becomes
/// a line of a file that can be read.
fn read_rows(mut reader: impl RowReader) {
    while let Ok(Some(read)) = reader.next_row() {
        match read.row {
            Ok(row) => {
                let file = write(&row);
                let mut again = JsonReader::new(&*file, rules());
                let second = std::iter::from_fn(|| again.next_row().expect("a valid file")).nth(1).expect("a row");
                if row.kind().is_some() {
                    assert!(write(&second.row.expect("a valid row")) == file, "it is read as it was written");
                }
            }
            Err(refusal) => {
                assert!(!refusal.violations.is_empty(), "it says what is wrong");
                let line = refused(&reader.text(), &refusal);
                assert!(!line.contains('\n'), "it is one line");
                let file =
                    format!("{{\"type\":\"header\",\"format\":\"kith.export.v1\"}}\n{line}\n{{\"type\":\"footer\"}}\n");
                let mut again = JsonReader::new(file.as_bytes(), rules());
                // A line that was not UTF-8 may become a footer.
                while let Ok(Some(_)) = again.next_row() {}
            }
        }
    }
}

/// A file with this row.
fn write(row: &Row) -> Vec<u8> {
    let mut writer = JsonWriter::new(Vec::new(), Header::default()).expect("written");
    writer.row(row).expect("written");
    writer.finish().expect("written").0
}

/// What is written on the command line and in files.
const SETTINGS: &[Target] = &[
    ("ConfigFile", config_file),
    ("CommandLine", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        // No NUL can be in an argument. A file would be read, which is what the target before this one does.
        let args = text.split(['\0', '\n']).filter(|arg| !arg.starts_with("--co"));
        command_line(["kith", "serve"].into_iter().chain(args));
    }),
    ("DatabaseUrl", |bytes| parse::<DatabaseUrl>(bytes)),
    ("Address", |bytes| {
        parse::<Address>(bytes);
        parse::<ServerAddress>(bytes);
    }),
    ("Origins", |bytes| {
        parse::<Origins>(bytes);
        if let Ok(origins) = "https://example.com,https://*.example.org".parse::<Origins>() {
            origins.allow(bytes);
        }
    }),
];

fn parse<T: FromStr>(bytes: &[u8])
where
    T::Err: ToString,
{
    if let Ok(text) = str::from_utf8(bytes)
        && let Err(error) = text.parse::<T>()
    {
        assert!(!error.to_string().is_empty(), "it says what is wrong");
    }
}

fn config_file(bytes: &[u8]) {
    thread_local! {
        static FILE: RefCell<NamedTempFile> = RefCell::new(NamedTempFile::new().expect("a file"));
    }
    FILE.with_borrow(|file| {
        fs::write(file.path(), bytes).expect("written");
        command_line(["kith", "serve", "--config", file.path().to_str().expect("text")].into_iter());
    });
}

fn command_line<'a>(args: impl Iterator<Item = &'a str>) {
    match Cli::read(args.map(OsString::from)) {
        Ok((cli, _)) => drop(cli),
        Err(Refused::Setting(words)) => assert!(!words.is_empty(), "it says what is wrong"),
        Err(Refused::Usage(error)) => assert!(!error.to_string().is_empty()),
    }
}

/// The names of all targets, which are different.
pub fn names() -> BTreeSet<&'static str> {
    let names: BTreeSet<_> = targets().map(|(name, _)| name).collect();
    assert_eq!(names.len(), targets().count());
    names
}
