//! Errors with their causes.

use std::error::Error;
use std::fmt;

/// An error and its causes, in one line.
///
/// The log shows errors by this: of an error itself, its JSON format would show only the first line.
#[derive(Clone, Copy, Debug)]
pub struct Causes<'a>(pub &'a dyn Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = self.0.to_string();
        let mut source = self.0.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Some errors already contain their cause.
            if !line.contains(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            source = cause.source();
        }
        f.write_str(&line)
    }
}

/// Formats an error and its causes in one line.
pub fn with_causes(error: &dyn Error) -> String {
    Causes(error).to_string()
}
