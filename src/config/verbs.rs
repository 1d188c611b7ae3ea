//! The subcommands that are made of one call, or of a few: `kith call`, `user`, `request`, `connection`, `block`,
//! `status` and `history`.

use clap::{Args, Subcommand};

use super::client::{ClientArgs, Rows, UserRef, View};
use crate::domain::id::ID_MAX;

/// Settings of `kith call`.
#[derive(Clone, Debug, Args)]
pub struct Call {
    /// RPC, such as SendConnectionRequest, ConnectionRequestService/SendConnectionRequest or the full name; without it,
    /// all RPCs are listed
    pub method: Option<String>,
    /// Request as a JSON object with the field names of the proto; - reads it from standard input, @FILE from a file;
    /// of a client stream, one object after the other [default: {}]
    #[arg(value_name = "JSON")]
    pub json: Option<String>,
    /// Describe the RPC and the fields of its request, and do not call it
    #[arg(long)]
    pub describe: bool,
    /// Settings of the call
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Settings of `kith user`.
#[derive(Clone, Debug, Args)]
pub struct UserArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: UserVerb,
}

/// What `kith user` does.
#[derive(Clone, Debug, Subcommand)]
pub enum UserVerb {
    /// Print a user
    Get(UserGet),
    /// List users, newest first
    List(UserList),
    /// Create a user
    Create(UserCreate),
    /// Change fields of a user
    Update(UserUpdate),
    /// Create or replace users from lines of JSON; exit status 3 if any was refused
    Import(UserImport),
    /// Delete a user with all their requests, connections and blocks
    Delete(OneUser),
}

/// Settings of `kith user get`.
#[derive(Clone, Debug, Args)]
pub struct UserGet {
    /// User: an id, a username, or ext: and an external id
    pub user: UserRef,
    /// How much of each user to print
    #[command(flatten)]
    pub view: View,
    /// Settings of the call
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Settings of `kith user list`.
#[derive(Clone, Debug, Args)]
pub struct UserList {
    /// How many rows to print
    #[command(flatten)]
    pub rows: Rows,
    /// How much of each user to print
    #[command(flatten)]
    pub view: View,
    /// Settings of the call
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Settings of `kith user create`.
#[derive(Clone, Debug, Args)]
pub struct UserCreate {
    /// Username; it must not be taken
    #[arg(required_unless_present = "external_id")]
    pub username: Option<String>,
    /// Key of the user in the system that owns the profiles, such as a UUID
    #[arg(long, value_name = "KEY")]
    pub external_id: Option<String>,
    /// Id of the user [default: assigned by the server]
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..=ID_MAX))]
    pub id: Option<i64>,
    /// Real name
    #[arg(long, value_name = "NAME")]
    pub real_name: Option<String>,
    /// E-mail address
    #[arg(long, value_name = "ADDRESS")]
    pub email: Option<String>,
    /// Further fields, as a JSON object with the field names of the proto; - reads it from standard input, @FILE from a
    /// file
    #[arg(long, value_name = "JSON")]
    pub profile: Option<String>,
    /// Settings of the call
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Settings of `kith user update`.
#[derive(Clone, Debug, Args)]
pub struct UserUpdate {
    /// User: an id, a username, or ext: and an external id
    pub user: UserRef,
    /// Fields to change, as a JSON object such as {"bio": "…"}; null empties a field; - reads it from standard input,
    /// @FILE from a file
    #[arg(value_name = "JSON")]
    pub profile: String,
    /// Settings of the call
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Settings of `kith user import`.
#[derive(Clone, Debug, Args)]
pub struct UserImport {
    /// File with a user on each line, as a JSON object with the field names of the proto; - reads standard input
    #[arg(default_value = "-")]
    pub file: String,
    /// Settings of the call
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Settings of verbs about one user.
#[derive(Clone, Debug, Args)]
pub struct OneUser {
    /// User: an id, a username, or ext: and an external id
    pub user: UserRef,
    /// Settings of the call
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Settings of verbs about two users.
#[derive(Clone, Debug, Args)]
pub struct TwoUsers {
    /// User who acts, or whose view it is: an id, a username, or ext: and an external id
    pub user: UserRef,
    /// The other user: an id, a username, or ext: and an external id
    pub other: UserRef,
    /// Settings of the call
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Settings of `kith request`.
#[derive(Clone, Debug, Args)]
pub struct RequestArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: RequestVerb,
}

/// What `kith request` does.
#[derive(Clone, Debug, Subcommand)]
pub enum RequestVerb {
    /// Send a connection request
    Send(RequestSend),
    /// Accept a received request, on behalf of the user of --as
    Accept(RequestAccept),
    /// Reject a received request, on behalf of the user of --as
    Reject(OneRequest),
    /// Make a rejected request pending again, on behalf of the user of --as
    Restore(OneRequest),
    /// Cancel a sent request, on behalf of the user of --as
    Cancel(OneRequest),
    /// Mark a received request as viewed, on behalf of the user of --as
    View(OneRequest),
    /// Print a request: as the user of --as may see it, or as it is
    Get(RequestGet),
    /// List the requests that a user received, or sent
    List(RequestList),
}

/// Settings of `kith request send`.
#[derive(Clone, Debug, Args)]
pub struct RequestSend {
    /// Sender: an id, a username, or ext: and an external id
    pub from: UserRef,
    /// Receiver: an id, a username, or ext: and an external id
    pub to: UserRef,
    /// Message to the receiver
    #[arg(long, short, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub message: String,
    /// Settings of the call
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Settings of `kith request accept`.
#[derive(Clone, Debug, Args)]
pub struct RequestAccept {
    /// Id of the request
    pub id: i64,
    /// Reply to the sender
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reply: String,
    /// Settings of the call
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Settings of verbs about one request.
#[derive(Clone, Debug, Args)]
pub struct OneRequest {
    /// Id of the request
    pub id: i64,
    /// Settings of the call
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Settings of `kith request get`.
#[derive(Clone, Debug, Args)]
pub struct RequestGet {
    /// Id of the request
    pub id: i64,
    /// How much of each user to print
    #[command(flatten)]
    pub view: View,
    /// Settings of the call
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Settings of `kith request list`.
#[derive(Clone, Debug, Args)]
pub struct RequestList {
    /// User: an id, a username, or ext: and an external id
    pub user: UserRef,
    /// List the requests that the user sent, not those that they received
    #[arg(long)]
    pub sent: bool,
    /// List rejected requests, not pending ones
    #[arg(long)]
    pub rejected: bool,
    /// List only requests that the user has not viewed
    #[arg(long)]
    pub unviewed: bool,
    /// How many rows to print
    #[command(flatten)]
    pub rows: Rows,
    /// How much of each user to print
    #[command(flatten)]
    pub view: View,
    /// Settings of the call
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Settings of `kith connection`.
#[derive(Clone, Debug, Args)]
pub struct ConnectionArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: ConnectionVerb,
}

/// What `kith connection` does.
#[derive(Clone, Debug, Subcommand)]
pub enum ConnectionVerb {
    /// List the connections of a user, newest first; with --as, those that both share first
    List(UserRows),
    /// Remove the connection of two users, on behalf of the first
    Remove(TwoUsers),
    /// List the users who are connected to both
    Mutual(MutualRows),
    /// Print how many requests and connections a user has
    Counts(OneUser),
}

/// Settings of lists about one user.
#[derive(Clone, Debug, Args)]
pub struct UserRows {
    /// User: an id, a username, or ext: and an external id
    pub user: UserRef,
    /// How many rows to print
    #[command(flatten)]
    pub rows: Rows,
    /// How much of each user to print
    #[command(flatten)]
    pub view: View,
    /// Settings of the call
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Settings of `kith connection mutual`.
#[derive(Clone, Debug, Args)]
pub struct MutualRows {
    /// User: an id, a username, or ext: and an external id
    pub user: UserRef,
    /// The other user: an id, a username, or ext: and an external id
    pub other: UserRef,
    /// How many rows to print
    #[command(flatten)]
    pub rows: Rows,
    /// How much of each user to print
    #[command(flatten)]
    pub view: View,
    /// Settings of the call
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Settings of `kith block`.
#[derive(Clone, Debug, Args)]
pub struct BlockArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: BlockVerb,
}

/// What `kith block` does.
#[derive(Clone, Debug, Subcommand)]
pub enum BlockVerb {
    /// Block a user, on behalf of the first
    Add(TwoUsers),
    /// End a block, on behalf of the first user
    Remove(TwoUsers),
    /// List the users whom a user blocks, newest first
    List(UserRows),
}

/// Settings of `kith status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// One user: an id, a username, or ext: and an external id
    pub user: UserRef,
    /// The other user: an id, a username, or ext: and an external id
    pub other: UserRef,
    /// Print the message of the request and its reply too
    #[arg(long)]
    pub messages: bool,
    /// Settings of the call
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Settings of `kith history`.
#[derive(Clone, Debug, Args)]
pub struct HistoryArgs {
    /// One user: an id, a username, or ext: and an external id
    pub user: UserRef,
    /// The other user: an id, a username, or ext: and an external id
    pub other: UserRef,
    /// Settings of the call
    #[command(flatten)]
    pub client: ClientArgs,
}
