//! The port for monitoring: metrics over HTTP/1.1, for Prometheus and for `curl`.
//!
//! It has neither TLS nor authentication, so it listens on loopback unless a setting says otherwise. What one of its
//! clients can hold is small: there are few connections, each for a short time, and a request has no body. Metrics are
//! written on a thread of their own, so that calls do not wait for them.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::listener::{Listener, Stream};
use crate::causes::Causes;
use crate::metrics::{Format, Metrics};

/// Maximum open connections. Further ones are closed when they are accepted.
const CONNECTIONS_MAX: usize = 32;
/// Time that a client has for the headers of a request, the first as well as a further one.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// Age at which a connection is closed, whatever its client does.
const AGE_MAX: Duration = Duration::from_secs(60);
/// Buffer of a connection, in bytes. The headers of a request must fit in it.
const BUFFER: usize = 16 * 1024;
/// Delay after a connection could not be accepted, for example without free file descriptors.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// What the port shows. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pages {
    /// At `/metrics`.
    pub metrics: Metrics,
}

/// The running port. It is closed when this is dropped.
#[derive(Debug)]
pub struct Monitoring(#[expect(dead_code, reason = "dropping it ends the task")] JoinSet<()>);

impl Monitoring {
    /// Serves the pages on a listener.
    ///
    /// It needs the runtime, for the task.
    pub fn start(listener: Listener, pages: Pages) -> Self {
        let mut task = JoinSet::new();
        task.spawn(accept(listener, pages));
        Self(task)
    }
}

/// Serves connections until it is dropped, which closes them.
async fn accept(listener: Listener, pages: Pages) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            // A panic is logged where it happens.
            Some(_ended) = open.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                    open.spawn(serve(stream, pages.clone(), place));
                }
            }
            Err(error) => {
                tracing::debug!(error = %Causes(&error), "failed to accept a connection for metrics");
                sleep(RETRY_DELAY).await;
            }
        }
    }
}

async fn serve(stream: Stream, pages: Pages, _place: OwnedSemaphorePermit) {
    let respond = service_fn(move |request: Request<Incoming>| {
        let pages = pages.clone();
        async move {
            let (parts, _) = request.into_parts();
            Ok::<_, Infallible>(pages.respond(&parts.method, parts.uri.path(), &parts.headers).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), respond);
    // Clients that go away, or send something else, are normal.
    _ = timeout(AGE_MAX, connection).await;
}

impl Pages {
    /// Returns the response to a request. Each page has its path here.
    async fn respond(&self, method: &Method, path: &str, headers: &HeaderMap) -> Response<Full<Bytes>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/metrics" => self.metrics(format(headers)).await,
            _ => text(StatusCode::NOT_FOUND, "not found; metrics are at /metrics\n"),
        }
    }

    async fn metrics(&self, format: Format) -> Response<Full<Bytes>> {
        let metrics = self.metrics.clone();
        match spawn_blocking(move || metrics.text(format)).await {
            Ok(Ok(body)) => page(StatusCode::OK, format.content_type(), body),
            Ok(Err(fmt::Error)) | Err(_) => {
                tracing::error!("the metrics could not be written, which is a bug");
                text(StatusCode::INTERNAL_SERVER_ERROR, "internal error; the log has more\n")
            }
        }
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    page(status, "text/plain; charset=utf-8", text)
}

fn page(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Returns the format that a client prefers by its `Accept` headers (RFC 9110, section 12.5.1).
///
/// OpenMetrics is only for those who name it.
fn format(headers: &HeaderMap) -> Format {
    let accepted =
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let (mut open_metrics, mut plain) = (0.0, 0.0);
    for range in accepted {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
        let mut quality = 1.0_f32;
        let mut version = None;
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name.trim().to_ascii_lowercase().as_str() {
                "q" => quality = value.trim().parse().unwrap_or(0.0),
                "version" => version = Some(value.trim().trim_matches('"')),
                _ => {}
            }
        }
        match (media_type.as_str(), version) {
            ("application/openmetrics-text", None | Some("1.0.0")) => open_metrics = quality.max(open_metrics),
            ("text/plain", None | Some("0.0.4")) => plain = quality.max(plain),
            _ => {}
        }
    }
    if open_metrics > 0.0 && open_metrics >= plain { Format::OpenMetrics } else { Format::Prometheus }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_that_the_client_prefers() {
        let prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                            text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                            text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, open_metrics) in [
            (None, false),
            (Some(""), false),
            (Some("*/*"), false),
            (Some("text/html,*/*;q=0.8"), false),
            (Some("application/openmetrics-text"), true),
            (Some("Application/OpenMetrics-Text; Version=1.0.0; Q=0.1"), true),
            (Some("application/openmetrics-text;version=\"1.0.0\""), true),
            (Some("application/openmetrics-text;version=0.0.1"), false),
            (Some("application/openmetrics-text;q=0"), false),
            (Some("application/openmetrics-text;q=many"), false),
            (Some("application/openmetrics-text;q=0.3,text/plain;q=0.5"), false),
            (Some("text/plain;q=0.3,application/openmetrics-text;q=0.5"), true),
            (Some("application/openmetrics-textual"), false),
            (Some(prometheus_2), true),
            (Some(prometheus_3), true),
        ] {
            let headers = accept.map(|accept| (ACCEPT, HeaderValue::from_static(accept)));
            let expected = if open_metrics { Format::OpenMetrics } else { Format::Prometheus };
            assert_eq!(format(&HeaderMap::from_iter(headers)), expected, "{accept:?}");
        }
    }

    #[tokio::test]
    async fn only_known_pages_can_be_read_and_nothing_can_be_sent() {
        let pages = Pages { metrics: Metrics::default() };
        for (method, path, status) in [
            (Method::GET, "/metrics", StatusCode::OK),
            (Method::HEAD, "/metrics", StatusCode::OK),
            (Method::GET, "/metrics/", StatusCode::NOT_FOUND),
            (Method::GET, "/favicon.ico", StatusCode::NOT_FOUND),
            (Method::HEAD, "*", StatusCode::NOT_FOUND),
            (Method::POST, "/metrics", StatusCode::METHOD_NOT_ALLOWED),
            (Method::OPTIONS, "/none", StatusCode::METHOD_NOT_ALLOWED),
            (Method::CONNECT, "", StatusCode::METHOD_NOT_ALLOWED),
        ] {
            let response = pages.respond(&method, path, &HeaderMap::new()).await;
            assert_eq!(response.status(), status, "{method} {path}");
        }
    }
}
