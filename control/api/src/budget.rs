//! The memory that bodies take while they are worked on, all requests of the server together.
//!
//! A seat says how many requests run at once, which says little of their memory: a body of a few megabytes becomes a tree
//! of many times its size. So each is charged what it may become, from its first bytes until its request is over.
//!
//! Invariants
//! - What is charged is given back when the request ends, however it does.
//! - A body that would take more than all there is may come when it is alone: nothing is refused for good.

use std::sync::Arc;

use kontiki_machinery::Status;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a body becomes at least, in times its bytes.
const TIMES: usize = 4;
/// What one value of a document takes when it has been read.
const VALUE: usize = 64;

/// See the module.
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    total: u32,
}

impl Budget {
    /// `bytes`: how much there is.
    pub fn new(bytes: usize) -> Self {
        // A permit is a byte; more than four gigabytes of bodies are no server's aim.
        let total = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self { free: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// A charge of nothing.
    pub fn open(&self) -> Charge {
        Charge { free: Arc::clone(&self.free), total: self.total, held: None }
    }

    /// How much is charged now, in bytes.
    pub fn charged(&self) -> usize {
        (self.total as usize).saturating_sub(self.free.available_permits())
    }
}

/// What one request is charged.
pub(crate) struct Charge {
    free: Arc<Semaphore>,
    total: u32,
    held: Option<OwnedSemaphorePermit>,
}

impl Charge {
    /// Raises the charge to `bytes`.
    ///
    /// # Errors
    /// 429: others have what is left.
    pub fn raise(&mut self, bytes: usize) -> Result<(), Status> {
        let wanted = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.total);
        let held = self.held.as_ref().map_or(0, |held| u32::try_from(held.num_permits()).unwrap_or(u32::MAX));
        if wanted <= held {
            return Ok(());
        }
        let more = Arc::clone(&self.free).try_acquire_many_owned(wanted - held).map_err(|_| full())?;
        match &mut self.held {
            Some(held) => held.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

fn full() -> Status {
    Status::too_many_requests(
        "The bodies of other requests take all memory there is for them, please try again later.",
        1,
    )
}

/// What a whole body may become while it is read: each value and field of a document costs more than its text.
pub(crate) fn weight(body: &[u8]) -> usize {
    let begins = |byte: &u8| u8::from(matches!(byte, b',' | b'[' | b'{' | b'\n'));
    // As many as a byte can count, so that many are counted at once.
    let values: usize = body.chunks(255).map(|part| usize::from(part.iter().map(begins).sum::<u8>())).sum();
    (body.len() * TIMES).max(values * VALUE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_is_raised_and_given_back() {
        let budget = Budget::new(100);
        let (mut one, mut other) = (budget.open(), budget.open());
        assert!(one.raise(60).is_ok() && one.raise(40).is_ok() && budget.charged() == 60);
        let refused = other.raise(50).expect_err("there are 40");
        assert_eq!((refused.code, refused.details.map(|details| details.retry_after_seconds)), (429, Some(1)));
        assert!(other.raise(40).is_ok() && one.raise(61).is_err());
        drop(one);
        assert!(other.raise(1000).is_ok(), "more than there is: it may come alone");
        assert_eq!(budget.charged(), 100);
        drop(other);
        assert_eq!(budget.charged(), 0);
    }

    #[test]
    fn a_body_weighs_what_it_becomes() {
        for (what, body, expect) in [
            ("nothing", String::new(), 0),
            ("text", format!("{{\"a\":\"{}\"}}", "x".repeat(992)), 4000),
            ("a list of little", format!("[{}0]", "0,".repeat(998)), 999 * VALUE),
            ("lists in lists", "[".repeat(1000), 1000 * VALUE),
            ("YAML", "- 0\n".repeat(1000), 1000 * VALUE),
        ] {
            assert_eq!(weight(body.as_bytes()), expect, "{what}");
        }
    }
}
