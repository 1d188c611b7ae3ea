//! Calls, by the names that go-grpc-middleware gave them and that dashboards read, and their errors by reason.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::Area;
use super::families::{Families, Labels};
use super::refusals::Refusals;
use crate::proto::FILE_DESCRIPTOR_SET;

/// The service and the method of a path that is none of a method.
const UNKNOWN: &str = "unknown";
/// How the names of Kith's services begin.
const KITH: &str = "kith.v1.";
/// Upper bounds of the buckets for the time of a call, in seconds.
const SECONDS: [f64; 16] =
    [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// The codes by number, with the names that the label has.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// The API as its descriptors have it. Nothing of it changes, so all servers of a process share it.
static API: LazyLock<Api> = LazyLock::new(Api::of_descriptors);

/// The methods of all services of a server, and the reasons of Kith's errors.
struct Api {
    methods: Vec<Name>,
    reasons: Vec<String>,
}

/// A method, as the labels name it.
#[derive(Debug)]
struct Name {
    kind: &'static str,
    service: String,
    method: String,
}

impl Api {
    fn of_descriptors() -> Self {
        let mut api = Self { methods: Vec::new(), reasons: Vec::new() };
        for bytes in [
            FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ] {
            // They are compiled in; a test shows that each can be decoded.
            api.add(FileDescriptorSet::decode(bytes).unwrap_or_default());
        }
        api.methods.push(Name { kind: "unary", service: UNKNOWN.to_owned(), method: UNKNOWN.to_owned() });
        api
    }

    fn add(&mut self, descriptors: FileDescriptorSet) {
        for file in descriptors.file {
            for service in &file.service {
                for method in &service.method {
                    let kind = match (method.client_streaming(), method.server_streaming()) {
                        (false, false) => "unary",
                        (true, false) => "client_stream",
                        (false, true) => "server_stream",
                        (true, true) => "bidi_stream",
                    };
                    let service = format!("{}.{}", file.package(), service.name());
                    self.methods.push(Name { kind, service, method: method.name().to_owned() });
                }
            }
            let reasons =
                file.enum_type.iter().filter(|kind| kind.name() == "ErrorReason").flat_map(|kind| &kind.value);
            let named = reasons.filter(|value| value.number() != 0);
            self.reasons.extend(named.map(|value| value.name().trim_start_matches("ERROR_REASON_").to_owned()));
        }
    }
}

/// Counts calls and their errors.
#[derive(Debug)]
pub struct Rpcs {
    /// The last one stands for all paths that are none of a method: callers can invent as many as they like.
    methods: Vec<Method>,
    by_path: HashMap<String, usize>,
    errors: BTreeMap<&'static str, Counter>,
    refusals: Arc<Refusals>,
}

/// The names of Kith's services.
pub(super) fn kith_services() -> BTreeSet<&'static str> {
    API.methods.iter().map(|name| name.service.as_str()).filter(|service| service.starts_with(KITH)).collect()
}

#[derive(Debug)]
struct Method {
    name: &'static Name,
    started: Counter,
    /// Ended calls, by the number of their code.
    handled: [Counter; CODES.len()],
    seconds: Histogram,
}

impl Rpcs {
    /// Counts from zero. Calls that are refused are counted among the refusals too.
    pub(super) fn new(refusals: Arc<Refusals>) -> Self {
        let method = |name: &'static Name| Method {
            name,
            started: Counter::default(),
            handled: Default::default(),
            seconds: Histogram::new(SECONDS),
        };
        let path = |(index, name): (usize, &Name)| (format!("/{}/{}", name.service, name.method), index);
        Self {
            methods: API.methods.iter().map(method).collect(),
            by_path: API.methods.iter().enumerate().map(path).collect(),
            errors: API.reasons.iter().map(|reason| (reason.as_str(), Counter::default())).collect(),
            refusals,
        }
    }

    /// Counts a call that starts, by the path of its request.
    pub fn start(self: &Arc<Self>, path: &str) -> OpenCall {
        let method = self.by_path.get(path).copied().unwrap_or(self.methods.len() - 1);
        let open = OpenCall { rpcs: Arc::clone(self), method, has_ended: AtomicBool::new(false) };
        open.method().started.inc();
        open
    }

    /// Counts an error by its reason, if that is one of Kith's, and by its cause, if it is a refusal.
    fn count_error(&self, status: &Status) {
        if let Some(info) = status.get_details_error_info() {
            self.errors.get(info.reason.as_str()).into_iter().for_each(|errors| _ = errors.inc());
        }
        self.refusals.count_source(status.source());
    }
}

/// A call that has started. It ends once.
#[derive(Debug)]
pub struct OpenCall {
    rpcs: Arc<Rpcs>,
    method: usize,
    has_ended: AtomicBool,
}

impl OpenCall {
    fn method(&self) -> &Method {
        &self.rpcs.methods[self.method]
    }

    /// Whether the response of its method is a stream of messages.
    pub fn is_stream(&self) -> bool {
        matches!(self.method().name.kind, "server_stream" | "bidi_stream")
    }

    /// Counts the end of the call, unless it has ended before. Without a status, it succeeded.
    pub fn end(&self, status: Option<&Status>, after: Duration) {
        if self.has_ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let method = self.method();
        method.seconds.observe(after.as_secs_f64());
        method.handled[status.map_or(Code::Ok, Status::code) as usize].inc();
        status.into_iter().for_each(|status| self.rpcs.count_error(status));
    }
}

impl Method {
    fn labels(&self) -> [(&str, &str); 3] {
        let Name { kind, service, method } = self.name;
        [("grpc_type", kind), ("grpc_service", service), ("grpc_method", method)]
    }

    fn ended(&self) -> u64 {
        self.handled.iter().map(Counter::get).sum()
    }
}

impl Area for Rpcs {
    fn write(&self, families: &mut Families<'_>) -> fmt::Result {
        // In this order: more calls may start and end meanwhile.
        let ended: u64 = self.methods.iter().map(Method::ended).sum();
        let started: u64 = self.methods.iter().map(|method| method.started.get()).sum();
        families
            .gauge("kith_calls_in_flight", "Calls that have started and not ended, watches included.")?
            .value(&[], started.saturating_sub(ended))?;

        let mut family = families.counter("grpc_server_started_total", "Calls that started.")?;
        for method in &self.methods {
            family.count(&method.labels(), method.started.get())?;
        }
        let mut family = families.counter("grpc_server_handled_total", "Calls that ended, by their status code.")?;
        for method in &self.methods {
            let [kind, service, name] = method.labels();
            for (code, handled) in CODES.iter().zip(&method.handled) {
                let labels: Labels<'_> = &[kind, service, name, ("grpc_code", code)];
                family.count(labels, handled.get())?;
            }
        }
        let mut family = families.histogram(
            "grpc_server_handling_seconds",
            "Time from the start of a call to the end of its response. That of a stream is its life.",
        )?;
        for method in &self.methods {
            family.distribution(&method.labels(), &method.seconds)?;
        }
        let mut family =
            families.counter("kith_errors_total", "Calls that failed, by the reason in their ErrorInfo.")?;
        for (reason, errors) in &self.errors {
            family.count(&[("reason", reason)], errors.get())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn rpcs() -> Arc<Rpcs> {
        Arc::new(Rpcs::new(Arc::default()))
    }

    #[test]
    fn every_method_and_every_reason_is_counted_from_zero_on() {
        let rpcs = rpcs();
        for path in [
            "/kith.v1.UserService/GetUser",
            "/kith.v1.EventService/WatchEvents",
            "/grpc.health.v1.Health/Watch",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ] {
            assert!(rpcs.by_path.contains_key(path), "{path}");
        }
        assert!(rpcs.errors.contains_key("OVERLOADED") && !rpcs.errors.contains_key("UNSPECIFIED"));
        for kind in ["unary", "client_stream", "server_stream", "bidi_stream"] {
            assert!(rpcs.methods.iter().any(|method| method.name.kind == kind), "{kind}");
        }
        assert!(rpcs.methods.iter().all(|method| method.started.get() == 0 && method.ended() == 0));
    }

    #[test]
    fn codes_have_their_names_by_number() {
        for (number, name) in CODES.iter().enumerate() {
            let code = Code::from_i32(i32::try_from(number).unwrap());
            let debug = format!("{code:?}");
            // The names of the protocol, two of them as Go spells them.
            let expected = debug.replace("Ok", "OK").replace("Cancelled", "Canceled");
            assert_eq!((*name, code as usize), (expected.as_str(), number));
        }
    }

    fn status(code: Code, reason: &str) -> Status {
        let details = ErrorDetails::with_error_info(reason, "kith", std::collections::HashMap::new());
        Status::with_error_details(code, "", details)
    }

    #[test]
    fn a_call_ends_once_and_unknown_paths_are_one_method() {
        let rpcs = rpcs();
        let unimplemented = Status::new(Code::Unimplemented, "");
        let overloaded = status(Code::ResourceExhausted, "OVERLOADED");
        for path in ["/kith.v1.UserService/NoSuchMethod", "", "/", "/kith.v1.UserService/GetUser/"] {
            let call = rpcs.start(path);
            call.end(Some(&unimplemented), Duration::ZERO);
            call.end(None, Duration::ZERO);
            call.end(Some(&overloaded), Duration::ZERO);
        }
        let unknown = rpcs.methods.last().unwrap();
        assert_eq!((unknown.started.get(), unknown.ended(), unknown.handled[12].get()), (4, 4, 4));
        let call = rpcs.start("/kith.v1.UserService/GetUser");
        call.end(Some(&overloaded), Duration::ZERO);
        call.end(Some(&overloaded), Duration::ZERO);
        let odd = status(Code::Internal, "no such reason");
        rpcs.start("/kith.v1.UserService/GetUser").end(Some(&odd), Duration::ZERO);
        assert_eq!(rpcs.errors["OVERLOADED"].get(), 1);
        assert_eq!(rpcs.errors.values().map(Counter::get).sum::<u64>(), 1);
    }
}
