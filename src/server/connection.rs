//! Connections: which protocol a client speaks, the calls of HTTP/2, and the end of a connection.

mod activity;
mod frames;
mod opening;
mod request;
mod socket;
mod unread;

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::body::Body;
use tower::Service;
use uuid::Uuid;

use self::activity::Activity;
use self::opening::{Opening, Protocol};
use self::request::Entry;
use self::socket::Socket;
use super::peer::Peer;
use super::tls::{Tls, is_refusal};
use super::wait;
use crate::auth::Names;
use crate::causes::Causes;
use crate::config::Origins;
use crate::metrics::Metrics;
use crate::metrics::refusals::{Cause, Refusals};
use crate::rarely::Rarely;

/// Maximum concurrent calls on one connection. A client queues further calls.
///
/// Each open call takes memory and time of the server, and what waits is better left with the client: with 16,000
/// callers on 16 connections, four times as many calls were half as fast.
const STREAMS_MAX: u32 = 256;
/// Maximum streams that a connection may reset before the server accepts them.
///
/// A connection with more is closed, as a rapid reset attack (CVE-2023-44487). A server that was not scheduled for a
/// while finds all calls of a gateway at once, with the resets of those whose callers have given up, and the calls that
/// took their places. So some times as many as may be open are no attack; the module `frames` limits how often that
/// happens.
const RESETS_MAX: usize = 4 * STREAMS_MAX as usize;
/// Maximum streams of one connection that the server may have to reset because of errors in them.
///
/// A connection with more is closed, since a client can cause resets without sending any (CVE-2025-8671).
const ERRORS_MAX: usize = 1_024;
/// HTTP/2 flow-control window of one call, in bytes.
///
/// h2 closes a connection whose unread small frames exceed half of its window. An import is read in chunks,
/// and some clients send a frame for each row. So the window of a call is a small part of the connection's.
const STREAM_WINDOW: u32 = 64 * 1024;
/// HTTP/2 flow-control window of one connection, in bytes.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Maximum bytes of one response that HTTP/2 holds for a client that does not read, in addition to one message.
///
/// A client can open its windows and read nothing. What a watch sends is not counted, and HTTP/2 would hold 400 KB of each.
const SEND_BUFFER: usize = 64 * 1024;
/// Maximum size of a call's headers, in bytes, where each header counts 32 more than its name and value.
///
/// h2 responds with 431 to a call with larger ones, and the connection remains. It closes the connection if the headers
/// are larger than four times this, or take more than seven frames.
const HEADERS_MAX: u32 = 64 * 1024;
/// Interval between HTTP/2 pings on an idle connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// Time that a client has to respond to a ping. Then the connection is closed.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that a connection of HTTP/1.1 may take for the headers of its next request.
const HTTP_1_IDLE_TIME: Duration = Duration::from_secs(60);
/// Buffer of a connection of HTTP/1.1, in bytes. The headers of a request must fit in it.
const HTTP_1_BUFFER: usize = 64 * 1024;
/// Time that a closing connection may be silent while it has no call. Then the client does not respond.
const CLOSING_TIME: Duration = Duration::from_secs(1);
/// The response to HTTP/1.1 where only HTTP/2 is served.
const HTTP_2_ONLY: (&str, &str) = ("505 HTTP Version Not Supported", "This is a server of gRPC. It speaks only HTTP/2");
/// The response to HTTP/1.1 without TLS where only TLS is served.
const TLS_ONLY: (&str, &str) = ("400 Bad Request", "This is a server of gRPC. It speaks only HTTP/2 with TLS");

/// Serves connections by one service.
pub(super) struct Transport<S> {
    http: auto::Builder<TokioExecutor>,
    service: S,
    times: Times,
    /// With gRPC-Web: the origins of pages that may call.
    web: Option<Arc<Origins>>,
    /// With TLS, every connection begins with its handshake.
    tls: Option<Tls>,
    notes: Notes,
}

/// The other end of a connection: its address, and the names in its certificate, if it has one.
type Client = (Peer, Option<Arc<Names>>);

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By the client, by an error, or because the server stops.
    Other,
    /// The server closed it because it demanded too much.
    TooMuch,
}

/// Times of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Time that a client has for the first bytes.
    pub(super) opening: Duration,
    /// Time after which a connection is closed, within 10 %.
    pub(super) age: Option<Duration>,
}

/// Lines of the log that clients can cause.
#[derive(Debug, Default)]
struct Notes {
    refusals: Arc<Refusals>,
    tls: Rarely,
    plain: Rarely,
    handshake: Rarely,
    http1: Rarely,
    proxy: Rarely,
    other: Rarely,
    abuse: Rarely,
}

impl<S> Transport<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Unpin + Send + 'static,
{
    pub(super) fn new(service: S, times: Times, metrics: &Metrics) -> Self {
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1().timer(TokioTimer::new()).header_read_timeout(HTTP_1_IDLE_TIME).max_buf_size(HTTP_1_BUFFER);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_pending_accept_reset_streams(RESETS_MAX)
            .max_local_error_reset_streams(ERRORS_MAX)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(HEADERS_MAX)
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        Self { http, service, times, web: None, tls: None, notes: Notes::new(metrics) }
    }

    /// Serves HTTP/1.1 too, for the gRPC-Web that the service has. Pages of other origins are refused.
    pub(super) fn with_web(mut self, origins: Origins) -> Self {
        self.web = Some(Arc::new(origins));
        self
    }

    /// Serves connections with TLS only, if there is one.
    pub(super) fn with_tls(mut self, tls: Option<Tls>) -> Self {
        self.tls = tls;
        self
    }

    /// Serves a connection to its end. When `stopped` is true, it ends with its open calls.
    pub(super) async fn serve<T>(&self, mut stream: T, peer: Peer, mut stopped: watch::Receiver<bool>) -> End
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let deadline = Instant::now() + self.times.opening;
        let Some((opening, protocol)) = self.open(&mut stream, deadline, peer, &mut stopped).await else {
            return End::Other;
        };
        match (&self.tls, protocol) {
            (None, _) => self.serve_protocol(stream, (opening, protocol), (peer, None), stopped).await,
            (Some(tls), Protocol::Tls) => {
                // TLS has to read the first bytes too.
                let stream = Socket::new(stream, opening, Arc::default());
                // On the heap, so that connections without TLS do not take the space.
                Box::pin(self.serve_tls(tls, stream, deadline, peer, stopped)).await
            }
            (Some(_), _) => {
                self.notes.without_tls(protocol, peer);
                if protocol == Protocol::Http1 {
                    respond_to_http1(stream, TLS_ONLY).await;
                }
                End::Other
            }
        }
    }

    /// Reads the first bytes until they say which protocol it is. `None` if the connection is to be closed before.
    async fn open<T>(
        &self,
        stream: &mut T,
        deadline: Instant,
        peer: Peer,
        stopped: &mut watch::Receiver<bool>,
    ) -> Option<(Opening, Protocol)>
    where
        T: AsyncRead + Unpin,
    {
        let mut opening = Opening::new();
        let protocol = tokio::select! {
            // What the client has sent before the end is read.
            biased;
            protocol = timeout_at(deadline, opening.read(stream)) => protocol,
            () = wait(stopped) => return None,
        };
        match protocol {
            Ok(Ok(Some(protocol))) => return Some((opening, protocol)),
            // Load balancers test ports by connections without a byte.
            Ok(Ok(None)) => tracing::debug!(%peer, "a client closed its connection before it said anything"),
            Ok(Err(error)) => tracing::debug!(%peer, error = %Causes(&error), "connection lost"),
            Err(_) => {
                self.notes.refusals.count(Cause::Silence);
                tracing::debug!(%peer, time = ?self.times.opening, "closing a connection that says nothing");
            }
        }
        None
    }

    /// Serves a connection that begins TLS. The handshake has the time of the first bytes, which follow it.
    async fn serve_tls<T>(
        &self,
        tls: &Tls,
        stream: Socket<T>,
        deadline: Instant,
        peer: Peer,
        mut stopped: watch::Receiver<bool>,
    ) -> End
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let accepted = tokio::select! {
            biased;
            accepted = timeout_at(deadline, tls.accept(stream)) => accepted,
            () = wait(&mut stopped) => return End::Other,
        };
        let mut stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.notes.handshake_failed(&error, peer);
                return End::Other;
            }
            Err(_) => {
                self.notes.refusals.count(Cause::Silence);
                tracing::debug!(%peer, time = ?self.times.opening, "closing a connection with a slow TLS handshake");
                return End::Other;
            }
        };
        match self.open(&mut stream, deadline, peer, &mut stopped).await {
            // TLS within TLS.
            Some((_, Protocol::Tls)) => self.notes.wrong_protocol(Protocol::Other, peer),
            Some(opened) => {
                let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let names = certificate.map(|certificate| Arc::new(Names::of(certificate)));
                return self.serve_protocol(stream, opened, (peer, names), stopped).await;
            }
            None => {}
        }
        End::Other
    }

    /// Serves a connection whose first bytes were read.
    async fn serve_protocol<T>(
        &self,
        stream: T,
        (opening, protocol): (Opening, Protocol),
        (peer, names): Client,
        stopped: watch::Receiver<bool>,
    ) -> End
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match protocol {
            Protocol::Http2 => self.serve_http(stream, opening, (peer, names), stopped).await,
            Protocol::Http1 if self.web.is_some() => self.serve_http(stream, opening, (peer, names), stopped).await,
            Protocol::Http1 | Protocol::Tls | Protocol::Proxy | Protocol::Other => {
                self.notes.wrong_protocol(protocol, peer);
                if protocol == Protocol::Http1 {
                    respond_to_http1(stream, HTTP_2_ONLY).await;
                }
                End::Other
            }
        }
    }

    async fn serve_http<T>(
        &self,
        stream: T,
        opening: Opening,
        (peer, names): Client,
        mut stopped: watch::Receiver<bool>,
    ) -> End
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Arc::new(Activity::default());
        let (leave, leaving) = watch::channel(false);
        let (service, web) = (self.service.clone(), self.web.clone());
        let refusals = Arc::clone(&self.notes.refusals);
        let entry = Entry { service, peer, names, web, activity: Arc::clone(&activity), leaving, refusals };
        let socket = TokioIo::new(Socket::new(stream, opening, Arc::clone(&activity)));
        let mut connection = std::pin::pin!(self.http.serve_connection(socket, entry));
        tokio::select! {
            ended = connection.as_mut() => return self.notes.ended(ended, peer, activity.is_flooded()),
            () = wait(&mut stopped) => {}
            () = sleep_if(self.times.age.map(|age| jittered(age, Uuid::new_v4().as_fields().0))) => {
                tracing::debug!(%peer, "closing a connection of the maximum age");
            }
        }
        // GOAWAY: the client makes further calls on another connection. Watches resume there.
        connection.as_mut().graceful_shutdown();
        // Without a watch nobody receives it.
        _ = leave.send(true);
        loop {
            let before = activity.moves();
            tokio::select! {
                ended = connection.as_mut() => return self.notes.ended(ended, peer, activity.is_flooded()),
                () = sleep(CLOSING_TIME) => {}
            }
            if !activity.has_calls() && activity.moves() == before {
                tracing::debug!(%peer, "closing a connection whose client does not respond");
                return End::Other;
            }
        }
    }
}

impl Notes {
    fn new(metrics: &Metrics) -> Self {
        Self { refusals: Arc::clone(&metrics.refusals), ..Self::default() }
    }

    fn wrong_protocol(&self, protocol: Protocol, peer: Peer) {
        let (note, words) = match protocol {
            Protocol::Http2 => return,
            Protocol::Tls => (&self.tls, "a client speaks TLS to this port, which has none"),
            // Without gRPC-Web.
            Protocol::Http1 => (&self.http1, "a client speaks HTTP/1.1 to this port, which has only HTTP/2"),
            Protocol::Proxy => (&self.proxy, "a proxy speaks the PROXY protocol to this port, which has only HTTP/2"),
            Protocol::Other => (&self.other, "a client speaks an unknown protocol to this port, which has only HTTP/2"),
        };
        self.refusals.count(Cause::Protocol);
        if let Some(more) = note.due() {
            tracing::warn!(%peer, more, "{words}");
        }
    }

    /// Logs that a client does not begin TLS, which it has to.
    fn without_tls(&self, protocol: Protocol, peer: Peer) {
        self.refusals.count(Cause::Protocol);
        let (note, words) = if protocol == Protocol::Proxy {
            (&self.proxy, "a proxy speaks the PROXY protocol to this port, which has only TLS")
        } else {
            (&self.plain, "a client speaks without TLS to this port")
        };
        if let Some(more) = note.due() {
            tracing::warn!(%peer, more, "{words}");
        }
    }

    /// Logs why there is no connection.
    ///
    /// Clients that break off, or do not trust the server, are normal on a public port. What the server refuses is a
    /// client that is not configured, or one that has no business here.
    fn handshake_failed(&self, error: &io::Error, peer: Peer) {
        if !is_refusal(error) {
            tracing::debug!(%peer, error = %Causes(error), "TLS handshake failed");
            return;
        }
        self.refusals.count(Cause::Handshake);
        if let Some(more) = self.handshake.due() {
            tracing::warn!(%peer, more, error = %Causes(error), "refused the TLS handshake of a client");
        }
    }

    /// Logs how a connection ended.
    ///
    /// Lost connections are normal. One that was ended because of too many frames of a kind, resets, errors or headers
    /// is not.
    fn ended(&self, ended: Result<(), Box<dyn Error + Send + Sync>>, peer: Peer, flooded: bool) -> End {
        let Err(error) = ended else { return End::Other };
        let error: &(dyn Error + 'static) = &*error;
        if !flooded && !is_abuse(error) {
            tracing::debug!(%peer, error = %Causes(error), "connection ended with an error");
            return End::Other;
        }
        self.refusals.count(Cause::Flood);
        if let Some(more) = self.abuse.due() {
            tracing::warn!(%peer, more, error = %Causes(error), "closed a connection that demands too much");
        }
        End::TooMuch
    }
}

/// Whether the server closed the connection because the client sent too much of something.
fn is_abuse(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.is_library() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
        }
        cause = error.source();
    }
    false
}

/// Says what the server speaks. What the client still sends is not read for longer than [`CLOSING_TIME`].
async fn respond_to_http1(mut stream: impl AsyncRead + AsyncWrite + Unpin, (status, text): (&str, &str)) {
    let response = format!(
        "HTTP/1.1 {status}\r\n\
         content-type: text/plain; charset=utf-8\r\n\
         content-length: {}\r\n\
         connection: close\r\n\
         \r\n\
         {text}.\r\n",
        text.len() + 3
    );
    let respond = async {
        stream.write_all(response.as_bytes()).await?;
        stream.shutdown().await?;
        // The response would be lost if the connection were closed with unread bytes.
        let mut unread = [0; 1_024];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    // A client that went away needs no response.
    _ = timeout(CLOSING_TIME, respond).await;
}

/// Returns the age at which a connection is closed: within 10 % of `age`, by a random number.
///
/// So connections that were made together are not closed together.
fn jittered(age: Duration, random: u32) -> Duration {
    age.mul_f64(0.9 + 0.2 * f64::from(random) / f64::from(u32::MAX))
}

/// Completes after this time, or never.
async fn sleep_if(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_connection_is_within_a_tenth() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        for (random, expected) in [(0, minutes(27)), (u32::MAX, minutes(33))] {
            let difference = jittered(minutes(30), random).abs_diff(expected);
            assert!(difference < Duration::from_millis(1), "{random}: {difference:?}");
        }
        assert!(jittered(minutes(30), 1 << 30) < jittered(minutes(30), 1 << 31));
    }
}
