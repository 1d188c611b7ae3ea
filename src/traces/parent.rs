//! The span of the caller, as its headers name it (W3C Trace Context).

use std::str::FromStr;

use http::HeaderMap;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// The length of a `traceparent` of version 00: `00-TRACE_ID-PARENT_ID-FLAGS`.
const LEN: usize = 55;

/// Returns the span that a call's headers name.
///
/// `None` if there is no `traceparent`, more than one, or one that is not as the standard has it. Then the call begins a
/// trace. The propagator of OpenTelemetry's SDK is not used, because it accepts more: shorter ids, signs, and a dash at the
/// end.
pub(super) fn parent(headers: &HeaderMap) -> Option<SpanContext> {
    let mut given = headers.get_all("traceparent").iter();
    let text = given.next()?.to_str().ok()?;
    if given.next().is_some() {
        return None;
    }
    let (trace_id, span_id, flags) = parse(text)?;
    let context = SpanContext::new(trace_id, span_id, flags, true, state(headers));
    context.is_valid().then_some(context)
}

fn parse(text: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    // A later version may have more after these fields.
    let (known, more) = text.trim_matches([' ', '\t']).split_at_checked(LEN)?;
    let mut fields = known.split('-');
    let [version, trace_id, span_id, flags] = [2, 32, 16, 2].map(|length| hex(fields.next(), length));
    let version = version?;
    let may_follow = more.is_empty() || version != "00" && more.starts_with('-');
    if fields.next().is_some() || version == "ff" || !may_follow {
        return None;
    }
    // Of the flags, only this one is known.
    let flags = TraceFlags::new(u8::from_str_radix(flags?, 16).ok()?) & TraceFlags::SAMPLED;
    Some((TraceId::from_hex(trace_id?).ok()?, SpanId::from_hex(span_id?).ok()?, flags))
}

/// Returns a field if it is this many hexadecimal digits in lower case.
fn hex(field: Option<&str>, length: usize) -> Option<&str> {
    field.filter(|field| field.len() == length && field.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

/// Returns what tracing systems on the way noted in `tracestate`; nothing if it is not as the standard has it.
fn state(headers: &HeaderMap) -> TraceState {
    let parts: Option<Vec<&str>> = headers.get_all("tracestate").iter().map(|part| part.to_str().ok()).collect();
    let parts = parts.filter(|parts| !parts.is_empty());
    parts.and_then(|parts| TraceState::from_str(&parts.join(",")).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn of(headers: &[(&'static str, &str)]) -> Option<SpanContext> {
        let header = |(name, value): &(&'static str, &str)| (name.parse().unwrap(), value.parse().unwrap());
        parent(&headers.iter().map(header).collect())
    }

    #[test]
    fn a_traceparent_is_read_as_the_standard_has_it() {
        for (text, sampled) in [
            (format!("00-{TRACE}-{SPAN}-01"), Some(true)),
            (format!("00-{TRACE}-{SPAN}-00"), Some(false)),
            (format!("00-{TRACE}-{SPAN}-ff"), Some(true)),
            (format!("00-{TRACE}-{SPAN}-02"), Some(false)),
            (format!(" 00-{TRACE}-{SPAN}-01 "), Some(true)),
            (format!("cc-{TRACE}-{SPAN}-01"), Some(true)),
            (format!("cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like"), Some(true)),
            (format!("cc-{TRACE}-{SPAN}-01.more"), None),
            (format!("00-{TRACE}-{SPAN}-01-more"), None),
            (format!("00-{TRACE}-{SPAN}-01-"), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("0-{TRACE}-{SPAN}-01"), None),
            (format!("00-{TRACE}-{SPAN}-1"), None),
            (format!("00-{TRACE}-{SPAN}-+1"), None),
            (format!("00-{TRACE}-{SPAN}"), None),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None),
            (format!("00-{}-{SPAN}-01", &TRACE[1..]), None),
            (format!("00-{}x-{SPAN}-01", &TRACE[1..]), None),
            (format!("00-{}-{SPAN}-01", "0".repeat(32)), None),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), None),
            (format!("00-{TRACE}-{}-01", &SPAN[1..]), None),
            ("-".repeat(LEN), None),
            ("é".repeat(LEN), None),
            (String::new(), None),
        ] {
            let context = of(&[("traceparent", &text)]);
            assert_eq!(context.as_ref().map(SpanContext::is_sampled), sampled, "{text:?}");
            for context in context {
                assert_eq!(
                    (context.trace_id().to_string(), context.span_id().to_string()),
                    (TRACE.into(), SPAN.into())
                );
                assert!(context.is_remote());
            }
        }
        let one = format!("00-{TRACE}-{SPAN}-01");
        assert!(of(&[("traceparent", &one), ("traceparent", &one)]).is_none(), "which one?");
    }

    #[test]
    fn the_state_of_the_trace_passes_through_and_a_malformed_one_is_left_out() {
        let parent = format!("00-{TRACE}-{SPAN}-01");
        for (states, expected) in [
            (&[][..], ""),
            (&["congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"], "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"),
            (&["congo=1", "rojo=2"], "congo=1,rojo=2"),
            (&["congo"], ""),
            (&["CONGO=1"], ""),
        ] {
            let headers: Vec<_> = std::iter::once(("traceparent", &*parent))
                .chain(states.iter().map(|state| ("tracestate", *state)))
                .collect();
            assert_eq!(of(&headers).expect("a parent").trace_state().header(), expected, "{states:?}");
        }
    }
}
