//! Pods for which room is being made on a node.
//!
//! Invariants
//! - A pod that is not more important than a nominated one may take only what is left with that one there, and what
//!   is there without it: it may neither need its room nor need it as a neighbour.
//! - A nominated pod is not filed in the table; it is put there for a moment while its node is judged.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::cache::{Class, PASSES, Verdict};
use super::{Plugins, Refusal};
use crate::scheduler::NodeName;
use crate::scheduler::pod::PodInfo;
use crate::scheduler::table::{NodeTable, Row};

/// See the module.
#[derive(Default)]
pub(super) struct Nominations {
    by_uid: BTreeMap<String, (Arc<PodInfo>, NodeName)>,
}

impl Nominations {
    pub fn insert(&mut self, pod: &Arc<PodInfo>, node: &NodeName) {
        self.by_uid.insert(pod.uid.clone(), (pod.clone(), node.clone()));
    }

    pub fn remove(&mut self, uid: &str) -> Option<NodeName> {
        self.by_uid.remove(uid).map(|(_, node)| node)
    }

    pub fn node_of(&self, uid: &str) -> Option<&NodeName> {
        self.by_uid.get(uid).map(|(_, node)| node)
    }

    /// Those on a node that are less important than `pod`.
    pub fn below(&self, pod: &PodInfo, node: &str) -> Vec<String> {
        let below = |other: &PodInfo, on: &str| on == node && other.priority < pod.priority;
        self.by_uid.iter().filter(|(_, (other, on))| below(other, on)).map(|(uid, _)| uid.clone()).collect()
    }

    /// Those on a node that `pod` has to respect.
    fn above(&self, pod: &PodInfo, node: &str) -> Vec<Arc<PodInfo>> {
        let above = |other: &PodInfo, on: &str| on == node && other.uid != pod.uid && other.priority >= pod.priority;
        self.by_uid.values().filter(|(other, on)| above(other, on)).map(|(other, _)| other.clone()).collect()
    }

    /// What the plugins say of a node with the pods that are nominated there.
    pub fn refusal(
        &self,
        pod: &PodInfo,
        plugins: Plugins,
        nodes: &mut NodeTable,
        class: &mut Class,
        row: Row,
    ) -> Option<(usize, Refusal)> {
        let node = nodes.name(row).clone();
        let mut there = self.above(pod, &node);
        there.retain(|other| nodes.node_of(&other.uid).is_none());
        if there.is_empty() {
            return None;
        }
        for other in &there {
            nodes.add_pod(other.clone(), &node);
        }
        class.refresh(plugins, nodes);
        let refusal = class.judge(plugins, nodes, row);
        for other in &there {
            nodes.remove_pod(&other.uid);
        }
        class.refresh(plugins, nodes);
        refusal
    }

    /// The nodes that are refused for the sake of nominated pods. The class is fresh afterwards.
    pub fn refusals(
        &self,
        pod: &PodInfo,
        plugins: Plugins,
        nodes: &mut NodeTable,
        class: &mut Class,
    ) -> HashMap<Row, Verdict> {
        let mut rows: Vec<Row> = self.by_uid.values().filter_map(|(_, node)| nodes.row_of(node)).collect();
        rows.sort_unstable();
        rows.dedup();
        let refused = |row: &Row| Some((*row, self.refusal(pod, plugins, nodes, class, *row)?));
        let refused: Vec<_> = rows.iter().filter_map(refused).collect();
        refused.into_iter().map(|(row, refusal)| (row, class.intern(refusal))).collect()
    }
}

impl Class {
    /// What the plugins say of a node, whether or not they refuse all at once.
    pub fn judge(&mut self, plugins: Plugins, nodes: &NodeTable, row: Row) -> Option<(usize, Refusal)> {
        if let Some((id, reason)) = self.cycle.rejection {
            return Some((id, Refusal::unresolvable(reason)));
        }
        match self.verdict(plugins, nodes, row) {
            PASSES => None,
            verdict => self.refusal(verdict).cloned(),
        }
    }
}
