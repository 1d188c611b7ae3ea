//! Page sizes and page tokens of lists.
//!
//! A token is a version, a section, a position and the revision of its page, followed by an HMAC-SHA-256 (RFC 2104) over
//! these and the rest of the request. Clients cannot alter it or use it with another list. It contains nothing secret.
//!
//! The next page reflects at least the revision of the page before it. Otherwise it could be read from a replica that is
//! further behind, and rows that moved in between would be on both pages or on none.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use prost::Message;
use sha2::Sha256;

use super::invalid::{Fields, Kind};
use crate::domain::id::Sequence;
use crate::proto::server as pb;

const DEFAULT_SIZE: i32 = 20;
const MAX_SIZE: i32 = 1_000;
const VERSION: u8 = 2;
/// Half of the digest, in bytes. 128 bits cannot be guessed.
const MAC_LENGTH: usize = 16;
const BODY_LENGTH: usize = 18;

/// A list request with a page size and a page token.
pub trait Paged: Message + Clone {
    /// The name of the list, different from all others.
    const LIST: &'static str;

    /// The requested page size.
    fn page_size(&self) -> i32;

    /// The page token; empty for the first page.
    fn page_token(&self) -> &str;

    /// The revision that the response must reflect.
    fn min_revision(&self) -> i64;

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

            fn min_revision(&self) -> i64 {
                self.min_revision
            }

            fn without_page(&self) -> Self {
                let mut request = self.clone();
                request.page_size = 0;
                request.page_token.clear();
                request.min_revision = 0;
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

/// What a page token says: where the next page starts, and the revision of the page before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// The position to start after.
    pub cursor: Cursor,
    /// The revision of the page before.
    pub revision: Sequence,
}

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
    /// The revision that the response must reflect: that of the request or of the page before, whichever is newer.
    pub min_revision: Sequence,
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
        let Next { cursor, revision } = match request.page_token() {
            "" => Next::default(),
            token => read(request, token, key).unwrap_or_else(|| {
                self.add(Kind::PageToken, "page_token", "must be the next_page_token of a page of this same list");
                Next::default()
            }),
        };
        let min_revision = self.revision("min_revision", request.min_revision()).max(revision);
        Page { size: size.try_into().unwrap_or_default(), cursor, min_revision }
    }
}

/// Creates the token of the next page of the list of `request`.
pub fn token<R: Paged>(request: &R, next: Next, key: &[u8]) -> String {
    let Next { cursor: Cursor { section, last }, revision } = next;
    let mut bytes = vec![VERSION, section];
    bytes.extend(last.unwrap_or(Sequence::new(i64::MAX)).get().to_be_bytes());
    bytes.extend(revision.get().to_be_bytes());
    let mac = sign(request, &bytes, key).finalize().into_bytes();
    bytes.extend_from_slice(&mac[..MAC_LENGTH]);
    URL_SAFE_NO_PAD.encode(bytes)
}

fn read<R: Paged>(request: &R, token: &str, key: &[u8]) -> Option<Next> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (body, mac) = bytes.split_at_checked(BODY_LENGTH)?;
    if mac.len() != MAC_LENGTH {
        return None;
    }
    // Compares in constant time, before the content is used.
    sign(request, body, key).verify_truncated_left(mac).ok()?;
    let (head, numbers) = body.split_first_chunk::<2>()?;
    let [version, section] = *head;
    let (position, revision) = numbers.split_first_chunk::<8>()?;
    let position = i64::from_be_bytes(*position);
    let revision = Sequence::new(i64::from_be_bytes(revision.try_into().ok()?));
    let cursor = Cursor { section, last: (position != i64::MAX).then_some(Sequence::new(position)) };
    (version == VERSION).then_some(Next { cursor, revision })
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
        for last in [None, Some(Sequence::new(0)), Some(Sequence::new(12_345))] {
            let next = Next { cursor: Cursor { section: 1, last }, revision: Sequence::new(23_456) };
            let token = token(&list(1), next, KEY);
            assert_eq!(read(&list(1), &token, KEY), Some(next));
            let other_size = pb::ListBlockedUsersRequest { page_size: 50, ..list(1) };
            assert_eq!(read(&other_size, &token, KEY), Some(next), "another size is allowed");
        }
    }

    #[test]
    fn a_page_reflects_the_revision_of_the_request_and_of_the_page_before() {
        for (asked, before, expected) in [(0, 0, 0), (0, 7, 7), (5, 7, 7), (9, 7, 9)] {
            let next = Next { cursor: Cursor::default(), revision: Sequence::new(before) };
            let request = pb::ListBlockedUsersRequest { min_revision: asked, ..list(1) };
            let request = pb::ListBlockedUsersRequest { page_token: token(&request, next, KEY), ..request };
            let mut fields = Fields::default();
            let page = fields.page(&request, KEY);
            assert_eq!(fields.finish(page.min_revision), Ok(Sequence::new(expected)), "{asked} {before}");
        }
    }

    #[test]
    fn a_token_is_refused_elsewhere() {
        let cursor = Cursor { section: 0, last: Some(Sequence::new(9)) };
        let good = token(&list(1), Next { cursor, ..Next::default() }, KEY);
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
