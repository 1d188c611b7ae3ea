//! Between the service and PostgreSQL: passes all on, until it is told to cut.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::database::Database;
use super::process::PATIENCE;

/// What a statement that saves a batch says.
const SAVE: &[u8] = b"UPDATE feed SET last_sequence";

/// What happens at the next commit, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Never,
    /// It reaches the server; its answer does not come back.
    AfterCommit,
    /// It does not reach the server.
    BeforeCommit,
    /// It reaches the server only when the next commit is on its way, and is carried out before that.
    Late,
    /// As `AfterCommit`; and nobody reaches the server until told otherwise.
    AfterCommitAndDown,
    Down,
}

pub struct Proxy {
    /// The database's URL by way of this proxy.
    pub url: String,
    state: Arc<Mutex<State>>,
}

struct State {
    next: Cut,
    cuts: usize,
    late: Option<Late>,
    to_hold: Option<(oneshot::Sender<TcpStream>, Receiver<()>)>,
}

/// The next commit waits on its way to the server until something else is done.
pub struct Held {
    reached: Option<oneshot::Receiver<TcpStream>>,
    /// What it comes from, once it is on its way.
    client: Option<TcpStream>,
    go_on: Sender<()>,
}

impl Held {
    /// Does this once it is on its way, and lets it go on.
    pub async fn meanwhile<T>(mut self, done: impl Future<Output = T>) -> T {
        self.reached().await;
        let done = done.await;
        self.go_on();
        done
    }

    /// Waits until it is on its way.
    pub async fn reached(&mut self) {
        let reached = self.reached.take().expect("the first time");
        let client = timeout(PATIENCE, reached).await.expect("a commit in time");
        self.client = Some(client.expect("a commit"));
    }

    /// Waits until something follows it on the same connection.
    pub async fn followed(&self) {
        let client = self.client.as_ref().expect("a commit on its way").try_clone().expect("a socket");
        let follows = tokio::task::spawn_blocking(move || client.peek(&mut [0]));
        let bytes = timeout(PATIENCE, follows).await.expect("something in time").expect("no panic");
        assert_eq!(bytes.expect("a connection"), 1);
    }

    pub fn go_on(self) {
        self.go_on.send(()).expect("a commit that is held");
    }
}

/// What is still on its way to the server.
struct Late {
    server: TcpStream,
    bytes: Vec<u8>,
    answers: Receiver<()>,
}

impl Late {
    fn arrive(mut self) {
        while self.answers.try_recv().is_ok() {}
        self.server.write_all(&self.bytes).expect("a server");
        self.answers.recv().expect("an answer");
    }
}

impl Proxy {
    /// A proxy before the server of this database.
    pub fn before(database: &Database) -> Self {
        let authority = database.url.find("://").expect("a URL") + 3;
        let end = authority + database.url[authority..].find('/').expect("a database's name");
        let start = database.url[authority..end].rfind('@').map_or(authority, |at| authority + at + 1);
        let (upstream, rest) = (database.url[start..end].to_owned(), &database.url[end..]);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let path = rest.split('?').next().unwrap_or_default();
        let url = format!("{}{address}{path}?sslmode=disable", &database.url[..start]);
        let state = Arc::new(Mutex::new(State { next: Cut::Never, cuts: 0, late: None, to_hold: None }));
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

    /// Holds the next commit up.
    pub fn hold(&self) -> Held {
        let ((on_its_way, reached), (go_on, waits)) = (oneshot::channel(), channel());
        self.state.lock().expect("a lock").to_hold = Some((on_its_way, waits));
        Held { reached: Some(reached), client: None, go_on }
    }

    /// How often it has cut.
    pub fn cuts(&self) -> usize {
        self.state.lock().expect("a lock").cuts
    }
}

fn pass(client: &TcpStream, server: &TcpStream, state: &Arc<Mutex<State>>) {
    for socket in [client, server] {
        socket.set_nodelay(true).expect("a socket");
    }
    let clone = |socket: &TcpStream| socket.try_clone().expect("a socket");
    let (mut from_server, mut to_client) = (clone(server), clone(client));
    let (answered, answers) = channel();
    std::thread::spawn(move || {
        copy(&mut from_server, |bytes| {
            // Nobody may want to know, and the client may be cut off.
            _ = answered.send(());
            _ = to_client.write_all(bytes);
            true
        });
        _ = to_client.shutdown(Shutdown::Both);
    });
    let mut answers = Some(answers);
    let (mut from_client, mut to_server, state) = (clone(client), clone(server), Arc::clone(state));
    let cut_off = clone(client);
    std::thread::spawn(move || {
        let (mut commit, mut is_late) = (Commit::default(), false);
        copy(&mut from_client, |bytes| {
            let at = commit.find(bytes);
            if at.is_some() {
                let late = state.lock().expect("a lock").late.take();
                late.into_iter().for_each(Late::arrive);
                let to_hold = state.lock().expect("a lock").to_hold.take();
                to_hold.into_iter().for_each(|(on_its_way, go_on)| {
                    on_its_way.send(clone(&cut_off)).expect("who holds it");
                    go_on.recv().expect("the word to go on");
                });
            }
            let next = if at.is_some() { take(&state) } else { Cut::Never };
            if next == Cut::Never || next == Cut::Down {
                return to_server.write_all(bytes).is_ok();
            }
            // Before the server can answer.
            _ = cut_off.shutdown(Shutdown::Both);
            let end = at.filter(|_| next != Cut::AfterCommit && next != Cut::AfterCommitAndDown).unwrap_or(bytes.len());
            to_server.write_all(&bytes[..end]).expect("a server");
            if next == Cut::Late {
                let (server, answers) = (clone(&to_server), answers.take().expect("the first cut"));
                state.lock().expect("a lock").late = Some(Late { server, bytes: bytes[end..].to_vec(), answers });
                is_late = true;
            }
            false
        });
        if !is_late {
            _ = to_server.shutdown(Shutdown::Both);
        }
    });
}

/// Finds what commits among the messages of a client: `COMMIT`, or the one statement that saves a batch outside of a
/// transaction. (PostgreSQL manual, "Message Formats": `Parse` prepares a statement under a name, `Bind` runs it, `Sync`
/// ends what belongs together.)
#[derive(Default)]
struct Commit {
    /// What is not a whole message yet.
    rest: Vec<u8>,
    has_started: bool,
    prepared: HashMap<Vec<u8>, Prepared>,
    in_transaction: bool,
}

#[derive(Clone, Copy)]
enum Prepared {
    Begin,
    End { commits: bool },
    Save,
}

impl Commit {
    /// Where it begins, if it ends among these bytes.
    fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let before = self.rest.len();
        self.rest.extend(bytes);
        let (mut at, mut begins, mut found) = (0, None, None);
        // The first message has no letter before its length.
        while let Some(header) = Some(usize::from(self.has_started)).filter(|header| self.rest.len() >= at + header + 4)
        {
            let length = self.rest[at + header..at + header + 4].try_into().expect("four bytes");
            let end = at + header + u32::from_be_bytes(length) as usize;
            if self.rest.len() < end {
                break;
            }
            let (letter, body) = (self.rest[at], self.rest[at + header + 4..end].to_vec());
            if !std::mem::replace(&mut self.has_started, true) {
                at = end;
                continue;
            }
            if self.is_commit(letter, &body) {
                begins = Some(at);
            }
            if letter == b'S' {
                found = found.or(begins.take());
            }
            at = end;
        }
        // One that has begun is found with its end.
        let done = begins.unwrap_or(at);
        self.rest.drain(..done);
        found.map(|at: usize| at.saturating_sub(before))
    }

    fn is_commit(&mut self, letter: u8, body: &[u8]) -> bool {
        let mut texts = body.split(|byte| *byte == 0);
        let (first, second) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
        if letter == b'P' {
            let kind = match second {
                b"COMMIT" => Some(Prepared::End { commits: true }),
                b"ROLLBACK" => Some(Prepared::End { commits: false }),
                text if text.starts_with(b"BEGIN") => Some(Prepared::Begin),
                text => text.windows(SAVE.len()).any(|part| part == SAVE).then_some(Prepared::Save),
            };
            self.prepared.extend(kind.map(|kind| (first.to_vec(), kind)));
        }
        // Of `Bind` the first is the portal, which has no name.
        match self.prepared.get(second).filter(|_| letter == b'B') {
            Some(Prepared::Begin) => self.in_transaction = true,
            Some(Prepared::End { commits }) => {
                self.in_transaction = false;
                return *commits;
            }
            Some(Prepared::Save) => return !self.in_transaction,
            None => {}
        }
        false
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

/// Until its end, or until what it is given to says no.
fn copy(from: &mut TcpStream, mut to: impl FnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; 65_536];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 || !to(&buffer[..length]) {
            return;
        }
    }
}
