//! The figures of recorded readings.

use super::super::lines::text;
use super::*;

/// The time of the readings, in seconds.
pub(in super::super) const UNIX_TIME: f64 = 1_795_273_600.0;

/// A recorded reading. The second was 2 s after the first.
pub(in super::super) fn recorded(number: usize) -> Exposition {
    let texts = [include_str!("../testdata/first.txt"), include_str!("../testdata/second.txt")];
    Exposition::parse(texts[number]).unwrap()
}

fn figures(before: &str, now: &str) -> Figures {
    let parsed = |lines: &str| Exposition::parse(format!("{lines}\n# EOF\n").trim_start()).unwrap();
    let (before, now) = (parsed(before), parsed(now));
    Figures::of(&now, Some(Interval { before: &before, now: &now, seconds: 2.0 }), UNIX_TIME)
}

/// The figures of a group, with `!` before a warning and `!!` before what is bad.
fn cells(figures: &Figures, name: &str) -> Vec<String> {
    let cells = figures.groups.iter().filter(|group| group.name == name).flat_map(|group| &group.cells);
    let mark = |mark| match mark {
        Mark::Plain => "",
        Mark::Warning => "!",
        Mark::Bad => "!!",
    };
    cells.map(|cell| format!("{}{}", mark(cell.mark), cell.text)).collect()
}

#[test]
fn the_figures_of_two_recorded_readings() {
    let (before, now) = (recorded(0), recorded(1));
    let figures = Figures::of(&now, Some(Interval { before: &before, now: &now, seconds: 2.0 }), UNIX_TIME);
    assert_eq!(text(&figures, 80).trim_end(), include_str!("../testdata/figures.txt").trim_end());
}

#[test]
fn one_reading_has_no_rates() {
    let figures = Figures::of(&recorded(1), None, UNIX_TIME);
    assert_eq!(cells(&figures, "CALLS")[..2], ["-/s", "errors -/s"]);
    assert_eq!(cells(&figures, "REFUSED"), [""; 0]);
    assert!(cells(&figures, "WRITES").contains(&"time p50 - p99 -".to_owned()));
    assert_eq!(figures.methods[0][1..], ["-"; 4]);
}

#[test]
fn a_server_without_metrics_of_its_own_has_no_figures() {
    assert_eq!(Figures::of(&Exposition::default(), None, 0.0), Figures::default());
}

#[test]
fn what_needs_attention_is_marked() {
    for (metrics, group, expected) in [
        ("kith_health{service=\"a.A\"} 1\nkith_health{service=\"a.B\"} 1", "KITH", "serving"),
        ("kith_health{service=\"a.A\"} 1\nkith_health{service=\"a.B\"} 0", "KITH", "!!NOT SERVING: B"),
        ("kith_health{service=\"a.A\"} 0\nkith_health{service=\"a.B\"} 0", "KITH", "!!NOT SERVING"),
        ("kith_database_up 1\nkith_database_info{engine=\"sqlite\",version=\"3\"} 1", "DATABASE", "sqlite 3 up"),
        ("kith_database_up 0\nkith_database_info{engine=\"sqlite\",version=\"3\"} 1", "DATABASE", "!!sqlite 3 DOWN"),
        ("kith_database_up 0", "DATABASE", "!not opened yet"),
        (
            "kith_database_up 1\nkith_database_writable 0\nkith_database_info{engine=\"sqlite\",version=\"3\"} 1",
            "DATABASE",
            "!!sqlite 3 up, but commits fail",
        ),
        ("process_resident_memory_bytes 1e9\nkith_memory_limit_bytes 1e9", "PROCESS", "!!memory 954 MiB of 954 MiB"),
        ("process_resident_memory_bytes 1e9", "PROCESS", "memory 954 MiB"),
        (
            "kith_queue_commands{queue=\"calls\"} 49\nkith_queue_capacity_commands{queue=\"calls\"} 100",
            "QUEUE",
            "calls 49 of 100",
        ),
        (
            "kith_queue_commands{queue=\"calls\"} 50\nkith_queue_capacity_commands{queue=\"calls\"} 100",
            "QUEUE",
            "!calls 50 of 100",
        ),
        (
            "kith_queue_commands{queue=\"calls\"} 90\nkith_queue_capacity_commands{queue=\"calls\"} 100",
            "QUEUE",
            "!!calls 90 of 100",
        ),
        ("kith_queue_commands{queue=\"calls\"} 90", "QUEUE", "calls 90"),
        ("process_open_fds 1000\nprocess_max_fds 1024", "PROCESS", "!!files 1,000 of 1,024"),
        ("kith_commits_total{outcome=\"failed\"} 1", "WRITES", "!!failed 0.5/s"),
        ("kith_commits_total{outcome=\"refused\"} 2", "WRITES", "!refused 1.0/s"),
        ("kith_refused_total{cause=\"queue\"} 5", "REFUSED", "!queue 2.5/s"),
        ("kith_reload_failures_total{file=\"principals\"} 2", "TLS", "!2 reloads of principals failed"),
        ("kith_tls_certificate_expiry_timestamp_seconds 1796569600", "TLS", "certificate 15d 0h left"),
        ("kith_tls_certificate_expiry_timestamp_seconds 1795446400", "TLS", "!!certificate 2d 0h left"),
        ("kith_tls_certificate_expiry_timestamp_seconds 1795705600", "TLS", "!certificate 5d 0h left"),
        ("kith_tls_certificate_expiry_timestamp_seconds 1795273599", "TLS", "!!certificate EXPIRED"),
    ] {
        let found = cells(&figures("", metrics), group);
        assert!(found.contains(&expected.to_owned()), "no {expected:?} in {found:?}");
    }
    let code = |code: &str| format!("grpc_server_handled_total{{grpc_code=\"{code}\"}} 4");
    for (found, expected) in
        [("OK", "of the server 0.0/s"), ("NotFound", "of the server 0.0/s"), ("Internal", "!!of the server 2.0/s")]
    {
        let cells = cells(&figures("", &code(found)), "CALLS");
        assert!(cells.contains(&expected.to_owned()), "{found}: {cells:?}");
    }
}
