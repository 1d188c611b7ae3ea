//! Shows the figures on the terminal until somebody quits.

use std::io;
use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crossterm::event::{Event, EventStream, KeyCode, KeyModifiers};
use futures_util::{Stream, StreamExt, stream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::super::Failure;
use super::draw::{Theme, draw};
use super::state::State;
use super::{source, unix_time};
use crate::config::MetricsUrl;
use crate::metrics::exposition::Exposition;

/// The exit status after a signal is this and its number.
const SIGNALLED: u8 = 128;

/// Restores the terminal when it is dropped: at the end, after an error, and on a signal. A panic restores it before its
/// message, by the hook that ratatui installs.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows the figures until `q`, Ctrl-C, a signal or the end of the terminal.
pub(super) async fn run(url: &MetricsUrl, interval: Duration) -> Result<ExitCode, Failure> {
    let mut signals = pin!(signals()?);
    let _restored = Restored;
    let mut terminal = ratatui::try_init()?;
    let mut keys = EventStream::new();
    let mut readings = pin!(readings(url, interval));
    let (theme, shown) = (Theme::of_environment(), format!("{url} every {interval:?}"));
    let mut state = State::default();
    loop {
        terminal.draw(|frame| draw(frame, &state, &shown, Instant::now(), theme))?;
        tokio::select! {
            Some(read) = readings.next() => state.take(read, Instant::now(), unix_time()),
            event = keys.next() => match event {
                Some(Ok(event)) if quits(&event) => return Ok(ExitCode::SUCCESS),
                // A change of the size is drawn, and other keys do nothing.
                Some(Ok(_)) => {}
                // The terminal is gone.
                Some(Err(_)) | None => return Ok(ExitCode::SUCCESS),
            },
            Some(number) = signals.next() => return Ok(ExitCode::from(SIGNALLED + number)),
        }
    }
}

/// Reads the metrics at once and then at this interval. One reading begins only after the one before has ended.
fn readings(url: &MetricsUrl, interval: Duration) -> impl Stream<Item = Result<Exposition, String>> {
    let mut ticker = tokio::time::interval(interval);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    stream::unfold(ticker, move |mut ticker| async move {
        ticker.tick().await;
        Some((source::read(url).await, ticker))
    })
}

/// Whether a key quits. The terminal does not turn Ctrl-C into a signal.
fn quits(event: &Event) -> bool {
    let Some(key) = event.as_key_press_event() else { return false };
    let is = |c| key.code == KeyCode::Char(c);
    is('q') || is('Q') || is('c') && key.modifiers.contains(KeyModifiers::CONTROL)
}

/// The numbers of signals that end the program.
fn signals() -> io::Result<impl Stream<Item = u8>> {
    let ending = [
        (SignalKind::hangup(), 1),
        (SignalKind::interrupt(), 2),
        (SignalKind::quit(), 3),
        (SignalKind::terminate(), 15),
    ];
    let mut received = Vec::new();
    for (kind, number) in ending {
        received.push((signal(kind)?, number));
    }
    Ok(stream::poll_fn(move |cx| {
        let mut number = None;
        // All of them: each wakes the task only if it was polled.
        for (signal, of) in &mut received {
            if signal.poll_recv(cx).is_ready() {
                number = Some(*of);
            }
        }
        number.map_or(std::task::Poll::Pending, |number| std::task::Poll::Ready(Some(number)))
    }))
}

#[cfg(test)]
mod tests {
    use crossterm::event::KeyEvent;

    use super::*;

    #[test]
    fn q_and_ctrl_c_quit() {
        let key = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
        for (event, expected) in [
            (key(KeyCode::Char('q'), KeyModifiers::NONE), true),
            (key(KeyCode::Char('Q'), KeyModifiers::SHIFT), true),
            (key(KeyCode::Char('c'), KeyModifiers::CONTROL), true),
            (key(KeyCode::Char('c'), KeyModifiers::NONE), false),
            (key(KeyCode::Enter, KeyModifiers::NONE), false),
            (Event::Resize(80, 24), false),
        ] {
            assert_eq!(quits(&event), expected, "{event:?}");
        }
    }
}
