//! The nodes, as columns of numbers that are kept up to date change by change.
//!
//! Invariants
//! - A row's sums are those of the pods filed under it, always: the columns change only together
//!   with the file of pods. A table that was kept up to date equals one that was built anew.
//! - A row without a node keeps the sums of pods bound to a node that is not known yet, or any more;
//!   it is never offered. A row without node and pods is used again for another node.
//! - Whatever changes what a plugin may read of a row gives that row a new generation, larger than
//!   all before; what changes nothing does not.

mod counts;
mod event;
mod facts;
mod shared;
#[cfg(test)]
mod tests;
mod words;

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use counts::Counts;
pub use counts::Tally;
pub use event::{ClusterEvent, EventKinds};
use facts::NodeFacts;
pub use facts::{NodeTaint, Scalars};
pub use words::{Word, Words};

use super::NodeName;
use super::pod::{HostPort, PodInfo};
use super::volumes::{ClaimKey, Volumes};
use crate::hash::fnv64;
use crate::object::name;

/// A node's place in the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row(u32);

impl Row {
    /// Where in a column it is.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Amounts per row.
#[derive(Clone, Debug, Default)]
pub struct Amounts {
    /// In thousandths of a core.
    pub milli_cpu: Vec<i64>,
    /// In bytes.
    pub memory: Vec<i64>,
    /// In bytes.
    pub ephemeral_storage: Vec<i64>,
    /// Extended resources and huge pages.
    pub scalars: Vec<Scalars>,
}

impl Amounts {
    fn push(&mut self) {
        self.milli_cpu.push(0);
        self.memory.push(0);
        self.ephemeral_storage.push(0);
        self.scalars.push(Scalars::new());
    }
}

/// What pods count for in scores, per row.
#[derive(Clone, Debug, Default)]
pub struct NonZeroRequested {
    /// In thousandths of a core.
    pub milli_cpu: Vec<i64>,
    /// In bytes.
    pub memory: Vec<i64>,
}

/// Nodes and the pods on them. The columns are for plugins to read.
#[derive(Clone, Debug, Default)]
pub struct NodeTable {
    /// Labels as words, sorted by key.
    pub(super) labels: Vec<Vec<(Word, Word)>>,
    pub(super) taints: Vec<Vec<NodeTaint>>,
    pub(super) unschedulable: Vec<bool>,
    pub(super) max_pods: Vec<usize>,
    pub(super) allocatable: Amounts,
    pub(super) requested: Amounts,
    pub(super) non_zero_requested: NonZeroRequested,
    pub(super) pods: Vec<Vec<Arc<PodInfo>>>,
    /// Ports of the node that its pods have.
    pub(super) ports: Vec<Vec<HostPort>>,
    /// Size of each image that is there, sorted by image.
    pub(super) images: Vec<Vec<(Word, i64)>>,

    counts: Counts,
    volumes: Volumes,
    /// Pods that are filed, by the claims that they mount.
    users: HashMap<ClaimKey, u32>,
    words: Words,
    names: Vec<NodeName>,
    name_hashes: Vec<u64>,
    present: Vec<bool>,
    generations: Vec<u64>,
    generation: u64,
    /// Rows with a node.
    rows: Vec<Row>,
    /// Rows without a name.
    free: Vec<Row>,
    by_name: HashMap<NodeName, Row>,
    /// Where each pod is filed, by uid.
    file: HashMap<String, Row>,
}

/// Looks a word up in a sorted column.
pub(super) fn lookup<V: Copy>(pairs: &[(Word, V)], word: Word) -> Option<V> {
    pairs.binary_search_by_key(&word, |(key, _)| *key).ok().map(|at| pairs[at].1)
}

impl NodeTable {
    /// The nodes that are there.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// How long the columns are.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.names.len()
    }

    /// A node's name.
    #[must_use]
    pub fn name(&self, row: Row) -> &NodeName {
        &self.names[row.index()]
    }

    /// The row of a node that is there.
    #[must_use]
    pub fn row_of(&self, name: &str) -> Option<Row> {
        self.by_name.get(name).copied().filter(|row| self.is_present(*row))
    }

    pub(super) fn name_hash(&self, row: Row) -> u64 {
        self.name_hashes[row.index()]
    }

    pub(super) fn is_present(&self, row: Row) -> bool {
        self.present.get(row.index()) == Some(&true)
    }

    /// Changes with anything in the table.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Changes with anything in the row.
    #[must_use]
    pub fn generation_of(&self, row: Row) -> u64 {
        self.generations[row.index()]
    }

    /// The texts behind words.
    #[must_use]
    pub fn words(&self) -> &Words {
        &self.words
    }

    /// Where a pod is filed.
    #[must_use]
    pub fn node_of(&self, uid: &str) -> Option<&NodeName> {
        self.file.get(uid).map(|row| self.name(*row))
    }

    fn touch(&mut self, row: Row) {
        self.generation += 1;
        self.generations[row.index()] = self.generation;
    }

    /// The row of a node, made if there is none.
    fn row(&mut self, name: &str) -> Row {
        if let Some(row) = self.by_name.get(name) {
            return *row;
        }
        let row = self.free.pop().unwrap_or_else(|| self.grow());
        let name: NodeName = name.into();
        self.name_hashes[row.index()] = fnv64(name.as_bytes());
        self.names[row.index()] = name.clone();
        self.by_name.insert(name, row);
        row
    }

    fn grow(&mut self) -> Row {
        let row = Row(u32::try_from(self.names.len()).expect("fewer nodes than fit a number"));
        self.labels.push(Vec::new());
        self.taints.push(Vec::new());
        self.unschedulable.push(false);
        self.max_pods.push(0);
        self.allocatable.push();
        self.requested.push();
        self.non_zero_requested.milli_cpu.push(0);
        self.non_zero_requested.memory.push(0);
        self.pods.push(Vec::new());
        self.ports.push(Vec::new());
        self.images.push(Vec::new());
        self.names.push("".into());
        self.name_hashes.push(0);
        self.present.push(false);
        self.generations.push(0);
        row
    }

    fn free_if_unused(&mut self, row: Row) {
        if !self.present[row.index()] && self.pods[row.index()].is_empty() {
            self.by_name.remove(&self.names[row.index()]);
            self.free.push(row);
        }
    }

    /// Puts what a node says into the columns; gives back what stood there.
    fn exchange(&mut self, row: Row, facts: NodeFacts) -> NodeFacts {
        use std::mem::replace;
        let (at, have) = (row.index(), &mut self.allocatable);
        NodeFacts {
            labels: replace(&mut self.labels[at], facts.labels),
            taints: replace(&mut self.taints[at], facts.taints),
            unschedulable: replace(&mut self.unschedulable[at], facts.unschedulable),
            max_pods: replace(&mut self.max_pods[at], facts.max_pods),
            milli_cpu: replace(&mut have.milli_cpu[at], facts.milli_cpu),
            memory: replace(&mut have.memory[at], facts.memory),
            ephemeral_storage: replace(&mut have.ephemeral_storage[at], facts.ephemeral_storage),
            scalars: replace(&mut have.scalars[at], facts.scalars),
            images: replace(&mut self.images[at], facts.images),
        }
    }

    /// A node came or changed. What of it may matter to a pod that fits nowhere.
    pub fn set_node(&mut self, node: &Node) -> Option<ClusterEvent> {
        let row = self.row(name(&node.metadata));
        let new = NodeFacts::read(node, &mut self.words);
        let old = self.exchange(row, new.clone());
        let came = !std::mem::replace(&mut self.present[row.index()], true);
        if came {
            self.rows.push(row);
        }
        if came || old != new {
            self.touch(row);
        }
        let amounts = |f: &NodeFacts| (f.max_pods, f.milli_cpu, f.memory, f.ephemeral_storage);
        let kinds = EventKinds::NODE_ADD
            .when(came)
            .or(EventKinds::NODE_ALLOCATABLE.when(amounts(&old) != amounts(&new) || old.scalars != new.scalars))
            .or(EventKinds::NODE_LABEL.when(old.labels != new.labels))
            .or(EventKinds::NODE_TAINT.when(old.unschedulable != new.unschedulable || old.taints != new.taints));
        old.release(&mut self.words);
        ClusterEvent::new(row, kinds)
    }

    /// A node went.
    pub fn remove_node(&mut self, name: &str) -> Option<ClusterEvent> {
        let row = self.row_of(name)?;
        self.exchange(row, NodeFacts::default()).release(&mut self.words);
        self.present[row.index()] = false;
        self.rows.retain(|other| *other != row);
        self.touch(row);
        self.free_if_unused(row);
        ClusterEvent::new(row, EventKinds::NODE_DELETE)
    }

    /// A pod takes up room on `node`. Said again, it replaces what was said before.
    pub fn add_pod(&mut self, pod: Arc<PodInfo>, node: &str) -> Option<ClusterEvent> {
        let row = self.row(node);
        let place = |table: &Self| table.pods[row.index()].iter().position(|other| other.uid == pod.uid);
        if self.file.get(&pod.uid) == Some(&row)
            && let Some(at) = place(self)
            && self.pods[row.index()][at].terminating == pod.terminating
            && self.pods[row.index()][at].spec.same_footprint(&pod.spec)
        {
            self.pods[row.index()][at] = pod;
            return None;
        }
        let event = self.remove_pod_for(&pod.uid, row);
        self.file.insert(pod.uid.clone(), row);
        self.count(row, &pod, 1);
        self.pods[row.index()].push(pod);
        self.touch(row);
        event.or_else(|| ClusterEvent::new(row, EventKinds::POD_ADD))
    }

    /// Removes a pod that comes to `new`, which stays even if it is empty for a moment.
    fn remove_pod_for(&mut self, uid: &str, new: Row) -> Option<ClusterEvent> {
        let old = self.unfile(uid)?;
        if old == new {
            return ClusterEvent::new(old, EventKinds::POD_UPDATE);
        }
        self.free_if_unused(old);
        ClusterEvent::new(old, EventKinds::POD_DELETE)
    }

    /// A pod does not take up room any more.
    pub fn remove_pod(&mut self, uid: &str) -> Option<ClusterEvent> {
        let row = self.unfile(uid)?;
        self.free_if_unused(row);
        ClusterEvent::new(row, EventKinds::POD_DELETE)
    }

    fn unfile(&mut self, uid: &str) -> Option<Row> {
        let row = self.file.remove(uid)?;
        let pods = &mut self.pods[row.index()];
        let at = pods.iter().position(|pod| pod.uid == uid)?;
        let pod = pods.swap_remove(at);
        self.count(row, &pod, -1);
        self.touch(row);
        Some(row)
    }

    /// Adds what a pod takes up (`sign` 1), or takes it off (-1).
    fn count(&mut self, row: Row, pod: &PodInfo, sign: i64) {
        let at = row.index();
        let add = |sum: &mut i64, amount: i64| *sum = sum.saturating_add(amount.saturating_mul(sign));
        let spec = &pod.spec;
        let (used, requests) = (&mut self.requested, &spec.requests);
        add(&mut used.milli_cpu[at], requests.milli_cpu);
        add(&mut used.memory[at], requests.memory);
        add(&mut used.ephemeral_storage[at], requests.ephemeral_storage);
        for (name, amount) in requests.scalar.iter().filter(|(_, amount)| **amount > 0) {
            count_scalar(&mut used.scalars[at], &mut self.words, name, amount * sign);
        }
        add(&mut self.non_zero_requested.milli_cpu[at], spec.non_zero_requests.milli_cpu);
        add(&mut self.non_zero_requested.memory[at], spec.non_zero_requests.memory);
        for port in &spec.ports {
            let taken = &mut self.ports[at];
            if sign > 0 {
                taken.push(port.clone());
            } else if let Some(place) = taken.iter().position(|other| other == port) {
                taken.swap_remove(place);
            }
        }
        self.counts.count(row, pod, sign);
        self.count_users(spec, sign);
    }
}

/// A sum that comes to nothing is left out, and its word let go.
fn count_scalar(sums: &mut Scalars, words: &mut Words, name: &str, amount: i64) {
    let known = words.get(name).and_then(|word| sums.iter().position(|(other, _)| *other == word));
    match known {
        Some(at) => {
            sums[at].1 = sums[at].1.saturating_add(amount);
            if sums[at].1 == 0 {
                words.release(sums.remove(at).0);
            }
        }
        None => {
            let word = words.hold(name);
            let at = sums.partition_point(|(other, _)| *other < word);
            sums.insert(at, (word, amount));
        }
    }
}
