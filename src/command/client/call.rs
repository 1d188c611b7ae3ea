//! `kith call`: any RPC, with JSON.

use std::io::Read;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::Stream;
use prost_reflect::DynamicMessage;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::api::{self, Method};
use super::failure::Failed;
use super::input;
use super::output::Printer;
use super::session::{Session, next};
use crate::command::print;
use crate::config::{Call, Output, Sources};
use crate::proto::json;

/// The messages of a stream that are read before they are sent.
const AHEAD: usize = 64;

pub(super) async fn run(args: &Call, sources: &Sources) -> Result<ExitCode, Failed> {
    let Some(name) = &args.method else {
        print(&api::list())?;
        return Ok(ExitCode::SUCCESS);
    };
    let method = Method::find(name)?;
    if args.describe {
        print(&api::describe(&method))?;
        return Ok(ExitCode::SUCCESS);
    }
    if method.0.is_client_streaming() {
        return stream(args, &method, sources).await;
    }
    // Before the connection: an error of the command line is found without a server.
    let request = input::object(args.json.as_deref())?;
    input::message(&method.input(), request.clone()).map_err(Failed::Usage)?;
    let session = Session::open(&args.client, sources).await?;
    let request = session.request(&method, request).await?;
    if method.0.is_server_streaming() {
        let mut responses = session.responses(&method, request).await?;
        let printer = Printer::new(args.client.output, Output::Jsonl);
        while let Some(message) = next(&method, &mut responses).await? {
            printer.message(&method.0.output(), &message, true)?;
        }
    } else {
        let response = json::value(&session.unary(&method, request).await?)?;
        Printer::new(args.client.output, Output::Json).message(&method.0.output(), &response, true)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Calls an RPC with the messages of the argument, one JSON object after the other.
async fn stream(args: &Call, method: &Method, sources: &Sources) -> Result<ExitCode, Failed> {
    let Some(json) = &args.json else {
        let name = method.name();
        return Err(Failed::Usage(format!("{name} takes a stream; give its messages as JSON, - or @FILE")));
    };
    let input = input::open(json)?;
    let session = Session::open(&args.client, sources).await?;
    let default = if method.0.is_server_streaming() { Output::Jsonl } else { Output::Json };
    let printer = Printer::new(args.client.output, default);
    let print = |response: Value| printer.message(&method.0.output(), &response, true);
    send(&session, method, input, |message| message, print).await?;
    Ok(ExitCode::SUCCESS)
}

/// Makes the JSON of a message from an object of the input.
type Wrap = fn(Map<String, Value>) -> Map<String, Value>;

/// Sends a stream of JSON objects, each converted by `wrap`, and takes each response.
///
/// # Errors
///
/// If the input is wrong, the stream ends there: what the server carried out before stays, and the error says where.
pub(super) async fn send(
    session: &Session<'_>,
    method: &Method,
    input: Box<dyn Read + Send>,
    wrap: Wrap,
    mut take: impl FnMut(Value) -> Result<(), Failed>,
) -> Result<(), Failed> {
    if session.args.retry {
        let name = method.name();
        return Err(Failed::Usage(format!("--retry: {name} takes a stream, which cannot be sent again; leave it out")));
    }
    if session.args.acting.is_some() {
        let name = method.name();
        return Err(Failed::Usage(format!("--as: {name} takes a stream; name the user in its messages")));
    }
    let (messages, wrong) = messages(method, input, wrap);
    let mut responses = session.streaming(method, messages).await;
    if let Ok(responses) = &mut responses {
        while let Some(message) = next(method, responses).await? {
            take(message)?;
        }
    }
    let wrong = wrong.lock().unwrap_or_else(PoisonError::into_inner).take();
    match wrong {
        Some(error) => Err(Failed::Usage(error)),
        None => responses.map(drop),
    }
}

/// Where the error of the input is found after the call.
type Wrong = Arc<Mutex<Option<String>>>;

/// Reads messages in a thread, as the call takes them. The stream ends at the first error of the input.
fn messages(
    method: &Method,
    input: Box<dyn Read + Send>,
    wrap: Wrap,
) -> (impl Stream<Item = DynamicMessage> + Send + 'static, Wrong) {
    let (sender, mut receiver) = mpsc::channel(AHEAD);
    let (wrong, descriptor) = (Wrong::default(), method.input());
    let found = Arc::clone(&wrong);
    // No task of the runtime: its end would wait until standard input is closed.
    std::thread::spawn(move || {
        let values = serde_json::Deserializer::from_reader(input).into_iter::<Value>();
        for (number, value) in (1_u64..).zip(values) {
            let message = match value {
                Ok(Value::Object(object)) => input::message(&descriptor, wrap(object)),
                Ok(_) => Err("it is no JSON object".to_owned()),
                Err(error) => Err(format!("the JSON is not valid: {error}")),
            };
            let sent = message.map(|message| sender.blocking_send(message).is_ok());
            match sent {
                Ok(true) => {}
                // The call has ended.
                Ok(false) => return,
                Err(error) => {
                    let error = format!("message {number} of the input: {error}");
                    *found.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return;
                }
            }
        }
    });
    (futures_util::stream::poll_fn(move |context| receiver.poll_recv(context)), wrong)
}
