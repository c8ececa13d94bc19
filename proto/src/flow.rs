//! Flow control of tunnels (`Tunnel` in `node.proto`), the same for both ends of a session and both directions.
//!
//! Invariants
//! - A sender has at most [`WINDOW`] bytes in flight that were not acknowledged, whatever the receiver acknowledges.
//! - A receiver knows when a sender breaks that, and holds no more than a window for it.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

/// Unacknowledged bytes that a side may have in flight in a tunnel; part of the protocol.
pub const WINDOW: usize = 256 << 10;
/// Most bytes in a message: small enough that tunnels take turns with each other and with the session's other messages.
pub const FRAME: usize = 32 << 10;

/// The sender's side: what it may still send.
pub struct Credit(Semaphore);

impl Default for Credit {
    fn default() -> Self {
        Self(Semaphore::new(WINDOW))
    }
}

impl Credit {
    /// Takes credit for a message of so many bytes, at most [`FRAME`]; waits until there is as much.
    ///
    /// # Cancel safety
    /// A call that is dropped has taken nothing.
    pub async fn take(&self, bytes: usize) {
        let permits = u32::try_from(bytes.min(FRAME)).expect("a frame is small");
        let permits = self.0.acquire_many(permits).await;
        permits.expect("the semaphore is never closed").forget();
    }

    /// The receiver has consumed so many bytes. What is more than a window is not counted.
    ///
    /// # Assumptions
    /// One task says so, that which reads the session.
    pub fn acknowledged(&self, bytes: u64) {
        let room = WINDOW.saturating_sub(self.0.available_permits());
        self.0.add_permits(usize::try_from(bytes).unwrap_or(room).min(room));
    }
}

/// The sender has sent more than it may.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overrun;

/// The receiver's side: what it was sent and has not acknowledged.
#[derive(Default, Debug)]
pub struct Unacknowledged(AtomicUsize);

impl Unacknowledged {
    /// So many bytes came.
    ///
    /// # Errors
    /// They are more than the sender had credit for. The tunnel is to be ended.
    pub fn arrived(&self, bytes: usize) -> Result<(), Overrun> {
        let before = self.0.fetch_add(bytes, Ordering::AcqRel);
        if before.saturating_add(bytes) > WINDOW { Err(Overrun) } else { Ok(()) }
    }

    /// So many of them were consumed. To be said before the sender is told.
    pub fn consumed(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// Whether there is credit now.
    fn has(credit: &Credit, bytes: usize) -> bool {
        let taken = std::pin::pin!(credit.take(bytes)).poll(&mut Context::from_waker(Waker::noop()));
        taken == Poll::Ready(())
    }

    #[test]
    fn a_sender_has_one_window_whatever_is_acknowledged() {
        let credit = Credit::default();
        for _ in 0..WINDOW / FRAME {
            assert!(has(&credit, FRAME));
        }
        assert!(!has(&credit, 1), "all is in flight, and who gave up waiting has taken nothing");
        credit.acknowledged(2);
        assert!(has(&credit, 2) && !has(&credit, 1));
        for bytes in [u64::MAX, 1] {
            credit.acknowledged(bytes);
        }
        for _ in 0..WINDOW / FRAME {
            assert!(has(&credit, FRAME));
        }
        assert!(!has(&credit, 1), "never more than a window");
    }

    #[test]
    fn a_receiver_notices_who_sends_too_much() {
        let received = Unacknowledged::default();
        assert_eq!(received.arrived(WINDOW), Ok(()));
        received.consumed(5);
        assert_eq!(received.arrived(5), Ok(()));
        assert_eq!(received.arrived(1), Err(Overrun));
    }
}
