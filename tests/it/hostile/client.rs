//! A client that sends whatever bytes it likes, and reads what comes without looking at it.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

use crate::harness::frames::{ACK, DATA, END_STREAM, HEADERS, PING, frame};

/// The address from which hostile clients come.
const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Opens a connection from another address than honest clients have.
pub async fn connected(address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((SOURCE, 0))).expect("a loopback address");
    socket.connect(address.parse().expect("an address")).await.expect("a connection")
}

#[derive(Default)]
struct Answers {
    /// The largest number in a PING.
    ping: u64,
    /// Responses that have begun.
    responses: usize,
    /// Responses that have ended.
    ended: usize,
}

pub struct Client {
    writer: OwnedWriteHalf,
    /// What the server has answered. Closed with the connection.
    answers: watch::Receiver<Answers>,
    pings: u64,
}

impl Client {
    pub async fn connect(address: &str, opening: &[u8]) -> Self {
        let (reader, writer) = connected(address).await.into_split();
        let (sender, answers) = watch::channel(Answers::default());
        tokio::spawn(read(reader, sender));
        let mut client = Self { writer, answers, pings: 0 };
        client.send(opening).await;
        client
    }

    /// Whether the connection is still open.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.writer.write_all(bytes).await.is_ok() && self.answers.has_changed().is_ok()
    }

    /// Waits until the server has read everything that was sent. Returns whether the connection is still open.
    pub async fn is_heard(&mut self) -> bool {
        self.pings += 1;
        let pings = self.pings;
        self.send(&frame(PING, 0, 0, &pings.to_be_bytes())).await
            && self.answers.wait_for(|answers| answers.ping >= pings).await.is_ok()
    }

    /// Waits until so many responses have begun. Returns whether the connection is still open.
    pub async fn has_responses(&mut self, responses: usize) -> bool {
        self.answers.wait_for(|answers| answers.responses >= responses).await.is_ok()
    }

    /// Waits until so many responses have ended. Returns whether the connection is still open.
    pub async fn has_ended(&mut self, responses: usize) -> bool {
        self.answers.wait_for(|answers| answers.ended >= responses).await.is_ok()
    }

    /// Sends the same bytes up to so many times, or until the server closes the connection. Returns whether it did.
    pub async fn is_cut_after(&mut self, bytes: &[u8], times: usize) -> bool {
        const AT_ONCE: usize = 50;
        let many = bytes.repeat(AT_ONCE);
        for _ in 0..times.div_ceil(AT_ONCE) {
            if !self.send(&many).await {
                return true;
            }
        }
        !self.is_heard().await
    }
}

/// Reads frames to the end of the connection, and publishes the numbers in the answers to PINGs.
async fn read(mut reader: OwnedReadHalf, answers: watch::Sender<Answers>) {
    let mut payload = Vec::new();
    let mut header = [0; 9];
    while reader.read_exact(&mut header).await.is_ok() {
        let [high, middle, low, kind, flags, ..] = header;
        payload.resize(usize::try_from(u32::from_be_bytes([0, high, middle, low])).expect("24 bits"), 0);
        if reader.read_exact(&mut payload).await.is_err() {
            return;
        }
        if kind == HEADERS && flags & END_STREAM == 0 {
            answers.send_modify(|answers| answers.responses += 1);
        }
        if matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
            answers.send_modify(|answers| answers.ended += 1);
        }
        if kind == PING && flags & ACK != 0 {
            // Those of a flood have the number 0.
            let number = u64::from_be_bytes(payload[..].try_into().expect("8 bytes"));
            answers.send_modify(|answers| answers.ping = number.max(answers.ping));
        }
    }
}
