//! Requests and responses that are compressed.

use kith::proto::v1::user_service_client::UserServiceClient;
use kith::proto::v1::{self as pb, ErrorReason};
use tonic::Code;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::transport::Channel;

use crate::cases;
use crate::harness::{App, Engine, refused};

/// A client that accepts compressed responses, as many do in every call.
fn accepts(app: &App) -> UserServiceClient<Channel> {
    app.users().accept_compressed(Gzip)
}

fn encoding<T>(response: &tonic::Response<T>) -> Option<&str> {
    response.metadata().get("grpc-encoding").map(|encoding| encoding.to_str().expect("a name"))
}

fn create(bio: String) -> pb::CreateUserRequest {
    let user = pb::User { username: "ann".to_owned(), bio, ..Default::default() };
    pb::CreateUserRequest { user: Some(user), request_id: String::new() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_caller_that_compresses_its_requests_receives_compressed_responses() {
    let app = App::start(Engine::Sqlite).await;
    let bio = "word ".repeat(1_000);
    let created = accepts(&app).send_compressed(Gzip).create_user(create(bio.clone())).await.expect("a user");
    assert_eq!(encoding(&created), Some("gzip"));
    let id = created.into_inner().user.expect("a user").id;
    let get = pb::GetUserRequest { key: Some(pb::get_user_request::Key::Id(id)), ..Default::default() };
    let plain = accepts(&app).get_user(get.clone()).await.expect("a user");
    assert_eq!(encoding(&plain), None);
    let sent_alone = app.users().send_compressed(Gzip).get_user(get).await.expect("a user");
    assert_eq!(encoding(&sent_alone), None);
    for response in [plain, sent_alone] {
        assert_eq!(response.into_inner().user.expect("a user").bio, bio);
    }
}

cases! {
    async fn the_limit_on_a_message_holds_after_decompression(app: App) {
        // Compressed, it has 1 kB.
        let large = create("x".repeat(256 * 1024));
        let refusal = app.users().send_compressed(Gzip).create_user(large.clone()).await;
        let details = refused(refusal, Code::ResourceExhausted, ErrorReason::MessageTooLarge);
        assert_eq!(details.error_info().expect("a reason").metadata["maximum"], "262144");
        let row = pb::ImportUsersRequest { user: large.user, request_id: String::new() };
        let refusal = app.users().send_compressed(Gzip).import_users(tokio_stream::iter([row])).await;
        refused(refusal, Code::ResourceExhausted, ErrorReason::MessageTooLarge);
        assert_eq!(app.revision().await, 0);
    }
}
