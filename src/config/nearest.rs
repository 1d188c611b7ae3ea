//! The name that was probably meant, and variables that no setting reads.

use std::ffi::OsString;

use clap::CommandFactory;

use super::Cli;
use super::setting::variables;

/// How many letters of ten may differ in a name that was probably meant.
const DIFFERING_MAX: usize = 4;

/// Returns the known name that is nearest, if it is near.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, near) =
        known.map(|known| (strsim::damerau_levenshtein(name, known), known)).min_by_key(|(distance, _)| *distance)?;
    (distance * 10 <= name.chars().count() * DIFFERING_MAX).then_some(near)
}

/// Describes each variable of the environment that is named like a setting, and is none.
///
/// Their values are not part of it: one may be a password.
pub fn unknown_variables(environment: impl Iterator<Item = (OsString, OsString)>) -> Vec<String> {
    let known = variables(&Cli::command());
    let mut unknown = Vec::new();
    for (name, value) in environment {
        let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
        let Some(rest) = name.strip_prefix("KITH_") else { continue };
        if known.iter().any(|known| *known == name) || is_foreign(rest, &value) {
            continue;
        }
        let known = known.iter().map(|known| known.trim_start_matches("KITH_"));
        let hint = match nearest(rest, known) {
            Some(near) => format!("did you mean KITH_{near}?"),
            None => "`kith config` prints all settings".to_owned(),
        };
        unknown.push(format!("{name} is set, but there is no such setting; {hint}"));
    }
    unknown.sort();
    unknown
}

/// Whether a variable belongs to the tests and the benchmark, or to Kubernetes.
///
/// To the containers of a namespace, Kubernetes describes a service `kith` by KITH_SERVICE_HOST, KITH_SERVICE_PORT_GRPC,
/// KITH_PORT=tcp://… and KITH_PORT_50051_TCP_ADDR, and a service `kith-db` by KITH_DB_SERVICE_HOST.
fn is_foreign(rest: &str, value: &str) -> bool {
    let named = format!("_{rest}");
    let of_a_port = |part: &str| part.starts_with(|c: char| c.is_ascii_digit());
    rest.starts_with("TEST_")
        || rest.starts_with("BENCH_")
        || named.ends_with("_SERVICE_HOST")
        || named.ends_with("_SERVICE_PORT")
        || named.contains("_SERVICE_PORT_")
        || named.split("_PORT_").skip(1).any(of_a_port)
        || named.ends_with("_PORT") && value.contains("://")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(name: &str, value: &str) -> Option<String> {
        unknown_variables(std::iter::once((name.into(), value.into()))).pop()
    }

    #[test]
    fn the_nearest_name_is_one_that_is_near() {
        let known = ["listen", "max-watchers", "max-connections"];
        for (name, near) in [
            ("listne", Some("listen")),
            ("max_watchers", Some("max-watchers")),
            ("max-connection", Some("max-connections")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, known.into_iter()), near, "{name}");
        }
    }

    #[test]
    fn unknown_variables_are_described_with_the_nearest_known_one() {
        for (name, words) in [
            ("KITH_LISTN", "KITH_LISTN is set, but there is no such setting; did you mean KITH_LISTEN?"),
            ("KITH_DATABASEURL", "did you mean KITH_DATABASE_URL?"),
            ("KITH_CONFIGS", "did you mean KITH_CONFIG?"),
            ("KITH_COLOUR", "`kith config` prints all settings"),
            ("KITH_HTTP_PORT", "no such setting"),
        ] {
            let described = unknown(name, "s3cret").expect(name);
            assert!(described.contains(words) && !described.contains("s3cret"), "{described}");
        }
    }

    #[test]
    fn known_variables_and_those_of_others_are_not_described() {
        for (name, value) in [
            ("KITH_LISTEN", ":1"),
            ("KITH_SERVER", ":1"),
            ("KITH_CONFIG", "kith.toml"),
            ("PATH", "/bin"),
            ("KITH_TEST_POSTGRES_URL", "postgres://db"),
            ("KITH_BENCH_USERS", "1"),
            ("KITH_SERVICE_HOST", "10.0.0.1"),
            ("KITH_SERVICE_PORT", "50051"),
            ("KITH_SERVICE_PORT_GRPC", "50051"),
            ("KITH_PORT", "tcp://10.0.0.1:50051"),
            ("KITH_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
            ("KITH_PORT_50051_TCP_ADDR", "10.0.0.1"),
            ("KITH_DB_SERVICE_HOST", "10.0.0.1"),
            ("KITH_DB_PORT_5432_TCP_PROTO", "tcp"),
        ] {
            assert_eq!(unknown(name, value), None, "{name}");
        }
    }
}
