//! Waiting for conditions, with a deadline and the last state seen.

use std::{fmt::Display, time::Duration};

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, timeout_at};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Polls `probe` until it answers `Ok`. A probe that hangs is cut off at the deadline.
///
/// # Errors
/// After `limit`, names `what` and the last reason the probe gave.
pub async fn until<T, E: Display>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut last = "nothing: the first look did not end".to_owned();
    loop {
        match timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = format!("{error:#}"),
            Err(_) => {}
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {} s; last seen: {last}", limit.as_secs_f32());
        }
        sleep(POLL).await;
    }
}
