//! What the server says while its database is not there yet.

use std::future::{Future, pending};
use std::pin::pin;

use futures_util::StreamExt;
use futures_util::stream::poll_fn;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Server;

use super::{SERVICES, delay_after_error, report_not_serving};
use crate::error;

/// Serves health on the listener until `ready` completes, and returns its output.
///
/// Every service is NOT_SERVING, and so is the process. All calls fail with UNAVAILABLE `DATABASE_UNAVAILABLE`. Afterwards
/// the connections are closed, and those that follow health begin again: their next one reaches the real server.
pub async fn serve_until<T>(listener: &TcpListener, ready: impl Future<Output = T>) -> T {
    let (mut reporter, health) = tonic_health::server::health_reporter();
    let all = [&SERVICES[..], &[""]].concat();
    report_not_serving(&reporter, &all).await;
    let unavailable = || async { error::unavailable().into_http::<Body>() };
    let routes = Routes::from(Routes::new(health).into_axum_router().fallback(unavailable));
    let incoming =
        poll_fn(|cx| listener.poll_accept(cx).map(|accepted| Some(accepted.map(|(connection, _)| connection))));
    let serving =
        Server::builder().add_routes(routes).serve_with_incoming_shutdown(incoming.then(delay_after_error), pending());
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
