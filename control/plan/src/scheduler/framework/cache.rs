//! The equivalence cache: pods with equal specs share what the plugins said of each node.
//!
//! Invariants
//! - Only answers of plugins that judge a row by itself are kept. One is used only while the row's generation is the
//!   one that it was given for.
//! - A class is prepared anew when words came into the table that its plugins may have looked for in
//!   vain, or terms that concern it, and, if any of them judges by other nodes too, whenever anything changed.
//! - The table counts the pods that a class asks about as long as the class is known.
//! - With and without the cache the decisions are the same.
//! - A spec that was seen once costs no memory per row.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::cycle::Cycle;
use super::{Plugins, Refusal};
use crate::scheduler::pod::SchedulingSpec;
use crate::scheduler::table::{NodeTable, Row};

/// Classes that are known at most, however few nodes there are.
const MOST_CLASSES: usize = 512;
/// A score that was not asked for yet.
const UNKNOWN: i64 = i64::MIN;

/// The answer to a filter: zero if the node passes, else one more than the refusal's place.
pub(super) type Verdict = u32;
pub(super) const PASSES: Verdict = 0;

/// What the filters and scores said, row by row.
#[derive(Default)]
struct Answers {
    generations: Vec<u64>,
    verdicts: Vec<Verdict>,
    /// As many numbers for each row as there are scorers.
    scores: Vec<i64>,
    /// Different refusals, each with its plugin.
    refusals: Vec<(usize, Refusal)>,
    places: HashMap<(usize, Refusal), Verdict>,
}

impl Answers {
    fn intern(&mut self, refusal: (usize, Refusal)) -> Verdict {
        match self.places.entry(refusal) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                self.refusals.push(new.key().clone());
                let verdict = Verdict::try_from(self.refusals.len()).unwrap_or(Verdict::MAX);
                *new.insert(verdict)
            }
        }
    }
}

/// Pods with equal specs.
pub(super) struct Class {
    pub cycle: Cycle,
    answers: Answers,
    /// Whether answers are kept.
    keeps: bool,
    last_used: u64,
}

impl Class {
    fn new(cycle: Cycle, last_used: u64) -> Self {
        Self { cycle, answers: Answers::default(), keeps: false, last_used }
    }

    /// Prepares it for what the table says now.
    pub fn refresh(&mut self, plugins: Plugins, nodes: &NodeTable) {
        if !self.cycle.is_fresh(nodes) {
            let cycle = Cycle::prepare(plugins, self.cycle.spec.clone(), nodes);
            if !cycle.answers_like(&self.cycle) {
                self.answers = Answers::default();
            }
            self.cycle = cycle;
            if self.keeps {
                self.keep_answers(nodes);
            }
        }
    }

    fn keep_answers(&mut self, nodes: &NodeTable) {
        self.keeps = true;
        let rows = nodes.capacity();
        self.answers.generations.resize(rows, 0);
        self.answers.verdicts.resize(rows, PASSES);
        self.answers.scores.resize(rows * self.cycle.scorers.len(), UNKNOWN);
    }

    /// What the filters say of a node.
    pub fn verdict(&mut self, plugins: Plugins, nodes: &NodeTable, row: Row) -> Verdict {
        match self.own_verdict(plugins, nodes, row) {
            PASSES => self.cycle.wide_filter(plugins, nodes, row).map_or(PASSES, |refusal| self.intern(refusal)),
            refused => refused,
        }
    }

    /// The verdict that stands for a refusal.
    pub fn intern(&mut self, refusal: (usize, Refusal)) -> Verdict {
        self.answers.intern(refusal)
    }

    /// The refusal that a verdict stands for.
    pub fn refusal(&self, verdict: Verdict) -> Option<&(usize, Refusal)> {
        self.answers.refusals.get((verdict as usize).checked_sub(1)?)
    }

    fn own_verdict(&mut self, plugins: Plugins, nodes: &NodeTable, row: Row) -> Verdict {
        let (at, generation) = (row.index(), nodes.generation_of(row));
        if self.keeps && self.answers.generations[at] == generation {
            return self.answers.verdicts[at];
        }
        let refused = self.cycle.filter(plugins, nodes, row);
        let verdict = refused.map_or(PASSES, |refusal| self.answers.intern(refusal));
        if self.keeps {
            self.answers.generations[at] = generation;
            self.answers.verdicts[at] = verdict;
            let scorers = self.cycle.scorers.len();
            if scorers > 0 {
                self.answers.scores[at * scorers] = UNKNOWN;
            }
        }
        verdict
    }

    /// Adds what the scorers say of a node that has just passed the filters.
    pub fn scores(&mut self, plugins: Plugins, nodes: &NodeTable, row: Row, out: &mut Vec<i64>) {
        if !self.keeps {
            out.extend(self.cycle.score(plugins, nodes, row));
            return;
        }
        let scorers = self.cycle.scorers.len();
        let (from, to) = (row.index() * scorers, (row.index() + 1) * scorers);
        let kept = &mut self.answers.scores[from..to];
        if kept.first() == Some(&UNKNOWN) {
            kept.iter_mut().zip(self.cycle.score(plugins, nodes, row)).for_each(|(kept, score)| *kept = score);
        }
        out.extend_from_slice(kept);
    }

    /// The refusals that verdicts stand for.
    pub fn refusals(&self) -> &[(usize, Refusal)] {
        &self.answers.refusals
    }
}

/// See the module.
pub(super) struct EquivalenceCache {
    /// By fingerprint; a spec with the fingerprint of another takes its place.
    classes: HashMap<u64, Class>,
    /// Rows that all classes may keep together; none: nothing is kept.
    rows: usize,
    clock: u64,
}

impl EquivalenceCache {
    pub fn new(rows: usize) -> Self {
        Self { classes: HashMap::new(), rows, clock: 0 }
    }

    /// The class of a spec, ready to be asked.
    pub fn class(&mut self, plugins: Plugins, spec: &Arc<SchedulingSpec>, nodes: &mut NodeTable) -> &mut Class {
        self.clock += 1;
        let fingerprint = spec.fingerprint();
        let known = self.rows > 0 && self.classes.get(&fingerprint).is_some_and(|class| class.cycle.spec == *spec);
        if known {
            let class = self.classes.get_mut(&fingerprint).expect("it was there a line above");
            class.refresh(plugins, nodes);
            class.keep_answers(nodes);
            class.last_used = self.clock;
            return class;
        }
        spec.peers.queries().for_each(|query| nodes.hold(query));
        self.forget(fingerprint, nodes);
        self.make_room(nodes);
        let class = Class::new(Cycle::prepare(plugins, spec.clone(), nodes), self.clock);
        self.classes.insert(fingerprint, class);
        self.classes.get_mut(&fingerprint).expect("it was put there a line above")
    }

    /// Forgets the class that was not asked for the longest.
    fn make_room(&mut self, nodes: &mut NodeTable) {
        let most = (self.rows / nodes.capacity().max(1)).clamp(1, MOST_CLASSES);
        while self.classes.len() >= most {
            let oldest = self.classes.iter().min_by_key(|(_, class)| class.last_used).map(|(key, _)| *key);
            oldest.into_iter().for_each(|key| self.forget(key, nodes));
        }
    }

    fn forget(&mut self, fingerprint: u64, nodes: &mut NodeTable) {
        if let Some(class) = self.classes.remove(&fingerprint) {
            class.cycle.spec.peers.queries().for_each(|query| nodes.release(query));
        }
    }
}
