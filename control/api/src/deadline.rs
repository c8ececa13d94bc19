//! How long a request may wait for others, as upstream's `WithRequestDeadline` has it: the query's `timeout`, but no
//! longer than a minute. What waits for nobody but the store is not cut off: its outcome would be unknown.

use std::time::{Duration, Instant};

use kontiki_machinery::admission::Waiting;

use crate::Status;
use crate::params::Params;

/// The time of a request that asks for none, and the longest.
const LONGEST: Duration = Duration::from_secs(60);

/// When a request that began at `started` stops waiting, if it says nothing else.
pub(crate) fn longest(started: Instant) -> Instant {
    started + LONGEST
}

/// When the request stops waiting.
///
/// # Errors
/// 400 if its `timeout` is no duration.
pub(crate) fn of(params: &Params, started: Instant) -> Result<Instant, Status> {
    let Some(text) = params.get("timeout") else { return Ok(longest(started)) };
    let asked = go_duration(text)
        .map_err(|why| Status::bad_request(format!("invalid timeout specified in the request URL - {why}")))?;
    // None at all, or one of the past, is the client's way to leave it to us.
    let asked = asked.filter(|asked| !asked.is_zero()).unwrap_or(LONGEST);
    Ok(started + asked.min(LONGEST))
}

/// What others answer in time.
///
/// # Errors
/// 504 in upstream's words if the request's time is over; else what they say.
pub(crate) async fn within<T>(deadline: Instant, waiting: Waiting<'_, T>) -> Result<T, Status> {
    let answered = tokio::time::timeout_at(deadline.into(), waiting).await;
    answered.map_err(|_| {
        Status::timeout("request did not complete within requested timeout - context deadline exceeded", 0)
    })
}

/// A duration in Go's notation (`1m30s`, `1.5h`, `250ms`); `None`: it is negative.
fn go_duration(text: &str) -> Result<Option<Duration>, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(Some(Duration::ZERO));
    }
    let mut seconds = 0.0;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let (number, after) = split(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, after) = split(after, |c| !(c.is_ascii_digit() || c == '.'));
        let number: f64 = number.parse().map_err(|_| invalid())?;
        seconds += number * unit_seconds(unit, text)?;
        rest = after;
    }
    let length = Duration::try_from_secs_f64(seconds).map_err(|_| invalid())?;
    Ok((!negative).then_some(length))
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

fn unit_seconds(unit: &str, text: &str) -> Result<f64, String> {
    Ok(match unit {
        "ns" => 1e-9,
        "us" | "µs" | "μs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "" => return Err(format!("time: missing unit in duration {text:?}")),
        _ => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_how_long_it_waits() {
        let started = Instant::now();
        for (query, expect) in [
            ("", Ok(60_000)),
            ("timeout=", Ok(60_000)),
            ("timeout=5s", Ok(5_000)),
            ("timeout=%2B1.5s", Ok(1_500)),
            ("timeout=1s250ms", Ok(1_250)),
            ("timeout=34m", Ok(60_000)),
            ("timeout=0", Ok(60_000)),
            ("timeout=0s", Ok(60_000)),
            ("timeout=-5s", Ok(60_000)),
            ("timeout=x", Err("time: invalid duration \"x\"")),
            ("timeout=-", Err("time: invalid duration \"-\"")),
            ("timeout=.s", Err("time: invalid duration \".s\"")),
            ("timeout=5", Err("time: missing unit in duration \"5\"")),
            ("timeout=5d", Err("time: unknown unit \"d\" in duration \"5d\"")),
        ] {
            let found = of(&Params::parse(Some(query)), started).map(|deadline| (deadline - started).as_millis());
            let text = |why: &str| format!("invalid timeout specified in the request URL - {why}");
            let found = found.map_err(|status| (status.code, status.message));
            assert_eq!(found, expect.map_err(|why| (400, text(why))), "{query}");
        }
    }
}
