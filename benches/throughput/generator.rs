//! Makes calls and measures them: gRPC over HTTP/2 without a client library, so that a call costs the generator little.
//!
//! Everything runs on one thread. A few connections carry the calls in flight.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use h2::client::SendRequest;
use http::{HeaderMap, Request};
use kith::proto::v1 as pb;
use prost::Message;
use prost::bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet, spawn_local};
use tokio::time::sleep;

use super::Result;
use super::access::Access;
use super::measure::{Histogram, Sample, Watched};
use super::workload::{Call, Operation, Workload, check};

/// Calls in flight on one connection before another one is opened, up to this many connections.
const CALLS_OF_CONNECTION: usize = 16;
const CONNECTIONS: usize = 4;
/// The maximum number of open calls at a fixed rate. With more the server does not keep up.
const BACKLOG: usize = 20_000;

/// A server to call.
pub struct Target {
    pub address: String,
    pub access: Access,
    pub watched: Watched,
    /// Shared by all servers on one database.
    pub workload: Rc<RefCell<Workload>>,
    /// Whether the server has revisions, which count the changes.
    pub is_kith: bool,
}

/// The length of a measurement, after a start that is not measured.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub start: Duration,
    pub length: Duration,
}

/// How calls are made.
#[derive(Clone, Copy, Debug)]
pub enum Load {
    /// A number of concurrent calls: each is followed by the next.
    InFlight(usize),
    /// A number of calls per second, independent of responses. Latency starts at the scheduled time of a call.
    PerSecond(f64),
}

/// What the calls of one measurement record.
#[derive(Default)]
struct Notes {
    histogram: RefCell<Histogram>,
    bytes: Cell<u64>,
    measuring: Cell<bool>,
    ended: Cell<bool>,
}

impl Notes {
    fn add(&self, time: Duration, bytes: usize) {
        self.histogram.borrow_mut().record(time);
        self.bytes.set(self.bytes.get() + bytes as u64);
    }
}

/// Connections to one server.
pub(super) struct Client {
    senders: Vec<SendRequest<Bytes>>,
    connections: Vec<JoinHandle<()>>,
    heads: Vec<(Operation, Request<()>)>,
}

impl Client {
    pub(super) async fn connect(target: &Target, connections: usize) -> Result<Self> {
        let Target { address, access, .. } = target;
        let head = |operation: Operation| -> Result<_> {
            let mut request = Request::post(format!("http://{address}{}", operation.path()));
            if let Some(credential) = &access.authorization {
                request = request.header("authorization", credential);
            }
            Ok((operation, request.header("content-type", "application/grpc").header("te", "trailers").body(())?))
        };
        let heads = Operation::single().map(head).collect::<Result<_>>()?;
        let mut client = Self { senders: Vec::new(), connections: Vec::new(), heads };
        for _ in 0..connections {
            let stream = access.connect(address).await?;
            let mut builder = h2::client::Builder::new();
            builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
            let (sender, connection) = builder.handshake(stream).await?;
            client.senders.push(sender);
            client.connections.push(spawn_local(async move { _ = connection.await }));
        }
        Ok(client)
    }

    /// Makes a call on the connection with this number. Passes on the response in chunks, and returns the bytes of the
    /// call. Fails unless the response has the expected status.
    async fn call(&self, number: usize, call: Call, take: impl FnMut(&[u8])) -> Result<usize> {
        let (bytes, trailers) = self.exchange(number, &call, take).await?;
        refuse_other_than_expected(&call, &trailers)?;
        Ok(bytes)
    }

    /// The same with any status. Returns the headers that have it, too.
    pub(super) async fn exchange(
        &self,
        number: usize,
        call: &Call,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(usize, HeaderMap)> {
        let head = self.heads.iter().find(|(operation, _)| *operation == call.operation).ok_or("no such call")?;
        let sender = self.senders[number % self.senders.len()].clone();
        let mut bytes = call.frame.len();
        let (response, mut stream) = sender.ready().await?.send_request(head.1.clone(), false)?;
        stream.send_data(call.frame.clone(), true)?;
        let (parts, mut body) = response.await?.into_parts();
        while let Some(piece) = body.data().await {
            let piece = piece?;
            body.flow_control().release_capacity(piece.len())?;
            bytes += piece.len();
            take(&piece);
        }
        let trailers = body.trailers().await?;
        Ok((bytes, trailers.unwrap_or(parts.headers)))
    }

    /// Makes a call and returns the message of the response.
    async fn response(&self, call: Call) -> Result<Vec<u8>> {
        let mut frame = Vec::new();
        self.call(0, call, |piece| frame.extend_from_slice(piece)).await?;
        Ok(frame.split_off(5.min(frame.len())))
    }

    pub(super) async fn revision(&self) -> Result<i64> {
        let response = self.response(Call::revision()).await?;
        Ok(pb::GetConnectionCountsResponse::decode(&response[..])?.revision)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connections.iter().for_each(JoinHandle::abort);
    }
}

pub(super) fn refuse_other_than_expected(call: &Call, trailers: &HeaderMap) -> Result<()> {
    let text = |name| trailers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    match text("grpc-status").as_deref() {
        Some(status) if status == call.expected => Ok(()),
        status => {
            let message = text("grpc-message").unwrap_or_default();
            Err(format!("{:?} ended with status {}: {message}", call.operation, status.unwrap_or("none")).into())
        }
    }
}

/// Makes a call of this kind and returns its message, which is checked.
pub async fn checked_call(target: &Target, operation: Operation) -> Result<Vec<u8>> {
    let operation = operation.first();
    let request = target.workload.borrow_mut().next(operation)?;
    let response = call(target, request).await?;
    check(operation, &response)?;
    Ok(response)
}

/// Makes a call and returns its message.
pub async fn call(target: &Target, call: Call) -> Result<Vec<u8>> {
    Client::connect(target, 1).await?.response(call).await
}

/// Measures calls of one kind. Fails if a call fails, or if an acknowledged change was not made.
pub async fn measure(target: &Rc<Target>, operation: Operation, load: Load, window: Window) -> Result<Sample> {
    let connections = match load {
        Load::InFlight(calls) => calls.div_ceil(CALLS_OF_CONNECTION).min(CONNECTIONS),
        Load::PerSecond(_) => CONNECTIONS,
    };
    let client = Rc::new(Client::connect(target, connections).await?);
    let requested = target.workload.borrow().changes;
    let before = if target.is_kith { client.revision().await? } else { 0 };
    let sample = match load {
        Load::InFlight(calls) => in_flight(target, &client, operation, calls, window).await?,
        Load::PerSecond(rate) => per_second(target, &client, operation, rate, window).await?,
    };
    let requested = target.workload.borrow().changes - requested;
    if target.is_kith {
        let made = client.revision().await? - before;
        if made != requested {
            return Err(format!("{operation:?}: {requested} changes were acknowledged, {made} were made").into());
        }
    }
    Ok(sample)
}

async fn in_flight(
    target: &Rc<Target>,
    client: &Rc<Client>,
    operation: Operation,
    calls: usize,
    window: Window,
) -> Result<Sample> {
    let notes = Rc::new(Notes::default());
    let mut workers = JoinSet::new();
    for number in 0..calls {
        let (target, client, notes) = (Rc::clone(target), Rc::clone(client), Rc::clone(&notes));
        workers.spawn_local(async move {
            while !notes.ended.get() {
                let call = target.workload.borrow_mut().next(operation)?;
                let begun = Instant::now();
                let bytes = client.call(number, call, |_| ()).await?;
                if notes.measuring.get() {
                    notes.add(begun.elapsed(), bytes);
                }
            }
            Result::Ok(())
        });
    }
    sleep(window.start).await;
    let (begun, used) = (Instant::now(), target.watched.used());
    notes.measuring.set(true);
    sleep(window.length).await;
    notes.measuring.set(false);
    let sample = sample(&notes, begun, used, target.watched.used());
    notes.ended.set(true);
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    sample
}

async fn per_second(
    target: &Rc<Target>,
    client: &Rc<Client>,
    operation: Operation,
    rate: f64,
    window: Window,
) -> Result<Sample> {
    let notes = Rc::new(Notes::default());
    let mut due = calls_due(rate, window.start + window.length);
    let mut calls = JoinSet::new();
    let (mut begun, mut used) = (Instant::now(), target.watched.used());
    let measured_from = begun + window.start;
    let mut number = 0;
    while let Some(at) = due.recv().await {
        if at >= measured_from && !notes.measuring.replace(true) {
            (begun, used) = (Instant::now(), target.watched.used());
        }
        let (measuring, call) = (notes.measuring.get(), target.workload.borrow_mut().next(operation)?);
        let (client, notes) = (Rc::clone(client), Rc::clone(&notes));
        number += 1;
        calls.spawn_local(async move {
            let bytes = client.call(number, call, |_| ()).await?;
            if measuring {
                notes.add(at.elapsed(), bytes);
            }
            Result::Ok(())
        });
        while let Some(ended) = calls.try_join_next() {
            ended??;
        }
        if calls.len() > BACKLOG {
            return Err(format!("{operation:?}: {rate:.0} calls a second are too many").into());
        }
    }
    while let Some(ended) = calls.join_next().await {
        ended??;
    }
    sample(&notes, begun, used, target.watched.used())
}

/// Sends the scheduled time of each call, from a separate thread: the runtime's timer has a resolution of 1 ms.
pub(super) fn calls_due(rate: f64, length: Duration) -> mpsc::UnboundedReceiver<Instant> {
    let (sender, receiver) = mpsc::unbounded_channel();
    thread::spawn(move || {
        let begun = Instant::now();
        let times = (0_u64..).map(|number| Duration::from_secs_f64(number as f64 / rate));
        for at in times.take_while(|at| *at < length).map(|at| begun + at) {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if sender.send(at).is_err() {
                return;
            }
        }
    });
    receiver
}

fn sample(notes: &Notes, begun: Instant, before: [f64; 3], after: [f64; 3]) -> Result<Sample> {
    let (seconds, histogram) = (begun.elapsed().as_secs_f64(), notes.histogram.borrow());
    if histogram.count == 0 {
        return Err("no call ended within the measurement".into());
    }
    let calls = histogram.count as f64;
    Ok(Sample {
        per_second: calls / seconds,
        latency: [0.5, 0.99, 0.999].map(|part| histogram.quantile(part)),
        cpu: [0, 1, 2].map(|who| (after[who] - before[who]) * 1e3 / calls),
        bytes: notes.bytes.get() as f64 / calls,
    })
}
