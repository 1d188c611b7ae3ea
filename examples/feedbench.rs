// scratch: not committed
use kith::proto::v1 as pb;
use kith::proto::v1::{
    connection_request_service_client::ConnectionRequestServiceClient as Req,
    event_service_client::EventServiceClient as Ev, user_service_client::UserServiceClient as Us,
};
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};
async fn ch(a: &str) -> Channel {
    Endpoint::from_shared(a.to_owned()).unwrap().tcp_nodelay(true).connect().await.unwrap()
}
fn pct(v: &mut Vec<f64>, p: f64) -> f64 {
    v.sort_by(|a, b| a.total_cmp(b));
    if v.is_empty() {
        return f64::NAN;
    }
    v[((v.len() - 1) as f64 * p) as usize]
}
#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() {
    let a: Vec<String> = std::env::args().collect();
    let addr = &a[1];
    match a[2].as_str() {
        "seed" => {
            let n: i64 = a[3].parse().unwrap();
            let c = ch(addr).await;
            let rows = (1..=n).map(|id| pb::ImportUsersRequest {
                user: Some(pb::User {
                    id,
                    username: format!("user-{id}"),
                    real_name: format!("User Number {id}"),
                    email: format!("user{id}@example.com"),
                    bio: "x".repeat(200),
                    location: "Somewhere".into(),
                    ..Default::default()
                }),
                request_id: String::new(),
            });
            let t = Instant::now();
            Us::new(c).import_users(futures_util::stream::iter(rows)).await.unwrap();
            println!("seed {:.0}/s", n as f64 / t.elapsed().as_secs_f64());
        }
        "send" => {
            // addr send USERS INFLIGHT SECS RATE(0=closed) WATCH
            let n: i64 = a[3].parse().unwrap();
            let k: usize = a[4].parse().unwrap();
            let secs: u64 = a[5].parse().unwrap();
            let rate: f64 = a[6].parse().unwrap();
            let watch = a[7] == "1";
            let start: i64 = a.get(8).map_or(1, |x| x.parse().unwrap());
            let acks: Arc<Mutex<HashMap<i64, Instant>>> = Default::default();
            let delays: Arc<Mutex<Vec<f64>>> = Default::default();
            let early = Arc::new(AtomicU64::new(0));
            let seen: Arc<Mutex<HashMap<i64, Instant>>> = Default::default();
            if watch {
                let seen = seen.clone();
                let c = ch(addr).await;
                tokio::spawn(async move {
                    let mut s = Ev::new(c).watch_events(pb::WatchEventsRequest::default()).await.unwrap().into_inner();
                    while let Ok(Some(m)) = s.message().await {
                        let t = Instant::now();
                        let mut g = seen.lock().unwrap();
                        for e in m.events {
                            g.insert(e.sequence, t);
                        }
                    }
                });
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
            let ctr = Arc::new(AtomicI64::new(start));
            let stop = Instant::now() + Duration::from_secs(secs);
            let lat: Arc<Mutex<Vec<f64>>> = Default::default();
            let errs = Arc::new(AtomicU64::new(0));
            let mut hs = vec![];
            let mut chans = vec![];
            for _ in 0..4 {
                chans.push(ch(addr).await);
            }
            let t0 = Instant::now();
            for i in 0..k {
                let c = chans[i % 4].clone();
                let ctr = ctr.clone();
                let acks = acks.clone();
                let lat = lat.clone();
                let errs = errs.clone();
                hs.push(tokio::spawn(async move {
                    let mut c = Req::new(c);
                    let mut l = vec![];
                    let mut next = Instant::now();
                    while Instant::now() < stop {
                        if rate > 0.0 {
                            next += Duration::from_secs_f64(k as f64 / rate);
                            tokio::time::sleep_until(next.into()).await;
                        }
                        let x = ctr.fetch_add(1, Ordering::Relaxed);
                        let from = x % n + 1;
                        let to = (x + 1 + x / n * 7919) % n + 1;
                        if from == to {
                            continue;
                        }
                        let t = Instant::now();
                        match c
                            .send_connection_request(pb::SendConnectionRequestRequest {
                                from_user_id: from,
                                to_user_id: to,
                                ..Default::default()
                            })
                            .await
                        {
                            Ok(r) => {
                                let now = Instant::now();
                                l.push((now - t).as_secs_f64() * 1e3);
                                acks.lock().unwrap().insert(r.get_ref().connection_request.as_ref().unwrap().id, now);
                            }
                            Err(e) => {
                                if errs.fetch_add(1, Ordering::Relaxed) < 3 {
                                    eprintln!("{e:?}")
                                }
                            }
                        }
                    }
                    lat.lock().unwrap().extend(l);
                }));
            }
            for h in hs {
                h.await.unwrap();
            }
            let el = t0.elapsed().as_secs_f64();
            tokio::time::sleep(Duration::from_millis(500)).await;
            let mut l = lat.lock().unwrap();
            let cnt = l.len();
            println!(
                "send k={k}: {:.0}/s p50 {:.2} p99 {:.2} ms errs {} next {}",
                cnt as f64 / el,
                pct(&mut l, 0.5),
                pct(&mut l, 0.99),
                errs.load(Ordering::Relaxed),
                ctr.load(Ordering::Relaxed)
            );
            if watch {
                let ack = acks.lock().unwrap();
                let seen = seen.lock().unwrap();
                let mut d: Vec<f64> = vec![];
                let mut missing = 0;
                for (s, t) in ack.iter() {
                    match seen.get(s) {
                        Some(w) => {
                            d.push(if w > t { (*w - *t).as_secs_f64() * 1e3 } else { -((*t - *w).as_secs_f64() * 1e3) })
                        }
                        None => missing += 1,
                    }
                }
                println!(
                    "watch delay after ack: p50 {:.2} p99 {:.2} max {:.2} ms missing {missing}",
                    pct(&mut d, 0.5),
                    pct(&mut d, 0.99),
                    pct(&mut d, 1.0)
                );
            }
            let _ = (delays, early);
        }
        "read" => {
            let c = ch(addr).await;
            let t = Instant::now();
            let mut s = Ev::new(c)
                .watch_events(pb::WatchEventsRequest { after_sequence: Some(0), ..Default::default() })
                .await
                .unwrap()
                .into_inner();
            let until: i64 = a[3].parse().unwrap();
            let mut n = 0;
            let mut msgs = 0;
            while let Ok(Some(m)) = s.message().await {
                n += m.events.len();
                msgs += 1;
                if m.revision >= until {
                    break;
                }
            }
            println!("read {n} events in {msgs} messages: {:.0}/s", n as f64 / t.elapsed().as_secs_f64());
        }
        "idle" => {
            let k: usize = a[3].parse().unwrap();
            let mut keep = vec![];
            let mut c = ch(addr).await;
            for i in 0..k {
                if i % 1000 == 0 {
                    c = ch(addr).await
                }
                let mut s =
                    Ev::new(c.clone()).watch_events(pb::WatchEventsRequest::default()).await.unwrap().into_inner();
                s.message().await.unwrap();
                keep.push(s);
            }
            println!("open {k}");
            tokio::time::sleep(Duration::from_secs(a[4].parse().unwrap())).await;
        }
        _ => {}
    }
}
