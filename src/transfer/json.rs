//! Reads files in NDJSON.

use std::borrow::Cow;
use std::fmt;
use std::io::{BufRead, Read};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use sha2::{Digest, Sha256};

use super::fields::{Object, Rules, Value, shown};
use super::refusal::{Reason, Refusal, Violation};
use super::row::{Counts, Footer, Kind, Row};
use super::{FORMAT, FileError, ReadRow, RowReader};

/// The maximum length of a line in bytes. The longest valid row is shorter, even with each character as `\u0000`.
const LINE_MAX: u64 = 256 * 1024;

/// A reader of NDJSON that checks header, footer and digest.
///
/// It yields the header and the footer too, as the first and the last row. Blank lines are skipped.
pub struct JsonReader<R> {
    source: R,
    rules: Rules,
    /// The current line.
    text: Vec<u8>,
    line: u64,
    part: Part,
    digest: Sha256,
    counts: Counts<u64>,
    /// Whether rows of an unknown type were read, which may be of any type.
    has_unknown: bool,
}

/// The part of the file that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Header,
    Rows,
    End,
}

impl<R: BufRead> JsonReader<R> {
    /// Reads from the beginning of a file.
    pub fn new(source: R, rules: Rules) -> Self {
        let (text, digest) = (Vec::new(), Sha256::new());
        Self { source, rules, text, line: 0, part: Part::Header, digest, counts: Counts::default(), has_unknown: false }
    }

    /// Reads the next line into `text`, without its end. Returns whether it is complete; `None` at the end of the file.
    ///
    /// Of a line that is too long, only the beginning is stored.
    fn next_line(&mut self) -> Result<Option<bool>, FileError> {
        self.text.clear();
        if self.source.by_ref().take(LINE_MAX + 1).read_until(b'\n', &mut self.text)? == 0 {
            return Ok(None);
        }
        self.line += 1;
        if u64::try_from(self.text.len()).is_ok_and(|length| length <= LINE_MAX) {
            return Ok(Some(true));
        }
        self.digest.update(&self.text);
        while self.text.last() != Some(&b'\n') {
            let part = self.source.fill_buf()?;
            if part.is_empty() {
                break;
            }
            let end = part.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            let used = end.unwrap_or(part.len());
            self.digest.update(&part[..used]);
            self.source.consume(used);
            if end.is_some() {
                break;
            }
        }
        Ok(Some(false))
    }

    /// Reads the line as a row. Also returns the type of the row, if it has one.
    fn parse(&self) -> (Option<String>, Result<Row, (Reason, Vec<Violation>)>) {
        let unreadable = |rule: String| (None, Err((Reason::UnknownType, vec![Violation::new("", rule)])));
        let text = match str::from_utf8(&self.text) {
            Ok(text) => text,
            Err(error) => return unreadable(format!("must be UTF-8, and is not at byte {}", error.valid_up_to() + 1)),
        };
        let mut values = match serde_json::from_str(text) {
            Ok(Value::Object(values)) => values,
            Ok(_) => return unreadable("must be a JSON object".to_owned()),
            Err(error) => return unreadable(format!("must be a JSON object: {}", syntax(&error))),
        };
        let Some(at) = values.iter().position(|(name, _)| name == "type") else {
            return (None, Err((Reason::UnknownType, vec![Violation::new("type", "must be set")])));
        };
        let (_, kind) = values.remove(at);
        let Value::Text(kind) = kind else {
            return (None, Err((Reason::UnknownType, vec![Violation::new("type", "must be a text")])));
        };
        if kind == "header"
            && let Some(other) = other_format(&values)
        {
            return (Some("header".to_owned()), Err((Reason::UnknownType, vec![Violation::new("format", other)])));
        }
        (Some(kind.clone().into_owned()), Row::read(&kind, values, &self.rules))
    }

    /// Takes note of a row between the header and the footer.
    fn count(&mut self, kind: Option<&str>) {
        match kind.and_then(Kind::from_name) {
            Some(kind) => *self.counts.of(kind) += 1,
            None => self.has_unknown = true,
        }
    }

    /// Compares the footer with what was read.
    fn check(&mut self, footer: &Footer) -> Result<(), FileError> {
        let Footer { mut counts, sha256 } = footer.clone();
        let digest = hex(&std::mem::take(&mut self.digest).finalize());
        for kind in Kind::ALL {
            let found = *self.counts.of(kind);
            if let Some(expected) = counts.of(kind).filter(|expected| *expected != found && !self.has_unknown) {
                return Err(FileError::Count { kind: kind.plural(), expected, found });
            }
        }
        if sha256.is_some_and(|sha256| !sha256.eq_ignore_ascii_case(&digest)) {
            return Err(FileError::Digest);
        }
        Ok(())
    }

    fn frame(&self, what: &'static str, problem: impl Into<String>) -> FileError {
        FileError::Frame { line: self.line, what, problem: problem.into() }
    }
}

impl<R: BufRead> RowReader for JsonReader<R> {
    fn next_row(&mut self) -> Result<Option<ReadRow>, FileError> {
        loop {
            let Some(is_complete) = self.next_line()? else {
                return match self.part {
                    Part::Header => Err(FileError::NoHeader(self.line + 1)),
                    Part::Rows => Err(FileError::CutOff(self.line)),
                    Part::End => Ok(None),
                };
            };
            let line = self.line;
            if !is_complete {
                if self.part == Part::Header {
                    return Err(FileError::NoHeader(line));
                }
                self.has_unknown = true;
                let rule = format!("must be no longer than {LINE_MAX} bytes");
                let violations = vec![Violation::new("", rule)];
                return Ok(Some(ReadRow {
                    line,
                    row: Err(Refusal { line, reason: Reason::InvalidFields, violations }),
                }));
            }
            if self.text.trim_ascii().is_empty() {
                self.digest.update(&self.text);
                continue;
            }
            if self.part == Part::End {
                return Err(self.frame("footer", "before this line is not the end of the file: join no files"));
            }
            let (kind, row) = self.parse();
            let row = match (self.part, kind.as_deref(), row) {
                (Part::Header, Some("header"), Ok(header)) => {
                    self.part = Part::Rows;
                    Ok(header)
                }
                (Part::Header, Some("header"), Err((Reason::UnknownType, mut other))) if other.len() == 1 => {
                    return Err(FileError::OtherFormat(other.remove(0).rule));
                }
                (Part::Header, Some("header"), Err((_, violations))) => {
                    return Err(self.frame("header", format!("is invalid: {}", joined(&violations))));
                }
                (Part::Header, ..) => return Err(FileError::NoHeader(line)),
                (_, Some("header"), _) => return Err(self.frame("header", "is not the first line: join no files")),
                (_, Some("footer"), Ok(Row::Footer(footer))) => {
                    self.check(&footer)?;
                    self.part = Part::End;
                    Ok(Row::Footer(footer))
                }
                (_, Some("footer"), Err((_, violations))) => {
                    return Err(self.frame("footer", format!("is invalid: {}", joined(&violations))));
                }
                (_, kind, row) => {
                    self.count(kind);
                    self.digest.update(&self.text);
                    row
                }
            };
            let row = row.map_err(|(reason, violations)| Refusal { line, reason, violations });
            return Ok(Some(ReadRow { line, row }));
        }
    }

    fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.text.trim_ascii())
    }
}

/// Returns the format of a header if it is not this one.
fn other_format(header: &Object<'_>) -> Option<String> {
    match header.iter().find(|(name, _)| name == "format") {
        Some((_, Value::Text(format))) if format == FORMAT => None,
        Some((_, Value::Text(format))) => Some(shown(format)),
        Some(_) | None => Some(String::new()),
    }
}

fn joined(violations: &[Violation]) -> String {
    violations.iter().map(Violation::to_string).collect::<Vec<_>>().join("; ")
}

/// Returns an error of syntax without what it says about the line, which is always the first.
fn syntax(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    format!("{text} at character {}", error.column())
}

/// Formats a digest.
pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl<'de: 'a, 'a> Deserialize<'de> for Value<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value<'de>, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value<'de>, E> {
        Ok(i64::try_from(value).map_or(Value::Other("a number"), Value::Integer))
    }

    fn visit_f64<E>(self, _value: f64) -> Result<Value<'de>, E> {
        Ok(Value::Other("a number"))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value<'de>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Other("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
        let mut object = Object::new();
        while let Some((Name(name), value)) = map.next_entry()? {
            object.push((name, value));
        }
        Ok(Value::Object(object))
    }
}

/// The name of a field, which is borrowed from the line unless it has escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Text(name) => Ok(Self(name)),
            _ => Err(serde::de::Error::custom("the name of a field must be a text")),
        }
    }
}
