//! Prints responses in the format that was asked for.

use std::io::{self, Write};

use prost_reflect::MessageDescriptor;
use serde_json::Value;

use super::failure::Failed;
use super::render;
use crate::config::Output;

/// Prints to standard output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Printer(Output);

impl Printer {
    /// A printer in the chosen format, or else in the default one.
    pub(super) fn new(chosen: Option<Output>, default: Output) -> Self {
        Self(chosen.unwrap_or(default))
    }

    /// Whether it prints rows as lines of JSON, each of which is complete.
    pub(super) fn has_lines(self) -> bool {
        self.0 == Output::Jsonl
    }

    /// Prints a message. With `full`, a table has what is personal too.
    pub(super) fn message(self, of: &MessageDescriptor, message: &Value, full: bool) -> Result<(), Failed> {
        match self.0 {
            Output::Table => write(&render::response(of, message, full)),
            Output::Json => write(&format!("{message:#}\n")),
            Output::Jsonl => write(&format!("{message}\n")),
        }
    }

    /// Prints a list: as lines of JSON its rows.
    pub(super) fn list(self, of: &MessageDescriptor, message: &Value, full: bool) -> Result<(), Failed> {
        match (self.0, render::list(of)) {
            (Output::Jsonl, Some(field)) => {
                let rows = message[field.name()].as_array().map(Vec::as_slice).unwrap_or_default();
                write(&rows.iter().map(|row| format!("{row}\n")).collect::<String>())
            }
            _ => self.message(of, message, full),
        }
    }

    /// Prints what is no message: a table that was made already, or JSON.
    pub(super) fn made(self, table: &str, json: &Value) -> Result<(), Failed> {
        match self.0 {
            Output::Table => write(table),
            Output::Json => write(&format!("{json:#}\n")),
            Output::Jsonl => write(&format!("{json}\n")),
        }
    }
}

fn write(text: &str) -> Result<(), Failed> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
