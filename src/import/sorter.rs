//! Sorts more records than memory holds.
//!
//! Records are collected until they fill the budget, sorted, and written to a temporary file as a run. At the end the runs
//! are merged. The file has no name, so nothing is left of it after a kill. It is in the folder for temporary files
//! (`TMPDIR`).
//!
//! Libraries for this exist, but those at hand need a dozen crates to build, or count records instead of bytes, so that
//! long records take any amount of memory.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// What records are ordered by. Equal keys come in any order.
pub(super) type Key = [u64; 3];

/// The size of what is read of a run at once.
const BLOCK: usize = 256 << 10;
/// The bytes of a record in a run before its content: the key and the length.
const PREFIX: usize = size_of::<Key>() + size_of::<u32>();

/// Returns a number whose order is that of `value`.
pub(super) fn ordered(value: i64) -> u64 {
    value.cast_unsigned() ^ (1 << 63)
}

/// Collects records.
pub(super) struct Sorter {
    budget: usize,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    runs: Option<Runs>,
    len: u64,
}

pub(super) struct Entry {
    key: Key,
    at: usize,
    len: u32,
}

/// The runs in the temporary file, each from its begin to its end.
struct Runs {
    file: BufWriter<File>,
    end: u64,
    parts: Vec<(u64, u64)>,
}

impl Sorter {
    /// Creates a sorter that holds about so many bytes in memory.
    pub(super) fn new(budget: usize) -> Self {
        Self { budget, entries: Vec::new(), bytes: Vec::new(), runs: None, len: 0 }
    }

    /// Returns the number of records.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Adds a record.
    pub(super) fn push(&mut self, key: Key, record: &impl prost::Message) -> io::Result<()> {
        let at = self.bytes.len();
        record.encode(&mut self.bytes).map_err(io::Error::other)?;
        let len = u32::try_from(self.bytes.len() - at).map_err(io::Error::other)?;
        self.entries.push(Entry { key, at, len });
        self.len += 1;
        if self.bytes.len() + self.entries.len() * size_of::<Entry>() >= self.budget { self.spill() } else { Ok(()) }
    }

    /// Writes what is in memory as a run.
    fn spill(&mut self) -> io::Result<()> {
        let runs = match &mut self.runs {
            Some(runs) => runs,
            None => {
                let file = BufWriter::with_capacity(BLOCK, tempfile::tempfile()?);
                self.runs.insert(Runs { file, end: 0, parts: Vec::new() })
            }
        };
        self.entries.sort_unstable_by_key(|entry| entry.key);
        let begin = runs.end;
        for Entry { key, at, len } in self.entries.drain(..) {
            key.iter().try_for_each(|part| runs.file.write_all(&part.to_le_bytes()))?;
            runs.file.write_all(&len.to_le_bytes())?;
            runs.file.write_all(&self.bytes[at..at + len as usize])?;
            runs.end += PREFIX as u64 + u64::from(len);
        }
        self.bytes.clear();
        runs.parts.push((begin, runs.end));
        Ok(())
    }

    /// Returns the records in the order of their keys.
    pub(super) fn sorted(mut self) -> io::Result<Sorted> {
        if self.runs.is_some() {
            self.spill()?;
        }
        let Some(runs) = self.runs else {
            self.entries.sort_unstable_by_key(|entry| entry.key);
            return Ok(Sorted::Memory { entries: self.entries.into_iter(), bytes: self.bytes });
        };
        let file = Arc::new(runs.file.into_inner().map_err(io::IntoInnerError::into_error)?);
        let (mut parts, mut next) = (Vec::new(), BinaryHeap::new());
        for (at, end) in runs.parts {
            let mut run = Run { file: Arc::clone(&file), at, end, block: Vec::new(), read: 0, record: Vec::new() };
            if let Some(key) = run.advance()? {
                next.push(Reverse((key, parts.len())));
            }
            parts.push(run);
        }
        Ok(Sorted::Runs { parts, next })
    }
}

/// Records in the order of their keys.
pub(super) enum Sorted {
    Memory { entries: std::vec::IntoIter<Entry>, bytes: Vec<u8> },
    Runs { parts: Vec<Run>, next: BinaryHeap<Reverse<(Key, usize)>> },
}

impl Sorted {
    /// Returns the next record with its key; `None` at the end.
    pub(super) fn next<M: prost::Message + Default>(&mut self) -> io::Result<Option<(Key, M)>> {
        let decode = |bytes: &[u8]| M::decode(bytes).map_err(io::Error::other);
        match self {
            Self::Memory { entries, bytes } => {
                let Some(Entry { key, at, len }) = entries.next() else { return Ok(None) };
                Ok(Some((key, decode(&bytes[at..at + len as usize])?)))
            }
            Self::Runs { parts, next } => {
                let Some(Reverse((key, part))) = next.pop() else { return Ok(None) };
                let record = decode(&parts[part].record)?;
                if let Some(following) = parts[part].advance()? {
                    next.push(Reverse((following, part)));
                }
                Ok(Some((key, record)))
            }
        }
    }
}

/// A run that is read.
pub(super) struct Run {
    file: Arc<File>,
    /// What was not read into the block yet.
    at: u64,
    end: u64,
    block: Vec<u8>,
    read: usize,
    /// The current record.
    record: Vec<u8>,
}

impl Run {
    /// Reads the next record, and returns its key; `None` at the end.
    fn advance(&mut self) -> io::Result<Option<Key>> {
        if self.at == self.end && self.read == self.block.len() {
            return Ok(None);
        }
        let mut key = Key::default();
        for part in &mut key {
            let bytes = self.take(size_of::<u64>())?;
            *part = bytes.try_into().map(u64::from_le_bytes).map_err(io::Error::other)?;
        }
        let len = self.take(size_of::<u32>())?;
        let len = len.try_into().map(u32::from_le_bytes).map_err(io::Error::other)?;
        let record = self.take(len as usize)?.to_vec();
        self.record = record;
        Ok(Some(key))
    }

    fn take(&mut self, len: usize) -> io::Result<&[u8]> {
        if self.block.len() - self.read < len {
            self.block.drain(..self.read);
            self.read = 0;
            let begin = self.block.len();
            let more = (self.end - self.at).min(BLOCK.max(len) as u64);
            self.block.resize(begin + more as usize, 0);
            self.file.read_exact_at(&mut self.block[begin..], self.at)?;
            self.at += more;
        }
        let begin = self.read;
        self.read += len;
        self.block.get(begin..self.read).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_come_in_the_order_of_their_keys(
            records in vec((any::<[u8; 2]>(), vec(any::<u8>(), 0..300)), 0..300),
            budget in 1_usize..20_000,
        ) {
            let mut sorter = Sorter::new(budget);
            for (at, (key, record)) in (0..).zip(&records) {
                sorter.push([key[0].into(), key[1].into(), at], record).expect("added");
            }
            let mut expected: Vec<_> = (0..).zip(&records).map(|(at, (key, record))| (*key, at, record.clone())).collect();
            expected.sort();
            let (len, mut sorted, mut found) = (sorter.len(), sorter.sorted().expect("sorted"), Vec::new());
            while let Some(([one, two, at], record)) = sorted.next::<Vec<u8>>().expect("a record") {
                found.push(([one as u8, two as u8], at, record));
            }
            prop_assert_eq!(len, found.len() as u64);
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_record_may_be_larger_than_a_block() {
        let mut sorter = Sorter::new(1);
        for at in [2_u64, 1] {
            sorter.push([at, 0, 0], &vec![at as u8; BLOCK * 3]).expect("added");
        }
        let mut sorted = sorter.sorted().expect("sorted");
        for at in [1, 2] {
            let (key, record): (_, Vec<u8>) = sorted.next().expect("read").expect("a record");
            assert_eq!((key[0], record), (at, vec![at as u8; BLOCK * 3]));
        }
        assert!(sorted.next::<Vec<u8>>().expect("read").is_none());
    }

    #[test]
    fn negative_numbers_come_first() {
        assert!(ordered(i64::MIN) < ordered(-1) && ordered(-1) < ordered(0) && ordered(0) < ordered(i64::MAX));
    }
}
