use std::time::Duration;

use tokio::time::advance;

use super::*;
use crate::auth::principal::{Scope, Service, Source};

const LIMITS: Limits = Limits {
    reads: NonZeroU32::new(10),
    writes: NonZeroU32::new(2),
    in_flight: NonZeroU32::new(3),
    watches: NonZeroU32::new(2),
    imports: NonZeroU32::new(1),
};

fn limiter(limits: Limits) -> Limiter {
    Limiter::new(LimitsByKind { user: limits, service: limits })
}

fn user(id: i64) -> Principal {
    Principal::User(UserId::new(id))
}

fn service(source: Source, name: &str, scopes: &[Scope]) -> Principal {
    Principal::Service(Arc::new(Service::new(source, name, scopes.iter().copied().collect())))
}

/// The limit that refuses the call, or `None` if it is admitted.
fn refusal(limiter: &Limiter, principal: &Principal, kind: Kind) -> Option<Limit> {
    limiter.admit(principal, None, kind).err().map(|refused| refused.limit)
}

#[tokio::test(start_paused = true)]
async fn a_second_has_as_many_calls_as_the_limit_says_and_the_refusal_says_when_the_next_is_admitted() {
    let limiter = limiter(LIMITS);
    for (kind, limit, maximum) in [(Kind::Read, Limit::Reads, 10), (Kind::Write, Limit::Writes, 2)] {
        for _ in 0..maximum {
            assert_eq!(refusal(&limiter, &user(1), kind), None);
        }
        let refused = limiter.admit(&user(1), None, kind).expect_err("a refusal");
        let wait = Duration::from_secs(1) / maximum;
        let expected = AtLimit { limit, maximum: maximum.try_into().unwrap(), retry_after: Some(wait) };
        assert_eq!(refused, expected);
        assert_eq!(refusal(&limiter, &user(2), kind), None, "another user");
        advance(wait - Duration::from_millis(1)).await;
        assert_eq!(refusal(&limiter, &user(1), kind), Some(limit));
        advance(Duration::from_millis(1)).await;
        assert_eq!(refusal(&limiter, &user(1), kind), None);
        assert_eq!(refusal(&limiter, &user(1), kind), Some(limit), "one token, one call");
    }
    advance(Duration::from_secs(3_600)).await;
    let admitted = (0..100).filter(|_| refusal(&limiter, &user(1), Kind::Read).is_none()).count();
    assert_eq!(admitted, 10, "tokens of an hour are not saved");
}

#[tokio::test(start_paused = true)]
async fn open_calls_are_counted_until_their_permits_are_dropped() {
    let limits = Limits { reads: None, writes: None, ..LIMITS };
    let limiter = limiter(limits);
    for (kind, limit) in [
        (Kind::Read, Limit::InFlight),
        (Kind::Write, Limit::InFlight),
        (Kind::Watch, Limit::Watches),
        (Kind::Import, Limit::Imports),
    ] {
        let maximum = limits.get(limit).unwrap();
        let open: Vec<_> = (0..maximum.get()).map(|_| limiter.admit(&user(1), None, kind).expect("admitted")).collect();
        let expected = AtLimit { limit, maximum, retry_after: None };
        assert_eq!(limiter.admit(&user(1), None, kind).expect_err("a refusal"), expected);
        assert_eq!(refusal(&limiter, &user(2), kind), None, "another user");
        drop(open);
        assert_eq!(refusal(&limiter, &user(1), kind), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_costs_nothing() {
    let limiter = limiter(LIMITS);
    let open: Vec<_> = (0..3).map(|_| limiter.admit(&user(1), None, Kind::Read).expect("admitted")).collect();
    // Without a place, no token is taken: 7 are left.
    assert!((0..100).all(|_| refusal(&limiter, &user(1), Kind::Read) == Some(Limit::InFlight)));
    drop(open);
    assert_eq!((0..100).filter(|_| refusal(&limiter, &user(1), Kind::Read).is_none()).count(), 7);
    // Without a token, no place is held.
    assert!((0..100).all(|_| refusal(&limiter, &user(1), Kind::Read) == Some(Limit::Reads)));
    assert_eq!(refusal(&limiter, &user(1), Kind::Write), None);
}

#[tokio::test(start_paused = true)]
async fn a_watch_costs_a_read_and_an_import_a_write_and_neither_is_in_flight() {
    let limiter = limiter(LIMITS);
    let open: Vec<_> = [Kind::Watch, Kind::Watch, Kind::Import]
        .map(|kind| limiter.admit(&user(1), None, kind).expect("admitted"))
        .into();
    let calls: Vec<_> = (0..3).map(|_| limiter.admit(&user(1), None, Kind::Read).expect("admitted")).collect();
    drop((open, calls));
    assert_eq!((0..100).filter(|_| refusal(&limiter, &user(1), Kind::Read).is_none()).count(), 5);
    assert_eq!((0..100).filter(|_| refusal(&limiter, &user(1), Kind::Write).is_none()).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn each_principal_has_limits_of_its_own() {
    let limits = Limits { writes: NonZeroU32::new(1), ..Limits::NONE };
    let limiter = limiter(limits);
    let network = |text: &str| Some(text.parse().unwrap());
    let anyone = &Principal::Anonymous;
    let distinct = [
        (&user(7), None),
        (&user(8), None),
        (&service(Source::File, "7", &[]), None),
        (&service(Source::File, "mail", &[Scope::Read]), None),
        (&service(Source::Token, "mail", &[Scope::Read]), None),
        (anyone, None),
        (anyone, network("192.0.2.1")),
        (anyone, network("2001:db8::")),
    ];
    for (principal, network) in distinct {
        assert!(limiter.admit(principal, network, Kind::Write).is_ok(), "{principal} {network:?}");
        assert!(limiter.admit(principal, network, Kind::Write).is_err(), "{principal} {network:?}");
    }
    // Neither an address nor scopes make another principal.
    for (principal, network) in
        [(&user(7), network("192.0.2.9")), (&service(Source::File, "mail", &[Scope::Admin]), network("192.0.2.9"))]
    {
        assert!(limiter.admit(principal, network, Kind::Write).is_err(), "{principal}");
    }
}

#[tokio::test(start_paused = true)]
async fn users_and_services_have_the_limits_of_their_kind_and_none_by_default_have_services() {
    let limiter = Limiter::new(LimitsByKind::default());
    for principal in [service(Source::File, "mail", &[]), Principal::Anonymous] {
        for kind in [Kind::Read, Kind::Write, Kind::Watch, Kind::Import] {
            assert!((0..10_000).all(|_| limiter.admit(&principal, None, kind).is_ok_and(|permit| permit.is_none())));
        }
    }
    assert_eq!(limiter.usages.len(), 0, "who has no limits is not in the table");
    assert_eq!((0..1_000).filter(|_| refusal(&limiter, &user(1), Kind::Read).is_none()).count(), 100);
    assert_eq!((0..1_000).filter(|_| refusal(&limiter, &user(1), Kind::Write).is_none()).count(), 20);
}

#[tokio::test(start_paused = true)]
async fn any_number_of_principals_takes_bounded_memory_and_open_calls_are_never_forgotten() {
    let limiter = limiter(Limits { in_flight: NonZeroU32::new(1), ..Limits::NONE });
    let open: Vec<_> = (1..=100).map(|id| limiter.admit(&user(id), None, Kind::Read).expect("admitted")).collect();
    for id in 101..=4 * 65_536 {
        assert_eq!(refusal(&limiter, &user(id), Kind::Read), None);
    }
    let principals = limiter.usages.len();
    assert!(principals > 60_000 && principals <= PRINCIPALS_MAX, "{principals}");
    assert!((1..=100).all(|id| refusal(&limiter, &user(id), Kind::Read) == Some(Limit::InFlight)));
    drop(open);
    assert!((1..=100).all(|id| refusal(&limiter, &user(id), Kind::Read).is_none()));
}
