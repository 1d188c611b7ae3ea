//! Accepts connections, until the server stops.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;
use tonic::body::Body;
use tower::Service;

use super::admission::Admission;
use super::connection::{End, Transport};
use super::listener::{Listener, Stream};
use super::peer::Peer;
use super::wait;
use crate::causes::Causes;
use crate::rarely::Rarely;

/// Delay after a connection could not be accepted, for example without free file descriptors.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Serves connections within the limits until `stopped` is true, and then those that are open, to their ends.
///
/// Dropping the future closes them.
pub(super) async fn serve<S>(
    listener: Listener,
    transport: Transport<S>,
    admission: Admission,
    stopped: watch::Receiver<bool>,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Unpin + Send + 'static,
{
    let mut open = accept_until(&listener, transport, admission, stopped).await;
    // New clients are refused, and find another server.
    drop(listener);
    while let Some(ended) = open.join_next().await {
        report(&ended);
    }
}

/// Serves connections within the limits until `stopped` is true. Returns those that are open, whose ends have begun.
///
/// Dropping the future, or what it returns, closes them.
pub(super) async fn accept_until<S>(
    listener: &Listener,
    transport: Transport<S>,
    admission: Admission,
    mut stopped: watch::Receiver<bool>,
) -> JoinSet<()>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Unpin + Send + 'static,
{
    let transport = Arc::new(transport);
    let mut open = JoinSet::new();
    let failed = Rarely::default();
    loop {
        let (stream, peer) = tokio::select! {
            () = wait(&mut stopped) => return open,
            Some(ended) = open.join_next() => {
                report(&ended);
                continue;
            }
            accepted = accept(listener, &failed) => accepted,
        };
        // Dropping the stream closes the connection.
        let Some(admitted) = admission.admit(peer) else { continue };
        let (transport, mut stopped) = (Arc::clone(&transport), stopped.clone());
        open.spawn(async move {
            tokio::select! {
                biased;
                () = admitted.beginning() => {}
                () = wait(&mut stopped) => return,
            }
            if transport.serve(stream, peer, stopped).await == End::TooMuch {
                admitted.demanded_too_much();
            }
        });
    }
}

/// Returns the next connection.
async fn accept(listener: &Listener, failed: &Rarely) -> (Stream, Peer) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                if let Some(more) = failed.due() {
                    tracing::warn!(error = %Causes(&error), more, "failed to accept a connection");
                }
                sleep(RETRY_DELAY).await;
            }
        }
    }
}

fn report(ended: &Result<(), JoinError>) {
    // The panic itself was logged where it happened.
    if ended.is_err() {
        tracing::error!("the task of a connection panicked, which is a bug");
    }
}
