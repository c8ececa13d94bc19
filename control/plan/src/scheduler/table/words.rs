//! Interned text: label keys and values, taints, image and resource names are compared as numbers.
//!
//! Invariants
//! - A word stands for one text as long as somebody holds it; afterwards its number may stand for
//!   another, and the generation tells.

use std::collections::HashMap;
use std::sync::Arc;

/// A text's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Word(u32);

impl Word {
    /// The number itself, to be kept where only numbers fit.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

#[derive(Clone, Debug)]
struct Known {
    text: Arc<str>,
    holders: u32,
}

/// All words in use.
#[derive(Clone, Debug, Default)]
pub struct Words {
    numbers: HashMap<Arc<str>, Word>,
    known: Vec<Known>,
    free: Vec<Word>,
    generation: u64,
}

impl Words {
    /// Changes whenever a text becomes a word.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The word for a text, if anybody holds it.
    #[must_use]
    pub fn get(&self, text: &str) -> Option<Word> {
        self.numbers.get(text).copied()
    }

    /// The text that a number stands for.
    #[must_use]
    pub fn text_of(&self, number: u32) -> &str {
        self.known.get(number as usize).map_or("", |known| &known.text)
    }

    /// The text of a word.
    #[must_use]
    pub fn text(&self, word: Word) -> &str {
        self.text_of(word.0)
    }

    /// Holds a text's word once more.
    pub(super) fn hold(&mut self, text: &str) -> Word {
        if let Some(word) = self.numbers.get(text) {
            self.known[word.0 as usize].holders += 1;
            return *word;
        }
        self.generation += 1;
        let known = Known { text: text.into(), holders: 1 };
        let word = match self.free.pop() {
            Some(word) => {
                self.known[word.0 as usize] = known.clone();
                word
            }
            None => {
                self.known.push(known.clone());
                Word(u32::try_from(self.known.len() - 1).expect("fewer words than fit a number"))
            }
        };
        self.numbers.insert(known.text, word);
        word
    }

    /// Holds it once less.
    pub(super) fn release(&mut self, word: Word) {
        let known = &mut self.known[word.0 as usize];
        known.holders -= 1;
        if known.holders == 0 {
            self.numbers.remove(&known.text);
            self.free.push(word);
        }
    }

    /// Texts that are words.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.numbers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_lasts_as_long_as_it_is_held() {
        let mut words = Words::default();
        let (a, again) = (words.hold("a"), words.hold("a"));
        assert_eq!((a, words.generation()), (again, 1));
        words.release(a);
        assert_eq!(words.get("a"), Some(a));
        words.release(a);
        assert_eq!((words.get("a"), words.len()), (None, 0));
        assert_eq!((words.hold("b"), words.generation()), (a, 2), "its number serves again, and the generation tells");
        assert_eq!(words.text(a), "b");
    }
}
