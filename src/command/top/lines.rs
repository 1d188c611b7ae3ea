//! The figures as lines of text, for a terminal and for a pipe.

use super::figures::{COLUMNS, Cell, Figures, Group, Mark, Method};

/// The width of the names of groups, in columns.
const NAMES: usize = 10;
/// The space between figures.
const GAP: &str = "   ";
/// The width of each column of numbers.
const NUMBERS: usize = 10;
/// The smallest width for the names of methods.
const METHODS: usize = 20;

/// How a part of a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// The name of a group, or the titles of columns.
    Title,
    /// A figure.
    Figure(Mark),
}

/// A line: texts, each with its look.
pub(super) type Line = Vec<(String, Look)>;

/// Lays out the figures for this width. Groups that do not fit into one line continue in the next.
pub(super) fn lines(figures: &Figures, width: usize) -> Vec<Line> {
    let mut lines: Vec<Line> = figures.groups.iter().flat_map(|group| group_lines(group, width)).collect();
    if !figures.methods.is_empty() {
        let titles = COLUMNS.map(str::to_owned);
        lines.push(Vec::new());
        lines.push(vec![(row(&titles, width), Look::Title)]);
        lines.extend(figures.methods.iter().map(|method| vec![(row(method, width), Look::Figure(Mark::Plain))]));
    }
    lines
}

fn group_lines(group: &Group, width: usize) -> Vec<Line> {
    let mut lines = vec![vec![(format!("{:<NAMES$}", group.name), Look::Title)]];
    let mut used = NAMES;
    let mut is_first = true;
    for Cell { text, mark } in &group.cells {
        let needed = text.chars().count() + if is_first { 0 } else { GAP.len() };
        if !is_first && used + needed > width {
            lines.push(vec![(" ".repeat(NAMES), Look::Title)]);
            (used, is_first) = (NAMES, true);
        }
        if let Some(line) = lines.last_mut() {
            if !is_first {
                line.push((GAP.to_owned(), Look::Figure(Mark::Plain)));
            }
            line.push((text.clone(), Look::Figure(*mark)));
        }
        used += text.chars().count() + if is_first { 0 } else { GAP.len() };
        is_first = false;
    }
    lines
}

/// The columns of a method. A name that does not fit is cut.
fn row(method: &Method, width: usize) -> String {
    let [name, numbers @ ..] = method;
    let room = width.saturating_sub(NUMBERS * numbers.len()).max(METHODS);
    let mut line = format!("{:<room$}", name.chars().take(room.saturating_sub(1)).collect::<String>());
    for number in numbers {
        line += &format!("{number:>NUMBERS$}");
    }
    line
}

/// The lines as plain text.
pub(super) fn text(figures: &Figures, width: usize) -> String {
    let line = |line: Line| line.into_iter().map(|(text, _)| text).collect::<String>().trim_end().to_owned() + "\n";
    lines(figures, width).into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &'static str, texts: &[&str]) -> Group {
        let cell = |text: &&str| Cell { text: (*text).to_owned(), mark: Mark::Plain };
        Group { name, cells: texts.iter().map(cell).collect() }
    }

    fn method(name: &str) -> Method {
        [name, "1.0", "0.0", "1.00ms", "2.00ms"].map(str::to_owned)
    }

    #[test]
    fn figures_that_do_not_fit_continue_in_the_next_line() {
        let groups = vec![group("A", &["one", "two", "three"]), group("LONG", &["a figure that is wider than all"])];
        let figures = Figures { groups, methods: Vec::new() };
        for (width, expected) in [
            (80, "A         one   two   three\nLONG      a figure that is wider than all\n"),
            (27, "A         one   two   three\nLONG      a figure that is wider than all\n"),
            (26, "A         one   two\n          three\nLONG      a figure that is wider than all\n"),
            (0, "A         one\n          two\n          three\nLONG      a figure that is wider than all\n"),
        ] {
            assert_eq!(text(&figures, width), expected, "{width}");
        }
    }

    #[test]
    fn methods_are_a_table_whose_names_are_cut() {
        let figures = Figures { groups: Vec::new(), methods: vec![method("GetUser"), method(&"x".repeat(60))] };
        let table = text(&figures, 80);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines[1], format!("METHOD{}calls/s  errors/s       p50       p99", " ".repeat(37)));
        assert_eq!(lines[2], format!("GetUser{}1.0       0.0    1.00ms    2.00ms", " ".repeat(40)));
        assert_eq!(lines[3], format!("{}{}1.0       0.0    1.00ms    2.00ms", "x".repeat(39), " ".repeat(8)));
        assert!(text(&figures, 5).lines().all(|line| line.len() <= METHODS + 4 * NUMBERS));
    }
}
