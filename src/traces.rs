//! Traces by OpenTelemetry: a span for each traced call, for each batch that has one, and for their groups of statements.
//!
//! A span has what an operator needs and nothing that callers send: no ids, names, texts or addresses. Only calls of
//! Kith's own methods are traced, so the name of a span is never text of a caller.
//!
//! Tracing is off unless there is a receiver. Then a call costs one branch, and a store's method a look at a variable of
//! its task. A call that is not sampled has no [`Span`] either. Why spans are started by hand, and not by `tracing`, is
//! in ADR 14.

mod export;
mod parent;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use futures_util::future::Either;
use http::HeaderMap;
use opentelemetry::trace::{Link, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SdkTracer, Span as SdkSpan};
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::task::futures::TaskLocalFuture;
use tokio::task_local;
use tonic::Code;

pub use self::export::{Exporter, Receiver};
use crate::proto::FILE_DESCRIPTOR_SET;

task_local! {
    /// The span that those are children of which this task starts. None if nothing in this task is traced.
    static CURRENT: Span;
}

/// A method, as the attributes of its spans name it.
struct Method {
    service: String,
    method: String,
    /// The name of the span: the path without its first slash.
    name: String,
}

/// The methods that are traced, by path.
static METHODS: LazyLock<HashMap<String, Method>> = LazyLock::new(|| {
    // It is compiled in; a test shows that it can be decoded.
    let descriptors = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap_or_default();
    let mut methods = HashMap::new();
    for file in &descriptors.file {
        for service in &file.service {
            for method in &service.method {
                let (service, method) = (format!("{}.{}", file.package(), service.name()), method.name().to_owned());
                let name = format!("{service}/{method}");
                methods.insert(format!("/{name}"), Method { service, method, name });
            }
        }
    }
    methods
});

/// Starts the spans of calls. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tracer {
    tracer: SdkTracer,
    /// The database, as the conventions of OpenTelemetry name it.
    database: &'static str,
}

impl Tracer {
    /// Starts the span of a call, which continues the trace that its headers name.
    ///
    /// `None` if the call is not sampled, or is none of Kith's own methods.
    pub fn call(&self, path: &str, headers: &HeaderMap) -> Option<Span> {
        let method = METHODS.get(path)?;
        let builder = SpanBuilder::from_name(method.name.as_str()).with_kind(SpanKind::Server);
        let span = self.start(builder, parent::parent(headers))?;
        span.lock().set_attributes([
            KeyValue::new("rpc.system", "grpc"),
            KeyValue::new("rpc.service", method.service.as_str()),
            KeyValue::new("rpc.method", method.method.as_str()),
        ]);
        Some(span)
    }

    /// Starts a span. `None` if it is not sampled.
    fn start(&self, builder: SpanBuilder, parent: Option<SpanContext>) -> Option<Span> {
        let parent = parent.map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
        let span = self.tracer.build_with_context(builder, &parent);
        let context = span.span_context().clone();
        context.is_sampled().then(|| Span(Arc::new(Started { tracer: self.clone(), context, span: Mutex::new(span) })))
    }
}

/// A span that is recorded. It ends with its last clone, unless it ended before. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Span(Arc<Started>);

#[derive(Debug)]
struct Started {
    tracer: Tracer,
    context: SpanContext,
    span: Mutex<SdkSpan>,
}

impl Span {
    /// Returns the id of the trace, as 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        self.0.context.trace_id().to_string()
    }

    /// Records the revision that a write returns.
    pub fn changed(&self, revision: i64) {
        self.lock().set_attribute(KeyValue::new("kith.revision", revision));
    }

    /// Ends the span of a call. Only the first end counts.
    ///
    /// It is an error if the server is at fault, as the conventions for gRPC have it.
    pub fn end_call(&self, code: Code, reason: impl FnOnce() -> Option<String>) {
        let mut span = self.lock();
        if !span.is_recording() {
            return;
        }
        span.set_attribute(KeyValue::new("rpc.grpc.status_code", i64::from(i32::from(code))));
        if code != Code::Ok
            && let Some(reason) = reason()
        {
            span.set_attribute(KeyValue::new("kith.reason", reason));
        }
        if is_fault(code) {
            span.set_status(Status::error(""));
        }
        span.end();
    }

    /// Starts the span of a batch with commands of these calls: a child of the first one, with a link to each.
    ///
    /// Each of the calls has a link to the batch, and an event at the time when it began. `None` if none is traced.
    pub fn batch<'a>(calls: impl Iterator<Item = &'a Self>, commands: usize) -> Option<Batch> {
        // An import has many rows in a batch.
        let mut seen = HashSet::new();
        let calls: Vec<&Self> = calls.filter(|call| seen.insert(call.0.context.span_id())).collect();
        let links = calls.iter().map(|call| Link::with_context(call.0.context.clone())).collect();
        let builder = SpanBuilder::from_name("batch").with_kind(SpanKind::Internal).with_links(links);
        let first = calls.first()?;
        let span = first.0.tracer.start(builder, Some(first.0.context.clone()))?;
        span.lock().set_attribute(KeyValue::new("kith.batch.commands", count(commands)));
        for call in calls {
            let mut call = call.lock();
            call.add_link(span.0.context.clone(), Vec::new());
            call.add_event("batch", Vec::new());
        }
        Some(Batch { span, attempts: AtomicU32::new(0) })
    }

    /// Starts the span of a group of statements, as a child of this one. `None` if it is not sampled.
    pub fn statements(&self, operation: &'static str) -> Option<Statements> {
        let builder = SpanBuilder::from_name(operation).with_kind(SpanKind::Client).with_attributes([
            KeyValue::new("db.system.name", self.0.tracer.database),
            KeyValue::new("db.operation.name", operation),
        ]);
        self.0.tracer.start(builder, Some(self.0.context.clone())).map(Statements)
    }

    fn lock(&self) -> MutexGuard<'_, SdkSpan> {
        self.0.span.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The span of a batch.
#[derive(Debug)]
pub struct Batch {
    span: Span,
    attempts: AtomicU32,
}

impl Batch {
    /// Counts an attempt to commit the batch. Returns the span, of which those of the statements are children.
    pub fn attempt(&self) -> Span {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        self.span.clone()
    }

    /// Ends the span: with the newest revision, if any command changed something, or with how the commit failed.
    pub fn ended(self, result: Result<Option<i64>, &'static str>) {
        let mut span = self.span.lock();
        span.set_attribute(KeyValue::new("kith.batch.attempts", i64::from(self.attempts.load(Ordering::Relaxed))));
        let outcome = match result {
            Ok(revision) => {
                revision.into_iter().for_each(|revision| span.set_attribute(KeyValue::new("kith.revision", revision)));
                "committed"
            }
            Err(outcome) => {
                span.set_status(Status::error(""));
                outcome
            }
        };
        span.set_attribute(KeyValue::new("kith.batch.outcome", outcome));
        span.end();
    }
}

/// The span of a group of statements. It ends when this is dropped, or before with their result.
#[derive(Debug)]
pub struct Statements(Span);

impl Statements {
    /// Ends the span. What the error says is in the log only: it may have values of rows.
    pub fn ended<T, E>(self, result: &Result<T, E>) {
        if result.is_err() {
            self.0.lock().set_status(Status::error(""));
        }
    }
}

/// Returns the span that is current in this task, if there is one.
pub fn current() -> Option<Span> {
    CURRENT.try_with(Span::clone).ok()
}

/// Makes the span current while the future runs. Without a span, returns the future as it is.
pub fn within<F: Future>(span: Option<Span>, future: F) -> Either<TaskLocalFuture<Span, F>, F> {
    match span {
        Some(span) => Either::Left(CURRENT.scope(span, future)),
        None => Either::Right(future),
    }
}

/// Runs a group of statements in a span, which is a child of the current one. If there is none, it is not traced.
pub async fn statements<T, E>(operation: &'static str, group: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let span = CURRENT.try_with(|current| current.statements(operation)).ok().flatten();
    let result = group.await;
    if let Some(span) = span {
        span.ended(&result);
    }
    result
}

/// Whether a call that fails with this code is the server's fault.
fn is_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
