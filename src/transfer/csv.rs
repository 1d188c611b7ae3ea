//! Reads and writes files in CSV, with rows of one type.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::{Read, Write};

use csv::ByteRecord;
use serde_json::Value as Json;

use super::fields::{NOTES, Object, Rules, Value, shown};
use super::refusal::{Reason, Refusal, Violation};
use super::row::{Kind, Row};
use super::{FileError, ReadRow, RowReader};

/// A reader of CSV. Its first row has the names of the fields.
///
/// A file that was cut off between two rows cannot be noticed.
pub struct CsvReader<R> {
    source: csv::Reader<R>,
    kind: Kind,
    rules: Rules,
    columns: Vec<String>,
    record: ByteRecord,
}

/// The fields of a row that name users.
fn references(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::User => &[],
        Kind::Connection | Kind::Request => &["from", "to"],
        Kind::Block => &["user", "other"],
    }
}

/// Returns the field to which a column belongs, and the key in a reference; `None` if rows of this type do not have it.
fn field_of(column: &str, kind: Kind) -> Option<(&str, Option<&'static str>)> {
    if kind.fields().contains(&column) || NOTES.contains(&column) {
        return Some((column, None));
    }
    let [by_external_id, by_username] = ["external_id", "username"].map(|key| {
        let field = column.strip_suffix(key).and_then(|rest| rest.strip_suffix('_'));
        field.filter(|field| references(kind).contains(field)).map(|field| (field, Some(key)))
    });
    by_external_id.or(by_username)
}

impl<R: Read> CsvReader<R> {
    /// Reads the row with the names. An empty file has no rows.
    ///
    /// # Errors
    ///
    /// If it names a column that rows of this type do not have, names one twice, or lacks one that they need.
    pub fn new(source: R, kind: Kind, rules: Rules) -> Result<Self, FileError> {
        // With `\r\n` as the end, the numbers of lines would be too small by one.
        let end = csv::Terminator::Any(b'\n');
        let mut source = csv::ReaderBuilder::new().flexible(true).terminator(end).from_reader(source);
        let header = source.byte_headers().map_err(|error| failed(error, kind))?.clone();
        let columns: Vec<_> = header.iter().map(|name| String::from_utf8_lossy(name).trim().to_owned()).collect();
        let wrong = |problem: String| FileError::Csv(format!("the first row of {}: {problem}", kind.plural()));
        let mut fields = BTreeSet::new();
        for (at, column) in columns.iter().enumerate() {
            let Some((field, _)) = field_of(column, kind) else {
                let known = kind.fields().join(", ");
                return Err(wrong(format!(
                    "{:?} is not a field of a {}; its fields are {known}",
                    shown(column),
                    kind.name()
                )));
            };
            if columns[..at].contains(column) {
                return Err(wrong(format!("{column} is there twice")));
            }
            fields.insert(field);
        }
        // Some programs write nothing at all if there are no rows.
        let is_empty = columns.is_empty();
        let missing = references(kind).iter().find(|field| !is_empty && !fields.contains(**field));
        if let Some(missing) = missing {
            return Err(wrong(format!("needs {missing}, {missing}_external_id or {missing}_username")));
        }
        Ok(Self { source, kind, rules, columns, record: ByteRecord::new() })
    }

    /// The cells of the row with their columns. The last one ends with `\r` if the line does.
    fn cells(&self) -> impl Iterator<Item = (&String, &[u8])> {
        let last = self.record.len().saturating_sub(1);
        let cells = self.record.iter().enumerate().map(move |(at, cell)| match cell.strip_suffix(b"\r") {
            Some(cell) if at == last => cell,
            Some(_) | None => cell,
        });
        self.columns.iter().zip(cells)
    }

    fn read(&self) -> Result<Row, (Reason, Vec<Violation>)> {
        let (cells, columns) = (self.record.len(), self.columns.len());
        if cells != columns {
            let rule = format!("must have {columns} cells, as the first row, and has {cells}");
            return Err((Reason::InvalidFields, vec![Violation::new("", rule)]));
        }
        let (mut values, mut violations) = (Object::with_capacity(cells), Vec::new());
        for (column, cell) in self.cells() {
            match str::from_utf8(cell) {
                Ok(cell) => values.push((Cow::Borrowed(column), Value::Cell(cell))),
                Err(_) => violations.push(Violation::new(column, "must be UTF-8")),
            }
        }
        if violations.is_empty() {
            Row::read(self.kind.name(), values, &self.rules)
        } else {
            Err((Reason::InvalidFields, violations))
        }
    }
}

impl<R: Read> RowReader for CsvReader<R> {
    fn next_row(&mut self) -> Result<Option<ReadRow>, FileError> {
        loop {
            if !self.source.read_byte_record(&mut self.record).map_err(|error| failed(error, self.kind))? {
                return Ok(None);
            }
            // An empty line with `\r\n` at its end.
            if self.record != [b"\r"][..] {
                break;
            }
        }
        let line = self.record.position().map_or(0, csv::Position::line);
        let row = self.read().map_err(|(reason, violations)| Refusal { line, reason, violations });
        Ok(Some(ReadRow { line, row }))
    }

    fn text(&self) -> Cow<'_, str> {
        let mut row = serde_json::Map::new();
        row.insert("type".to_owned(), self.kind.name().into());
        for (column, cell) in self.cells() {
            let cell = String::from_utf8_lossy(cell);
            let Some((field, key)) = field_of(column, self.kind).filter(|(field, _)| !NOTES.contains(field)) else {
                continue;
            };
            let is_reference = references(self.kind).contains(&field);
            if let Some(value) = json_of(field, key, is_reference, &cell) {
                row.insert(field.to_owned(), value);
            }
        }
        Json::Object(row).to_string().into()
    }
}

/// Returns a cell as the value of its field in JSON; `None` if it is empty. A cell that is not valid remains a text.
fn json_of(field: &str, key: Option<&'static str>, is_reference: bool, cell: &str) -> Option<Json> {
    if cell.is_empty() {
        return None;
    }
    if let Some(key) = key {
        return Some(serde_json::json!({ key: cell }));
    }
    let is_number = is_reference || matches!(field, "id" | "position");
    let number = if is_number { cell.parse::<i64>().ok() } else { None };
    Some(match (field, cell) {
        ("email_isvalid", "true" | "t" | "1") => true.into(),
        ("email_isvalid", "false" | "f" | "0") => false.into(),
        _ => number.map_or_else(|| cell.into(), Json::from),
    })
}

/// A writer of CSV with all fields of a type.
pub struct CsvWriter<W: Write> {
    destination: csv::Writer<W>,
    kind: Kind,
}

impl<W: Write> CsvWriter<W> {
    /// Writes the row with the names of the fields.
    ///
    /// # Errors
    ///
    /// If it cannot be written, here and below.
    pub fn new(destination: W, kind: Kind) -> Result<Self, FileError> {
        let mut destination = csv::Writer::from_writer(destination);
        let fields = kind.fields().iter().flat_map(|field| columns_of(field, kind));
        destination.write_record(fields).map_err(|error| failed(error, kind))?;
        Ok(Self { destination, kind })
    }

    /// Writes a row of the type; others are left out.
    pub fn row(&mut self, row: &Row) -> Result<(), FileError> {
        let Some(kind) = row.kind().filter(|kind| *kind == self.kind) else { return Ok(()) };
        let values = serde_json::to_value(row).map_err(std::io::Error::from)?;
        let columns = kind
            .fields()
            .iter()
            .flat_map(|field| columns_of(field, kind).into_iter().map(move |column| (*field, column)));
        let cells = columns.map(|(field, column)| match &values[field] {
            Json::Object(reference) => {
                let key = column.strip_prefix(field).and_then(|rest| rest.strip_prefix('_')).unwrap_or("id");
                reference.get(key).and_then(Json::as_str).unwrap_or_default().to_owned()
            }
            value if column == field => cell_of(value),
            _ => String::new(),
        });
        self.destination.write_record(cells).map_err(|error| failed(error, kind))
    }

    /// Ends the file. Returns the destination, to which everything was written.
    pub fn finish(self) -> Result<W, FileError> {
        self.destination.into_inner().map_err(|error| FileError::Io(error.into_error()))
    }
}

/// The columns of a field: one, or three if it names a user.
fn columns_of(field: &str, kind: Kind) -> Vec<String> {
    let mut columns = vec![field.to_owned()];
    if references(kind).contains(&field) {
        columns.extend(["external_id", "username"].map(|key| format!("{field}_{key}")));
    }
    columns
}

fn cell_of(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        Json::Bool(_) | Json::Number(_) | Json::Array(_) | Json::Object(_) => value.to_string(),
    }
}

fn failed(error: csv::Error, kind: Kind) -> FileError {
    let text = format!("the rows of {} cannot be read: {error}", kind.plural());
    match error.into_kind() {
        csv::ErrorKind::Io(error) => FileError::Io(error),
        _ => FileError::Csv(text),
    }
}
