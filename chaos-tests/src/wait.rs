//! Waiting for conditions, with a deadline and the last state seen.

use std::{fmt::Display, future::Future, time::Duration};

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// Longest that anything may take which nothing promises sooner: this may be the first run on a small, busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(100);

/// Polls `probe` until it answers `Ok`.
///
/// # Errors
/// After `limit`, names `what` and the last reason the probe gave.
pub async fn until<T, E, F>(what: &str, limit: Duration, mut probe: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T, E>>,
    E: Display,
{
    let deadline = Instant::now() + limit;
    loop {
        match probe().await {
            Ok(value) => return Ok(value),
            Err(last) if Instant::now() >= deadline => {
                bail!("{what}: not within {} s; last seen: {last:#}", limit.as_secs())
            }
            Err(_) => sleep(POLL).await,
        }
    }
}
