//! The subcommands that call a server: `kith call`, the everyday verbs, `kith status` and `kith history`.
//!
//! Requests and responses are dynamic messages, by the descriptors of the build: each verb is the name of an RPC and a
//! request as JSON. What is printed is [the one JSON form](crate::proto::json), or a table made of it.

mod api;
mod call;
mod codec;
mod failure;
mod input;
mod output;
mod render;
mod session;
mod status;
mod table;
mod verbs;

use std::process::ExitCode;

use secrecy::ExposeSecret;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;

use self::failure::Failed;
use self::session::Session;
use super::{Failure, connect};
use crate::config::{self, ClientArgs, ServerArgs, Sources};

/// Connects to the server of the settings.
pub(super) async fn channel(args: &ServerArgs, sources: &Sources) -> Result<Channel, Failure> {
    let tls = connect::verified(&args.server, args.tls_ca.as_deref(), sources)?;
    let tls = tls.map(|tls| tls.with_no_client_auth());
    connect::channel(&args.server, tls, &sources.name("server")).await
}

/// Reads the authorization header for an API key or a token, if a setting names a file. Its `Debug` does not show it.
pub(super) fn authorization(args: &ServerArgs, sources: &Sources) -> Result<Option<AsciiMetadataValue>, String> {
    let Some(token) = args.token(sources)? else { return Ok(None) };
    let header = format!("Bearer {}", token.expose_secret()).parse::<AsciiMetadataValue>();
    let mut header =
        header.map_err(|_| format!("{}: has characters that no API key or token has", sources.name("token-file")))?;
    header.set_sensitive(true);
    Ok(Some(header))
}

/// Runs `kith call`.
pub(super) async fn call(args: config::Call, sources: &Sources) -> ExitCode {
    let output = args.client.output;
    failure::ended(call::run(&args, sources).await, output)
}

/// Runs `kith user`.
pub(super) async fn user(args: config::UserArgs, sources: &Sources) -> ExitCode {
    let (client, plan) = verbs::user(args.verb);
    verb(&client, plan, sources).await
}

/// Runs `kith request`.
pub(super) async fn request(args: config::RequestArgs, sources: &Sources) -> ExitCode {
    let (client, plan) = verbs::request(args.verb);
    verb(&client, plan, sources).await
}

/// Runs `kith connection`.
pub(super) async fn connection(args: config::ConnectionArgs, sources: &Sources) -> ExitCode {
    let (client, plan) = verbs::connection(args.verb);
    verb(&client, plan, sources).await
}

/// Runs `kith block`.
pub(super) async fn block(args: config::BlockArgs, sources: &Sources) -> ExitCode {
    let (client, plan) = verbs::block(args.verb);
    verb(&client, plan, sources).await
}

/// Runs `kith history`.
pub(super) async fn history(args: config::HistoryArgs, sources: &Sources) -> ExitCode {
    let (client, plan) = verbs::history(args);
    verb(&client, plan, sources).await
}

/// Runs `kith status`.
pub(super) async fn status(args: config::StatusArgs, sources: &Sources) -> ExitCode {
    let output = args.client.output;
    failure::ended(status::run(&args, sources).await, output)
}

async fn verb(client: &ClientArgs, plan: Result<verbs::Plan, Failed>, sources: &Sources) -> ExitCode {
    let run = async {
        let plan = plan?;
        let session = Session::open(client, sources).await?;
        verbs::run(&session, plan).await
    };
    failure::ended(run.await, client.output)
}
