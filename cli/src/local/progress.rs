//! What `up` and `down` say while they work: one line per step, in columns, and how long it took.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(50);

/// A step that is under way; its line is printed when it ends.
pub struct Step {
    what: String,
    began: Instant,
}

impl Step {
    pub fn begin(what: &str) -> Self {
        Self { what: what.to_owned(), began: Instant::now() }
    }

    pub fn done(self, result: &str) {
        // Whoever reads may have gone; the work goes on.
        let _ = writeln!(
            std::io::stdout(),
            "{:<12} {:<52} {:>6.1} s",
            self.what,
            result,
            self.began.elapsed().as_secs_f64()
        );
    }
}

/// A line of its own.
pub fn note(what: &str, text: &str) {
    let _ = writeln!(std::io::stdout(), "{what:<12} {text}");
}

/// What a look at a condition found.
pub enum Seen<T> {
    Yes(T),
    /// Not yet; the text says how far it is.
    NotYet(String),
}

/// Looks at a condition until it holds.
///
/// # Errors
/// The deadline passed: then the last state seen is told. Or the look itself failed for good.
pub async fn wait<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Result<Seen<T>>) -> Result<T> {
    let deadline = tokio::time::Instant::now() + limit;
    let mut last = String::from("nothing was seen yet");
    loop {
        match tokio::time::timeout_at(deadline, look()).await {
            Ok(Ok(Seen::Yes(value))) => return Ok(value),
            Ok(Ok(Seen::NotYet(state))) => last = state,
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(late(what, limit, &last)),
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(late(what, limit, &last));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn late(what: &str, limit: Duration, last: &str) -> anyhow::Error {
    anyhow!("{what}: not within {} s; last seen: {last}", limit.as_secs())
}
