//! Follows the feed of events, and resumes where it ended before.

use std::error::Error;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs};

use kith_example::v1::event_service_client::EventServiceClient;
use kith_example::v1::user_service_client::UserServiceClient;
use kith_example::v1::{Event, ListUsersRequest, WatchEventsRequest};
use kith_example::{Connection, connect, is_temporary, reason, retry};
use serde::{Deserialize, Serialize};
use tonic::Status;

/// A position in the feed: events after the revision are next.
#[derive(Deserialize, Serialize)]
struct Cursor {
    revision: i64,
    epoch: String,
}

impl Cursor {
    fn file() -> PathBuf {
        env::var_os("KITH_CURSOR").unwrap_or_else(|| "kith-cursor.json".into()).into()
    }

    fn load() -> Result<Option<Self>, Box<dyn Error>> {
        match fs::read(Self::file()) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces the file, in one step. Store it in the transaction of what `handle` writes, if it has one.
    fn store(&self) -> Result<(), Box<dyn Error>> {
        let new = Self::file().with_extension("new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        Ok(fs::rename(new, Self::file())?)
    }
}

/// Lists what is there before the first event. What changes meanwhile is an event after the first page.
async fn begin(mut users: UserServiceClient<Connection>) -> Result<Cursor, Status> {
    let mut request = ListUsersRequest { page_size: 1000, ..Default::default() };
    let (mut count, mut first) = (0, None);
    loop {
        let page = retry(request.clone(), async |request| users.list_users(request).await).await?;
        count += page.users.len();
        let (revision, epoch) = first.get_or_insert_with(|| (page.revision, page.epoch.clone()));
        if page.next_page_token.is_empty() {
            println!("listed {count} users at revision {revision}");
            return Ok(Cursor { revision: *revision, epoch: epoch.clone() });
        }
        request.page_token = page.next_page_token;
    }
}

/// Handles an event. It comes again if the program ends before the cursor is stored.
fn handle(event: &Event) {
    println!("{} {} {} {}", event.sequence, event.kind().as_str_name(), event.user_id, event.other_user_id);
}

/// Handles events until the stream ends.
async fn watch(connection: Connection) -> Result<(), Box<dyn Error>> {
    let from = match Cursor::load()? {
        Some(cursor) => cursor,
        None => begin(UserServiceClient::new(connection.clone())).await?,
    };
    let request = WatchEventsRequest { after_sequence: Some(from.revision), epoch: from.epoch, ..Default::default() };
    let mut stream = EventServiceClient::new(connection).watch_events(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        // The first message has no events, nor has one that is sent because nothing happens: how far the feed was read.
        message.events.iter().for_each(handle);
        Cursor { revision: message.revision, epoch: message.epoch }.store()?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let connection = connect()?;
    loop {
        let Err(error) = watch(connection.clone()).await else { continue };
        // Not an error of a call: the cursor cannot be loaded or stored.
        let Some(status) = error.downcast_ref::<Status>() else { return Err(error) };
        match reason(status).as_str() {
            reason @ ("CURSOR_EXPIRED" | "WRONG_EPOCH") => {
                println!("{reason}: listing again");
                if let Err(error) = fs::remove_file(Cursor::file())
                    && error.kind() != ErrorKind::NotFound
                {
                    return Err(error.into());
                }
            }
            _ if is_temporary(status) => tokio::time::sleep(Duration::from_secs(1)).await,
            _ => return Err(error),
        }
    }
}
