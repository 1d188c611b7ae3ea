//! Between the service and PostgreSQL: passes all on, until it is told to cut.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::database::Database;

/// What happens at the next COMMIT, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Never,
    /// It reaches the server; its answer does not come back.
    AfterCommit,
    /// It does not reach the server.
    BeforeCommit,
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
        let state = Arc::new(Mutex::new(State { next: Cut::Never, cuts: 0 }));
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
    std::thread::spawn(move || {
        copy(&mut from_server, |bytes| to_client.write_all(bytes).is_ok());
        _ = to_client.shutdown(Shutdown::Both);
    });
    let (mut from_client, mut to_server, state) = (clone(client), clone(server), Arc::clone(state));
    let cut_off = clone(client);
    std::thread::spawn(move || {
        let mut commit = Commit::default();
        copy(&mut from_client, |bytes| {
            let at = commit.find(bytes);
            let next = if at.is_some() { take(&state) } else { Cut::Never };
            if next == Cut::Never || next == Cut::Down {
                return to_server.write_all(bytes).is_ok();
            }
            // Before the server can answer.
            _ = cut_off.shutdown(Shutdown::Both);
            let end = at.filter(|_| next == Cut::BeforeCommit).unwrap_or(bytes.len());
            to_server.write_all(&bytes[..end]).expect("a server");
            false
        });
        _ = to_server.shutdown(Shutdown::Both);
    });
}

/// Finds the message that commits. (PostgreSQL manual, "Message Formats": `Parse` prepares a statement under a name,
/// `Bind` runs it.)
#[derive(Default)]
struct Commit {
    name: Option<Vec<u8>>,
}

impl Commit {
    /// Where it begins, if it is among these bytes.
    fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        const PREPARED: &[u8] = b"\0COMMIT\0";
        if let Some(end) = bytes.windows(PREPARED.len()).position(|part| part == PREPARED) {
            let start = bytes[..end].iter().rposition(|byte| !byte.is_ascii_alphanumeric()).map_or(0, |at| at + 1);
            self.name = Some([b"\0", &bytes[start..end], b"\0"].concat());
        }
        let name = self.name.as_ref()?;
        // A letter and the length stand before the name of the portal, which is empty.
        let is_bind = |at: &usize| *at >= 5 && bytes[at - 5] == b'B' && bytes[*at..].starts_with(name);
        (0..bytes.len()).find(is_bind).map(|at| at - 5)
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
