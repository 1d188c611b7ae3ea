//! The calls of the benchmark: their requests, and the checks of their responses.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

use clap::ValueEnum;
use kith::proto::v1 as pb;
use prost::Message;
use prost::bytes::{BufMut, Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Result;
use super::database::Database;
use super::layout::{HUB, Layout};
use super::seed;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Operation {
    /// Send a request.
    Send,
    /// Accept a request.
    Accept,
    /// Reject a request.
    Reject,
    /// Mark a request viewed.
    View,
    /// List 20 received requests, with both users in full.
    Received,
    /// List 20 connections, with the users in full.
    Connections,
    /// The status of a pair.
    Status,
    /// The statuses of a user and 100 others.
    Statuses,
    /// A user's counts.
    Counts,
    /// One user.
    User,
    /// All of these: 90 % reads.
    Mixed,
    /// Send requests; 2 % repeat an earlier send.
    Repeat2,
    /// Send requests; 10 % repeat an earlier send.
    Repeat10,
}

/// The mixed load: the share of each operation in 100 calls.
const MIX: [(Operation, u32); 10] = [
    (Operation::Status, 25),
    (Operation::Received, 15),
    (Operation::Connections, 15),
    (Operation::Counts, 15),
    (Operation::User, 15),
    (Operation::Statuses, 5),
    (Operation::Send, 4),
    (Operation::Accept, 2),
    (Operation::View, 3),
    (Operation::Reject, 1),
];

impl Operation {
    pub fn title(self) -> &'static str {
        match self {
            Self::Send => "Send a request",
            Self::Accept => "Accept a request",
            Self::Reject => "Reject a request",
            Self::View => "Mark a request viewed",
            Self::Received => "List 20 received, with both users",
            Self::Connections => "List 20 connections",
            Self::Status => "Status of a pair",
            Self::Statuses => "Statuses of 100 pairs",
            Self::Counts => "Counts of a user",
            Self::User => "One user",
            Self::Mixed => "Mixed, 90 % reads",
            Self::Repeat2 => "Send a request, 2 % repeated",
            Self::Repeat10 => "Send a request, 10 % repeated",
        }
    }

    pub fn path(self) -> &'static str {
        match self {
            Self::Send | Self::Repeat2 | Self::Repeat10 => "/kith.v1.ConnectionRequestService/SendConnectionRequest",
            Self::Accept => "/kith.v1.ConnectionRequestService/AcceptConnectionRequest",
            Self::Reject => "/kith.v1.ConnectionRequestService/RejectConnectionRequest",
            Self::View => "/kith.v1.ConnectionRequestService/MarkConnectionRequestViewed",
            Self::Received => "/kith.v1.ConnectionRequestService/ListConnectionRequests",
            Self::Connections => "/kith.v1.ConnectionService/ListConnections",
            Self::Status => "/kith.v1.ConnectionService/GetConnectionStatus",
            Self::Statuses => "/kith.v1.ConnectionService/BatchGetConnectionStatuses",
            Self::Counts | Self::Mixed => "/kith.v1.ConnectionService/GetConnectionCounts",
            Self::User => "/kith.v1.UserService/GetUser",
        }
    }

    fn writes(self) -> bool {
        matches!(self, Self::Send | Self::Repeat2 | Self::Repeat10 | Self::Accept | Self::Reject | Self::View)
    }

    /// Whether this operation uses up open requests.
    pub fn uses_requests(self) -> bool {
        matches!(self, Self::Accept | Self::Reject | Self::View | Self::Mixed)
    }

    /// Whether the database is larger afterwards.
    pub fn grows(self) -> bool {
        self.writes() || self.uses_requests()
    }

    /// The percentage of sends whose pair already has a pending request.
    pub fn repeated(self) -> u32 {
        match self {
            Self::Repeat2 => 2,
            Self::Repeat10 => 10,
            _ => 0,
        }
    }

    /// The operation without repetition.
    pub fn first(self) -> Self {
        if self.repeated() > 0 { Self::Send } else { self }
    }

    /// The operations with one kind of call and one kind of response.
    pub fn single() -> impl Iterator<Item = Self> {
        let all = Self::value_variants().iter().copied();
        all.filter(|operation| *operation != Self::Mixed && operation.repeated() == 0)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

const OK: &str = "0";
const ALREADY_EXISTS: &str = "6";

/// An encoded call.
#[derive(Clone, Debug)]
pub struct Call {
    pub operation: Operation,
    pub frame: Bytes,
    /// The expected status of the response.
    pub expected: &'static str,
}

impl Call {
    fn new(operation: Operation, message: &impl Message) -> Self {
        let length = message.encoded_len();
        let mut frame = BytesMut::with_capacity(5 + length);
        frame.put_u8(0);
        frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        frame.put_slice(&message.encode_to_vec());
        Self { operation, frame: frame.freeze(), expected: OK }
    }

    /// The number of events that the call makes.
    fn events(&self) -> i64 {
        match self.operation {
            _ if self.expected != OK => 0,
            // The request is viewed, too.
            Operation::Reject => 2,
            operation => i64::from(operation.writes()),
        }
    }

    /// The page of user 1's list that the token names; the first one without a token.
    pub fn hub(operation: Operation, page_size: i32, page_token: String) -> Self {
        match operation {
            Operation::Received => Self::new(
                operation,
                &pb::ListConnectionRequestsRequest {
                    user_id: HUB,
                    direction: pb::ConnectionRequestDirection::Received.into(),
                    page_size,
                    page_token,
                    ..Default::default()
                },
            ),
            _ => Self::new(
                operation,
                &pb::ListConnectionsRequest { user_id: HUB, page_size, page_token, ..Default::default() },
            ),
        }
    }

    /// A call that returns the revision of a database.
    pub fn revision() -> Self {
        Self::new(
            Operation::Counts,
            &pb::GetConnectionCountsRequest { user_id: 1, min_revision: 0, ..Default::default() },
        )
    }
}

/// The open requests, in the order in which they are used up.
#[derive(Default)]
struct Waiting {
    /// The id of the first request of each range of numbers. The others follow it.
    ranges: VecDeque<(i64, Range<i64>)>,
    next: i64,
    /// For the echo, which needs no existing requests.
    endless: bool,
}

impl Waiting {
    /// The id and the receiver of a request that was not used before.
    fn take(&mut self, layout: Layout) -> Result<(i64, i64)> {
        if self.endless {
            self.next += 1;
            return Ok((self.next, layout.waiting(self.next).1));
        }
        let Some((id, numbers)) = self.ranges.front_mut() else {
            return Err("no open request is left: choose shorter measurements or more users".into());
        };
        let taken = (*id, layout.waiting(numbers.start).1);
        (*id, numbers.start) = (*id + 1, numbers.start + 1);
        if numbers.is_empty() {
            self.ranges.pop_front();
        }
        Ok(taken)
    }
}

/// The calls to one database. Each is valid when it is made.
pub struct Workload {
    pub layout: Layout,
    rng: StdRng,
    waiting: Waiting,
    sent: i64,
    listed: [i64; 2],
    /// The number of events of the changes requested so far.
    pub changes: i64,
    /// If set, every call is this one.
    pub fixed: Option<Call>,
    /// Calls that changed nothing.
    taken_back: VecDeque<Call>,
}

impl Workload {
    pub fn new(layout: Layout) -> Self {
        let rng = StdRng::seed_from_u64(2);
        // With this many rows a user has 20 pending requests, or 20 connections; see `Layout::edge`.
        let listed = [layout.ranks_with(69), layout.ranks_with(33)];
        Self {
            layout,
            rng,
            waiting: Waiting::default(),
            sent: 0,
            listed,
            changes: 0,
            fixed: None,
            taken_back: VecDeque::new(),
        }
    }

    /// For a server that always sends the same response.
    pub fn endless(layout: Layout) -> Self {
        Self { waiting: Waiting { endless: true, ..Waiting::default() }, ..Self::new(layout) }
    }

    /// Makes sure that this many requests are open.
    pub async fn prepare(&mut self, database: &mut Database, count: i64) -> Result<()> {
        while self.waiting.ranges.iter().map(|(_, numbers)| numbers.end - numbers.start).sum::<i64>() < count {
            let (first, users) = (self.waiting.next, self.layout.users);
            let numbers = first..(first + 100_000).min((first / users + 1) * users);
            self.waiting.next = numbers.end;
            let id = seed::add_waiting(database, self.layout, numbers.clone()).await?;
            self.waiting.ranges.push_back((id, numbers));
            seed::flush(database).await?;
        }
        Ok(())
    }

    /// Takes back a call that changed nothing. It is made again instead of a new one.
    pub fn take_back(&mut self, call: Call) {
        self.changes -= call.events();
        self.taken_back.push_back(call);
    }

    /// The next call of this kind, or one that was taken back.
    pub fn next_or_again(&mut self, operation: Operation) -> Result<Call> {
        let Some(call) = self.taken_back.pop_front() else { return self.next(operation) };
        self.changes += call.events();
        Ok(call)
    }

    /// The next call of this kind.
    pub fn next(&mut self, operation: Operation) -> Result<Call> {
        if let Some(call) = &self.fixed {
            return Ok(call.clone());
        }
        if operation == Operation::Mixed {
            let mut left = self.rng.random_range(0..100);
            let chosen = MIX.iter().find(|(_, share)| {
                let found = left < *share;
                left = left.saturating_sub(*share);
                found
            });
            return self.next(chosen.map_or(Operation::User, |(operation, _)| *operation));
        }
        let call = self.single(operation)?;
        self.changes += call.events();
        Ok(call)
    }

    fn single(&mut self, operation: Operation) -> Result<Call> {
        let request_id = String::new();
        Ok(match operation {
            Operation::Repeat2 | Operation::Repeat10 => return self.sent_again(operation),
            Operation::Send => {
                if self.sent >= self.layout.sends() {
                    return Err("all pairs are used: choose more users".into());
                }
                self.sent += 1;
                self.send(self.sent - 1)
            }
            Operation::Accept => {
                let (id, user_id) = self.waiting.take(self.layout)?;
                Call::new(
                    operation,
                    &pb::AcceptConnectionRequestRequest { id, user_id, request_id, reply: String::new() },
                )
            }
            Operation::Reject => {
                let (id, user_id) = self.waiting.take(self.layout)?;
                Call::new(operation, &pb::RejectConnectionRequestRequest { id, user_id, request_id })
            }
            Operation::View => {
                let (id, user_id) = self.waiting.take(self.layout)?;
                Call::new(operation, &pb::MarkConnectionRequestViewedRequest { id, user_id, request_id })
            }
            Operation::Received => {
                let direction = pb::ConnectionRequestDirection::Received.into();
                let user_id = self.listed(0);
                let request = pb::ListConnectionRequestsRequest { user_id, direction, ..Default::default() };
                Call::new(operation, &request)
            }
            Operation::Connections => {
                Call::new(operation, &pb::ListConnectionsRequest { user_id: self.listed(1), ..Default::default() })
            }
            Operation::Status => {
                let user_id = self.anyone();
                let other_user_id = self.other(user_id, 4);
                Call::new(
                    operation,
                    &pb::GetConnectionStatusRequest { user_id, other_user_id, min_revision: 0, ..Default::default() },
                )
            }
            Operation::Statuses => {
                let user_id = self.listed(1);
                let other_user_ids = (0..100).map(|_| self.other(user_id, 33)).collect();
                let request = pb::BatchGetConnectionStatusesRequest {
                    user_id,
                    other_user_ids,
                    min_revision: 0,
                    ..Default::default()
                };
                Call::new(operation, &request)
            }
            Operation::Counts | Operation::Mixed => Call::new(
                operation,
                &pb::GetConnectionCountsRequest { user_id: self.anyone(), min_revision: 0, ..Default::default() },
            ),
            Operation::User => {
                let key = Some(pb::get_user_request::Key::Id(self.anyone()));
                Call::new(operation, &pb::GetUserRequest { key, ..Default::default() })
            }
        })
    }

    /// A send. A share of them repeats an earlier request that is still pending.
    fn sent_again(&mut self, operation: Operation) -> Result<Call> {
        if self.sent < 2 || !self.rng.random_ratio(operation.repeated(), 100) {
            return self.single(Operation::Send);
        }
        let number = self.rng.random_range(0..self.sent / 2);
        Ok(Call { expected: ALREADY_EXISTS, ..self.send(number) })
    }

    fn send(&self, number: i64) -> Call {
        let (from_user_id, to_user_id) = self.layout.sent(number);
        let message = "I liked your talk. Shall we connect?".to_owned();
        let request_id = String::new();
        let request = pb::SendConnectionRequestRequest { from_user_id, to_user_id, message, request_id };
        Call::new(Operation::Send, &request)
    }

    fn anyone(&mut self) -> i64 {
        self.rng.random_range(1..=self.layout.users)
    }

    /// A user with 20 pending requests (0) or 20 connections (1).
    fn listed(&mut self, kind: usize) -> i64 {
        let rank = self.rng.random_range(0..self.listed[kind]);
        self.layout.user(rank)
    }

    /// In half of the cases a user with some relation to this one, otherwise any user.
    fn other(&mut self, user: i64, relations: i64) -> i64 {
        if self.rng.random_bool(0.5) {
            let edge = self.layout.edge(user, self.rng.random_range(0..relations));
            return if edge.from == user { edge.to } else { edge.from };
        }
        let other = self.anyone();
        if other == user { other % self.layout.users + 1 } else { other }
    }
}

/// Fails unless the message is a complete response with the expected content.
pub fn check(operation: Operation, message: &[u8]) -> Result<()> {
    let whole = |user: &Option<pb::User>| user.as_ref().is_some_and(|user| user.bio.len() > 200);
    let right = match operation {
        Operation::Send | Operation::Repeat2 | Operation::Repeat10 => {
            let response = pb::SendConnectionRequestResponse::decode(message)?;
            response.status() == pb::ConnectionStatus::RequestSent
        }
        Operation::Accept => {
            let response = pb::AcceptConnectionRequestResponse::decode(message)?;
            response.status() == pb::ConnectionStatus::Connected
        }
        Operation::Reject => {
            let response = pb::RejectConnectionRequestResponse::decode(message)?;
            response.status() == pb::ConnectionStatus::RequestRejected
        }
        Operation::View => {
            let response = pb::MarkConnectionRequestViewedResponse::decode(message)?;
            response.connection_request.is_some_and(|request| request.viewed.is_some())
        }
        Operation::Received => {
            let response = pb::ListConnectionRequestsResponse::decode(message)?.connection_requests;
            response.len() == 20 && response.iter().all(|row| whole(&row.from_user) && whole(&row.to_user))
        }
        Operation::Connections => {
            let response = pb::ListConnectionsResponse::decode(message)?.connections;
            response.len() == 20 && response.iter().all(|row| whole(&row.user))
        }
        Operation::Status => pb::GetConnectionStatusResponse::decode(message)?.revision > 0,
        Operation::Statuses => {
            let response = pb::BatchGetConnectionStatusesResponse::decode(message)?.statuses;
            response.len() == 100
                && response.iter().filter(|one| one.status() == pb::ConnectionStatus::Connected).count() > 10
        }
        Operation::Counts | Operation::Mixed => pb::GetConnectionCountsResponse::decode(message)?.connections > 0,
        Operation::User => whole(&pb::GetUserResponse::decode(message)?.user),
    };
    if right { Ok(()) } else { Err(format!("{operation:?}: unexpected response: {message:?}").into()) }
}
