//! What the server says while its database is not there yet.

use std::future::Future;

use tokio::join;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::service::Routes;

use super::accept::accept_until;
use super::connection::{Times, Transport};
use super::listener::Listener;
use super::tls::Tls;
use super::{SERVICES, Settings, report_not_serving};
use crate::error;

/// Serves health on the listener until `ready` completes, and returns its output. With TLS, it needs that too.
///
/// Every service is NOT_SERVING, and so is the process. All calls fail with UNAVAILABLE `DATABASE_UNAVAILABLE`. Afterwards
/// the connections are closed, and those that follow health begin again: their next one reaches the real server.
pub async fn serve_until<T>(listener: &Listener, tls: Option<&Tls>, ready: impl Future<Output = T>) -> T {
    let (mut reporter, health) = tonic_health::server::health_reporter();
    let all = [&SERVICES[..], &[""]].concat();
    report_not_serving(&reporter, &all).await;
    let unavailable = || async { error::unavailable().into_http::<Body>() };
    let routes = Routes::from(Routes::new(health).into_axum_router().fallback(unavailable));
    let times = Times { opening: Settings::default().opening_time, age: None };
    let transport = Transport::new(routes.prepare(), times).with_tls(tls.cloned());
    let (stop, stopped) = watch::channel(false);
    let ready = async {
        let output = ready.await;
        for service in all {
            reporter.clear_service_status(service).await;
        }
        _ = stop.send(true);
        output
    };
    let (mut open, output) = join!(accept_until(listener, transport, stopped), ready);
    // The start does not wait for their ends.
    open.detach_all();
    output
}
