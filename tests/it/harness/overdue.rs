//! A test that hangs is a failure with a name: it ends the whole run, which says what it was.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

/// How long a test may take. The longest takes a minute, and several when the machine does something else too.
const PATIENCE: Duration = Duration::from_secs(900);

static UNDER_WAY: Mutex<BTreeMap<String, Instant>> = Mutex::new(BTreeMap::new());

thread_local! {
    static TEST: Test = Test::begun();
}

/// A test, on whose thread this is. It has ended with its thread: when its services and their runtime have ended too.
struct Test(String);

impl Test {
    fn begun() -> Self {
        let name = format!("{} ({:?})", thread::current().name().unwrap_or_default(), thread::current().id());
        UNDER_WAY.lock().expect("a lock").insert(name.clone(), Instant::now());
        Self(name)
    }
}

impl Drop for Test {
    fn drop(&mut self) {
        UNDER_WAY.lock().expect("a lock").remove(&self.0);
    }
}

/// From now on the test that calls this is not waited for without end.
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
        let under_way = UNDER_WAY.lock().expect("a lock");
        under_way.iter().filter(|(_, begun)| begun.elapsed() > PATIENCE).map(|(name, _)| name.clone()).collect()
    };
    if !overdue.is_empty() {
        // Not by a macro: what a test prints is kept until it ends, and this one does not.
        _ = writeln!(std::io::stderr(), "no end after {PATIENCE:?}: {}", overdue.join(", "));
        std::process::abort();
    }
}
