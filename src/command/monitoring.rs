//! Where the port for monitoring listens.

use std::io::ErrorKind;

use super::Failure;
use crate::config::{MetricsListen, Sources};
use crate::server::listener::Listener;
use crate::server::monitoring::{Monitoring, Pages};

/// Opens the port that the setting asks for. Without a setting, a server that only this machine can reach has one too.
///
/// The port of a second server on a machine is taken. It then runs without one, unless the setting names the address.
pub(super) async fn start(
    listen: Option<MetricsListen>,
    sources: &Sources,
    server: &Listener,
    pages: Pages,
) -> Result<Option<Monitoring>, Failure> {
    let (address, is_default) = match listen {
        Some(MetricsListen::Off) => return Ok(None),
        Some(MetricsListen::At(address)) => (address, false),
        None if server.is_local() => (MetricsListen::of_local_server(), true),
        None => return Ok(None),
    };
    match Listener::bind(&address).await {
        Ok(listener) => {
            let bound = listener.local_address()?;
            tracing::info!("metrics are at {}", url(&bound));
            Ok(Some(Monitoring::start(listener, pages)))
        }
        Err(error) if is_default && error.kind() == ErrorKind::AddrInUse => {
            tracing::warn!("no metrics: another process listens on {address}; choose an address with --metrics-listen");
            Ok(None)
        }
        Err(error) => {
            let name = sources.name("metrics-listen");
            Err(format!("{name} {address}: cannot listen on this address: {error}").into())
        }
    }
}

/// Returns where the metrics are, for people.
fn url(address: &str) -> String {
    if address.starts_with("unix:") { format!("{address}, path /metrics") } else { format!("http://{address}/metrics") }
}
