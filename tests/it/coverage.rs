//! Compares the API, its protos and these tests: everything that is served is described, and everything described is
//! tested.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use kith::proto::FILE_DESCRIPTOR_SET;
use kith::proto::v1::ErrorReason;
use prost::Message;
use prost_types::method_options::IdempotencyLevel;
use prost_types::{
    DescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto,
};
use tonic_reflection::pb::{v1, v1alpha};

use crate::cases;
use crate::harness::App;

/// Our own files, without their imports.
fn files() -> Vec<FileDescriptorProto> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("descriptors");
    let ours: Vec<_> = set.file.into_iter().filter(|file| file.package() == "kith.v1").collect();
    assert!(ours.len() >= 11, "the set has our files");
    ours
}

struct Rpc {
    service: String,
    method: MethodDescriptorProto,
    comment: String,
}

impl Rpc {
    fn is_read(&self) -> bool {
        ["Get", "BatchGet", "List", "Watch", "Export"].iter().any(|verb| self.method.name().starts_with(verb))
    }

    fn test(&self) -> PathBuf {
        tests().join("rpc").join(format!("{}.rs", snake_case(self.method.name())))
    }
}

fn rpcs() -> Vec<Rpc> {
    let mut rpcs = Vec::new();
    for file in files() {
        for (index, service) in file.service.iter().enumerate() {
            for (number, method) in service.method.iter().enumerate() {
                let path = [6, index, 2, number].map(|part| i32::try_from(part).expect("few"));
                let comment = comment(&file, &path);
                rpcs.push(Rpc { service: service.name().to_owned(), method: method.clone(), comment });
            }
        }
    }
    assert!(rpcs.len() >= 28, "all of them are found");
    rpcs
}

fn comment(file: &FileDescriptorProto, path: &[i32]) -> String {
    let locations = &file.source_code_info.as_ref().expect("comments").location;
    locations.iter().find(|location| location.path == path).expect("a index").leading_comments().to_owned()
}

fn message(name: &str) -> DescriptorProto {
    let found = files().into_iter().flat_map(|file| file.message_type).find(|message| message.name() == name);
    found.unwrap_or_else(|| panic!("no message {name}"))
}

fn field_names(name: &str) -> Vec<String> {
    message(name).field.iter().map(|field| field.name().to_owned()).collect()
}

/// A message's name without its package.
fn short(type_name: &str) -> &str {
    type_name.strip_prefix(".kith.v1.").expect("one of ours")
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

/// `ErrorReason::NotBlocked` for `NOT_BLOCKED`.
fn used_as(reason: &str) -> String {
    let word = |word: &str| word[..1].to_owned() + &word[1..].to_ascii_lowercase();
    format!("ErrorReason::{}", reason.split('_').map(word).collect::<String>())
}

/// Whether a source uses the name, not just a longer one that begins with it.
fn uses(source: &str, name: &str) -> bool {
    source
        .match_indices(name)
        .any(|(at, _)| !source[at + name.len()..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
}

fn reasons() -> Vec<ErrorReason> {
    (1..).map_while(|number| ErrorReason::try_from(number).ok()).collect()
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it")
}

/// The sources of all tests but this file, which names reasons without testing them.
fn sources(directory: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all += &sources(&path);
        } else if !path.ends_with("coverage.rs") {
            all += &fs::read_to_string(path).expect("a source");
        }
    }
    all
}

async fn reflect(app: &App, request: v1::server_reflection_request::MessageRequest) -> Vec<u8> {
    use v1::server_reflection_response::MessageResponse;
    let request = v1::ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(app.channel());
    let mut responses =
        client.server_reflection_info(tokio_stream::iter([request])).await.expect("reflection").into_inner();
    match responses.message().await.expect("a response").expect("a response").message_response {
        Some(MessageResponse::FileDescriptorResponse(found)) => found.file_descriptor_proto.concat(),
        Some(MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|service| service.name + "\n").collect::<String>().into_bytes()
        }
        other => panic!("{other:?}"),
    }
}

cases! {
    async fn everything_served_is_described(app: App) {
        use v1::server_reflection_request::MessageRequest;
        let listed = String::from_utf8(reflect(&app, MessageRequest::ListServices(String::new())).await).unwrap();
        let served: BTreeSet<_> = listed.lines().filter(|name| name.starts_with("kith.")).collect();
        let described: BTreeSet<_> = rpcs().into_iter().map(|rpc| format!("kith.v1.{}", rpc.service)).collect();
        assert_eq!(served, described.iter().map(String::as_str).collect());
        assert!(listed.lines().any(|name| name == "grpc.health.v1.Health"), "{listed}");
        for service in &described {
            let file = reflect(&app, MessageRequest::FileContainingSymbol(service.clone())).await;
            let file = FileDescriptorProto::decode(file.as_slice()).unwrap();
            let methods = |services: &[ServiceDescriptorProto]| -> Vec<_> {
                let of = services.iter().filter(|it| service.ends_with(&format!(".{}", it.name())));
                of.flat_map(|it| it.method.iter().map(|method| method.name().to_owned())).collect()
            };
            let ours: Vec<_> = files().into_iter().flat_map(|file| methods(&file.service)).collect();
            assert_eq!(methods(&file.service), ours);
            assert!(!ours.is_empty());
        }
    }

    async fn the_details_of_errors_can_be_looked_up(app: App) {
        use v1::server_reflection_request::MessageRequest;
        for name in ["ErrorInfo", "BadRequest", "RetryInfo"] {
            let file = reflect(&app, MessageRequest::FileContainingSymbol(format!("google.rpc.{name}"))).await;
            let file = FileDescriptorProto::decode(file.as_slice()).unwrap();
            assert!(file.message_type.iter().any(|message| message.name() == name));
        }
    }

    async fn older_clients_find_reflection_too(app: App) {
        use v1alpha::server_reflection_request::MessageRequest;
        use v1alpha::server_reflection_response::MessageResponse;
        let request = v1alpha::ServerReflectionRequest {
            message_request: Some(MessageRequest::ListServices(String::new())), ..Default::default()
        };
        let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(app.channel());
        let mut responses = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
        let response = responses.message().await.unwrap().unwrap();
        let Some(MessageResponse::ListServicesResponse(list)) = response.message_response else { panic!("{response:?}") };
        assert!(list.service.iter().any(|service| service.name == "kith.v1.UserService"));
    }

    #[with(|settings| settings.reflection = false)]
    async fn reflection_can_be_switched_off(app: App) {
        let request = v1::ServerReflectionRequest::default();
        let mut client = v1::server_reflection_client::ServerReflectionClient::new(app.channel());
        let refusal = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap_err();
        assert_eq!(refusal.code(), tonic::Code::Unimplemented);
    }
}

#[test]
fn every_rpc_has_a_file_of_tests_and_every_file_an_rpc() {
    let expected: BTreeSet<_> = rpcs().iter().map(Rpc::test).collect();
    let entries = fs::read_dir(tests().join("rpc")).expect("a directory");
    let there: BTreeSet<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    assert_eq!(there, expected);
    // A file that is not a module is not run.
    let modules = fs::read_to_string(tests().join("rpc.rs")).expect("the modules");
    for rpc in rpcs() {
        let module = format!("mod {};", snake_case(rpc.method.name()));
        assert!(modules.lines().any(|line| line == module), "{module}");
    }
}

#[test]
fn every_reason_that_an_rpc_promises_is_tested_with_it() {
    let known: BTreeSet<_> = reasons().into_iter().map(kith::error::name).collect();
    for rpc in rpcs() {
        let promise = rpc.comment.split_once("Fails").map(|(_, promise)| promise);
        let promise = promise.unwrap_or_else(|| panic!("{} does not say how it fails", rpc.method.name()));
        let quoted: Vec<_> = promise.split('`').skip(1).step_by(2).filter(|name| known.contains(name)).collect();
        assert!(quoted.contains(&"INVALID_FIELDS"), "{}: {quoted:?}", rpc.method.name());
        let is_reason = |name: &str| name.contains('_') || known.contains(name);
        let shouted =
            promise.split('`').skip(1).step_by(2).filter(|name| is_reason(name) && **name == name.to_uppercase());
        assert_eq!(shouted.collect::<Vec<_>>(), quoted, "{} names a reason that does not exist", rpc.method.name());
        let source = fs::read_to_string(rpc.test()).expect("a source");
        // Reads have these in common, and a test of all reads.
        let of_reads = |reason: &&&str| matches!(**reason, "REVISION_NOT_REACHED" | "WRONG_EPOCH");
        let own = quoted.iter().filter(|reason| !(rpc.is_read() && of_reads(reason)));
        for reason in own {
            assert!(uses(&source, &used_as(reason)), "the tests of {} leave out {reason}", rpc.method.name());
        }
    }
}

#[test]
fn every_reason_is_tested_somewhere() {
    let sources = sources(&tests());
    let all = reasons();
    assert!(all.len() >= 26, "{all:?}");
    for reason in all {
        assert!(uses(&sources, &format!("ErrorReason::{reason:?}")), "{reason:?} is tested nowhere");
    }
}

#[test]
fn reads_and_only_reads_say_that_they_have_no_side_effects() {
    for rpc in rpcs() {
        let level = rpc.method.options.as_ref().map(|options| options.idempotency_level()).unwrap_or_default();
        assert_eq!(level == IdempotencyLevel::NoSideEffects, rpc.is_read(), "{}", rpc.method.name());
        assert_ne!(level, IdempotencyLevel::Idempotent, "{}", rpc.method.name());
    }
}

#[test]
fn mutations_take_a_request_id_and_every_response_has_a_revision() {
    for rpc in rpcs() {
        let (request, response) = (short(rpc.method.input_type()), short(rpc.method.output_type()));
        assert_eq!(request, format!("{}Request", rpc.method.name()));
        assert_eq!(response, format!("{}Response", rpc.method.name()));
        let fields = field_names(request);
        // Rows of relations may be sent again: those that hold change nothing.
        let is_repeatable = rpc.is_read() || rpc.method.name() == "ImportRelations";
        assert_eq!(fields.iter().any(|field| field == "request_id"), !is_repeatable, "{request}");
        assert!(field_names(response).iter().any(|field| field == "revision"), "{response}");
        if rpc.method.name().starts_with("List") {
            for field in ["page_size", "page_token"] {
                assert!(fields.iter().any(|name| name == field), "{request}");
            }
            assert!(field_names(response).iter().any(|name| name == "next_page_token"), "{response}");
        }
    }
}

#[test]
fn every_read_except_a_watch_takes_a_minimum_revision() {
    let source = fs::read_to_string(tests().join("freshness.rs")).expect("a source");
    let mut reads = 0;
    for rpc in rpcs() {
        let name = rpc.method.name();
        let takes = field_names(short(rpc.method.input_type())).iter().any(|field| field == "min_revision");
        assert_eq!(takes, rpc.is_read() && !name.starts_with("Watch"), "{name}");
        if takes {
            assert!(uses(&source, &format!(".{}", snake_case(name))), "{name} is not called in freshness.rs");
            reads += 1;
        }
    }
    assert_eq!(reads, 14);
}

/// Whether a message contains a user, at any depth.
fn has_users(name: &str) -> bool {
    message(name).field.iter().any(|field| match field.type_name().strip_prefix(".kith.v1.") {
        Some("User") => true,
        Some(inner) if field.r#type() == prost_types::field_descriptor_proto::Type::Message => has_users(inner),
        Some(_) | None => false,
    })
}

#[test]
fn every_read_that_returns_users_takes_a_view_of_them() {
    let source = fs::read_to_string(tests().join("user_views.rs")).expect("a source");
    let mut reads = 0;
    for rpc in rpcs() {
        let name = rpc.method.name();
        let takes = field_names(short(rpc.method.input_type())).iter().any(|field| field == "user_view");
        // Exports have views of their own.
        let chooses = rpc.is_read() && !name.starts_with("Export");
        assert_eq!(takes, chooses && has_users(short(rpc.method.output_type())), "{name}");
        if takes {
            assert!(uses(&source, &format!(".{}", snake_case(name))), "{name} is not asked in user_views.rs");
            reads += 1;
        }
    }
    assert_eq!(reads, 8);
}

#[test]
fn only_watches_exports_and_imports_of_relations_are_streams_of_responses() {
    for rpc in rpcs() {
        let name = rpc.method.name();
        let is_stream = ["Watch", "Export", "ImportRelations"].iter().any(|verb| name.starts_with(verb));
        assert_eq!(rpc.method.server_streaming(), is_stream, "{name}");
    }
}

#[test]
fn the_schema_keeps_its_names_and_numbers() {
    let request = ["id", "from_user", "to_user", "created", "rejected", "viewed"];
    let user = [
        "id",
        "username",
        "real_name",
        "email",
        "email_isvalid",
        "date_joined",
        "bio",
        "location",
        "birthday",
        "description",
        "gender",
        "status",
        "website",
        "avatar",
        "cover",
        "external_id",
    ];
    for (name, schema) in [("ConnectionRequest", &request[..]), ("User", &user[..])] {
        let fields = message(name).field;
        let found: Vec<_> = fields.iter().take(schema.len()).map(|field| (field.name(), field.number())).collect();
        assert_eq!(found, schema.iter().copied().zip(1..).collect::<Vec<_>>());
    }
    assert_eq!(message("User").field.len(), user.len());
}

#[test]
fn protos_import_nothing_but_each_other_and_googles_own() {
    for file in files() {
        for import in &file.dependency {
            let fine = import.starts_with("google/protobuf/") || import.starts_with("kith/v1/");
            assert!(fine, "{} imports {import}", file.name());
        }
    }
}

#[test]
fn every_message_field_and_rpc_is_explained() {
    fn explained(file: &FileDescriptorProto, path: &[i32], name: &str) {
        assert!(!comment(file, path).trim().is_empty(), "{name} in {} has no comment", file.name());
    }
    let number = |index: usize| i32::try_from(index).expect("few");
    for file in files() {
        for (index, message) in file.message_type.iter().enumerate() {
            explained(&file, &[4, number(index)], message.name());
            for (at, field) in message.field.iter().enumerate() {
                explained(&file, &[4, number(index), 2, number(at)], field.name());
            }
        }
        for (index, item) in file.enum_type.iter().enumerate() {
            explained(&file, &[5, number(index)], item.name());
            for (at, value) in item.value.iter().enumerate() {
                explained(&file, &[5, number(index), 2, number(at)], value.name());
            }
        }
        for (index, service) in file.service.iter().enumerate() {
            explained(&file, &[6, number(index)], service.name());
            for (at, method) in service.method.iter().enumerate() {
                explained(&file, &[6, number(index), 2, number(at)], method.name());
            }
        }
    }
}
