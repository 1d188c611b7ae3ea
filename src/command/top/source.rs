//! Reads the metrics of a server by HTTP.

use std::time::Duration;

use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::connect;
use crate::config::MetricsUrl;
use crate::metrics::exposition::Exposition;

/// Maximum duration of a reading.
const MAX_TIME: Duration = Duration::from_secs(5);
/// Maximum size of the text, in bytes. Kith's is some 100 KiB.
const MAX_SIZE: usize = 8 << 20;
/// The format that is asked for.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0";

/// Reads the metrics. Each reading has a connection of its own, so a server that was restarted is found again.
///
/// # Errors
///
/// In words that follow the URL.
pub(super) async fn read(url: &MetricsUrl) -> Result<Exposition, String> {
    let text = timeout(MAX_TIME, get(url)).await;
    let text = text.unwrap_or_else(|_| Err(format!("no response within {MAX_TIME:?}")))?;
    Exposition::parse(&text).map_err(|error| error.to_string())
}

async fn get(url: &MetricsUrl) -> Result<String, String> {
    let stream = connect::stream(&url.address).await.map_err(|error| format!("cannot connect: {error}"))?;
    let failed = |error: hyper::Error| format!("no HTTP response: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // Ends with this function.
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let request = Request::get(&url.path)
        .header(HOST, url.host())
        .header(ACCEPT, OPENMETRICS)
        .header(USER_AGENT, concat!("kith/", env!("CARGO_PKG_VERSION")))
        .body(String::new())
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(failed)?;
    if response.status() != StatusCode::OK {
        return Err(format!("the response has the status {}", response.status()));
    }
    let body = Limited::new(response.into_body(), MAX_SIZE).collect().await;
    let body = body.map_err(|error| format!("cannot be read up to its end, of at most {MAX_SIZE} bytes: {error}"))?;
    String::from_utf8(body.to_bytes().into()).map_err(|_| "the response is not UTF-8".to_owned())
}
