//! Metrics as a strict reader of OpenMetrics 1.0.0 sees them.

use std::collections::{BTreeMap, BTreeSet};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The metrics of one scrape.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Each metric family by its name, without the suffix of its samples.
    pub families: BTreeMap<String, Family>,
    /// Each value by its name and its labels, as they are written.
    samples: BTreeMap<String, f64>,
}

/// What is said of a metric.
#[derive(Debug, Default)]
pub struct Family {
    pub kind: String,
    pub help: String,
    pub unit: Option<String>,
}

impl Family {
    /// The names of its samples, as they are queried.
    pub fn sample_name(&self, name: &str) -> String {
        match self.kind.as_str() {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        }
    }
}

/// A line with a value.
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, &'a str)>,
    value: f64,
}

impl Metrics {
    /// Reads a text. Panics at the first line that the standard does not allow.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("the end");
        let mut metrics = Self::default();
        let mut current = String::new();
        let mut described = BTreeSet::new();
        for line in body.split_terminator('\n') {
            assert!(!line.trim().is_empty() && line.trim() == line, "a line with space around it: {line:?}");
            if let Some(descriptor) = line.strip_prefix("# ") {
                let [word, name, rest] = descriptor.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
                assert!(is_name(name), "{line}");
                if name != current {
                    assert!(!metrics.families.contains_key(name), "the family comes again: {line}");
                    metrics.families.insert(name.to_owned(), Family::default());
                    current = name.to_owned();
                }
                assert!(described.insert((word.to_owned(), name.to_owned())), "twice: {line}");
                let family = metrics.families.get_mut(name).expect("it was inserted");
                match word {
                    "HELP" => family.help = rest.to_owned(),
                    "TYPE" => family.kind = rest.to_owned(),
                    "UNIT" => {
                        assert!(name.ends_with(&format!("_{rest}")), "the unit is no suffix: {line}");
                        family.unit = Some(rest.to_owned());
                    }
                    _ => panic!("{line}"),
                }
                continue;
            }
            let sample = sample(line);
            let suffix =
                sample.name.strip_prefix(current.as_str()).unwrap_or_else(|| panic!("not of {current}: {line}"));
            let kind = &metrics.families.get(&current).unwrap_or_else(|| panic!("no family: {line}")).kind;
            let (suffixes, is_count): (&[&str], bool) = match kind.as_str() {
                "counter" => (&["_total"], true),
                "gauge" => (&[""], false),
                "histogram" => (&["_bucket", "_sum", "_count"], true),
                "info" => (&["_info"], true),
                _ => panic!("type {kind} of {current}"),
            };
            assert!(suffixes.contains(&suffix), "{kind}: {line}");
            assert!(!is_count || (sample.value >= 0.0 && sample.value.is_finite()), "{line}");
            assert!(kind != "info" || sample.value == 1.0, "{line}");
            let names: BTreeSet<_> = sample.labels.iter().map(|(name, _)| *name).collect();
            assert_eq!(names.len(), sample.labels.len(), "a label comes again: {line}");
            let (key, _) = line.rsplit_once(' ').expect("a value");
            assert!(metrics.samples.insert(key.to_owned(), sample.value).is_none(), "twice: {line}");
        }
        for (name, family) in &metrics.families {
            assert!(!family.help.is_empty() && !family.kind.is_empty(), "{name}: {family:?}");
            assert!(family.help.ends_with('.') && !family.help.contains('\\'), "{name}: {family:?}");
        }
        metrics.check_histograms(body);
        metrics
    }

    /// The buckets of each distribution rise, and the last one has all of its values.
    #[track_caller]
    fn check_histograms(&self, body: &str) {
        let mut previous: Option<(String, f64, f64)> = None;
        for line in body.lines().filter(|line| !line.starts_with('#')) {
            let sample = sample(line);
            let Some(name) = sample.name.strip_suffix("_bucket") else { continue };
            let Some((("le", bound), labels)) = sample.labels.split_first().map(|(first, rest)| (*first, rest)) else {
                panic!("le is not the first label: {line}")
            };
            let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
            let series = format!("{name}_count{}", braces(&labels.join(",")));
            let bound: f64 = if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect("a bound") };
            if let Some((before, lower, count)) = previous.as_ref().filter(|(before, ..)| *before == series) {
                assert!(*lower < bound && *count <= sample.value, "{before}: {line}");
            }
            if bound.is_infinite() {
                assert_eq!(self.samples.get(&series), Some(&sample.value), "{series}");
                assert!(self.samples.contains_key(&series.replacen("_count", "_sum", 1)), "{series}");
            }
            previous = Some((series, bound, sample.value));
        }
    }

    /// The value with this name and these labels, as they are written: `name{label="value"}`.
    #[track_caller]
    pub fn value(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| panic!("no {sample} among {:#?}", self.samples_of(sample)))
    }

    /// The same, if it is there.
    pub fn get(&self, sample: &str) -> Option<f64> {
        self.samples.get(sample).copied()
    }

    /// The sum of the values with this name and these labels among others, such as `grpc_code="OK"`.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let of = |sample: &&String| {
            let (own, rest) = sample.split_once('{').unwrap_or((sample, ""));
            own == name && labels.iter().all(|label| rest.contains(label))
        };
        self.samples.iter().filter(|(sample, _)| of(sample)).map(|(_, value)| value).sum()
    }

    /// All series, without their values.
    pub fn series(&self) -> BTreeSet<&str> {
        self.samples.keys().map(String::as_str).collect()
    }

    fn samples_of(&self, sample: &str) -> Vec<&String> {
        let name = sample.split('{').next().unwrap_or_default();
        self.samples.keys().filter(|key| key.starts_with(name)).collect()
    }
}

fn braces(labels: &str) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{labels}}}") }
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[track_caller]
fn sample(line: &str) -> Sample<'_> {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
    let value =
        if value == "+Inf" { f64::INFINITY } else { value.parse().unwrap_or_else(|_| panic!("no number: {line}")) };
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}').unwrap_or_else(|| panic!("no end of labels: {line}"))),
        None => (series, ""),
    };
    assert!(is_name(name), "{line}");
    let mut pairs = Vec::new();
    let mut rest = labels;
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
        // No value of Kith's has anything to escape.
        let (value, after) = after.split_once('"').unwrap_or_else(|| panic!("no end of a label: {line}"));
        assert!(is_name(label) && !value.contains(['\\', '{', '}', ' ']), "{line}");
        pairs.push((label, value));
        rest = match after.strip_prefix(',') {
            Some(more) => {
                assert!(!more.is_empty(), "{line}");
                more
            }
            None => {
                assert!(after.is_empty(), "{line}");
                after
            }
        };
    }
    Sample { name, labels: pairs, value }
}

/// Sends a request of HTTP/1.1 without a body, and returns the head and the body of the response.
pub async fn request(address: &str, method: &str, path: &str, accept: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let request = format!("{method} {path} HTTP/1.1\r\nhost: kith\r\naccept: {accept}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it is sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).await.expect("it is received");
    let (head, body) = response.split_once("\r\n\r\n").expect("a response");
    (head.to_owned(), body.to_owned())
}

/// Reads the metrics of a server whose port for them is this one.
pub async fn scrape(address: &str) -> Metrics {
    let (head, body) = request(address, "GET", "/metrics", "application/openmetrics-text; version=1.0.0").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{head}");
    Metrics::parse(&body)
}
