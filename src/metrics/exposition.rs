//! Reads metrics in the text format of OpenMetrics, as `kith top` and the status page show them.

use std::collections::HashMap;
use std::fmt;

/// The last line of a complete text.
const END: &str = "# EOF";

/// The samples of one response, by their names as they are written, such as `kith_commits_total`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exposition(HashMap<String, Vec<Sample>>);

/// A value with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// Returns the value of a label; an empty one is the same as none.
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| label == name).map_or("", |(_, value)| value)
    }

    /// Whether both have the same labels, in any order.
    pub fn is_same_series(&self, other: &Self) -> bool {
        self.labels.len() == other.labels.len() && self.labels.iter().all(|label| other.labels.contains(label))
    }
}

/// Why a text is not in the format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The number of the line, from 1.
    line: usize,
    reason: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} is not OpenMetrics: {}", self.line, self.reason)
    }
}

impl Exposition {
    /// Parses a complete text. Timestamps and exemplars are ignored.
    ///
    /// # Errors
    ///
    /// If a line is none of the format, or if the text has no `# EOF` at its end: then it was cut off.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let mut parsed = Self::default();
        let (mut line, mut has_end) = (0, false);
        for text in text.split_terminator('\n') {
            line += 1;
            let malformed = |reason| Malformed { line, reason };
            if has_end {
                return Err(malformed("it follows # EOF"));
            } else if text == END {
                has_end = true;
            } else if let Some(comment) = text.strip_prefix('#') {
                is_descriptor(comment)
                    .then_some(())
                    .ok_or(malformed("a comment is # TYPE, # HELP, # UNIT or # EOF"))?;
            } else {
                let (name, sample) = sample(text).map_err(malformed)?;
                parsed.0.entry(name.to_owned()).or_default().push(sample);
            }
        }
        if has_end { Ok(parsed) } else { Err(Malformed { line: line + 1, reason: "# EOF is missing" }) }
    }

    /// Returns the samples of this name.
    pub fn samples(&self, name: &str) -> &[Sample] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Returns the value of a metric without labels.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.samples(name).first().map(|sample| sample.value)
    }
}

/// Whether a comment describes a metric, as in ` TYPE kith_users gauge`.
fn is_descriptor(comment: &str) -> bool {
    let mut words = comment.splitn(4, ' ');
    let (begin, kind, name) = (words.next(), words.next(), words.next());
    begin == Some("") && matches!(kind, Some("TYPE" | "HELP" | "UNIT")) && name.is_some_and(is_name)
}

/// Parses a line such as `kith_commits_total{outcome="committed"} 5`.
fn sample(line: &str) -> Result<(&str, Sample), &'static str> {
    let end = line.find(['{', ' ']).ok_or("a sample needs a value")?;
    let (name, rest) = line.split_at(end);
    if !is_name(name) {
        return Err("a name has letters, digits, _ and :");
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let rest = rest.strip_prefix(' ').ok_or("a space comes before the value")?;
    // What follows is a timestamp, or ` # ` and an exemplar.
    let value = rest.split(' ').next().unwrap_or_default();
    let value = value.parse().map_err(|_| "the value is no number")?;
    Ok((name, Sample { labels, value }))
}

/// The labels, and what follows their closing brace.
type Labels<'a> = (Vec<(String, String)>, &'a str);

/// Parses labels after the opening brace.
fn labels(mut rest: &str) -> Result<Labels<'_>, &'static str> {
    let mut labels = Vec::new();
    if let Some(rest) = rest.strip_prefix('}') {
        return Ok((labels, rest));
    }
    loop {
        let (name, quoted) = rest.split_once("=\"").ok_or("a label is NAME=\"VALUE\"")?;
        if !is_name(name) {
            return Err("a label's name has letters, digits and _");
        }
        let (value, after) = unquoted(quoted)?;
        labels.push((name.to_owned(), value));
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None => return Ok((labels, after.strip_prefix('}').ok_or("labels end with }")?)),
        }
    }
}

/// Parses a quoted value after its opening quotation mark. Returns what follows the closing one too.
fn unquoted(text: &str) -> Result<(String, &str), &'static str> {
    let (mut value, mut chars) = (String::new(), text.chars());
    loop {
        match chars.next().ok_or("a quotation mark is missing")? {
            '"' => return Ok((value, chars.as_str())),
            '\\' => value.push(match chars.next() {
                Some('n') => '\n',
                Some(quoted @ ('\\' | '"')) => quoted,
                _ => return Err("only \\\\, \\\" and \\n are escaped"),
            }),
            other => value.push(other),
        }
    }
}

fn is_name(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    !text.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_their_labels_and_values() {
        let text = "# TYPE a gauge\n# HELP a Some words, \"quoted\" too.\n# UNIT a seconds\na 1.5\n\
                    b_total{x=\"1\",y=\"q\\\"\\\\\\n}, z=\\\"\"} 2e3 1520879607.789\n\
                    b_total{} 7 # {trace_id=\"abc\"} 0.5\nc_bucket{le=\"+Inf\"} +Inf\nd NaN\n# EOF\n";
        let parsed = Exposition::parse(text).unwrap();
        assert_eq!(parsed.value("a"), Some(1.5));
        let [first, second] = parsed.samples("b_total") else { panic!("{parsed:?}") };
        assert_eq!((first.value, first.label("x"), first.label("y")), (2_000.0, "1", "q\"\\\n}, z=\""));
        assert_eq!((second.value, second.label("x")), (7.0, ""));
        assert_eq!(parsed.value("c_bucket"), Some(f64::INFINITY));
        assert!(parsed.value("d").is_some_and(f64::is_nan));
        assert_eq!((parsed.value("e"), parsed.samples("e").len()), (None, 0));
        assert_eq!(Exposition::parse("# EOF"), Ok(Exposition::default()));
    }

    #[test]
    fn series_are_the_same_whatever_the_order_of_their_labels() {
        let series = |labels: &str| sample(&format!("a{{{labels}}} 1")).unwrap().1;
        for (one, other, same) in [
            ("", "", true),
            ("x=\"1\",y=\"2\"", "y=\"2\",x=\"1\"", true),
            ("x=\"1\"", "x=\"2\"", false),
            ("x=\"1\"", "", false),
            ("x=\"1\"", "x=\"1\",y=\"2\"", false),
        ] {
            assert_eq!(series(one).is_same_series(&series(other)), same, "{one} {other}");
        }
    }

    #[test]
    fn what_is_not_the_format_is_refused_with_its_line() {
        for (text, line, reason) in [
            ("", 1, "# EOF is missing"),
            ("a 1\n", 2, "# EOF is missing"),
            ("# EOF\na 1\n", 2, "it follows # EOF"),
            ("# EOF\n\n", 2, "it follows # EOF"),
            ("# just words\n# EOF\n", 1, "a comment is # TYPE, # HELP, # UNIT or # EOF"),
            ("#TYPE a gauge\n# EOF\n", 1, "a comment is # TYPE, # HELP, # UNIT or # EOF"),
            ("\n# EOF\n", 1, "a sample needs a value"),
            ("a\n# EOF\n", 1, "a sample needs a value"),
            ("a 1\na  2\n# EOF\n", 2, "the value is no number"),
            ("a one\n# EOF\n", 1, "the value is no number"),
            ("a{x=\"1\"}2\n# EOF\n", 1, "a space comes before the value"),
            ("1a 1\n# EOF\n", 1, "a name has letters, digits, _ and :"),
            ("<html> 1\n# EOF\n", 1, "a name has letters, digits, _ and :"),
            ("a{x=1} 1\n# EOF\n", 1, "a label is NAME=\"VALUE\""),
            ("a{x=\"1\",} 1\n# EOF\n", 1, "a label is NAME=\"VALUE\""),
            ("a{x y=\"1\"} 1\n# EOF\n", 1, "a label's name has letters, digits and _"),
            ("a{x=\"1\" 1\n# EOF\n", 1, "labels end with }"),
            ("a{x=\"1} 1\n# EOF\n", 1, "a quotation mark is missing"),
            ("a{x=\"\\t\"} 1\n# EOF\n", 1, "only \\\\, \\\" and \\n are escaped"),
        ] {
            assert_eq!(Exposition::parse(text), Err(Malformed { line, reason }), "{text:?}");
        }
    }
}
