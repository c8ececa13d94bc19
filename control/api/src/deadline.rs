//! How long a request may wait for others, as upstream's `WithRequestDeadline` has it: the query's `timeout`, but no
//! longer than a minute. What waits for nobody but the store is not cut off: its outcome would be unknown.

use std::time::{Duration, Instant};

use kontiki_machinery::admission::Waiting;
use kontiki_machinery::schema::duration::GoDuration;

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
    let asked = GoDuration::parse(text)
        .map_err(|why| Status::bad_request(format!("invalid timeout specified in the request URL - {why}")))?;
    // None at all, or one of the past, is the client's way to leave it to us.
    let asked = u64::try_from(asked.0).ok().filter(|nanos| *nanos > 0).map_or(LONGEST, Duration::from_nanos);
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
