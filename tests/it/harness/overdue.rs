//! A test that hangs ends the whole run, which then names it.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

/// The maximum duration of a test. The longest takes a minute, and several on a busy machine.
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
        _ = thread::spawn(|| {
            loop {
                thread::sleep(Duration::from_secs(1));
                end_if_overdue();
            }
        })
    });
    TEST.with(|_| {});
}

fn end_if_overdue() {
    let overdue: Vec<_> = {
        let running = RUNNING.lock().expect("a lock");
        running.iter().filter(|(_, begun)| begun.elapsed() > PATIENCE).map(|(name, _)| name.clone()).collect()
    };
    if !overdue.is_empty() {
        // Not with `eprintln!`: a test's output is captured until its end, and this test does not end.
        _ = writeln!(std::io::stderr(), "no end after {PATIENCE:?}: {}", overdue.join(", "));
        std::process::abort();
    }
}
