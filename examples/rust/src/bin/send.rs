//! Sends two connection requests, accepts them, and lists the connections page by page.

use std::error::Error;

use kith_example::v1::connection_request_service_client::ConnectionRequestServiceClient;
use kith_example::v1::connection_service_client::ConnectionServiceClient;
use kith_example::v1::user_service_client::UserServiceClient;
use kith_example::v1::{
    AcceptConnectionRequestRequest, CreateUserRequest, ListConnectionsRequest, SendConnectionRequestRequest, User,
};
use kith_example::{Connection, connect, retry};
use tonic_types::StatusExt;
use uuid::Uuid;

type Requests = ConnectionRequestServiceClient<Connection>;

/// An id for one write. Retries have the same, so the write is made once, and each attempt returns its response.
fn request_id() -> String {
    Uuid::new_v4().to_string()
}

async fn create_user(users: &mut UserServiceClient<Connection>, name: &str) -> Result<i64, Box<dyn Error>> {
    let request_id = request_id();
    let user = User { username: format!("{name}-{}", &request_id[..8]), ..Default::default() };
    let request = CreateUserRequest { user: Some(user), request_id };
    let created = retry(request, async |request| users.create_user(request).await).await?;
    Ok(created.user.ok_or("no user")?.id)
}

/// Sends a request, or returns the id of the one that is already open.
async fn send(requests: &mut Requests, from_user_id: i64, to_user_id: i64) -> Result<i64, Box<dyn Error>> {
    let request =
        SendConnectionRequestRequest { from_user_id, to_user_id, message: "Hi!".to_owned(), request_id: request_id() };
    match retry(request, async |request| requests.send_connection_request(request).await).await {
        Ok(sent) => {
            let status = sent.status().as_str_name();
            let id = sent.connection_request.as_ref().ok_or("no request")?.id;
            println!("{from_user_id} -> {to_user_id}: request {id}, {status}");
            Ok(id)
        }
        Err(status) => {
            let info = status.get_details_error_info().filter(|info| info.reason == "REQUEST_PENDING");
            let Some(info) = info else { return Err(status.into()) };
            let id = info.metadata.get("connection_request_id").ok_or("no id")?;
            println!("{}: request {id}", info.reason);
            Ok(id.parse()?)
        }
    }
}

async fn accept(requests: &mut Requests, id: i64, user_id: i64) -> Result<(), Box<dyn Error>> {
    let request = AcceptConnectionRequestRequest { id, user_id, request_id: request_id(), ..Default::default() };
    let accepted = retry(request, async |request| requests.accept_connection_request(request).await).await?;
    println!("{user_id} accepts {id}: {}", accepted.status().as_str_name());
    Ok(())
}

/// Prints the connections of a user, newest first.
async fn list(mut service: ConnectionServiceClient<Connection>, user_id: i64) -> Result<(), Box<dyn Error>> {
    // Small, to have two pages.
    let mut request = ListConnectionsRequest { user_id, page_size: 1, ..Default::default() };
    loop {
        let page = retry(request.clone(), async |request| service.list_connections(request).await).await?;
        for user in page.connections.into_iter().filter_map(|connection| connection.user) {
            println!("{user_id} is connected with {}", user.id);
        }
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let connection = connect()?;
    let mut users = UserServiceClient::new(connection.clone());
    let mut requests = ConnectionRequestServiceClient::new(connection.clone());
    let ann = create_user(&mut users, "ann").await?;
    let bob = create_user(&mut users, "bob").await?;
    let cy = create_user(&mut users, "cy").await?;
    for other in [bob, cy] {
        send(&mut requests, ann, other).await?;
        let id = send(&mut requests, ann, other).await?;
        accept(&mut requests, id, other).await?;
    }
    list(ConnectionServiceClient::new(connection), ann).await
}
