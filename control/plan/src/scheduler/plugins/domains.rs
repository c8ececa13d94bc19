//! Numbers per topology domain: the nodes that have one value of a label.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::scheduler::table::{NodeTable, Row, Tally, Word, lookup};

/// Words are small numbers that nobody outside chooses: multiplying spreads them well enough.
#[derive(Default)]
pub(super) struct WordHasher(u64);

impl Hasher for WordHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }
}

type Numbers = HashMap<Word, i64, BuildHasherDefault<WordHasher>>;

/// The domains of one key.
#[derive(Clone, Debug)]
pub(super) struct Domains {
    /// `None`: no node has the label.
    key: Option<Word>,
    numbers: Numbers,
}

impl Domains {
    pub fn new(key: &str, nodes: &NodeTable) -> Self {
        Self { key: nodes.words().get(key), numbers: Numbers::default() }
    }

    /// The domain that a node is in.
    pub fn of(&self, nodes: &NodeTable, row: Row) -> Option<Word> {
        lookup(&nodes.labels[row.index()], self.key?)
    }

    pub fn add(&mut self, domain: Word, number: i64) {
        *self.numbers.entry(domain).or_default() += number;
    }

    /// Adds what was counted, each row's number to the domain that it is in, times `weight`.
    pub fn add_tally(&mut self, nodes: &NodeTable, tally: &Tally, weight: i64) {
        for (row, number) in tally {
            if let Some(domain) = self.of(nodes, *row) {
                self.add(domain, i64::from(*number) * weight);
            }
        }
    }

    /// The number of a domain, if it has one.
    pub fn get(&self, domain: Word) -> Option<i64> {
        self.numbers.get(&domain).copied()
    }

    /// The number of the domain that a node is in; zero if it is in none.
    pub fn at(&self, nodes: &NodeTable, row: Row) -> i64 {
        self.of(nodes, row).and_then(|domain| self.get(domain)).unwrap_or(0)
    }

    /// How many domains there are.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The least number of any domain.
    pub fn min(&self) -> i64 {
        self.numbers.values().copied().min().unwrap_or(0)
    }
}

/// The domains of `key` in a list by key, put there if they are not.
pub(super) fn of_key<'a>(list: &'a mut Vec<(String, Domains)>, key: &str, nodes: &NodeTable) -> &'a mut Domains {
    let at = list.iter().position(|(known, _)| known == key).unwrap_or_else(|| {
        list.push((key.to_owned(), Domains::new(key, nodes)));
        list.len() - 1
    });
    &mut list[at].1
}
