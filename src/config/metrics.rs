//! Where metrics are served.

use std::fmt;
use std::str::FromStr;

use super::address::Address;

/// The setting that stands for no address.
const OFF: &str = "off";

/// Where metrics are served, if anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsListen {
    /// Nowhere.
    Off,
    /// At this address.
    At(Address),
}

impl MetricsListen {
    /// The address for a server that only this machine can reach: the port that OpenTelemetry's exporters have for
    /// Prometheus.
    pub fn of_local_server() -> Address {
        Address::Host { name: "127.0.0.1".to_owned(), port: 9464 }
    }
}

impl FromStr for MetricsListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case(OFF) { Ok(Self::Off) } else { text.parse().map(Self::At) }
    }
}

impl fmt::Display for MetricsListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str(OFF),
            Self::At(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_an_address_or_are_off() {
        for (text, shown) in [
            ("off", Some("off")),
            ("OFF", Some("off")),
            (":9464", Some(":9464")),
            ("127.0.0.1:0", Some("127.0.0.1:0")),
            ("unix:/run/kith-metrics.sock", Some("unix:/run/kith-metrics.sock")),
            ("", None),
            ("on", None),
            ("9464", None),
            ("https://localhost:1", None),
        ] {
            let parsed = text.parse::<MetricsListen>();
            assert_eq!(parsed.ok().map(|listen| listen.to_string()).as_deref(), shown, "{text:?}");
        }
        assert_eq!(MetricsListen::of_local_server().to_string(), "127.0.0.1:9464");
    }
}
