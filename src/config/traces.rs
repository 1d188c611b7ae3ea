//! Settings of traces: Kith's own, and the variables that OpenTelemetry's standard has for all programs.

use std::env;
use std::fs;
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::setting::Sources;
use crate::traces::Receiver;

/// The maximum time for a request to the receiver, unless a variable says so.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The only protocol.
const PROTOCOL: &str = "grpc";

/// Settings of traces. OpenTelemetry's SDK reads further variables itself.
#[derive(Clone, Debug, Args)]
pub struct TraceArgs {
    /// URL of a receiver of traces by OTLP over gRPC, such as `http://localhost:4317`; without it
    /// OTEL_EXPORTER_OTLP_ENDPOINT counts, and without both nothing is traced
    #[arg(long, help_heading = "Traces", env = "KITH_OTLP_ENDPOINT", value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    pub otlp_endpoint: Option<String>,
    /// Share of the calls that are traced, 0 to 1, of those whose caller does not say by its traceparent; without it
    /// OTEL_TRACES_SAMPLER counts, and without both all are
    #[arg(long, help_heading = "Traces", env = "KITH_TRACE_RATIO", value_name = "SHARE", value_parser = parse_ratio)]
    pub trace_ratio: Option<f64>,
}

impl TraceArgs {
    /// Returns where spans are sent, and the name of the setting that says so. `None` if nothing is traced.
    ///
    /// # Errors
    ///
    /// If a variable has a value that cannot be used. The error names the variable.
    pub fn receiver(&self, sources: &Sources) -> Result<Option<(String, Receiver)>, String> {
        let is_off = variable("OTEL_SDK_DISABLED").is_some_and(|(_, value)| value.eq_ignore_ascii_case("true"))
            || variable("OTEL_TRACES_EXPORTER").is_some_and(|(_, value)| value == "none");
        let own = self.otlp_endpoint.clone().map(|url| (sources.name("otlp-endpoint"), url));
        let Some((setting, url)) = own.or_else(|| of_traces("ENDPOINT")).filter(|_| !is_off) else { return Ok(None) };
        if let Some((name, protocol)) = of_traces("PROTOCOL").filter(|(_, protocol)| protocol != PROTOCOL) {
            return Err(format!("{name} is {protocol:?}, but Kith sends traces by {PROTOCOL} only"));
        }
        let timeout = match of_traces("TIMEOUT") {
            Some((name, value)) => {
                Duration::from_millis(value.parse().map_err(|_| format!("{name} is no number of milliseconds"))?)
            }
            None => TIMEOUT,
        };
        let authorities = match of_traces("CERTIFICATE") {
            Some((name, path)) => {
                Some(fs::read(&path).map_err(|error| format!("{name} {path}: cannot be read: {error}"))?)
            }
            None => None,
        };
        Ok(Some((setting, Receiver { url, authorities, timeout, ratio: self.trace_ratio })))
    }
}

/// Returns a variable of OTLP exporters, of traces alone or of all signals, with its name.
fn of_traces(name: &str) -> Option<(String, String)> {
    variable(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}")).or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{name}")))
}

/// Returns a variable with its name. An empty one is none, as the standard has it.
fn variable(name: &str) -> Option<(String, String)> {
    env::var(name).ok().filter(|value| !value.is_empty()).map(|value| (name.to_owned(), value))
}

fn parse_ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "must be a number from 0 to 1, such as 0.01".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_a_share() {
        for (text, expected) in [
            ("0", Some(0.0)),
            ("1", Some(1.0)),
            ("0.01", Some(0.01)),
            ("1e-3", Some(0.001)),
            ("1.1", None),
            ("-0.1", None),
            ("NaN", None),
            ("1%", None),
            ("", None),
        ] {
            assert_eq!(parse_ratio(text).ok(), expected, "{text}");
        }
    }
}
