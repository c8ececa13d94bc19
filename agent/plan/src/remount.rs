//! When a pod's generated volumes are brought up to date.
//!
//! Invariants
//! - One pass at a time, and only while the volumes are in place and the pod goes on.
//! - Times are counted from any fixed moment, by a clock that never goes back.

use std::time::Duration;

use crate::observed::Volumes;

/// This often at least: tokens expire.
const PERIOD: Duration = Duration::from_secs(60);

/// The passes over one pod's volumes.
#[derive(Clone, Copy, Debug)]
pub struct Remount {
    due: Duration,
    running: bool,
}

impl Remount {
    /// The first pass is a period after `now`.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self { due: now + PERIOD, running: false }
    }

    /// Something that may be in a volume has changed.
    pub fn asked(&mut self, now: Duration) {
        self.due = now;
    }

    /// The volumes were just put in place.
    pub fn mounted(&mut self, now: Duration) {
        self.due = now + PERIOD;
    }

    /// When the next pass may begin. `None`: not before something else happens.
    #[must_use]
    pub fn due(&self, volumes: &Volumes, ending: bool) -> Option<Duration> {
        (*volumes == Volumes::Ready && !ending && !self.running).then_some(self.due)
    }

    /// Begins a pass if it is time.
    pub fn begin(&mut self, volumes: &Volumes, ending: bool, now: Duration) -> bool {
        let begins = self.due(volumes, ending).is_some_and(|due| due <= now);
        if begins {
            *self = Self { due: now + PERIOD, running: true };
        }
        begins
    }

    /// The pass has ended, or was given up.
    pub fn ended(&mut self) {
        self.running = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pass_at_a_time() {
        let second = Duration::from_secs;
        let mut remount = Remount::new(second(0));
        let ready = Volumes::Ready;
        for (name, volumes, ending, now, expect) in [
            ("not yet", &ready, false, 59, false),
            ("volumes are not there", &Volumes::Preparing, false, 60, false),
            ("the pod ends", &ready, true, 60, false),
            ("it is time", &ready, false, 60, true),
            ("one is running", &ready, false, 200, false),
        ] {
            assert_eq!(remount.begin(volumes, ending, second(now)), expect, "{name}");
        }
        remount.ended();
        assert_eq!(remount.due(&ready, false), Some(second(120)), "a period after the last began");
        remount.asked(second(70));
        assert!(remount.begin(&ready, false, second(70)), "asked for");
        remount.ended();
        remount.mounted(second(100));
        assert_eq!(remount.due(&ready, false), Some(second(160)));
    }
}
