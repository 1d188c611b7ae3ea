//! What the server says while its database is not there yet.

use std::future::{Future, pending};
use std::io;
use std::pin::pin;

use futures_util::stream;
use tokio::time::sleep;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Server;

use super::accept::RETRY_DELAY;
use super::listener::{Listener, Stream};
use super::{SERVICES, report_not_serving};
use crate::error;

/// Serves health on the listener until `ready` completes, and returns its output.
///
/// Every service is NOT_SERVING, and so is the process. All calls fail with UNAVAILABLE `DATABASE_UNAVAILABLE`. Afterwards
/// the connections are closed, and those that follow health begin again: their next one reaches the real server.
pub async fn serve_until<T>(listener: &Listener, ready: impl Future<Output = T>) -> T {
    let (mut reporter, health) = tonic_health::server::health_reporter();
    let all = [&SERVICES[..], &[""]].concat();
    report_not_serving(&reporter, &all).await;
    let unavailable = || async { error::unavailable().into_http::<Body>() };
    let routes = Routes::from(Routes::new(health).into_axum_router().fallback(unavailable));
    let incoming = stream::unfold(listener, async |listener| Some((accept(listener).await, listener)));
    let serving = Server::builder().add_routes(routes).serve_with_incoming_shutdown(incoming, pending());
    let mut ready = pin!(ready);
    let output = tokio::select! {
        output = &mut ready => output,
        failure = serving => {
            tracing::warn!(failure = failure.err().map(|error| error.to_string()), "cannot serve health while waiting");
            ready.await
        }
    };
    for service in all {
        reporter.clear_service_status(service).await;
    }
    output
}

/// Returns the next connection. Delays the next attempt after one that failed, for example without free file descriptors.
async fn accept(listener: &Listener) -> io::Result<Stream> {
    match listener.accept().await {
        Ok((connection, _)) => Ok(connection),
        Err(error) => {
            sleep(RETRY_DELAY).await;
            Err(error)
        }
    }
}
