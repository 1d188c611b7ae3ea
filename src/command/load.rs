//! `kith load`: imports users and their relations from files, by a running server.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::time::Duration;

use chrono::Utc;
use futures_util::stream;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use super::watch::is_temporary;
use super::{Failure, client, print, progress};
use crate::causes::with_causes;
use crate::config::{self, Sources};
use crate::domain::text::UsernameRule;
use crate::import::{ImportError, Load, Outgoing};
use crate::progress::{Progress, Step};
use crate::proto::v1::import_service_client::ImportServiceClient;
use crate::proto::{server, v1 as pb};
use crate::telemetry;
use crate::transfer::{Reason, Rules};

/// The exit status of a load with refused rows. All others are stored.
const REFUSED: u8 = 3;
/// The number of rows that are sent before the server has responded to them.
const WINDOW: usize = 8_000;
/// The number of messages that wait to be sent.
const MESSAGES: usize = 16;
/// Delay before a broken load is resumed.
const RESUME_DELAY: Duration = Duration::from_secs(1);
/// Maximum number of attempts in a row without a row that is stored.
const ATTEMPTS: u32 = 30;

pub(super) async fn run(args: config::Load, sources: &Sources) -> Result<ExitCode, Failure> {
    let log = telemetry::init("info", args.log_format, false)?;
    let reporting = Progress::default();
    let reading = (args.sources(), args.refused.clone(), reporting.clone());
    // The server has the rules of usernames.
    let rules = Rules { usernames: UsernameRule::Open, now: Utc::now() };
    let loading = async {
        let (files, refused, progress) = reading;
        let read = move || Load::read(files, refused.as_deref(), rules, &progress);
        let rows = tokio::task::spawn_blocking(read).await?.map_err(|error| failed(&error))?;
        let total = rows.total();
        let transfer = Transfer {
            rows,
            unsettled: VecDeque::new(),
            sent: 0,
            start: 0,
            settled: 0,
            totals: Totals::default(),
            above_limit: 0,
        };
        transfer.run(&args, sources, &reporting_of(total, &reporting)).await
    };
    let (text, has_refusals) = progress::shown(&reporting, &log, args.log_format, loading).await?;
    print(&text)?;
    Ok(if has_refusals { REFUSED.into() } else { ExitCode::SUCCESS })
}

fn failed(error: &ImportError) -> String {
    format!("{}; nothing was sent", with_causes(error))
}

/// Reports how many of so many rows are settled.
fn reporting_of(total: u64, progress: &Progress) -> impl Fn(u64) {
    let progress = progress.clone();
    move |done| {
        let (phase, unit, doing) = ("loading", "rows", "".into());
        progress.report(Step { phase, unit, done, current: 0, total: Some(total), doing });
    }
}

/// What became of the rows, over all streams.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    created: i64,
    unchanged: i64,
    replaced: i64,
    refused: i64,
    revision: i64,
}

struct Transfer {
    rows: Load,
    /// Messages that were read, and of which the server has not said what became of their rows.
    unsettled: VecDeque<Vec<Outgoing>>,
    /// How many of them were sent on the present stream.
    sent: usize,
    /// The number of rows that were settled when the present stream began.
    start: u64,
    /// The number of rows that are stored or refused.
    settled: u64,
    totals: Totals,
    /// Rows that brought a user above a limit.
    above_limit: u64,
}

impl Transfer {
    /// Sends all rows. Returns the report, and whether rows were refused.
    async fn run(
        mut self,
        args: &config::Load,
        sources: &Sources,
        report: &(impl Fn(u64) + Sync),
    ) -> Result<(String, bool), Failure> {
        let channel = client::channel(&args.server, sources).await?;
        let mut attempts = 0;
        loop {
            // Tokens expire, and their file then has another.
            let token = client::authorization(&args.server, sources)?;
            let before = self.settled;
            let status = match self.stream(&channel, args.options(), token, report).await? {
                Ok(()) => break,
                Err(status) => status,
            };
            attempts = if self.settled > before { 0 } else { attempts + 1 };
            if !is_temporary(&status) || attempts >= ATTEMPTS {
                let settled = self.settled;
                return Err(format!(
                    "load failed: {:?}: {}; {settled} rows are stored or refused. Load the same files again: what is \
                     stored changes nothing",
                    status.code(),
                    status.message()
                )
                .into());
            }
            tracing::warn!(error = status.message(), "load interrupted; resuming after row {}", self.settled);
            tokio::time::sleep(RESUME_DELAY).await;
        }
        self.finish(args)
    }

    /// Sends what is not settled on one stream. The outer error is one of a file, the inner one that of the stream.
    async fn stream(
        &mut self,
        channel: &Channel,
        options: pb::ImportOptions,
        token: Option<tonic::metadata::AsciiMetadataValue>,
        report: &(impl Fn(u64) + Sync),
    ) -> Result<Result<(), Status>, Failure> {
        (self.sent, self.start) = (0, self.settled);
        let (messages, receiver) = mpsc::channel(MESSAGES);
        _ = messages.send(pb::ImportRelationsRequest { options: Some(options), rows: Vec::new() }).await;
        let messages_of = async |mut receiver: mpsc::Receiver<_>| Some((receiver.recv().await?, receiver));
        let mut request = Request::new(Box::pin(stream::unfold(receiver, messages_of)));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", token);
        }
        let mut client = ImportServiceClient::new(channel.clone());
        let mut responses = match client.import_relations(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        let (mut messages, before) = (Some(messages), self.totals);
        loop {
            while let Some(sender) = messages.as_ref().filter(|_| self.in_flight() < WINDOW) {
                let rows = self.next_rows()?;
                // At the end, or when the server has ended the stream.
                if rows.is_empty() || sender.send(pb::ImportRelationsRequest { options: None, rows }).await.is_err() {
                    messages = None;
                }
            }
            match self.receive(&mut responses, &before).await {
                Ok(true) => report(self.settled),
                Ok(false) => return Ok(Ok(())),
                Err(status) => return Ok(Err(status)),
            }
        }
    }

    /// Returns the number of rows that were sent on the present stream and are not settled.
    fn in_flight(&self) -> usize {
        self.unsettled.iter().take(self.sent).map(Vec::len).sum()
    }

    /// Returns the rows of the next message: those that an earlier stream has sent first.
    fn next_rows(&mut self) -> Result<Vec<pb::RelationRow>, Failure> {
        if self.sent == self.unsettled.len() {
            let message = self.rows.message().map_err(|error| with_causes(&error))?;
            if message.is_empty() {
                return Ok(Vec::new());
            }
            self.unsettled.push_back(message);
        }
        let message = self.unsettled.get(self.sent).map(Vec::as_slice).unwrap_or_default();
        self.sent += 1;
        Ok(message.iter().map(|row| row.row.clone()).collect())
    }

    /// Waits for a response. Returns false at the end of the stream.
    async fn receive(
        &mut self,
        responses: &mut Streaming<pb::ImportRelationsResponse>,
        before: &Totals,
    ) -> Result<bool, Status> {
        let Some(response) = responses.message().await? else { return Ok(false) };
        for refusal in &response.refusals {
            // Positions count from the first row of this stream.
            let index = (self.start + refusal.position.unsigned_abs()).saturating_sub(self.settled);
            let row = usize::try_from(index).ok().and_then(|index| self.unsettled.iter().flatten().nth(index));
            match (row.cloned(), reason_of(refusal.reason)) {
                (Some(_), Some(reason)) if reason.is_warning() => self.above_limit += 1,
                (Some(row), Some(reason)) => self.rows.refuse(&row, reason),
                (None, _) | (_, None) => {}
            }
        }
        self.settle(self.start + response.position.unsigned_abs());
        self.totals = Totals {
            created: before.created + response.created,
            unchanged: before.unchanged + response.unchanged,
            replaced: before.replaced + response.replaced,
            refused: before.refused + response.refused,
            revision: response.revision,
        };
        Ok(true)
    }

    /// Drops the rows before this position, which are settled.
    fn settle(&mut self, position: u64) {
        let mut left = usize::try_from(position.saturating_sub(self.settled)).unwrap_or_default();
        while let Some(message) = self.unsettled.front_mut().filter(|_| left > 0) {
            let dropped = left.min(message.len());
            message.drain(..dropped);
            left -= dropped;
            if message.is_empty() {
                self.unsettled.pop_front();
                self.sent = self.sent.saturating_sub(1);
            }
        }
        self.settled = position;
    }

    fn finish(self, args: &config::Load) -> Result<(String, bool), Failure> {
        let Self { rows, unsettled, totals, settled, above_limit, .. } = self;
        let is_complete = unsettled.is_empty();
        let Totals { created, unchanged, replaced, refused, revision } = totals;
        let (reasons, has_refusals) = rows.finish().map_err(|error| with_causes(&error))?;
        let mut text = format!(
            "rows {settled}: created {created}, unchanged {unchanged}, replaced {replaced}, refused {refused}\n{reasons}"
        );
        if above_limit > 0 {
            text += &format!("warning: {above_limit} LIMIT_REACHED: rows that bring a user above a limit\n");
        }
        if !is_complete {
            print(&text)?;
            return Err(
                "a row is in conflict with the database, and --on-conflict=fail; rows before it are stored".into()
            );
        }
        let verdict = match (args.dry_run, has_refusals) {
            (true, _) => "dry run; nothing was stored",
            (false, true) => "loaded with refusals",
            (false, false) => "loaded",
        };
        Ok((text + &format!("{verdict}; revision {revision}\n"), has_refusals))
    }
}

/// Returns the reason of this number.
fn reason_of(number: i32) -> Option<Reason> {
    Reason::ALL.iter().copied().find(|reason| i32::from(server::RefusalReason::from(*reason)) == number)
}
