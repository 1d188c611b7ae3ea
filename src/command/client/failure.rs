//! Errors of calls, in words or as JSON, and the exit status.

use std::io::{self, Write};
use std::process::ExitCode;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::api::Method;
use crate::command::Failure;
use crate::config::Output;
use crate::proto::json;

/// The exit status for a wrong command line, as clap has it.
const USAGE: u8 = 2;

/// Why a subcommand ended.
#[derive(Debug)]
pub(super) enum Failed {
    /// The command line or the input is wrong. Nothing was called.
    Usage(String),
    /// The server, or the connection to it, responded with an error.
    Call {
        /// The name of the RPC.
        method: String,
        /// The error.
        status: Box<Status>,
    },
    /// Something else failed.
    Other(Failure),
    /// Nobody reads the output any longer.
    Closed,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

impl From<String> for Failed {
    fn from(failure: String) -> Self {
        Self::Other(failure.into())
    }
}

impl From<serde_json::Error> for Failed {
    fn from(failure: serde_json::Error) -> Self {
        Self::Other(failure.into())
    }
}

/// An error of writing the output.
impl From<io::Error> for Failed {
    fn from(failure: io::Error) -> Self {
        if failure.kind() == io::ErrorKind::BrokenPipe { Self::Closed } else { Self::Other(failure.into()) }
    }
}

/// Reports an error on standard error, and returns the exit status: 1 for an error of the server or of the connection
/// to it, 2 for a wrong command line.
pub(super) fn ended(result: Result<ExitCode, Failed>, output: Option<Output>) -> ExitCode {
    let (text, code) = match result {
        Ok(code) => return code,
        Err(Failed::Closed) => return ExitCode::SUCCESS,
        Err(Failed::Usage(error)) => (format!("kith: {error}\n"), ExitCode::from(USAGE)),
        Err(Failed::Other(error)) => (format!("kith: {error}\n"), ExitCode::FAILURE),
        Err(Failed::Call { method, status }) => match output {
            Some(Output::Json | Output::Jsonl) => (format!("{}\n", as_json(&status)), ExitCode::FAILURE),
            Some(Output::Table) | None => (in_words(&method, &status), ExitCode::FAILURE),
        },
    };
    // Nobody may be there to read it. The exit status says it too.
    let _closed = io::stderr().write_all(text.as_bytes());
    code
}

/// Describes an error: its code and message, and a line for each of its details.
pub(super) fn in_words(method: &str, status: &Status) -> String {
    let mut text = format!("kith: {method} failed: {}: {}\n", code_name(status.code()), status.message());
    let mut line = |words: String| text += &format!("  {words}\n");
    let details = status.get_error_details();
    if let Some(info) = details.error_info() {
        let mut metadata: Vec<_> = info.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect();
        metadata.sort();
        let metadata = if metadata.is_empty() { String::new() } else { format!(" ({})", metadata.join(", ")) };
        line(format!("reason: {}{metadata}", info.reason));
    }
    let acting = Method::find(method).ok().and_then(|method| method.right()?.acting);
    for (what, words) in others(&details) {
        let hint = if acting == Some(&*what) { "; --as USER fills it in" } else { "" };
        line(format!("{what}: {words}{hint}"));
    }
    if let Some(delay) = details.retry_info().and_then(|retry| retry.retry_delay) {
        line(format!("retry after: {}", humantime::format_duration(delay)));
    }
    text
}

/// The details beside the reason and the time to retry, each with what it is about.
fn others(details: &ErrorDetails) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut add = |what: &str, words: &str| all.push((what.to_owned(), words.to_owned()));
    for violation in details.bad_request().iter().flat_map(|bad| &bad.field_violations) {
        add(&violation.field, &violation.description);
    }
    for violation in details.precondition_failure().iter().flat_map(|failure| &failure.violations) {
        add(&violation.subject, &violation.description);
    }
    for violation in details.quota_failure().iter().flat_map(|failure| &failure.violations) {
        add(&violation.subject, &violation.description);
    }
    if let Some(resource) = details.resource_info() {
        add(&resource.resource_name, &resource.description);
    }
    if let Some(request) = details.request_info() {
        add("request", &request.request_id);
    }
    if let Some(message) = details.localized_message() {
        add(&message.locale, &message.message);
    }
    for link in details.help().iter().flat_map(|help| &help.links) {
        add(&link.description, &link.url);
    }
    all
}

/// The proto's JSON form of a `google.rpc.Status`. Details of unknown types are left out.
pub(super) fn as_json(status: &Status) -> Value {
    let plain = json!({ "code": i32::from(status.code()), "message": status.message() });
    let pool = DescriptorPool::decode(tonic_types::pb::FILE_DESCRIPTOR_SET).unwrap_or_default();
    let Some(descriptor) = pool.get_message_by_name("google.rpc.Status") else { return plain };
    let Ok(mut decoded) = tonic_types::Status::decode(status.details()) else { return plain };
    decoded.code = status.code().into();
    status.message().clone_into(&mut decoded.message);
    let known = |url: &str| url.rsplit('/').next().is_some_and(|name| pool.get_message_by_name(name).is_some());
    decoded.details.retain(|detail| known(&detail.type_url));
    let message = DynamicMessage::decode(descriptor, &*decoded.encode_to_vec()).ok();
    message.and_then(|message| json::value(&message).ok()).unwrap_or(plain)
}

/// The name of a code, as gRPC's documents have it.
pub(super) fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn status() -> Status {
        let mut details =
            ErrorDetails::with_error_info("LIMIT_REACHED", "kith", [("limit".to_owned(), "x".to_owned())]);
        details.add_bad_request_violation("from_user_id", "must be 1 or more");
        details.set_retry_info(Some(Duration::from_secs(90)));
        Status::with_error_details(Code::ResourceExhausted, "too many", details)
    }

    #[test]
    fn an_error_has_a_line_for_each_detail() {
        let expected = "kith: SendConnectionRequest failed: RESOURCE_EXHAUSTED: too many\n  \
                        reason: LIMIT_REACHED (limit=x)\n  from_user_id: must be 1 or more; --as USER fills it in\n  \
                        retry after: 1m 30s\n";
        assert_eq!(in_words("SendConnectionRequest", &status()), expected);
        let bare = Status::unavailable("tcp connect error");
        assert_eq!(in_words("GetUser", &bare), "kith: GetUser failed: UNAVAILABLE: tcp connect error\n");
    }

    #[test]
    fn an_error_has_the_json_form_of_its_proto() {
        let json = as_json(&status());
        assert_eq!((&json["code"], &json["message"]), (&json!(8), &json!("too many")));
        let details = json["details"].as_array().expect("details");
        assert_eq!(details.len(), 3, "{json}");
        let has = |name: &str, value: Value| details.iter().any(|detail| detail[name] == value);
        assert!(has("@type", "type.googleapis.com/google.rpc.BadRequest".into()), "{json}");
        assert!(
            has("reason", "LIMIT_REACHED".into()) && has("retryDelay", Value::Null) && has("retry_delay", "90s".into())
        );
        assert_eq!(as_json(&Status::unavailable("gone")), json!({ "code": 14, "message": "gone" }));
        let broken = Status::with_details(Code::Internal, "odd", vec![0xff].into());
        assert_eq!(as_json(&broken), json!({ "code": 13, "message": "odd" }));
    }
}
