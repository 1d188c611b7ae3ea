//! Page sizes and page tokens of lists.
//!
//! A token is a version, a section, a position, and the revision and the epoch of the page that it ends, followed by an
//! HMAC-SHA-256 (RFC 2104) over these and the rest of the request. Clients cannot alter it or use it with another list. It
//! contains nothing secret.
//!
//! The next page reflects at least the revision of the page before it. Otherwise it could be read from a replica that is
//! further behind, and rows that moved in between would be on both pages or on none.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use prost::Message;
use sha2::Sha256;

use super::invalid::{Fields, Kind};
use crate::domain::epoch::Position;
use crate::domain::id::Sequence;
use crate::proto::server as pb;

const DEFAULT_SIZE: i32 = 20;
const MAX_SIZE: i32 = 1_000;
const VERSION: u8 = 2;
/// Half of the digest, in bytes. 128 bits cannot be guessed.
const MAC_LENGTH: usize = 16;
/// The length of what precedes the epoch, in bytes.
const HEAD_LENGTH: usize = 18;

/// A list request with a page size and a page token.
pub trait Paged: Message + Clone {
    /// The name of the list, different from all others.
    const LIST: &'static str;

    /// The requested page size.
    fn page_size(&self) -> i32;

    /// The page token; empty for the first page.
    fn page_token(&self) -> &str;

    /// The revision that the response must reflect, and its epoch.
    fn min_revision(&self) -> (i64, &str);

    /// Returns the request without size, token and revision. A token is valid only with an equal one.
    fn without_page(&self) -> Self;
}

macro_rules! paged {
    ($($request:ident),+ $(,)?) => {$(
        impl Paged for pb::$request {
            const LIST: &'static str = stringify!($request);

            fn page_size(&self) -> i32 {
                self.page_size
            }

            fn page_token(&self) -> &str {
                &self.page_token
            }

            fn min_revision(&self) -> (i64, &str) {
                (self.min_revision, &self.min_revision_epoch)
            }

            fn without_page(&self) -> Self {
                let mut request = self.clone();
                request.page_size = 0;
                request.page_token.clear();
                request.min_revision = 0;
                request.min_revision_epoch.clear();
                request
            }
        }
    )+};
}

paged!(
    ListUsersRequest,
    ListConnectionRequestsRequest,
    ListConnectionsRequest,
    ListMutualConnectionsRequest,
    ListBlockedUsersRequest,
    ListEventsRequest,
);

/// A position in a list.
///
/// A list may have several sections, which follow one another. Most have only section 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The index of the section.
    pub section: u8,
    /// The position of the last returned row of the section; `None` at its start.
    pub last: Option<Sequence>,
}

/// The requested page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The maximum number of rows.
    pub size: usize,
    /// The position to start after.
    pub cursor: Cursor,
    /// The revision that the response must reflect.
    pub min_revision: Position,
    /// What the previous page reflected.
    pub seen: Option<Position>,
}

/// What a read must reflect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The revision that the caller named.
    pub min_revision: Position,
    /// What the previous page of the list reflected. If some of it was lost, the list must begin again.
    pub seen: Option<Position>,
}

impl From<Position> for Expected {
    fn from(min_revision: Position) -> Self {
        Self { min_revision, seen: None }
    }
}

impl Expected {
    /// Returns the newest of the sequences, whatever their epochs are; 0 if nothing is expected.
    pub fn sequence(&self) -> Sequence {
        let Self { min_revision, seen } = self;
        seen.as_ref().map_or(min_revision.sequence, |seen| seen.sequence.max(min_revision.sequence))
    }
}

impl Page {
    /// Returns what the page must reflect.
    pub fn expected(&self) -> Expected {
        Expected { min_revision: self.min_revision.clone(), seen: self.seen.clone() }
    }
}

impl Fields {
    /// Parses the page of a list request. Invalid parts are added to the violations.
    pub fn page<R: Paged>(&mut self, request: &R, key: &[u8]) -> Page {
        let size = match request.page_size() {
            0 => DEFAULT_SIZE,
            ..0 => {
                self.violation("page_size", "must not be negative");
                DEFAULT_SIZE
            }
            size => size.min(MAX_SIZE),
        };
        let (cursor, seen) = match request.page_token() {
            "" => Default::default(),
            token => read(request, token, key).map(|(cursor, seen)| (cursor, Some(seen))).unwrap_or_else(|| {
                self.add(Kind::PageToken, "page_token", "must be the next_page_token of a page of this same list");
                Default::default()
            }),
        };
        let (revision, epoch) = request.min_revision();
        let min_revision = self.min_revision(revision, epoch);
        Page { size: size.try_into().unwrap_or_default(), cursor, min_revision, seen }
    }
}

/// Creates the token of a position in the list of `request`, after a page that reflects `reached`.
pub fn token<R: Paged>(request: &R, cursor: Cursor, reached: &Position, key: &[u8]) -> String {
    let mut bytes = vec![VERSION, cursor.section];
    bytes.extend(cursor.last.unwrap_or(Sequence::new(i64::MAX)).get().to_be_bytes());
    bytes.extend(reached.sequence.get().to_be_bytes());
    bytes.extend(reached.epoch.as_str().as_bytes());
    let mac = sign(request, &bytes, key).finalize().into_bytes();
    bytes.extend_from_slice(&mac[..MAC_LENGTH]);
    URL_SAFE_NO_PAD.encode(bytes)
}

fn read<R: Paged>(request: &R, token: &str, key: &[u8]) -> Option<(Cursor, Position)> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (body, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC_LENGTH)?)?;
    // Compares in constant time, before the content is used.
    sign(request, body, key).verify_truncated_left(mac).ok()?;
    let (head, epoch) = body.split_first_chunk::<HEAD_LENGTH>()?;
    let ([version, section], numbers) = head.split_first_chunk::<2>()?;
    let (last, revision) = numbers.split_first_chunk::<8>()?;
    let (last, revision) = (i64::from_be_bytes(*last), i64::from_be_bytes(revision.try_into().ok()?));
    let cursor = Cursor { section: *section, last: (last != i64::MAX).then_some(Sequence::new(last)) };
    let seen = Position { epoch: std::str::from_utf8(epoch).ok()?.into(), sequence: Sequence::new(revision) };
    (*version == VERSION).then_some((cursor, seen))
}

fn sign<R: Paged>(request: &R, body: &[u8], key: &[u8]) -> Hmac<Sha256> {
    // Never fails: an HMAC takes a key of any length.
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).unwrap_or_else(|_| Hmac::new(&Default::default()));
    mac.update(R::LIST.as_bytes());
    mac.update(&[0]);
    mac.update(body);
    mac.update(&request.without_page().encode_to_vec());
    mac
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"key";

    fn list(user_id: i64) -> pb::ListBlockedUsersRequest {
        pb::ListBlockedUsersRequest { user_id, page_size: 7, ..Default::default() }
    }

    #[test]
    fn a_token_decodes_to_its_cursor() {
        for (section, last) in [(1, None), (0, Some(Sequence::new(0))), (1, Some(Sequence::new(12_345)))] {
            let cursor = Cursor { section, last };
            let seen =
                Position { epoch: if section == 0 { "" } else { "an epoch" }.into(), sequence: Sequence::new(77) };
            let token = token(&list(1), cursor, &seen, KEY);
            let expected = Some((cursor, seen));
            assert_eq!(read(&list(1), &token, KEY), expected);
            let other_size = pb::ListBlockedUsersRequest { page_size: 50, ..list(1) };
            assert_eq!(read(&other_size, &token, KEY), expected, "another size is allowed");
        }
    }

    #[test]
    fn a_token_is_refused_elsewhere() {
        let good = token(&list(1), Cursor { section: 0, last: Some(Sequence::new(9)) }, &Position::default(), KEY);
        assert_eq!(read(&list(2), &good, KEY), None, "other filters");
        assert_eq!(read(&list(1), &good, b"other"), None, "another database");
        let same_fields = pb::ListConnectionsRequest { user_id: 1, ..Default::default() };
        assert_eq!(read(&same_fields, &good, KEY), None, "another list");
    }

    #[test]
    fn sizes_have_a_default_and_a_cap() {
        for (asked, size) in [(0, 20), (1, 1), (1_000, 1_000), (i32::MAX, 1_000)] {
            let mut fields = Fields::default();
            let page = fields.page(&pb::ListBlockedUsersRequest { page_size: asked, ..list(1) }, KEY);
            assert_eq!(fields.finish(page.size), Ok(size), "{asked}");
        }
        let mut fields = Fields::default();
        fields.page(&pb::ListBlockedUsersRequest { page_size: -1, ..list(1) }, KEY);
        assert_eq!(fields.finish(()).unwrap_err().violations[0].field, "page_size");
    }
}
