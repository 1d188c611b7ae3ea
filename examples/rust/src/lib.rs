//! Connects to Kith, retries calls, and decodes errors.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs};

use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;

/// The generated code.
#[expect(clippy::large_enum_variant, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("kith.v1");
}

/// The time for one attempt.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The attempts of a call.
const ATTEMPTS: u32 = 10;

/// A connection to Kith. Clones share it.
pub type Connection = InterceptedService<Channel, Token>;

/// Sends the token of a file, if there is one. It is read for each call, since tokens expire and are replaced.
#[derive(Clone, Debug)]
pub struct Token(Option<PathBuf>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(file) = &self.0 {
            let unusable = |error: &dyn Error| Status::unauthenticated(format!("{}: {error}", file.display()));
            let token = fs::read_to_string(file).map_err(|error| unusable(&error))?;
            let mut header: AsciiMetadataValue =
                format!("Bearer {}", token.trim()).parse().map_err(|error| unusable(&error))?;
            header.set_sensitive(true);
            request.metadata_mut().insert("authorization", header);
        }
        Ok(request)
    }
}

/// Connects to `KITH_SERVER` with the first call. `https://` is TLS, with the authorities of `KITH_TLS_CA` or the
/// system's.
///
/// `KITH_TOKEN_FILE` has an API key or a token. It is sent over TLS only.
///
/// # Errors
///
/// If a variable has an invalid value.
pub fn connect() -> Result<Connection, Box<dyn Error>> {
    let server = env::var("KITH_SERVER").unwrap_or_else(|_| "127.0.0.1:50051".to_owned());
    let token = env::var_os("KITH_TOKEN_FILE").map(PathBuf::from);
    let is_secure = server.starts_with("https://");
    if token.is_some() && !is_secure {
        return Err("KITH_TOKEN_FILE needs KITH_SERVER=https://…".into());
    }
    let url = if is_secure { server } else { format!("http://{server}") };
    let mut endpoint = Endpoint::from_shared(url)?
        // Notices a server that is gone without a word, also while a watch is silent.
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_while_idle(true);
    if is_secure {
        let tls = match env::var_os("KITH_TLS_CA") {
            Some(file) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(fs::read(file)?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        endpoint = endpoint.tls_config(tls)?;
    }
    Ok(InterceptedService::new(endpoint.connect_lazy(), Token(token)))
}

/// Returns the reason of an error of Kith: a name of the enum `ErrorReason`, or an empty one.
#[must_use]
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// Whether the same call may succeed later. An error of the connection has no details; each of Kith's own has.
#[must_use]
pub fn is_temporary(status: &Status) -> bool {
    let code = status.code();
    matches!(code, Code::Unavailable | Code::DeadlineExceeded)
        || matches!(code, Code::Cancelled | Code::Internal | Code::Unknown) && status.details().is_empty()
        || ["OVERLOADED", "RATE_LIMITED"].contains(&reason(status).as_str())
}

/// Makes a call, again if it fails temporarily. A write needs a `request_id`: then it is made once only.
///
/// # Errors
///
/// The error of the last attempt.
pub async fn retry<Message: Clone, Answer>(
    message: Message,
    mut call: impl AsyncFnMut(Request<Message>) -> Result<Response<Answer>, Status>,
) -> Result<Answer, Status> {
    let mut attempt = 1;
    loop {
        let mut request = Request::new(message.clone());
        request.set_timeout(TIMEOUT);
        match call(request).await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) if attempt == ATTEMPTS || !is_temporary(&status) => return Err(status),
            Err(status) => {
                let pause = pause(attempt, &status);
                eprintln!("retrying in {} ms: {:?}", pause.as_millis(), status.code());
                tokio::time::sleep(pause).await;
            }
        }
        attempt += 1;
    }
}

/// The time that the server asks for, or a random one that grows with the attempts.
fn pause(attempt: u32, status: &Status) -> Duration {
    let longest = Duration::from_millis(100 << attempt).min(Duration::from_secs(2));
    let random = longest.mul_f64(rand::random_range(0.5..1.0));
    let asked = status.get_details_retry_info().and_then(|info| info.retry_delay).unwrap_or_default();
    random.max(asked)
}
