//! Counts the frames by which a client of HTTP/2 makes work without calling.

use std::time::Duration;

use tokio::time::Instant;

/// Maximum control frames within [`WINDOW`] during which the connection has no progress.
///
/// Clients that measure the network by PINGs send one for some data that they receive, and those that look for a lost
/// connection one in some seconds.
const CONTROL_MAX: u32 = 1_000;
const WINDOW: Duration = Duration::from_secs(60);
/// Bytes of the header that each frame begins with.
const HEADER_BYTES: usize = 9;

const DATA: u8 = 0;
const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
/// The last type that RFC 9113 defines. Servers ignore others.
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// Follows the frames in the bytes that a client sends, after the preface.
#[derive(Debug)]
pub(super) struct Frames {
    /// The header of the next frame, as far as it was read.
    header: [u8; HEADER_BYTES],
    header_length: usize,
    /// Bytes of the current frame that are still to come.
    payload: usize,
    /// Control frames since `since`, and since the last progress.
    control: u32,
    since: Option<Instant>,
    /// The progress of the connection at the last control frame.
    progress: usize,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self { header: [0; HEADER_BYTES], header_length: 0, payload: 0, control: 0, since: None, progress: 0 }
    }

    /// Reads on. Returns whether there were too many control frames.
    ///
    /// `progress` is a number that changes with each call and each message of a response.
    pub(super) fn flood(&mut self, mut bytes: &[u8], progress: usize) -> bool {
        let mut control = 0;
        while !bytes.is_empty() {
            let skipped = self.payload.min(bytes.len());
            self.payload -= skipped;
            bytes = &bytes[skipped..];
            let read = (HEADER_BYTES - self.header_length).min(bytes.len());
            self.header[self.header_length..][..read].copy_from_slice(&bytes[..read]);
            self.header_length += read;
            bytes = &bytes[read..];
            if self.header_length == HEADER_BYTES {
                let [high, middle, low, kind, flags, ..] = self.header;
                let length = u32::from_be_bytes([0, high, middle, low]);
                // 24 bits fit in a usize.
                self.payload = usize::try_from(length).unwrap_or(usize::MAX);
                self.header_length = 0;
                control += u32::from(is_control(kind, flags, length));
            }
        }
        control > 0 && self.counted(control, progress)
    }

    fn counted(&mut self, control: u32, progress: usize) -> bool {
        let now = Instant::now();
        let over = self.since.is_none_or(|since| now.duration_since(since) >= WINDOW);
        if over || progress != self.progress {
            (self.control, self.since, self.progress) = (0, Some(now), progress);
        }
        self.control = self.control.saturating_add(control);
        self.control > CONTROL_MAX
    }
}

/// Whether a frame belongs to no call, or adds nothing to one.
///
/// WINDOW_UPDATE is not counted: clients send it for all that they read. h2 has its own limits for the other frames.
fn is_control(kind: u8, flags: u8, length: u32) -> bool {
    match kind {
        PRIORITY | SETTINGS | PING => true,
        DATA => length == 0 && flags & END_STREAM == 0,
        kind => kind > CONTINUATION,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).expect("short");
        [&[0, 0, length, kind, flags, 0, 0, 0, 0], payload].concat()
    }

    /// The number of frames after which it was a flood, of at most twice the limit.
    fn flood_after(frame: &[u8], piece: usize) -> Option<u32> {
        let mut frames = Frames::new();
        (1..=2 * CONTROL_MAX).find(|_| frame.chunks(piece).any(|bytes| frames.flood(bytes, 0)))
    }

    #[test]
    fn frames_that_only_make_work_are_counted_however_they_are_cut() {
        const HEADERS: u8 = 1;
        const WINDOW_UPDATE: u8 = 8;
        // A payload that looks like a PING is no frame.
        let ping = frame(PING, 0, &[0; 8]);
        for (frame, counts) in [
            (ping.clone(), true),
            (frame(SETTINGS, 0, &[]), true),
            (frame(PRIORITY, 0, &[0; 5]), true),
            (frame(DATA, 0, &[]), true),
            (frame(0xfa, 0, &ping), true),
            (frame(DATA, END_STREAM, &[]), false),
            (frame(DATA, 0, &ping), false),
            (frame(HEADERS, 0, &ping), false),
            (frame(WINDOW_UPDATE, 0, &[0; 4]), false),
        ] {
            for piece in [1, 5, 9, 10, 17, 100] {
                let expected = counts.then_some(CONTROL_MAX + 1);
                assert_eq!(flood_after(&frame, piece), expected, "{frame:?} in pieces of {piece}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn progress_and_time_begin_the_count_again() {
        let pings = frame(PING, 0, &[0; 8]).repeat(usize::try_from(CONTROL_MAX).expect("few"));
        let mut frames = Frames::new();
        for progress in 1..4 {
            assert!(!frames.flood(&pings, progress));
        }
        for _ in 0..3 {
            tokio::time::advance(WINDOW).await;
            assert!(!frames.flood(&pings, 3));
        }
        assert!(frames.flood(&pings, 3));
    }
}
