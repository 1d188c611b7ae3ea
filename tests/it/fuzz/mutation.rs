//! Changed copies of valid input: of any bytes, and of protobuf messages by their structure.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// Numbers at which something ends.
const NUMBERS: [i64; 14] = [
    0,
    1,
    2,
    3,
    -1,
    1_000,
    1_001,
    i32::MAX as i64,
    i32::MIN as i64,
    i64::MAX,
    i64::MIN,
    (1 << 53) - 1,
    1 << 53,
    253_402_300_800,
];
/// Texts that mean something to somebody.
const TEXTS: [&[u8]; 12] = [
    b"",
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"'; DROP TABLE users; --",
    b"%_\\",
    b"../../etc/passwd",
    "\u{202e}\u{1F600}e\u{301}".as_bytes(),
    b"[a]\nb = [[1]]",
    b"postgres://a:b@[::1]:99999/%zz?sslmode=x",
    b"99999999999999999999s",
    b"eyJhbGciOiJub25lIn0.e30.",
];

/// A source of changed copies. Those of one seed are always the same.
pub struct Mutator(StdRng);

/// A field of a message, as it is encoded.
#[derive(Clone)]
struct Field {
    number: u64,
    value: Value,
}

#[derive(Clone)]
enum Value {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(Vec<u8>),
    Fixed32([u8; 4]),
}

impl Mutator {
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// A number below this one.
    pub fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    /// Changes some bytes, whatever they mean.
    pub fn bytes(&mut self, original: &[u8]) -> Vec<u8> {
        let mut bytes = original.to_vec();
        for _ in 0..self.0.random_range(1..5) {
            let at = self.below(bytes.len() + 1);
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => drop(bytes.splice(at..at, TEXTS.choose(&mut self.0).expect("some").iter().copied())),
                2 => {
                    let end = at + self.below(bytes.len() - at + 1);
                    let part = bytes[at..end].repeat(self.below(20));
                    drop(bytes.splice(at..at, part));
                }
                3 => bytes.insert(at, self.0.random()),
                _ if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                _ => bytes.push(b'A'),
            }
        }
        bytes
    }

    /// Changes fields of a message, and sometimes its bytes.
    pub fn message(&mut self, original: &[u8]) -> Vec<u8> {
        if self.below(8) == 0 {
            return self.bytes(original);
        }
        let Some(mut fields) = decode(original) else { return self.bytes(original) };
        for _ in 0..self.0.random_range(1..4) {
            self.change(&mut fields);
        }
        encode(&fields)
    }

    fn change(&mut self, fields: &mut Vec<Field>) {
        let number = if self.below(4) == 0 { self.0.random_range(1..1 << 29) } else { self.0.random_range(1..12) };
        if fields.is_empty() {
            let value = self.value();
            return fields.push(Field { number, value });
        }
        let at = self.below(fields.len());
        match self.below(20) {
            0 => drop(fields.remove(at)),
            1 => fields[at].number = number,
            2 => fields[at].value = self.value(),
            3 => {
                let value = self.value();
                fields.push(Field { number, value });
            }
            4 => {
                // Rarely as often as fits in a request.
                let times = if self.below(20) == 0 { 100_000 } else { self.below(2_000) };
                let field = fields[at].clone();
                let size = encode(std::slice::from_ref(&field)).len();
                fields.extend(std::iter::repeat_n(field, times.min(250_000 / size)));
            }
            5 => fields[at].value = Value::Bytes(nested(fields[at].number, self.0.random_range(1..2_000))),
            _ => self.change_value(&mut fields[at].value),
        }
    }

    fn change_value(&mut self, value: &mut Value) {
        match value {
            Value::Varint(number) => *number = self.number(),
            Value::Bytes(bytes) => {
                *bytes = match self.below(6) {
                    0 => bytes.repeat(self.below(3_000)),
                    1 => TEXTS.choose(&mut self.0).expect("some").to_vec(),
                    2 => self.bytes(bytes),
                    // A text may look like a message; then it is changed like one.
                    _ => self.message(bytes),
                };
                bytes.truncate(200_000);
            }
            Value::Fixed64(bytes) => *bytes = self.0.random(),
            Value::Fixed32(bytes) => *bytes = self.0.random(),
        }
    }

    fn value(&mut self) -> Value {
        match self.below(4) {
            0 => Value::Fixed64(self.0.random()),
            1 => Value::Fixed32(self.0.random()),
            2 => Value::Bytes(TEXTS.choose(&mut self.0).expect("some").to_vec()),
            _ => Value::Varint(self.number()),
        }
    }

    fn number(&mut self) -> u64 {
        NUMBERS.choose(&mut self.0).expect("some").cast_unsigned()
    }
}

/// Messages within each other, all in the field with this number. Decoders have a limit on their depth.
fn nested(number: u64, depth: usize) -> Vec<u8> {
    (0..depth).fold(Vec::new(), |inner, _| encode(&[Field { number, value: Value::Bytes(inner) }]))
}

/// The text in a field of a message.
pub fn text(message: &[u8], number: u32) -> Option<Vec<u8>> {
    decode(message)?.into_iter().find_map(|field| match field.value {
        Value::Bytes(bytes) if field.number == u64::from(number) => Some(bytes),
        _ => None,
    })
}

fn decode(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            0 => Value::Varint(varint(&mut bytes)?),
            1 => Value::Fixed64(take(&mut bytes, 8)?.try_into().ok()?),
            2 => {
                let length = varint(&mut bytes)?.try_into().ok()?;
                Value::Bytes(take(&mut bytes, length)?.to_vec())
            }
            5 => Value::Fixed32(take(&mut bytes, 4)?.try_into().ok()?),
            _ => return None,
        };
        fields.push(Field { number: tag >> 3, value });
    }
    Some(fields)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn push_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn encode(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Field { number, value } in fields {
        let mut tag = |kind| push_varint(&mut bytes, number << 3 | kind);
        match value {
            Value::Varint(value) => {
                tag(0);
                push_varint(&mut bytes, *value);
            }
            Value::Fixed64(value) => {
                tag(1);
                bytes.extend(value);
            }
            Value::Bytes(value) => {
                tag(2);
                push_varint(&mut bytes, value.len().try_into().expect("few"));
                bytes.extend(value);
            }
            Value::Fixed32(value) => {
                tag(5);
                bytes.extend(value);
            }
        }
    }
    bytes
}
