//! Page tokens, for any cursor and against any text.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

fn list(user_id: i64) -> pb::ListBlockedUsersRequest {
    pb::ListBlockedUsersRequest { user_id, ..Default::default() }
}

fn cursors() -> impl Strategy<Value = Cursor> {
    let last = prop::option::of((0..i64::MAX).prop_map(Sequence::new));
    (any::<u8>(), last).prop_map(|(section, last)| Cursor { section, last })
}

fn seen() -> Position {
    Position { epoch: "an epoch".into(), sequence: Sequence::new(7) }
}

fn positions() -> impl Strategy<Value = Position> {
    ("\\PC{0,40}", 0..i64::MAX)
        .prop_map(|(epoch, sequence)| Position { epoch: epoch.into(), sequence: Sequence::new(sequence) })
}

fn keys() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..100)
}

proptest! {
    #[test]
    fn a_token_leads_back_to_its_cursor(
        cursor in cursors(),
        seen in positions(),
        user in any::<i64>(),
        key in keys(),
    ) {
        let token = token(&list(user), cursor, &seen, &key);
        prop_assert_eq!(read(&list(user), &token, &key), Some((cursor, seen)));
    }

    #[test]
    fn a_token_is_refused_with_another_key_or_filter(
        cursor in cursors(),
        users in (any::<i64>(), any::<i64>()),
        keys in (keys(), keys()),
    ) {
        // An HMAC pads short keys with zeros.
        let padded = |key: &[u8]| { let mut key = key.to_vec(); key.resize(key.len().max(64), 0); key };
        prop_assume!(users.0 != users.1 && padded(&keys.0) != padded(&keys.1));
        let token = token(&list(users.0), cursor, &seen(), &keys.0);
        prop_assert_eq!(read(&list(users.1), &token, &keys.0), None);
        prop_assert_eq!(read(&list(users.0), &token, &keys.1), None);
    }

    #[test]
    fn an_altered_token_is_refused(
        cursor in cursors(),
        bit in any::<Index>(),
        place in any::<Index>(),
        c in any::<char>(),
    ) {
        let good = token(&list(1), cursor, &seen(), b"key");
        let mut bytes = URL_SAFE_NO_PAD.decode(&good).expect("a token");
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(read(&list(1), &URL_SAFE_NO_PAD.encode(bytes), b"key"), None);

        let place = place.index(good.len());
        let altered = format!("{}{c}{}", &good[..place], &good[place + 1..]);
        prop_assume!(altered != good);
        prop_assert_eq!(read(&list(1), &altered, b"key"), None);
    }

    #[test]
    fn a_token_that_is_cut_or_longer_is_refused(cursor in cursors(), length in any::<Index>(), more in ".{1,9}") {
        let good = token(&list(1), cursor, &seen(), b"key");
        prop_assert_eq!(read(&list(1), &good[..length.index(good.len())], b"key"), None);
        let longer = good + &more;
        prop_assert_eq!(read(&list(1), &longer, b"key"), None);
    }

    #[test]
    fn what_is_no_token_is_refused(text in ".*", bytes in vec(any::<u8>(), 0..60)) {
        prop_assert_eq!(read(&list(1), &text, b"key"), None);
        prop_assert_eq!(read(&list(1), &URL_SAFE_NO_PAD.encode(bytes), b"key"), None);
    }
}
