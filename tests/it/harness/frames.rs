//! Frames of HTTP/2 as bytes, for what no client does.

/// What a client sends first: the preface and empty SETTINGS.
pub const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The preface alone.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RESET: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
/// The flag of a PING or SETTINGS that answers one.
pub const ACK: u8 = 1;
/// The reason of a reset by which a caller gives up.
const CANCEL: u8 = 8;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A request that is no call, and is given up at once.
pub fn reset_call(stream: u32) -> Vec<u8> {
    // POST, http and /, by their numbers in the static table of HPACK.
    [frame(HEADERS, END_HEADERS, stream, &[0x83, 0x86, 0x84]), reset(stream)].concat()
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(RESET, 0, stream, &[0, 0, 0, CANCEL])
}

pub fn ping() -> Vec<u8> {
    frame(PING, 0, 0, &[0; 8])
}

pub fn window_update(stream: u32, bytes: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

/// The beginning of a connection whose client takes any number of bytes.
pub fn opening_with_open_windows() -> Vec<u8> {
    const INITIAL_WINDOW_SIZE: u8 = 4;
    const LARGEST: u32 = (1 << 31) - 1;
    let settings = [&[0, INITIAL_WINDOW_SIZE][..], &LARGEST.to_be_bytes()].concat();
    [PREFACE, &frame(SETTINGS, 0, 0, &settings), &window_update(0, LARGEST - 65_535)].concat()
}

/// The headers of a call, by HPACK without its dynamic table.
pub fn call_headers(path: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    // POST and http, by their numbers in the static table, as are the names of the path and of the content type.
    let numbered = [&[0x83, 0x86, 0x04][..], &text(path), &[0x0f, 0x10], &text("application/grpc")].concat();
    [&numbered[..], &[0x00], &text("te"), &text("trailers")].concat()
}

/// A call whose request is still to come.
pub fn begun_call(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &call_headers(path))
}

/// A call with one message.
pub fn call(stream: u32, path: &str, message: &[u8]) -> Vec<u8> {
    [begun_call(stream, path), frame(DATA, END_STREAM, stream, &enveloped(message, false))].concat()
}

/// A message as gRPC sends it.
pub fn enveloped(message: &[u8], compressed: bool) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    [&[u8::from(compressed)], &length[..], message].concat()
}

/// Headers that insert a value of 4,000 bytes into HPACK's dynamic table, and then name it by single bytes.
pub fn header_bomb(names: usize) -> Vec<u8> {
    // A literal with indexing: a new name, then 4,000 bytes, whose length needs two bytes more than the prefix.
    let value = [&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e][..], &[b'a'; 4_000]].concat();
    // The newest entry has the number 62.
    [&call_headers("/x")[..], &value, &vec![0xbe; names]].concat()
}

/// A gzip stream of a given number of zeros, which takes a 158th of it.
pub fn gzip_bomb(zeros: usize) -> Vec<u8> {
    let (mut bytes, mut bits, mut count) = (vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255], 0_u32, 0);
    let mut push = |value: u32, length: u32| {
        bits |= value << count;
        count += length;
        while count >= 8 {
            bytes.push(bits.to_le_bytes()[0]);
            bits >>= 8;
            count -= 8;
        }
    };
    // The last block, with the fixed code of RFC 1951, and the literal 0. Codes begin with their highest bit.
    push(0b011, 3);
    push(0b0000_1100, 8);
    for _ in 0..zeros / 258 {
        // Length 258 (11000101), distance 1 (00000).
        push(0b1010_0011, 8);
        push(0, 5);
    }
    // The end of the block, and the rest of its byte.
    push(0, 7);
    push(0, 7);
    bytes
}
