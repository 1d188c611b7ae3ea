//! What the server says while its database is not there yet.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::join;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::service::Routes;

use super::accept::accept_until;
use super::admission::{Admission, ConnectionLimits};
use super::connection::{Times, Transport};
use super::health::Reporter;
use super::listener::Listener;
use super::tls::Tls;
use super::{SERVICES, Settings};
use crate::error;
use crate::metrics::Metrics;
use crate::metrics::refusals::Cause;

/// How long a start may take before it says anything. Connections wait meanwhile, and reach the real server: a load
/// balancer that only tests the port would otherwise send calls to each server that starts.
const GRACE: Duration = Duration::from_secs(1);

/// Serves health on the listener until `ready` completes, and returns its output. With TLS, it needs that too.
///
/// Begins after a second. Then every service is NOT_SERVING, and so is the process. All calls fail with UNAVAILABLE `DATABASE_UNAVAILABLE`. Afterwards
/// the connections are closed, and those that follow health begin again: their next one reaches the real server.
pub async fn serve_until<T>(
    listener: &Listener,
    tls: Option<&Tls>,
    metrics: &Metrics,
    ready: impl Future<Output = T>,
) -> T {
    let mut ready = pin!(ready);
    if let Ok(output) = timeout(GRACE, &mut ready).await {
        return output;
    }
    let (reporter, health) = tonic_health::server::health_reporter();
    let mut reporter = Reporter { reporter, metrics: Arc::clone(&metrics.server) };
    let all = [&SERVICES[..], &[""]].concat();
    reporter.report(&all, false).await;
    let refusals = Arc::clone(&metrics.refusals);
    let unavailable = move || {
        refusals.count(Cause::Starting);
        async { error::unavailable().into_http::<Body>() }
    };
    let routes = Routes::from(Routes::new(health).into_axum_router().fallback(unavailable));
    let times = Times { opening: Settings::default().opening_time, age: None };
    let transport = Transport::new(routes.prepare(), times, metrics).with_tls(tls.cloned());
    let (stop, stopped) = watch::channel(false);
    let ready = async {
        let output = ready.await;
        reporter.clear(&all).await;
        _ = stop.send(true);
        output
    };
    let accepting = accept_until(listener, transport, Admission::new(ConnectionLimits::default(), metrics), stopped);
    let (mut open, output) = join!(accepting, ready);
    // The start does not wait for their ends.
    open.detach_all();
    output
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::sleep;

    use super::*;
    use crate::server::listener::Stream;

    #[tokio::test]
    async fn connections_wait_for_a_quick_start() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        let listener = Listener::from(listener);
        let start = async {
            sleep(GRACE / 10).await;
            7
        };
        assert_eq!(serve_until(&listener, None, &Metrics::default(), start).await, 7);
        let (accepted, _) = listener.accept().await.expect("the connection is still there");
        let Stream::Tcp(_, address) = accepted else { panic!("not TCP") };
        assert_eq!(address, client.local_addr().expect("an address"));
    }
}
