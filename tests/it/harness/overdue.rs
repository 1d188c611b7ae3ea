//! A test that hangs ends the whole run, which then names it.

use std::collections::BTreeMap;
use std::env;
use std::io::Write;
use std::sync::{Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

/// The maximum duration of a test, unless `KITH_TEST_PATIENCE` has another number of seconds. The longest takes a minute,
/// and several on a busy machine. One that measures may take an hour.
const PATIENCE: Duration = Duration::from_secs(900);

static RUNNING: Mutex<BTreeMap<String, Instant>> = Mutex::new(BTreeMap::new());

thread_local! {
    static TEST: Test = Test::begun();
}

/// The test that runs on this thread. It ends with the thread, after its services and their runtime.
struct Test(String);

impl Test {
    fn begun() -> Self {
        let name = format!("{} ({:?})", thread::current().name().unwrap_or_default(), thread::current().id());
        RUNNING.lock().expect("a lock").insert(name.clone(), Instant::now());
        Self(name)
    }
}

impl Drop for Test {
    fn drop(&mut self) {
        RUNNING.lock().expect("a lock").remove(&self.0);
    }
}

/// Limits the duration of the calling test.
pub fn watch() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        let given = env::var("KITH_TEST_PATIENCE").ok();
        let given = given.map(|text| Duration::from_secs(text.parse().expect("KITH_TEST_PATIENCE is a number")));
        let patience = given.unwrap_or(PATIENCE);
        _ = thread::spawn(move || {
            loop {
                thread::sleep(Duration::from_secs(1));
                end_if_overdue(patience);
            }
        })
    });
    TEST.with(|_| {});
}

fn end_if_overdue(patience: Duration) {
    let overdue: Vec<_> = {
        let running = RUNNING.lock().expect("a lock");
        running.iter().filter(|(_, begun)| begun.elapsed() > patience).map(|(name, _)| name.clone()).collect()
    };
    if !overdue.is_empty() {
        // Not with `eprintln!`: a test's output is captured until its end, and this test does not end.
        _ = writeln!(std::io::stderr(), "no end after {patience:?}: {}", overdue.join(", "));
        std::process::abort();
    }
}
