//! Where each request of a connection enters: refuses what is not gRPC, and adds the connection to its extensions.

use std::convert::Infallible;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ALLOW, CONTENT_TYPE, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::activity::{Activity, CallBody, OpenCall};
use super::unread::RequestBody;
use crate::auth::Names;
use crate::auth::limits::{AtLimit, Limit};
use crate::config::Origins;
use crate::metrics::refusals::{Cause, Refusals};
use crate::server::call::{KITH_PREFIX, WATCH};
use crate::server::peer::Peer;
use crate::service::Leaving;

/// The content type of gRPC, which may have a suffix or parameters.
const GRPC: &str = "application/grpc";
/// The content types of gRPC-Web. tonic-web knows no others.
const WEB: [&str; 4] = [
    "application/grpc-web",
    "application/grpc-web+proto",
    "application/grpc-web-text",
    "application/grpc-web-text+proto",
];

/// The method of the health service whose response is a stream.
const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
/// Maximum of these streams on one connection. Anybody may open them, and they do not end by themselves. A client has one.
const HEALTH_WATCHES_MAX: NonZeroU32 = NonZeroU32::new(16).expect("not zero");

/// The entry for the requests of one connection.
pub(super) struct Entry<S> {
    pub(super) service: S,
    pub(super) peer: Peer,
    /// The names in the client's certificate, if it has one.
    pub(super) names: Option<Arc<Names>>,
    /// With gRPC-Web: the origins of pages that may call.
    pub(super) web: Option<Arc<Origins>>,
    pub(super) activity: Arc<Activity>,
    /// Set when the connection is to be closed although the server goes on.
    pub(super) leaving: watch::Receiver<bool>,
    /// Counts what is refused here.
    pub(super) refusals: Arc<Refusals>,
}

impl<S> hyper::service::Service<Request<Incoming>> for Entry<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
    S::Future: Unpin,
{
    type Response = Response<CallBody>;
    type Error = Infallible;
    type Future = Responding<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let request = request.map(RequestBody::new);
        if let Some(refusal) = refusal(request.method(), request.version(), request.headers(), self.web.as_deref()) {
            self.refusals.count(Cause::NotGrpc);
            return Responding::Refused(Some(refusal), Arc::clone(&self.activity));
        }
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(self.peer);
        if let Some(names) = &self.names {
            request.extensions_mut().insert(Arc::clone(names));
        }
        // Its stream does not end by itself.
        if request.uri().path() == WATCH {
            request.extensions_mut().insert(Leaving(self.leaving.clone()));
        }
        self.activity.advance();
        let Ok(call) = open(request.uri().path(), &self.activity) else {
            self.refusals.count(Cause::HealthWatches);
            let refused = AtLimit { limit: Limit::Watches, maximum: HEALTH_WATCHES_MAX, retry_after: None };
            return Responding::Refused(Some(Status::from(refused).into_http()), Arc::clone(&self.activity));
        };
        // The router and the layers around it are always ready.
        Responding::Called(self.service.clone().call(request), Arc::clone(&self.activity), call)
    }
}

/// There are too many calls of a kind.
struct TooMany;

/// Counts a call, if its kind is counted.
///
/// Streams of health and reflection do not end by themselves. They do not hold a connection open.
fn open(path: &str, activity: &Arc<Activity>) -> Result<Option<OpenCall>, TooMany> {
    if path == HEALTH_WATCH {
        return OpenCall::health_watch(activity, HEALTH_WATCHES_MAX.get() as usize).map(Some).ok_or(TooMany);
    }
    Ok(path.starts_with(KITH_PREFIX).then(|| OpenCall::new(activity)))
}

/// The future response to a request.
pub(super) enum Responding<F> {
    /// The request is not a call, or one too many.
    Refused(Option<Response<Body>>, Arc<Activity>),
    /// A call that is counted is open until the body of its response ends.
    Called(F, Arc<Activity>, Option<OpenCall>),
}

impl<F> Future for Responding<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = Result<Response<CallBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Refused(response, activity) => match response.take() {
                Some(response) => Poll::Ready(Ok(response.map(|body| CallBody::new(body, Arc::clone(activity), None)))),
                None => Poll::Pending,
            },
            Self::Called(response, activity, call) => Pin::new(response)
                .poll(cx)
                .map_ok(|response| response.map(|body| CallBody::new(body, Arc::clone(activity), call.take()))),
        }
    }
}

/// Returns the response to a request that is not a call, or `None` if it is one.
///
/// With gRPC-Web, a page's question whether it may call is passed on, unless its origin may not.
fn refusal(method: &Method, version: Version, headers: &HeaderMap, web: Option<&Origins>) -> Option<Response<Body>> {
    let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    if let Some(origins) = web {
        let origin = headers.get(ORIGIN).map(HeaderValue::as_bytes);
        if origin.is_some_and(|origin| !origins.allow(origin)) {
            return Some(text(StatusCode::FORBIDDEN, "pages of this origin may not call; see --grpc-web-origins\n"));
        }
        let asks = method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if asks || (method == Method::POST && WEB.iter().any(|web| content_type == web.as_bytes())) {
            return None;
        }
    }
    if method != Method::POST {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "calls of gRPC are POST requests\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return Some(response);
    }
    if !is_grpc(content_type) {
        let words = "calls of gRPC have a content-type that begins with application/grpc\n";
        return Some(text(StatusCode::UNSUPPORTED_MEDIA_TYPE, words));
    }
    let is_http_1 = version < Version::HTTP_2;
    is_http_1.then(|| text(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "calls of gRPC, without -web, need HTTP/2\n"))
}

/// Whether this is the content type of gRPC, with any suffix or parameters.
///
/// That of gRPC-Web, `application/grpc-web`, is another one.
fn is_grpc(content_type: &[u8]) -> bool {
    content_type.split_at_checked(GRPC.len()).is_some_and(|(name, rest)| {
        name.eq_ignore_ascii_case(GRPC.as_bytes()) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
    })
}

/// Returns a response of plain text.
fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::new(text.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: &Method, content_type: Option<&'static str>) -> Option<StatusCode> {
        let headers = content_type.map(|value| (CONTENT_TYPE, HeaderValue::from_static(value)));
        refusal(method, Version::HTTP_2, &HeaderMap::from_iter(headers), None).map(|response| response.status())
    }

    #[test]
    fn only_posts_of_grpc_are_calls() {
        for content_type in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc; charset=utf-8",
            "application/grpc ;charset=utf-8",
            "Application/GRPC+Proto",
        ] {
            assert_eq!(status(&Method::POST, Some(content_type)), None, "{content_type}");
            for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::CONNECT] {
                assert_eq!(status(&method, Some(content_type)), Some(StatusCode::METHOD_NOT_ALLOWED), "{method}");
            }
        }
        for content_type in [
            None,
            Some(""),
            Some("application/json"),
            Some("application/grp"),
            Some("application/grpc-web"),
            Some("application/grpc-web-text"),
            Some("application/grpcs"),
            Some("text/application/grpc"),
        ] {
            assert_eq!(
                status(&Method::POST, content_type),
                Some(StatusCode::UNSUPPORTED_MEDIA_TYPE),
                "{content_type:?}"
            );
        }
    }
}
