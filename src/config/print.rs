//! The settings in force, as a configuration file.

use toml_writer::ToTomlValue;

use super::setting::{Kind, Setting, Sources};
use crate::store::DatabaseUrl;

/// What is shown in place of a secret.
const MASK: &str = "***";

impl Sources {
    /// Writes the settings as a configuration file, each with a comment that says where it is from.
    ///
    /// Passwords are masked.
    pub fn to_toml(&self) -> String {
        let lines: Vec<_> = self.0.iter().map(|setting| (setting, line(setting))).collect();
        // Long lines have their comment at their end.
        let width = lines.iter().map(|(_, line)| line.len()).filter(|length| *length <= 48).max().unwrap_or_default();
        let mut headings: Vec<&str> = Vec::new();
        for (setting, _) in &lines {
            let heading = setting.heading.as_deref().unwrap_or_default();
            if !headings.contains(&heading) {
                headings.push(heading);
            }
        }
        let mut text = String::new();
        for heading in headings {
            if !text.is_empty() {
                text.push('\n');
            }
            if !heading.is_empty() {
                text += &format!("# {heading}\n");
            }
            let below = |setting: &Setting| setting.heading.as_deref().unwrap_or_default() == heading;
            for (setting, line) in lines.iter().filter(|(setting, _)| below(setting)) {
                text += &format!("{line:<width$}  # {}\n", source(setting));
            }
        }
        text
    }

    /// The settings that differ from their defaults, as `key=value`, for the log. Secrets are hidden.
    pub fn changed(&self) -> String {
        let text = |setting: ChangedSetting| format!("{}={}", setting.name, setting.value);
        self.changed_settings().into_iter().map(text).collect::<Vec<_>>().join(" ")
    }

    /// The settings that differ from their defaults. Secrets are hidden.
    pub fn changed_settings(&self) -> Vec<ChangedSetting> {
        let changed =
            self.0.iter().filter(|setting| setting.values.as_ref().is_some_and(|values| *values != setting.default));
        let shown = |setting: &Setting| {
            let values = setting.values.iter().flatten();
            let shown = values.map(|value| if setting.secret { hidden(value) } else { value.clone() });
            ChangedSetting {
                name: setting.key.clone(),
                value: shown.collect::<Vec<_>>().join(","),
                source: setting.source.to_string(),
            }
        };
        changed.map(shown).collect()
    }
}

/// A setting that differs from its default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedSetting {
    /// Its name in a file.
    pub name: String,
    /// Its value. A secret is hidden.
    pub value: String,
    /// Where it is from.
    pub source: String,
}

/// The value of a secret in a log: of a URL, where the database is.
fn hidden(secret: &str) -> String {
    secret.parse::<DatabaseUrl>().map_or_else(|_| MASK.to_owned(), |url| url.to_string())
}

/// Where a setting is from, in words.
fn source(setting: &Setting) -> String {
    match setting.values {
        Some(_) => setting.source.to_string(),
        None => "not set".to_owned(),
    }
}

/// The line of a setting without its comment.
fn line(setting: &Setting) -> String {
    let key = &setting.key;
    let Some(values) = &setting.values else { return format!("# {key} =") };
    let shown: Vec<String> =
        values.iter().map(|value| if setting.secret { masked(value) } else { value.clone() }).collect();
    let value = match setting.kind {
        Kind::List(delimiter) => {
            let split = |value: &String| match delimiter {
                Some(delimiter) => value.split(delimiter).map(str::to_owned).collect(),
                None => vec![value.clone()],
            };
            shown.iter().flat_map(split).collect::<Vec<_>>().to_toml_value()
        }
        Kind::Text => shown.concat().to_toml_value(),
        Kind::Bool => return format!("{key} = {}", shown.concat()),
        // TOML has no leading zeros.
        Kind::Number => {
            let number = shown.concat();
            return format!("{key} = {}", number.parse::<i64>().map_or(number, |number| number.to_string()));
        }
    };
    format!("{key} = {value}")
}

/// Masks the password of a URL, or a secret that is no URL.
fn masked(secret: &str) -> String {
    let Some((scheme, rest)) = secret.split_once("://") else { return MASK.to_owned() };
    if scheme == "sqlite" {
        return secret.to_owned();
    }
    let (location, parameters) = match rest.split_once('?') {
        Some((location, parameters)) => (location, Some(parameters)),
        None => (rest, None),
    };
    let location = match location.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((user, _)) => format!("{user}:{MASK}@{host}"),
            None => location.to_owned(),
        },
        None => location.to_owned(),
    };
    let parameter = |parameter: &str| match parameter.split_once('=') {
        Some((name, _)) if name.contains("pass") => format!("{name}={MASK}"),
        _ => parameter.to_owned(),
    };
    match parameters {
        Some(parameters) => {
            format!("{scheme}://{location}?{}", parameters.split('&').map(parameter).collect::<Vec<_>>().join("&"))
        }
        None => format!("{scheme}://{location}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cli;

    #[test]
    fn settings_that_differ_from_their_defaults_are_named_without_secrets() {
        for (args, expected) in [
            (&[][..], ""),
            (&["serve", "--max-watchers=10000"], ""),
            (&["--reflection=false", "--listen=:1", "--max-call-time=10s"], "listen=:1 reflection=false"),
            (
                &["check", "--database-url=postgres://kith:s3cret@db/kith?sslmode=disable"],
                "database-url=postgres://db/kith",
            ),
        ] {
            let args = std::iter::once("kith").chain(args.iter().copied()).map(Into::into);
            let (_, sources) = Cli::read(args).expect("settings");
            assert_eq!(sources.changed(), expected);
        }
    }

    #[test]
    fn passwords_are_masked() {
        for (secret, shown) in [
            ("sqlite://kith.db", "sqlite://kith.db"),
            ("postgres://db/kith", "postgres://db/kith"),
            ("postgres://kith@db/kith", "postgres://kith@db/kith"),
            ("postgres://kith:s3cret@db:5432/kith", "postgres://kith:***@db:5432/kith"),
            ("postgres://kith:s3:cr@t@db/kith", "postgres://kith:***@db/kith"),
            ("postgres://kith:@db/kith", "postgres://kith:***@db/kith"),
            ("postgres://kith:***@db/kith", "postgres://kith:***@db/kith"),
            ("postgres://db/kith?sslmode=require&password=s3cret", "postgres://db/kith?sslmode=require&password=***"),
            ("postgres:///kith?sslpassword=s3cret", "postgres:///kith?sslpassword=***"),
            ("s3cret", "***"),
        ] {
            assert_eq!(masked(secret), shown);
            assert_eq!(masked(shown), shown, "reading it back gives the same");
        }
    }
}
