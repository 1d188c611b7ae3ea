use std::collections::VecDeque;

use serde_json::json;

use super::super::testing::{AUDIENCE, ISSUER, Issuer, NOW, claims, key_set};
use super::super::unauthenticated::Cause;
use super::*;

/// A source of keys that a test changes. It counts its reads.
#[derive(Clone, Default)]
struct Source(Arc<Mutex<Responses>>);

#[derive(Default)]
struct Responses {
    /// What comes first, in this order.
    first: VecDeque<Result<Vec<u8>, String>>,
    /// What comes then. `None` never responds.
    then: Option<Result<Vec<u8>, String>>,
    reads: u32,
}

impl Source {
    fn set(&self, then: Option<Result<Vec<u8>, String>>) {
        self.0.lock().unwrap().then = then;
    }

    fn reads(&self) -> u32 {
        self.0.lock().unwrap().reads
    }

    fn start(&self) -> Remote {
        let expected =
            Expected { issuer: ISSUER.to_owned(), audiences: vec![AUDIENCE.to_owned()], cache: Arc::default() };
        let source = self.clone();
        Remote::start("--jwt-keys https://example.com/".to_owned(), expected, Counter::default(), move || {
            let mut responses = source.0.lock().unwrap();
            responses.reads += 1;
            let response = responses.first.pop_front().or_else(|| responses.then.clone());
            Box::pin(async move {
                match response {
                    Some(response) => response,
                    None => std::future::pending().await,
                }
            })
        })
    }
}

fn is_verified(remote: &Remote, token: &str) -> Result<(), Cause> {
    remote.get().unwrap().verify(token, NOW).map(drop)
}

#[tokio::test(start_paused = true)]
async fn the_start_waits_for_keys_and_reports_why_there_are_none() {
    let issuers = [Issuer::ed25519()];
    let source = Source::default();
    source.0.lock().unwrap().first = (0..3).map(|_| Err("cannot be reached".to_owned())).collect();
    source.set(Some(Ok(key_set(&issuers))));
    let remote = source.start();
    assert!(remote.get().is_none());
    let start = Instant::now();
    remote.ready().await.unwrap();
    assert_eq!(source.reads(), 4);
    // 1 s, 2 s and 4 s, within 20 %.
    assert!((5_600..=8_400).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());

    source.set(Some(Ok(b"{}".to_vec())));
    let error = source.start().ready().await.unwrap_err();
    assert!(error.starts_with("--jwt-keys https://example.com/ is no JSON Web Key Set"), "{error}");
    source.set(None);
    let error = source.start().ready().await.unwrap_err();
    assert_eq!(error, "--jwt-keys https://example.com/ has not been read yet");
}

#[tokio::test(start_paused = true)]
async fn keys_are_read_again_and_the_last_good_ones_remain() {
    let issuers = [Issuer::ed25519()];
    let token = issuers[0].sign(issuers[0].header(), claims());
    let source = Source::default();
    source.set(Some(Ok(key_set(&issuers))));
    let remote = source.start();
    remote.ready().await.unwrap();
    let first = remote.get().unwrap();
    assert_eq!(is_verified(&remote, &token), Ok(()));

    // The same keys: the tokens that they verified remain remembered.
    tokio::time::sleep(INTERVAL.mul_f64(1.25)).await;
    assert_eq!(source.reads(), 2);
    assert!(Arc::ptr_eq(&first, &remote.get().unwrap()));

    for failing in [Err("responds with the status 500".to_owned()), Ok(b"{}".to_vec()), Ok(br#"{"keys":[]}"#.to_vec())]
    {
        source.set(Some(failing));
        let reads = source.reads();
        remote.read_again();
        tokio::time::sleep(FIRST_PAUSE / 2).await;
        assert_eq!(source.reads(), reads + 1);
        assert!(Arc::ptr_eq(&first, &remote.get().unwrap()));
    }

    // Other keys: the remembered token is refused.
    let others = [Issuer::p256()];
    source.set(Some(Ok(key_set(&others))));
    remote.read_again();
    tokio::time::sleep(FIRST_PAUSE / 2).await;
    assert_eq!(is_verified(&remote, &token), Err(Cause::UnknownKeyId));
    assert_eq!(is_verified(&remote, &others[0].sign(others[0].header(), claims())), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_reads_the_keys_again_but_not_often() {
    let source = Source::default();
    source.set(Some(Ok(key_set(&[Issuer::ed25519()]))));
    let remote = source.start();
    remote.ready().await.unwrap();

    // Many tokens at a time cause one read.
    let issuers = [Issuer::p256()];
    let token = issuers[0].sign(issuers[0].header(), claims());
    source.set(Some(Ok(key_set(&issuers))));
    let newer = futures_util::future::join_all((0..100).map(|_| remote.newer())).await;
    assert!(newer.into_iter().all(|newer| newer.unwrap().verify(&token, NOW).is_ok()));
    assert_eq!(source.reads(), 2);
    // More cause none, until some time has passed.
    assert!(remote.newer().await.is_none());
    tokio::time::sleep(ASKED_INTERVAL - Duration::from_secs(1)).await;
    assert!(remote.newer().await.is_none());
    assert_eq!(source.reads(), 2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(remote.newer().await.is_some());
    assert_eq!(source.reads(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_call_does_not_wait_long_for_keys() {
    let source = Source::default();
    source.set(Some(Ok(key_set(&[Issuer::ed25519()]))));
    let remote = source.start();
    remote.ready().await.unwrap();
    source.set(None);
    for _ in 0..2 {
        let start = Instant::now();
        assert!(remote.newer().await.is_none());
        assert_eq!(start.elapsed(), ASKED_WAIT);
    }
    assert_eq!(source.reads(), 2);
}

#[test]
fn the_pause_doubles_with_each_failure_up_to_the_interval() {
    let seconds = |failures, random| pause(failures, random).as_secs_f64().round();
    for (failures, exact) in [(0, 300.0), (1, 1.0), (2, 2.0), (5, 16.0), (9, 256.0), (10, 300.0), (u32::MAX, 300.0)] {
        assert!((seconds(failures, u32::MAX / 2) - exact).abs() < 0.5, "{failures}");
        assert!(pause(failures, 0) >= Duration::from_secs_f64(exact).mul_f64(0.799));
        assert!(pause(failures, u32::MAX) <= Duration::from_secs_f64(exact).mul_f64(1.201));
    }
}

#[tokio::test]
async fn debug_output_names_the_source() {
    let source = Source::default();
    source.set(Some(Ok(json!({}).to_string().into_bytes())));
    assert_eq!(format!("{:?}", source.start()), "Remote { name: \"--jwt-keys https://example.com/\", .. }");
}
