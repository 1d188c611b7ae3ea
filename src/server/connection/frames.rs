//! Counts the frames by which a client of HTTP/2 makes work that leads to no response.
//!
//! h2 limits what is malformed, and what it would have to hold. It does not limit frames that it can handle and forget.
//! So each kind of them has a budget: a number at once, and more with time and with what the connection achieves.
//! Clients that make calls and read the responses stay far below.

use std::time::Duration;

use tokio::time::Instant;

/// Frames that carry nothing of a call: PING, SETTINGS, PRIORITY, empty DATA, and unknown types.
///
/// Clients that measure the network by PINGs send one for some data that they receive, and those that look for a lost
/// connection one in some seconds.
const CONTROL: Terms = Terms {
    excess: "too many control frames",
    max: 1_000.0,
    each_second: 16.0,
    each_step: 10.0,
    each_response: 0.0,
    each_byte: 0.0,
};
/// WINDOW_UPDATE, which clients send for what they receive: at most two for a frame of DATA.
///
/// A client that opens its window by single bytes makes the server send a frame for each (CVE-2019-9511).
const UPDATES: Terms = Terms {
    excess: "too many WINDOW_UPDATE frames",
    max: 20_000.0,
    each_second: 200.0,
    each_step: 4.0,
    each_response: 0.0,
    each_byte: 1.0 / 32.0,
};
/// HEADERS and RST_STREAM: calls, and their ends by the client. A response pays for its call and for three others.
///
/// So a client may cancel more than half of its calls all the time, and while the server responds to nothing, 500 a
/// second. Those that are reset before the server accepts them have a lower limit, that of h2.
const CALLS: Terms = Terms {
    excess: "too many calls that were reset",
    max: 10_000.0,
    each_second: 1_000.0,
    each_step: 0.0,
    each_response: 4.0,
    each_byte: 0.0,
};
/// Bytes of the header that each frame begins with.
const HEADER_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
/// The last type that RFC 9113 defines. Servers ignore others.
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// What a connection has achieved so far. The numbers may wrap around.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Achieved {
    /// Calls, and messages of their responses.
    pub(super) steps: usize,
    /// Responses that were sent to their ends.
    pub(super) responses: usize,
    /// Bytes that were written.
    pub(super) bytes: usize,
}

/// How many frames of a kind a connection may send.
#[derive(Debug)]
struct Terms {
    /// The error of a connection that sends more.
    excess: &'static str,
    max: f64,
    each_second: f64,
    each_step: f64,
    each_response: f64,
    each_byte: f64,
}

/// How many frames of a kind a connection may send now.
#[derive(Debug)]
struct Budget {
    terms: &'static Terms,
    left: f64,
}

impl Budget {
    fn new(terms: &'static Terms) -> Self {
        Self { terms, left: terms.max }
    }

    /// Adds what was achieved, and spends one for each frame. Returns the error if there are too many.
    fn spend(&mut self, frames: u32, time: Duration, achieved: Achieved) -> Option<&'static str> {
        let Terms { excess, max, each_second, each_step, each_response, each_byte } = *self.terms;
        let Achieved { steps, responses, bytes } = achieved;
        let earned = time.as_secs_f64() * each_second
            + number(steps) * each_step
            + number(responses) * each_response
            + number(bytes) * each_byte;
        self.left = (self.left + earned).min(max) - f64::from(frames);
        (self.left < 0.0).then_some(excess)
    }
}

/// Numbers above the largest are equally large.
fn number(count: usize) -> f64 {
    u32::try_from(count).unwrap_or(u32::MAX).into()
}

/// Follows the frames in the bytes that a client sends, after the preface.
#[derive(Debug)]
pub(super) struct Frames {
    /// The header of the next frame, as far as it was read.
    header: [u8; HEADER_BYTES],
    header_length: usize,
    /// Bytes of the current frame that are still to come.
    payload: usize,
    control: Budget,
    updates: Budget,
    calls: Budget,
    /// The time of the last counted frame, and what was achieved by then.
    last: (Instant, Achieved),
}

/// The number of counted frames, by kind.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    control: u32,
    updates: u32,
    calls: u32,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            header: [0; HEADER_BYTES],
            header_length: 0,
            payload: 0,
            control: Budget::new(&CONTROL),
            updates: Budget::new(&UPDATES),
            calls: Budget::new(&CALLS),
            last: (Instant::now(), Achieved::default()),
        }
    }

    /// Reads on. Returns of what there was too much.
    pub(super) fn excess(&mut self, mut bytes: &[u8], achieved: Achieved) -> Option<&'static str> {
        let mut counted = Counted::default();
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
                counted.add(kind, flags, length);
            }
        }
        self.spend(counted, achieved)
    }

    fn spend(&mut self, counted: Counted, achieved: Achieved) -> Option<&'static str> {
        let Counted { control, updates, calls } = counted;
        if control + updates + calls == 0 {
            return None;
        }
        let (then, before) = self.last;
        self.last = (Instant::now(), achieved);
        let time = self.last.0.duration_since(then);
        let since = Achieved {
            steps: achieved.steps.wrapping_sub(before.steps),
            responses: achieved.responses.wrapping_sub(before.responses),
            bytes: achieved.bytes.wrapping_sub(before.bytes),
        };
        let excesses = [
            self.control.spend(control, time, since),
            self.updates.spend(updates, time, since),
            self.calls.spend(calls, time, since),
        ];
        excesses.into_iter().flatten().next()
    }
}

impl Counted {
    /// h2 has limits of its own for CONTINUATION, and flow control limits DATA.
    fn add(&mut self, kind: u8, flags: u8, length: u32) {
        match kind {
            HEADERS | RST_STREAM => self.calls += 1,
            WINDOW_UPDATE => self.updates += 1,
            PRIORITY | SETTINGS | PING => self.control += 1,
            DATA => self.control += u32::from(length == 0 && flags & END_STREAM == 0),
            kind => self.control += u32::from(kind > CONTINUATION),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).expect("short");
        [&[0, 0, length, kind, flags, 0, 0, 0, 0], payload].concat()
    }

    /// Sends the same frame again and again. Returns how often it was not too much.
    fn fit(frame: &[u8], piece: usize, most: u32) -> u32 {
        let mut frames = Frames::new();
        let excess = |frames: &mut Frames| frame.chunks(piece).any(|part| frames.excess(part, DONE).is_some());
        (0..most).find(|_| excess(&mut frames)).unwrap_or(most)
    }

    const DONE: Achieved = Achieved { steps: 0, responses: 0, bytes: 0 };

    #[tokio::test(start_paused = true)]
    async fn frames_that_only_make_work_are_counted_however_they_are_cut() {
        const MOST: u32 = 40_000;
        // A payload that looks like a PING is no frame.
        let ping = frame(PING, 0, &[0; 8]);
        for (frame, expected) in [
            (ping.clone(), 1_000),
            (frame(SETTINGS, 0, &[]), 1_000),
            (frame(PRIORITY, 0, &[0; 5]), 1_000),
            (frame(DATA, 0, &[]), 1_000),
            (frame(0xfa, 0, &ping), 1_000),
            (frame(WINDOW_UPDATE, 0, &[0; 4]), 20_000),
            (frame(HEADERS, 0, &ping), 10_000),
            (frame(RST_STREAM, 0, &[0; 4]), 10_000),
            (frame(DATA, END_STREAM, &[]), MOST),
            (frame(DATA, 0, &ping), MOST),
            (frame(CONTINUATION, 0, &ping), MOST),
        ] {
            for piece in [1, 5, 9, 10, 17, 100] {
                assert_eq!(fit(&frame, piece, MOST), expected, "{frame:?} in pieces of {piece}");
            }
        }
    }

    /// The number of rounds, of at most 10,000, with these frames in each, and with so much achieved in each.
    async fn rounds(frames: &[(u8, u32)], time: Duration, achieved: Achieved) -> u32 {
        const MOST: u32 = 10_000;
        let bytes: Vec<u8> =
            frames.iter().flat_map(|(kind, count)| (0..*count).flat_map(|_| frame(*kind, 0, &[]))).collect();
        let (mut frames, mut sum) = (Frames::new(), Achieved::default());
        for round in 0..MOST {
            if frames.excess(&bytes, sum).is_some() {
                return round;
            }
            tokio::time::advance(time).await;
            sum.steps = sum.steps.wrapping_add(achieved.steps);
            sum.responses = sum.responses.wrapping_add(achieved.responses);
            sum.bytes = sum.bytes.wrapping_add(achieved.bytes);
        }
        MOST
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_connection_achieves_pays_for_its_frames() {
        let (now, second) = (Duration::ZERO, Duration::from_secs(1));
        let achieved = |steps, responses, bytes| Achieved { steps, responses, bytes };
        for (what, frames, time, achieved, lasts) in [
            ("a ping for each message", &[(PING, 1)][..], now, achieved(1, 0, 100), true),
            ("a call for 900 pings", &[(PING, 900), (HEADERS, 1)], now, achieved(1, 1, 100), false),
            ("16 pings a second", &[(PING, 16)], second, DONE, true),
            ("17 pings a second", &[(PING, 17)], second, DONE, false),
            ("two updates for each frame", &[(WINDOW_UPDATE, 2)], now, achieved(0, 0, 64), true),
            ("updates by single bytes", &[(WINDOW_UPDATE, 4)], now, achieved(0, 0, 40), false),
            ("half of 100 calls cancelled", &[(HEADERS, 100), (RST_STREAM, 50)], now, achieved(100, 50, 0), true),
            ("two thirds cancelled", &[(HEADERS, 99), (RST_STREAM, 66)], now, achieved(99, 33, 0), false),
            ("500 a second with no response", &[(HEADERS, 500), (RST_STREAM, 500)], second, achieved(500, 0, 0), true),
            ("600 a second with no response", &[(HEADERS, 600), (RST_STREAM, 600)], second, achieved(600, 0, 0), false),
        ] {
            assert_eq!(rounds(frames, time, achieved).await == 10_000, lasts, "{what}");
        }
    }
}
