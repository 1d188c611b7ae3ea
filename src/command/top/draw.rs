//! Draws the state on a terminal.

use std::time::Instant;

use ratatui::Frame;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};

use super::figures::Mark;
use super::lines::{Look, lines};
use super::state::State;
use crate::metrics::numbers::duration;

/// How the parts look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Theme {
    has_color: bool,
}

impl Theme {
    /// Without colours if the variable `NO_COLOR` is set and not empty (<https://no-color.org>).
    pub(super) fn of_environment() -> Self {
        Self { has_color: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    fn style(self, look: Look) -> Style {
        let (color, modifier) = match look {
            Look::Title => (Color::Cyan, Modifier::BOLD),
            Look::Figure(Mark::Plain) => return Style::new(),
            Look::Figure(Mark::Warning) => (Color::Yellow, Modifier::BOLD),
            Look::Figure(Mark::Bad) => (Color::Red, Modifier::BOLD.union(Modifier::REVERSED)),
        };
        let style = Style::new().add_modifier(modifier);
        if self.has_color { style.fg(color) } else { style }
    }
}

/// Draws everything: a title, whether the server is away, and the figures. What does not fit is cut at the end.
///
/// `source` is where the metrics are from, with the interval.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State, source: &str, now: Instant, theme: Theme) {
    let area = frame.area();
    let title = Span::styled(format!("kith top   {source}   q quits"), theme.style(Look::Title));
    let mut text = Text::from(Line::from(title));
    let status = match &state.away {
        Some((since, error)) => {
            let away = duration(now.saturating_duration_since(*since).as_secs_f64());
            Span::styled(format!("AWAY for {away}, trying again: {error}"), theme.style(Look::Figure(Mark::Bad)))
        }
        None => Span::default(),
    };
    text.push_line(Line::from(status));
    for line in lines(&state.figures, area.width.into()) {
        let spans = line.into_iter().map(|(text, look)| Span::styled(text, theme.style(look)));
        let line = Line::from_iter(spans);
        // The figures of a server that is away are old.
        text.push_line(if state.away.is_some() { line.style(Modifier::DIM) } else { line });
    }
    frame.render_widget(text, area);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::buffer::{Buffer, Cell};

    use super::super::figures::tests::recorded;
    use super::*;

    const SOURCE: &str = "http://127.0.0.1:9464/metrics every 1s";

    /// The state after the recorded readings.
    fn state(begin: Instant) -> State {
        let mut state = State::default();
        for (at, reading) in [(0, 0), (2, 1)] {
            state.take(Ok(recorded(reading)), begin + Duration::from_secs(at), super::super::figures::tests::UNIX_TIME);
        }
        state
    }

    fn drawn(state: &State, now: Instant, (width, height): (u16, u16), has_color: bool) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state, SOURCE, now, Theme { has_color })).unwrap();
        terminal.backend().buffer().clone()
    }

    fn rows(buffer: &Buffer) -> Vec<String> {
        let row = |cells: &[Cell]| cells.iter().map(Cell::symbol).collect::<String>().trim_end().to_owned();
        buffer.content.chunks(buffer.area.width.into()).map(row).collect()
    }

    #[test]
    fn a_recorded_sample_fits_a_small_terminal() {
        let begin = Instant::now();
        let rows = rows(&drawn(&state(begin), begin, (80, 24), true));
        let expected = include_str!("testdata/80x24.txt");
        assert_eq!(rows.join("\n").trim_end(), expected.trim_end());
    }

    #[test]
    fn any_size_is_drawn() {
        let begin = Instant::now();
        let state = state(begin);
        for size in [(1, 1), (5, 3), (20, 50), (80, 24), (200, 60)] {
            let rows = rows(&drawn(&state, begin, size, true));
            assert!(rows[0].starts_with('k'), "{size:?}: {rows:#?}");
        }
    }

    #[test]
    fn a_server_that_is_away_is_shown_as_away_and_its_figures_as_old() {
        let begin = Instant::now();
        let mut state = state(begin);
        state.take(Err("cannot connect: refused".to_owned()), begin + Duration::from_secs(5), 0.0);
        let buffer = drawn(&state, begin + Duration::from_secs(70), (80, 24), true);
        assert_eq!(rows(&buffer)[1], "AWAY for 1m 5s, trying again: cannot connect: refused");
        assert!(buffer[(0, 1)].modifier.contains(Modifier::BOLD) && buffer[(0, 1)].fg == Color::Red);
        assert!(buffer[(0, 2)].modifier.contains(Modifier::DIM));
        assert_eq!(rows(&buffer)[2..], rows(&drawn(&self::state(begin), begin, (80, 24), true))[2..]);
    }

    #[test]
    fn without_colours_what_matters_still_stands_out() {
        let begin = Instant::now();
        let mut state = state(begin);
        state.take(Err("gone".to_owned()), begin, 0.0);
        let buffer = drawn(&state, begin, (80, 24), false);
        assert!(buffer.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
        assert!(buffer[(0, 1)].modifier.contains(Modifier::REVERSED), "away");
        let colored = drawn(&state, begin, (80, 24), true);
        assert!(colored.content.iter().any(|cell| cell.fg == Color::Cyan));
    }
}
