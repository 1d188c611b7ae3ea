//! A proxy between the service and PostgreSQL. It forwards everything, until a test cuts or holds a transaction.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::database::Database;
use super::process::PATIENCE;

/// A point in a transaction: the message that begins it, or the one that commits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    Begin,
    Commit,
}

/// What happens once, at the next commit. `COMMIT` is a separate message, after the statements that save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Never,
    /// The commit reaches the server. The response is lost.
    AfterCommit,
    /// The commit does not reach the server.
    BeforeCommit,
    /// The commit reaches the server only when the next commit is sent, and is executed before that.
    Late,
    /// As `AfterCommit`, and no connection reaches the server after that.
    AfterCommitAndDown,
    Down,
}

pub struct Proxy {
    /// The database's URL through this proxy.
    pub url: String,
    state: Arc<Mutex<State>>,
}

struct State {
    next: Cut,
    cuts: usize,
    late: Option<Late>,
    to_hold: Option<(oneshot::Sender<()>, Receiver<()>)>,
    /// The messages that pass, while a test records them.
    record: Option<Vec<Passed>>,
    connections: usize,
    latency: Duration,
}

/// A message that passed through the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    pub connection: usize,
    pub to_server: bool,
    /// Its type. (PostgreSQL manual, "Message Formats")
    pub letter: char,
    /// Its effect on a transaction.
    pub point: Option<Point>,
    /// The statement that it prepares, runs or responds to.
    pub statement: Option<Arc<str>>,
}

/// A transaction that waits before it begins.
pub struct Held {
    reached: Option<oneshot::Receiver<()>>,
    go_on: Sender<()>,
}

impl Held {
    /// Waits until the transaction is sent, runs `done`, and then lets the transaction continue.
    pub async fn meanwhile<T>(mut self, done: impl Future<Output = T>) -> T {
        self.reached().await;
        let done = done.await;
        self.go_on();
        done
    }

    /// Waits until the transaction is sent.
    pub async fn reached(&mut self) {
        let reached = self.reached.take().expect("the first time");
        timeout(PATIENCE, reached).await.expect("a transaction in time").expect("a transaction");
    }

    pub fn go_on(self) {
        self.go_on.send(()).expect("a transaction that is held");
    }
}

/// The rest of what was sent to the server.
struct Late {
    server: TcpStream,
    bytes: Vec<u8>,
    responses: Receiver<()>,
}

impl Late {
    /// The server may have closed the connection. Then there is no response.
    fn arrive(mut self) {
        while self.responses.try_recv().is_ok() {}
        if self.server.write_all(&self.bytes).is_ok() {
            _ = self.responses.recv();
        }
    }
}

impl Proxy {
    /// A proxy in front of the server of this database.
    pub fn before(database: &Database) -> Self {
        let authority = database.url.find("://").expect("a URL") + 3;
        let end = authority + database.url[authority..].find('/').expect("a database's name");
        let start = database.url[authority..end].rfind('@').map_or(authority, |at| authority + at + 1);
        let (upstream, rest) = (database.url[start..end].to_owned(), &database.url[end..]);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let path = rest.split('?').next().unwrap_or_default();
        let url = format!("{}{address}{path}?sslmode=disable", &database.url[..start]);
        let state = Arc::new(Mutex::new(State {
            next: Cut::Never,
            cuts: 0,
            late: None,
            to_hold: None,
            record: None,
            connections: 0,
            latency: Duration::ZERO,
        }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("a connection");
                if shared.lock().expect("a lock").next == Cut::Down {
                    continue;
                }
                let server = TcpStream::connect(&upstream).expect("a server");
                pass(&client, &server, &shared);
            }
        });
        Self { url, state }
    }

    pub fn next(&self, cut: Cut) {
        self.state.lock().expect("a lock").next = cut;
    }

    /// Holds the next transaction before it begins.
    pub fn hold(&self) -> Held {
        let ((on_its_way, reached), (go_on, waits)) = (oneshot::channel(), channel());
        self.state.lock().expect("a lock").to_hold = Some((on_its_way, waits));
        Held { reached: Some(reached), go_on }
    }

    /// Delays everything from the server by this time, as on a slow network.
    pub fn set_latency(&self, latency: Duration) {
        self.state.lock().expect("a lock").latency = latency;
    }

    /// Records the messages that pass after this call.
    pub fn record(&self) {
        self.state.lock().expect("a lock").record = Some(Vec::new());
    }

    /// The messages since the recording began.
    pub fn recorded(&self) -> Vec<Passed> {
        self.state.lock().expect("a lock").record.take().expect("a record")
    }

    /// The number of cuts so far.
    pub fn cuts(&self) -> usize {
        self.state.lock().expect("a lock").cuts
    }
}

fn pass(client: &TcpStream, server: &TcpStream, state: &Arc<Mutex<State>>) {
    for socket in [client, server] {
        socket.set_nodelay(true).expect("a socket");
    }
    let clone = |socket: &TcpStream| socket.try_clone().expect("a socket");
    let connection = {
        let mut state = state.lock().expect("a lock");
        state.connections += 1;
        state.connections
    };
    let (mut from_server, mut to_client, recording) = (clone(server), clone(client), Arc::clone(state));
    let unanswered = Unanswered::default();
    let asked = Arc::clone(&unanswered);
    let (responded, responses) = channel();
    std::thread::spawn(move || {
        // All messages of a server have a type, even the first.
        let mut messages = Messages { has_started: true, ..Messages::of(unanswered) };
        copy(&mut from_server, |bytes| {
            let latency = recording.lock().expect("a lock").latency;
            std::thread::sleep(latency);
            note(&recording, connection, false, &messages.read(bytes, Messages::responds));
            // The receiver may be gone, and the client may be cut off.
            _ = responded.send(());
            _ = to_client.write_all(bytes);
            true
        });
        _ = to_client.shutdown(Shutdown::Both);
    });
    let mut responses = Some(responses);
    let (mut from_client, mut to_server, state) = (clone(client), clone(server), Arc::clone(state));
    let cut_off = clone(client);
    std::thread::spawn(move || {
        let (mut messages, mut is_late) = (Messages::of(asked), false);
        copy(&mut from_client, |bytes| {
            let messages = messages.read(bytes, Messages::asks);
            note(&state, connection, true, &messages);
            if messages.iter().any(|message| message.point() == Some(Point::Begin)) {
                let to_hold = state.lock().expect("a lock").to_hold.take();
                to_hold.into_iter().for_each(|(on_its_way, go_on)| {
                    on_its_way.send(()).expect("a test that holds it");
                    go_on.recv().expect("the word to go on");
                });
            }
            let commit = messages.iter().find(|message| message.point() == Some(Point::Commit));
            let at = commit.map(|message| message.at);
            if at.is_some() {
                let late = state.lock().expect("a lock").late.take();
                late.into_iter().for_each(Late::arrive);
            }
            let next = if at.is_some() { take(&state) } else { Cut::Never };
            if next == Cut::Never || next == Cut::Down {
                return to_server.write_all(bytes).is_ok();
            }
            // Before the server can respond.
            _ = cut_off.shutdown(Shutdown::Both);
            let end = at.filter(|_| next != Cut::AfterCommit && next != Cut::AfterCommitAndDown).unwrap_or(bytes.len());
            to_server.write_all(&bytes[..end]).expect("a server");
            if next == Cut::Late {
                let (server, responses) = (clone(&to_server), responses.take().expect("the first cut"));
                state.lock().expect("a lock").late = Some(Late { server, bytes: bytes[end..].to_vec(), responses });
                is_late = true;
            }
            false
        });
        if !is_late {
            _ = to_server.shutdown(Shutdown::Both);
        }
    });
}

fn note(state: &Mutex<State>, connection: usize, to_server: bool, messages: &[Message]) {
    if let Some(record) = &mut state.lock().expect("a lock").record {
        record.extend(messages.iter().map(|message| Passed {
            connection,
            to_server,
            letter: message.letter.into(),
            point: message.point(),
            statement: message.statement.clone(),
        }));
    }
}

/// Parses the messages of one direction of a connection. (PostgreSQL manual, "Message Formats": `Parse` prepares a
/// statement under a name, `Bind` and `Execute` run it, `Sync` ends a group of messages, and `ReadyForQuery` the responses
/// to it.)
struct Messages {
    /// The beginning of an incomplete message.
    rest: Vec<u8>,
    /// Whether the client's first message has passed, which has no type.
    has_started: bool,
    /// The prepared statements by name.
    prepared: HashMap<Vec<u8>, Arc<str>>,
    /// The statement of the group that is being sent.
    current: Option<Arc<str>>,
    unanswered: Unanswered,
}

/// The statements of the groups that the server has not responded to.
type Unanswered = Arc<Mutex<VecDeque<Option<Arc<str>>>>>;

struct Message {
    letter: u8,
    /// The statement that it prepares, runs or responds to.
    statement: Option<Arc<str>>,
    /// Its offset in the bytes that were read.
    at: usize,
}

impl Message {
    /// Its effect on a transaction.
    fn point(&self) -> Option<Point> {
        let statement = self.statement.as_deref().filter(|_| self.letter == b'B')?;
        match statement.split_ascii_whitespace().next() {
            Some("BEGIN") => Some(Point::Begin),
            Some("COMMIT") => Some(Point::Commit),
            _ => None,
        }
    }
}

impl Messages {
    fn of(unanswered: Unanswered) -> Self {
        Self { rest: Vec::new(), has_started: false, prepared: HashMap::new(), current: None, unanswered }
    }

    /// The messages that end in these bytes.
    fn read(&mut self, bytes: &[u8], statement: fn(&mut Self, u8, &[u8]) -> Option<Arc<str>>) -> Vec<Message> {
        let before = self.rest.len();
        self.rest.extend(bytes);
        let (mut at, mut found) = (0, Vec::new());
        while let Some(header) = Some(usize::from(self.has_started)).filter(|header| self.rest.len() >= at + header + 4)
        {
            let length = self.rest[at + header..at + header + 4].try_into().expect("four bytes");
            let end = at + header + u32::from_be_bytes(length) as usize;
            if self.rest.len() < end {
                break;
            }
            if std::mem::replace(&mut self.has_started, true) {
                let (letter, body) = (self.rest[at], self.rest[at + header + 4..end].to_vec());
                let statement = statement(self, letter, &body);
                found.push(Message { letter, statement, at: at.saturating_sub(before) });
            }
            at = end;
        }
        self.rest.drain(..at);
        found
    }

    /// The statement of a message to the server.
    fn asks(&mut self, letter: u8, body: &[u8]) -> Option<Arc<str>> {
        let mut texts = body.split(|byte| *byte == 0);
        let (first, second) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
        match letter {
            // The name of the statement, and its text.
            b'P' => {
                let text: Arc<str> = String::from_utf8_lossy(second).into();
                self.prepared.insert(first.to_vec(), Arc::clone(&text));
                self.current = Some(text);
            }
            // The name of the portal, which is empty, and the name of the statement.
            b'B' => self.current = self.prepared.get(second).cloned(),
            // `Sync`, or statements as text.
            b'S' | b'Q' => {
                let statement = self.current.take();
                self.unanswered.lock().expect("a lock").push_back(statement.clone());
                return statement;
            }
            _ => {}
        }
        self.current.clone()
    }

    /// The statement that a message of the server responds to.
    fn responds(&mut self, letter: u8, _: &[u8]) -> Option<Arc<str>> {
        let mut unanswered = self.unanswered.lock().expect("a lock");
        let statement = unanswered.front().cloned().flatten();
        if letter == b'Z' {
            unanswered.pop_front();
        }
        statement
    }
}

fn take(state: &Mutex<State>) -> Cut {
    let mut state = state.lock().expect("a lock");
    let next = state.next;
    if next == Cut::Never || next == Cut::Down {
        return next;
    }
    state.cuts += 1;
    state.next = if next == Cut::AfterCommitAndDown { Cut::Down } else { Cut::Never };
    next
}

/// Copies until the connection ends or `to` returns false.
fn copy(from: &mut TcpStream, mut to: impl FnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; 65_536];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 || !to(&buffer[..length]) {
            return;
        }
    }
}
