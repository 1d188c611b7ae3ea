//! Draws the plot: a panel for each operation, calls per second by calls in flight. Every axis begins at zero. The echo
//! is far above the rest, and is given as text.

use std::fmt::Write as _;

use super::session::Subject;
use super::workload::Operation;
use super::{Result, Results};

const COLUMNS: usize = 3;
/// The size of a panel, and the margins around its drawing.
const WIDTH: f64 = 330.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 42.0;
const BOTTOM: f64 = 40.0;
/// The height above all panels, for the legend.
const LEGEND: f64 = 34.0;
const TICKS: usize = 4;
const LINES: [(Subject, &str); 3] =
    [(Subject::KithPostgres, "#1f5fa8"), (Subject::KithSqlite, "#1f8a5b"), (Subject::Sql, "#b0451f")];

pub fn draw(operations: &[Operation], results: &Results) -> Result<String> {
    let (width, rows) = (WIDTH * COLUMNS as f64, operations.len().div_ceil(COLUMNS));
    let height = LEGEND + HEIGHT * rows as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\" fill=\"#333\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (number, (subject, colour)) in LINES.into_iter().enumerate() {
        let x = LEFT + 170.0 * number as f64;
        writeln!(svg, "<rect x=\"{x}\" y=\"12\" width=\"14\" height=\"10\" fill=\"{colour}\"/>")?;
        writeln!(svg, "<text x=\"{}\" y=\"21\">{subject}</text>", x + 20.0)?;
    }
    for (number, operation) in operations.iter().enumerate() {
        let (x, y) = (WIDTH * (number % COLUMNS) as f64, LEGEND + HEIGHT * (number / COLUMNS) as f64);
        writeln!(svg, "<g transform=\"translate({x} {y})\">")?;
        panel(&mut svg, *operation, results)?;
        writeln!(svg, "</g>")?;
    }
    Ok(svg + "</svg>\n")
}

fn panel(svg: &mut String, operation: Operation, results: &Results) -> Result<()> {
    let lines = LINES.map(|(subject, colour)| (colour, results.levels(operation, subject)));
    let points = || lines.iter().flat_map(|(_, line)| line);
    let mut levels: Vec<_> = points().map(|(level, _)| *level).collect();
    levels.sort_unstable();
    levels.dedup();
    let step = nice(points().map(|(_, [.., most])| *most).fold(1.0, f64::max) / TICKS as f64);
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let y = |value: f64| bottom - (bottom - TOP) * value / (step * TICKS as f64);
    // The levels have equal distances.
    let x = |level: usize| {
        let index = levels.iter().position(|one| *one == level).unwrap_or(0) as f64;
        LEFT + (right - LEFT) * (index + 0.5) / levels.len() as f64
    };

    writeln!(svg, "<text x=\"{LEFT}\" y=\"18\" font-size=\"13\" font-weight=\"bold\">{operation}</text>")?;
    if let Some(peak) = results.peak(operation, Subject::Echo) {
        let above = TOP - 8.0;
        writeln!(svg, "<text x=\"{LEFT}\" y=\"{above}\" fill=\"#888\">{}: up to {peak:.0}</text>", Subject::Echo)?;
    }
    for tick in 0..=TICKS {
        let value = step * tick as f64;
        let (at, left) = (y(value), LEFT - 6.0);
        writeln!(svg, "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/>")?;
        writeln!(svg, "<text x=\"{left}\" y=\"{:.1}\" text-anchor=\"end\">{value:.0}</text>", at + 4.0)?;
    }
    for level in &levels {
        let (at, below) = (x(*level), bottom + 15.0);
        writeln!(svg, "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{level}</text>")?;
    }
    let (middle, below) = ((LEFT + right) / 2.0, bottom + 30.0);
    writeln!(svg, "<text x=\"{middle}\" y=\"{below}\" text-anchor=\"middle\">calls/s by calls in flight</text>")?;

    for (colour, line) in &lines {
        let path: Vec<_> =
            line.iter().map(|(level, [median, ..])| format!("{:.1} {:.1}", x(*level), y(*median))).collect();
        if !path.is_empty() {
            writeln!(svg, "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>", path.join("L"))?;
        }
        for (level, [median, least, most]) in line {
            let (x, median, least, most) = (x(*level), y(*median), y(*least), y(*most));
            writeln!(svg, "<path d=\"M{x:.1} {least:.1}V{most:.1}\" stroke=\"{colour}\"/>")?;
            writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{median:.1}\" r=\"3\" fill=\"{colour}\"/>")?;
        }
    }
    Ok(())
}

/// A round number that is not smaller.
fn nice(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let found =
        [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0].into_iter().map(|factor| factor * power).find(|nice| *nice >= step);
    found.unwrap_or(step)
}
