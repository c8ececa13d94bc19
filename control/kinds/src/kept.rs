//! Answers of others that hold for a while.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

/// What an answer is found by: a digest of the question, which may be secret and as long as somebody likes.
pub(crate) type Key = [u8; 32];

/// The key of a question of several parts.
pub(crate) fn key<'a>(parts: impl IntoIterator<Item = &'a str>) -> Key {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    digest.finalize().into()
}

/// Answers, at most so many.
pub(crate) struct Kept<V> {
    most: usize,
    answers: Mutex<HashMap<Key, (Timestamp, V)>>,
}

impl<V: Clone> Kept<V> {
    pub fn new(most: usize) -> Self {
        Self { most, answers: Mutex::default() }
    }

    /// An answer that still holds.
    pub fn get(&self, key: &Key, now: Timestamp) -> Option<V> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(key).filter(|(until, _)| *until > now).map(|(_, answer)| answer.clone())
    }

    /// Keeps an answer for so long; zero: not at all.
    pub fn put(&self, key: Key, answer: V, now: Timestamp, time: Duration) {
        let until = SignedDuration::try_from(time).ok().and_then(|time| now.checked_add(time).ok());
        let Some(until) = until.filter(|until| *until > now) else { return };
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= self.most {
            answers.retain(|_, (until, _)| *until > now);
        }
        if answers.len() >= self.most {
            answers.clear();
        }
        answers.insert(key, (until, answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_hold_for_their_time_and_are_bounded() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let (kept, long) = (Kept::new(2), Duration::from_secs(10));
        let (a, b, c) = (key(["a", "b"]), key(["ab", ""]), key(["a"]));
        kept.put(a, 1, at(0), long);
        kept.put(b, 2, at(5), long);
        kept.put(c, 3, at(5), Duration::ZERO);
        assert_eq!((kept.get(&a, at(9)), kept.get(&a, at(10))), (Some(1), None));
        assert_eq!((kept.get(&b, at(10)), kept.get(&c, at(5))), (Some(2), None), "parts are told apart");
        kept.put(c, 3, at(12), long);
        assert_eq!((kept.get(&b, at(12)), kept.get(&c, at(12))), (Some(2), Some(3)), "what is over makes room");
        kept.put(a, 4, at(12), long);
        assert_eq!((kept.get(&b, at(12)), kept.get(&a, at(12))), (None, Some(4)));
    }
}
