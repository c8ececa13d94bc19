//! When a pod is looked at again in the runtime.
//!
//! Invariants
//! - A pod is looked at this often at least: [`PERIOD`].
//! - Times are counted from any fixed moment, by a clock that never goes back.

use std::time::Duration;

/// A pod is looked at this often even if nobody reports anything.
pub const PERIOD: Duration = Duration::from_secs(20);
/// After a look that the runtime did not answer.
const RETRY: Duration = Duration::from_secs(1);
/// The runtime learns of an exit a moment after it is reported, on a busy machine much later: it is asked again after
/// these delays (milliseconds).
const AFTER_REPORT: [u64; 9] = [10, 25, 50, 100, 200, 400, 800, 1600, 3200];
/// Looks that follow one that saw a change: another container may have ended too.
const AFTER_CHANGE: usize = 4;

/// When the next look is due.
#[derive(Clone, Copy, Debug, Default)]
pub struct Relist {
    /// `None`: the first one was made, and nothing is planned.
    due: Option<Duration>,
    /// How many of the looks after a report are left.
    left: usize,
}

impl Relist {
    /// Whether it is time.
    #[must_use]
    pub fn is_due(&self, now: Duration) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// When it will be.
    pub fn due(&mut self, now: Duration) -> Duration {
        *self.due.get_or_insert(now + PERIOD)
    }

    /// Something changed that the runtime shows at once.
    pub fn at_once(&mut self, now: Duration) {
        self.due = Some(now);
    }

    /// Not later than this.
    pub fn no_later_than(&mut self, at: Duration) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// The runtime's events told of an exit.
    pub fn reported(&mut self, now: Duration) {
        self.left = AFTER_REPORT.len();
        self.due = Some(now);
    }

    /// A look was made. `answered`: by the runtime; `changed`: it saw something else than the one before.
    pub fn looked(&mut self, answered: bool, changed: bool, now: Duration) {
        let delay = if !answered {
            RETRY
        } else if self.left == 0 {
            PERIOD
        } else {
            self.left -= 1;
            if changed {
                self.left = self.left.min(AFTER_CHANGE);
            }
            Duration::from_millis(AFTER_REPORT[AFTER_REPORT.len() - 1 - self.left])
        };
        self.due = Some(now + delay);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `r` a report, `.` a look that saw nothing new, `!` one that did, `x` one without an answer: the delays after.
    fn delays(looks: &str) -> Vec<u128> {
        let mut relist = Relist::default();
        let mut out = Vec::new();
        for look in looks.chars() {
            match look {
                'r' => {
                    relist.reported(Duration::ZERO);
                    assert!(relist.is_due(Duration::ZERO));
                }
                look => {
                    relist.looked(look != 'x', look == '!', Duration::ZERO);
                    out.push(relist.due(Duration::ZERO).as_millis());
                }
            }
        }
        out
    }

    #[test]
    fn a_report_is_followed_up() {
        for (name, looks, expect) in [
            ("nothing happens", "..!", vec![20_000, 20_000, 20_000]),
            ("the runtime is late", "r..........", vec![10, 25, 50, 100, 200, 400, 800, 1600, 3200, 20_000]),
            ("a change ends the short waits", "r.!......", vec![10, 200, 400, 800, 1600, 3200, 20_000, 20_000]),
            ("an early change", "r!.....", vec![200, 400, 800, 1600, 3200, 20_000]),
            ("no answer", "rx.", vec![1_000, 10]),
            ("another report begins anew", "r..r.", vec![10, 25, 10]),
        ] {
            assert_eq!(delays(looks), expect, "{name}");
        }
    }

    #[test]
    fn the_earliest_wins() {
        let mut relist = Relist::default();
        let second = Duration::from_secs;
        assert!(!relist.is_due(second(99)), "nothing is planned");
        assert_eq!(relist.due(second(1)), second(21));
        relist.no_later_than(second(6));
        relist.no_later_than(second(9));
        assert_eq!(relist.due(second(2)), second(6));
        assert!(!relist.is_due(second(5)) && relist.is_due(second(6)));
        relist.at_once(second(3));
        assert!(relist.is_due(second(3)));
    }
}
