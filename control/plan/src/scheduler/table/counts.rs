//! Pods counted per row, for whoever asks about other pods.
//!
//! Invariants
//! - A question that is held is answered by its column, which changes with each pod that comes or goes: no answer
//!   looks at all pods. Its column is kept for a while after that. One that is not known is answered by looking at them.
//! - The terms that pods carry are counted by row as well, equal terms together.
//! - The version changes when there is a term that was not there, or namespaces have other labels: when a question
//!   may concern a pod that it did not concern before.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::Row;
use crate::scheduler::peers::{CarriedTerm, Namespaces, PodQuery};
use crate::scheduler::pod::PodInfo;

/// Questions that are kept, also without holders.
const MOST_QUESTIONS: usize = 1024;

/// Numbers of pods; rows without any are left out.
pub type Tally = BTreeMap<Row, u32>;

fn count(tally: &mut Tally, row: Row, sign: i64) {
    if sign > 0 {
        *tally.entry(row).or_default() += 1;
    } else if let Some(number) = tally.get_mut(&row) {
        *number -= 1;
        if *number == 0 {
            tally.remove(&row);
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Column {
    holders: usize,
    tally: Tally,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    namespaces: Namespaces,
    questions: HashMap<Arc<PodQuery>, Column>,
    carried: HashMap<Arc<CarriedTerm>, Tally>,
    version: u64,
}

/// All pods, with their rows.
type Pods<'a> = &'a [Vec<Arc<PodInfo>>];

fn tally(query: &PodQuery, pods: Pods<'_>, namespaces: &Namespaces) -> Tally {
    let numbered = (0_u32..).map(Row).zip(pods);
    let counted = numbered.map(|(row, pods)| {
        let matching = pods.iter().filter(|pod| query.matches(pod.subject(), namespaces));
        (row, u32::try_from(matching.count()).unwrap_or(u32::MAX))
    });
    counted.filter(|(_, number)| *number > 0).collect()
}

impl Counts {
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    pub fn carried(&self) -> impl Iterator<Item = (&CarriedTerm, &Tally)> {
        self.carried.iter().map(|(term, tally)| (&**term, tally))
    }

    pub fn hold(&mut self, query: &Arc<PodQuery>, pods: Pods<'_>) {
        if let Some(column) = self.questions.get_mut(query) {
            column.holders += 1;
            return;
        }
        if self.questions.len() >= MOST_QUESTIONS {
            self.questions.retain(|_, column| column.holders > 0);
        }
        let column = Column { holders: 1, tally: tally(query, pods, &self.namespaces) };
        self.questions.insert(query.clone(), column);
    }

    pub fn release(&mut self, query: &Arc<PodQuery>) {
        if let Some(column) = self.questions.get_mut(query) {
            column.holders = column.holders.saturating_sub(1);
        }
    }

    pub fn answer(&self, query: &PodQuery, pods: Pods<'_>) -> Cow<'_, Tally> {
        match self.questions.get(query) {
            Some(column) => Cow::Borrowed(&column.tally),
            None => Cow::Owned(tally(query, pods, &self.namespaces)),
        }
    }

    /// A pod came (`sign` 1) or went (-1).
    pub fn count(&mut self, row: Row, pod: &PodInfo, sign: i64) {
        let Self { namespaces, questions, carried, version } = self;
        for (query, column) in questions.iter_mut() {
            if query.matches(pod.subject(), namespaces) {
                count(&mut column.tally, row, sign);
            }
        }
        for term in &pod.spec.peers.carried {
            if let Some(tally) = carried.get_mut(term) {
                count(tally, row, sign);
                if tally.is_empty() {
                    carried.remove(term);
                }
            } else if sign > 0 {
                carried.insert(term.clone(), [(row, 1)].into());
                *version += 1;
            }
        }
    }

    /// A namespace has these labels now; `None`: it is gone. Whether that is news.
    pub fn set_namespace(&mut self, name: &str, labels: Option<BTreeMap<String, String>>, pods: Pods<'_>) -> bool {
        if self.namespaces.get(name) == labels.as_ref() {
            return false;
        }
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels),
            None => self.namespaces.remove(name),
        };
        self.version += 1;
        let concerned = self.questions.iter_mut().filter(|(query, _)| query.reads_namespaces());
        concerned.for_each(|(query, column)| column.tally = tally(query, pods, &self.namespaces));
        true
    }

    /// All that is counted, in order, as text.
    #[cfg(test)]
    pub fn dump(&self, names: &[crate::scheduler::NodeName]) -> Vec<String> {
        let named = |tally: &Tally| -> BTreeMap<String, u32> {
            tally.iter().map(|(row, number)| (names[row.index()].to_string(), *number)).collect()
        };
        let questions = self.questions.iter().map(|(query, column)| format!("{query:?} {:?}", named(&column.tally)));
        let carried = self.carried.iter().map(|(term, tally)| format!("{term:?} {:?}", named(tally)));
        let mut lines: Vec<String> = questions.chain(carried).collect();
        lines.sort();
        lines
    }
}
