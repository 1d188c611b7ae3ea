//! Numbers for people, in few ASCII characters.

/// What is shown in place of a number that is not known.
pub const UNKNOWN: &str = "-";

/// A whole number: `1,234,567`, and `12.3G` from a hundred millions on.
pub fn count(number: f64) -> String {
    if number.abs() >= 1e8 || !number.is_finite() {
        return large(number);
    }
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0.0 && text != "0" { format!("-{text}") } else { text }
}

fn large(number: f64) -> String {
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M")];
    match units.into_iter().find(|(unit, _)| number.is_finite() && number.abs() >= *unit) {
        Some((unit, name)) => format!("{:.1}{name}", number / unit),
        None => UNKNOWN.to_owned(),
    }
}

/// A number a second, with one decimal below 100.
pub fn rate(rate: Option<f64>) -> String {
    match rate {
        None => UNKNOWN.to_owned(),
        Some(rate) if rate < 99.95 => format!("{rate:.1}"),
        Some(rate) => count(rate),
    }
}

/// A short time in milliseconds or seconds, with three significant digits.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        _ if !seconds.is_finite() => UNKNOWN.to_owned(),
        _ if seconds < 0.009_995 => format!("{:.2}ms", seconds * 1e3),
        _ if seconds < 0.099_95 => format!("{:.1}ms", seconds * 1e3),
        _ if seconds < 0.999_5 => format!("{:.0}ms", seconds * 1e3),
        _ if seconds < 9.995 => format!("{seconds:.2}s"),
        _ if seconds < 99.95 => format!("{seconds:.1}s"),
        _ => duration(seconds),
    }
}

/// A long time in its two largest units, such as `3d 4h`.
pub fn duration(seconds: f64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    // Saturates.
    let whole = seconds.max(0.0) as u64;
    let Some(largest) = UNITS.iter().position(|(unit, _)| whole >= *unit) else { return "0s".to_owned() };
    let (unit, name) = UNITS[largest];
    let first = format!("{}{name}", whole / unit);
    match UNITS.get(largest + 1) {
        Some((next, name)) => format!("{first} {}{name}", whole % unit / next),
        None => first,
    }
}

/// Bytes in a binary unit.
pub fn bytes(bytes: f64) -> String {
    let units = [(1024f64.powi(4), "TiB"), (1024f64.powi(3), "GiB"), (1024f64.powi(2), "MiB"), (1024.0, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) if bytes / unit < 9.95 => format!("{:.1} {name}", bytes / unit),
        Some((unit, name)) => format!("{} {name}", count(bytes / unit)),
        None => format!("{} B", count(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (number, expected) in [
            (0.0, "0"),
            (0.4, "0"),
            (-0.4, "0"),
            (999.0, "999"),
            (1_000.0, "1,000"),
            (-12_345.0, "-12,345"),
            (99_999_999.0, "99,999,999"),
            (123_456_789.0, "123.5M"),
            (9_007_199_254_740_991.0, "9007.2T"),
            (f64::NAN, "-"),
            (f64::INFINITY, "-"),
        ] {
            assert_eq!(count(number), expected);
        }
        for (number, expected) in [
            (None, "-"),
            (Some(0.0), "0.0"),
            (Some(0.04), "0.0"),
            (Some(99.94), "99.9"),
            (Some(99.96), "100"),
            (Some(12_345.6), "12,346"),
        ] {
            assert_eq!(rate(number), expected);
        }
    }

    #[test]
    fn times_have_units() {
        for (time, expected) in [
            (0.0, "0.00ms"),
            (0.000_42, "0.42ms"),
            (0.009_996, "10.0ms"),
            (0.012_34, "12.3ms"),
            (0.099_96, "100ms"),
            (0.999_4, "999ms"),
            (0.999_6, "1.00s"),
            (12.34, "12.3s"),
            (99.96, "1m 39s"),
            (100.0, "1m 40s"),
            (f64::INFINITY, "-"),
        ] {
            assert_eq!(seconds(time), expected, "{time}");
        }
        for (time, expected) in
            [(-1.0, "0s"), (59.9, "59s"), (60.0, "1m 0s"), (3_661.0, "1h 1m"), (90_000.0, "1d 1h"), (f64::NAN, "0s")]
        {
            assert_eq!(duration(time), expected, "{time}");
        }
    }

    #[test]
    fn bytes_have_binary_units() {
        for (number, expected) in [
            (0.0, "0 B"),
            (1_023.0, "1,023 B"),
            (1_536.0, "1.5 KiB"),
            (10.0 * 1024.0, "10 KiB"),
            (268_435_456.0, "256 MiB"),
            (1024f64.powi(3) * 2.5, "2.5 GiB"),
            (1024f64.powi(4) * 2_000.0, "2,000 TiB"),
        ] {
            assert_eq!(bytes(number), expected);
        }
    }
}
