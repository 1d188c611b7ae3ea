//! Calls of one server, with credentials, a time limit and retries.

use std::io::Write;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use prost_reflect::{DynamicMessage, Kind, ReflectMessage, Value as Field};
use serde_json::{Map, Value};
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::StatusExt;
use uuid::Uuid;

use super::api::Method;
use super::codec::DynamicCodec;
use super::failure::{Failed, code_name};
use super::{input, verbs};
use crate::config::{ClientArgs, Sources, UserRef};
use crate::proto::json as proto;

/// Time to wait for a response, without `--timeout`.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum attempts of a call with `--retry`.
const ATTEMPTS: u32 = 8;
/// Delay before the second attempt. It doubles with each further one.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// The longest delay that is waited for: a limit on sends may ask for an hour.
const DELAY_MAX: Duration = Duration::from_secs(30);
/// The field that makes a write happen once.
const REQUEST_ID: &str = "request_id";

/// A connection to a server, and how to use it.
pub(super) struct Session<'a> {
    channel: Channel,
    pub(super) args: &'a ClientArgs,
    sources: &'a Sources,
}

impl<'a> Session<'a> {
    /// Connects to the server of the settings.
    pub(super) async fn open(args: &'a ClientArgs, sources: &'a Sources) -> Result<Self, Failed> {
        let mut delay = FIRST_DELAY;
        for _ in 1..if args.retry { ATTEMPTS } else { 1 } {
            match super::channel(&args.server, sources).await {
                Ok(channel) => return Ok(Self { channel, args, sources }),
                Err(error) => pause(delay, &error.to_string()).await,
            }
            delay *= 2;
        }
        Ok(Self { channel: super::channel(&args.server, sources).await?, args, sources })
    }

    /// Returns the id of a user.
    pub(super) async fn user_id(&self, user: &UserRef) -> Result<i64, Failed> {
        match user {
            UserRef::Id(id) => Ok(*id),
            UserRef::Name(_) | UserRef::External(_) => {
                let mut request = verbs::key(user);
                request["user_view"] = "ID".into();
                let response = self.get("GetUser", request).await?;
                response["user"]["id"].as_i64().ok_or_else(|| "the user has no id".to_owned().into())
            }
        }
    }

    /// Makes a call on behalf of no user. Both messages are JSON.
    pub(super) async fn get(&self, method: &str, request: Value) -> Result<Value, Failed> {
        let method = Method::find(method)?;
        let Value::Object(request) = request else { return Err("a request is an object".to_owned().into()) };
        let request = input::message(&method.input(), request)?;
        Ok(proto::value(&self.unary(&method, request).await?)?)
    }

    /// Converts a request to a message, on behalf of the user of `--as`.
    pub(super) async fn request(
        &self,
        method: &Method,
        mut request: Map<String, Value>,
    ) -> Result<DynamicMessage, Failed> {
        if let Some(user) = &self.args.acting {
            input::act_as(method, &mut request, self.user_id(user).await?)?;
        }
        input::message(&method.input(), request).map_err(Failed::Usage)
    }

    /// Makes a call with one request and one response.
    pub(super) async fn unary(&self, method: &Method, mut message: DynamicMessage) -> Result<DynamicMessage, Failed> {
        self.identify(&mut message);
        let attempt = async || {
            let request = self.prepared(message.clone(), Some(TIMEOUT))?;
            let codec = DynamicCodec(method.0.output());
            let response = self.ready(method).await?.unary(request, method.path()?, codec).await;
            response.map(Response::into_inner).map_err(|status| failed(method, status))
        };
        self.attempts(attempt).await
    }

    /// Makes a call with one request, and returns the stream of responses. It is tried again until it begins.
    pub(super) async fn responses(
        &self,
        method: &Method,
        message: DynamicMessage,
    ) -> Result<Streaming<DynamicMessage>, Failed> {
        self.attempts(async || self.streaming(method, stream::iter([message.clone()])).await).await
    }

    /// Makes a call with a stream of requests, and returns that of the responses.
    pub(super) async fn streaming(
        &self,
        method: &Method,
        messages: impl Stream<Item = DynamicMessage> + Send + 'static,
    ) -> Result<Streaming<DynamicMessage>, Failed> {
        let request = self.prepared(messages, None)?;
        let codec = DynamicCodec(method.0.output());
        let response = self.ready(method).await?.streaming(request, method.path()?, codec).await;
        response.map(Response::into_inner).map_err(|status| failed(method, status))
    }

    /// Repeats a call with `--retry` while it fails with what may succeed soon.
    async fn attempts<T>(&self, attempt: impl AsyncFn() -> Result<T, Failed>) -> Result<T, Failed> {
        let mut backoff = FIRST_DELAY;
        for _ in 1..if self.args.retry { ATTEMPTS } else { 1 } {
            match attempt().await {
                Err(Failed::Call { method, status }) => match retry_delay(&status, backoff) {
                    Some(delay) => {
                        let (code, message) = (code_name(status.code()), status.message());
                        pause(delay, &format!("{method} failed: {code}: {message}")).await;
                    }
                    None => return Err(Failed::Call { method, status }),
                },
                done => return done,
            }
            backoff *= 2;
        }
        attempt().await
    }

    /// A request with the credentials and the time limit.
    fn prepared<T>(&self, message: T, timeout: Option<Duration>) -> Result<Request<T>, Failed> {
        let mut request = Request::new(message);
        if let Some(authorization) = super::authorization(&self.args.server, self.sources)? {
            request.metadata_mut().insert("authorization", authorization);
        }
        if let Some(timeout) = self.args.timeout.or(timeout) {
            request.set_timeout(timeout);
        }
        Ok(request)
    }

    async fn ready(&self, method: &Method) -> Result<Grpc<Channel>, Failed> {
        let mut grpc = Grpc::new(self.channel.clone());
        match grpc.ready().await {
            Ok(()) => Ok(grpc),
            Err(error) => Err(failed(method, Status::unavailable(crate::causes::with_causes(&error)))),
        }
    }

    /// Gives a request that may be sent again an id, if it can have one and has none.
    fn identify(&self, message: &mut DynamicMessage) {
        let Some(field) = message.descriptor().get_field_by_name(REQUEST_ID).filter(|_| self.args.retry) else {
            return;
        };
        if field.kind() == Kind::String && !message.has_field(&field) {
            message.set_field(&field, Field::String(Uuid::new_v4().to_string()));
        }
    }
}

/// Reads the next message of a stream, as JSON. None at its end.
pub(super) async fn next(method: &Method, responses: &mut Streaming<DynamicMessage>) -> Result<Option<Value>, Failed> {
    match responses.next().await.transpose().map_err(|status| failed(method, status))? {
        Some(message) => Ok(Some(proto::value(&message)?)),
        None => Ok(None),
    }
}

fn failed(method: &Method, status: Status) -> Failed {
    Failed::Call { method: method.name().to_owned(), status: Box::new(status) }
}

/// Returns how long to wait before the next attempt, or `None` if none can succeed within a short time.
///
/// Kith says when to retry what it refused for now. What is unavailable without it failed on the way.
fn retry_delay(status: &Status, backoff: Duration) -> Option<Duration> {
    let named = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
    match (named, status.code()) {
        (Some(delay), _) => Some(delay.max(backoff)).filter(|delay| *delay <= DELAY_MAX),
        (None, Code::Unavailable) => Some(backoff),
        (None, _) => None,
    }
}

async fn pause(delay: Duration, error: &str) {
    let line = format!("kith: {error}; trying again in {}\n", humantime::format_duration(delay));
    // Nobody may be there to read it.
    let _closed = std::io::stderr().write_all(line.as_bytes());
    tokio::time::sleep(delay).await;
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn only_what_can_succeed_soon_is_tried_again() {
        let with = |code, seconds| {
            let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(seconds)));
            Status::with_error_details(code, "", details)
        };
        let backoff = Duration::from_secs(2);
        for (status, expected) in [
            (Status::unavailable(""), Some(2)),
            (with(Code::Unavailable, 1), Some(2)),
            (with(Code::ResourceExhausted, 5), Some(5)),
            (with(Code::ResourceExhausted, 3_600), None),
            (Status::resource_exhausted("a large message"), None),
            (Status::deadline_exceeded(""), None),
            (Status::not_found(""), None),
        ] {
            assert_eq!(retry_delay(&status, backoff), expected.map(Duration::from_secs), "{status:?}");
        }
    }
}
