//! Frames of HTTP/2 as bytes, for what no client does.

/// What a client sends first: the preface and empty SETTINGS.
pub const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

const HEADERS: u8 = 1;
const RESET: u8 = 3;
const PING: u8 = 6;
const END_HEADERS: u8 = 4;
/// The reason of a reset by which a caller gives up.
const CANCEL: u8 = 8;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A call that its caller gives up at once.
pub fn reset_call(stream: u32) -> Vec<u8> {
    // POST, http and /, by their numbers in the static table of HPACK.
    [frame(HEADERS, END_HEADERS, stream, &[0x83, 0x86, 0x84]), frame(RESET, 0, stream, &[0, 0, 0, CANCEL])].concat()
}

pub fn ping() -> Vec<u8> {
    frame(PING, 0, 0, &[0; 8])
}
