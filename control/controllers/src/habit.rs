//! Keys whose actions come to nothing: what a key's plans asked for in a row, and how long it waits before it
//! asks for the same again.
//!
//! Invariants
//! - A plan that asks for something else than the one before is carried out at once, and so is the first
//!   repetition after anything changed for the better.
//! - Actions that succeeded and changed nothing are not carried out again before a pause is over, which doubles
//!   with each time, has jitter and an end. What changed something and is asked for again all the same gets
//!   [`PATIENCE`] turns first: then somebody undoes it each time, or the API does not keep what was written.
//! - A habit is told of once, however long it lasts.
//! - Memory is bounded: beyond [`REMEMBERED`](kontiki_model::pace::REMEMBERED) keys those whose pause is over are
//!   forgotten.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use kontiki_model::pace::make_room;
use rand::Rng as _;

/// The first pause.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest one.
const LAST_PAUSE: Duration = Duration::from_secs(300);
/// How often in a row the same actions may have an effect.
const PATIENCE: u32 = 10;
/// The pause at which people are told.
const TOLD: u32 = 5;

struct Habit {
    fingerprint: u64,
    /// How often in a row these actions were carried out.
    times: u32,
    /// How often of that they should not have been.
    strikes: u32,
    until: Instant,
}

/// The habits of one controller.
pub(crate) struct Habits<K> {
    known: HashMap<K, Habit>,
}

impl<K> Default for Habits<K> {
    fn default() -> Self {
        Self { known: HashMap::new() }
    }
}

fn pause(strikes: u32) -> Duration {
    let Some(doublings) = strikes.checked_sub(1) else { return Duration::ZERO };
    let longest = FIRST_PAUSE.saturating_mul(1 << doublings.min(16)).min(LAST_PAUSE);
    longest.mul_f64(rand::rng().random_range(0.5..1.0))
}

impl<K: Clone + Eq + Hash> Habits<K> {
    /// Until when `key` has to wait if its plan asks for `fingerprint`; `None`: not at all.
    pub fn held(&self, key: &K, fingerprint: u64, now: Instant) -> Option<Instant> {
        self.known
            .get(key)
            .filter(|habit| habit.fingerprint == fingerprint && habit.until > now)
            .map(|habit| habit.until)
    }

    /// The plan `fingerprint` of `key` was carried out. True if people should be told.
    pub fn done(&mut self, key: &K, fingerprint: u64, effect: bool, now: Instant) -> bool {
        // Whatever is forgotten gets one more chance at once.
        make_room(&mut self.known, |habit| habit.until > now);
        let habit = self.known.entry(key.clone()).or_insert(Habit { fingerprint, times: 0, strikes: 0, until: now });
        if habit.fingerprint != fingerprint {
            *habit = Habit { fingerprint, times: 0, strikes: 0, until: now };
        }
        habit.times = habit.times.saturating_add(1);
        if effect && habit.times <= PATIENCE {
            habit.strikes = 0;
        } else {
            habit.strikes = habit.strikes.saturating_add(1);
        }
        habit.until = now + pause(habit.strikes);
        habit.strikes == TOLD
    }

    /// The plan of `key` asks for nothing.
    pub fn forget(&mut self, key: &K) {
        self.known.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use kontiki_model::pace::REMEMBERED;

    use super::*;

    /// Asks for the plans of `text` in turn, one each `step`: small letters have an effect, capitals have none,
    /// `.` asks for nothing. Shows those that were carried out, `-` for those that were held, `!` where people are
    /// told.
    fn show(text: &str, step: Duration) -> String {
        let (mut habits, mut now, mut out) = (Habits::default(), Instant::now(), String::new());
        for letter in text.chars() {
            now += step;
            let fingerprint = u64::from(letter.to_ascii_lowercase());
            if letter == '.' {
                habits.forget(&"key");
                out.push('.');
            } else if habits.held(&"key", fingerprint, now).is_some() {
                out.push('-');
            } else {
                out.push(letter);
                if habits.done(&"key", fingerprint, letter.is_ascii_lowercase(), now) {
                    out.push('!');
                }
            }
        }
        out
    }

    #[test]
    fn what_changes_nothing_waits() {
        let (at_once, later) = (Duration::from_millis(1), LAST_PAUSE);
        for (name, text, step, expect) in [
            ("once is no habit", "A", at_once, "A"),
            ("the same again is held", "AAAA", at_once, "A---"),
            ("something else is not", "ABAB", at_once, "ABAB"),
            ("nothing to do ends it", "A.A.A", at_once, "A.A.A"),
            ("people are told once", "AAAAAAAA", later, "AAAAA!AAA"),
            ("an effect in time ends it", "AAaAAAAAA", later, "AAaAAAAA!A"),
            ("what has an effect gets more patience", "aaaaaaaaaaaaa", at_once, "aaaaaaaaaaa--"),
        ] {
            assert_eq!(show(text, step), expect, "{name}");
        }
    }

    #[test]
    fn pauses_double_up_to_five_minutes() {
        for (strikes, longest) in [(0, 0), (1, 200), (2, 400), (5, 3200), (11, 204_800), (12, 300_000), (99, 300_000)] {
            let (pause, longest) = (pause(strikes), Duration::from_millis(longest));
            assert!(longest / 2 <= pause && pause <= longest, "{strikes}: {pause:?}");
        }
    }

    #[test]
    fn memory_is_bounded() {
        let (mut habits, now) = (Habits::default(), Instant::now());
        for key in 0..2 * REMEMBERED {
            habits.done(&key, 1, false, now);
        }
        assert!(habits.known.len() <= REMEMBERED);
    }
}
