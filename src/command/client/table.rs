//! Text in columns, for a terminal of 80 columns.

use std::fmt;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The width that tables are made for.
const WIDTH: usize = 80;
/// The maximum width of a cell. Longer ones are cut.
const CELL_MAX: usize = 36;
/// The width that the last cell of a row has at least, even if the row is then wider than the terminal.
const LAST_MIN: usize = 12;
/// Between two columns.
const GAP: usize = 2;

/// Rows of cells, of which each column is as wide as its widest cell.
#[derive(Clone, Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this first row.
    pub(super) fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    /// A table without a header.
    pub(super) fn bare() -> Self {
        Self { rows: Vec::new() }
    }

    /// Adds a row. Control characters, which could change what a terminal shows, become spaces.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let shown = |c: char| if c.is_control() { ' ' } else { c };
        self.rows.push(cells.into_iter().map(|cell| cell.chars().map(shown).collect()).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default().min(CELL_MAX)).collect();
        for row in &self.rows {
            let (mut line, mut at) = (String::new(), 0);
            for (column, cell) in row.iter().enumerate() {
                let is_last = column + 1 == columns;
                let room = if is_last { WIDTH.saturating_sub(at).max(LAST_MIN) } else { widths[column] };
                let cell = cut(cell, room);
                let padding = if is_last { 0 } else { widths[column].saturating_sub(cell.width()) + GAP };
                line += &cell;
                line.extend(std::iter::repeat_n(' ', padding));
                at += cell.width() + padding;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Cuts a text that is wider.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    let mut left = width.saturating_sub(1);
    for letter in text.chars() {
        let width = letter.width().unwrap_or_default();
        if width > left {
            break;
        }
        left -= width;
        cut.push(letter);
    }
    cut + "…"
}

/// Breaks each line of a text between words, and indents it.
pub(super) fn wrapped(text: &str, indent: &str) -> String {
    let mut wrapped = String::new();
    for paragraph in text.lines() {
        let mut line = indent.to_owned();
        for word in paragraph.split_whitespace() {
            if line.width() + word.width() > WIDTH && line.len() > indent.len() {
                wrapped += line.trim_end();
                wrapped.push('\n');
                line.truncate(indent.len());
            }
            line += word;
            line.push(' ');
        }
        wrapped += line.trim_end();
        wrapped.push('\n');
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_long_cells_are_cut() {
        let mut table = Table::new(&["ID", "NAME", "TEXT"]);
        table.row(["1".to_owned(), "林".to_owned(), "a\nb".to_owned()]);
        table.row(["1234".to_owned(), "x".repeat(50), "y".repeat(80)]);
        let expected = format!(
            "ID    NAME{}TEXT\n1     林{}a b\n1234  {}…  {}…\n",
            " ".repeat(34),
            " ".repeat(36),
            "x".repeat(35),
            "y".repeat(35)
        );
        assert_eq!(table.to_string(), expected);
        assert!(table.to_string().lines().all(|line| line.width() <= WIDTH));
        assert_eq!(Table::bare().to_string(), "");
    }

    #[test]
    fn text_is_wrapped_between_words() {
        let text = format!("{} {}\nz", "word ".repeat(16).trim(), "x".repeat(90));
        let expected = format!("  {}\n  word\n  {}\n  z\n", "word ".repeat(15).trim(), "x".repeat(90));
        assert_eq!(wrapped(&text, "  "), expected);
    }
}
