//! How issuers are treated.

use std::time::Duration;

/// How often issuers are asked for their keys.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The least time from one question to the next.
    pub retry: Duration,
    /// How old keys may become while they are used.
    pub fresh: Duration,
    /// How long one question may take.
    pub patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { retry: Duration::from_secs(10), fresh: Duration::from_secs(300), patience: Duration::from_secs(10) }
    }
}
