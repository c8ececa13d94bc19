//! A pod that no node takes, and the table to try things out on.
//!
//! Invariants
//! - Whatever was taken off is put back: the table says afterwards what it said before, at a later time.

use std::sync::Arc;

use super::cache::Class;
use super::nominations::Nominations;
use super::{Budget, Diagnosis, Plugins};
use crate::scheduler::pod::PodInfo;
use crate::scheduler::table::{NodeTable, Row};

/// See the module.
pub struct Attempt<'a> {
    /// The pod.
    pub pod: &'a PodInfo,
    /// How the nodes answered it.
    pub diagnosis: &'a Diagnosis,
    /// What disruption budgets allow.
    pub budgets: &'a [Budget],
    pub(super) plugins: Plugins,
    pub(super) nodes: &'a mut NodeTable,
    pub(super) class: &'a mut Class,
    pub(super) nominations: &'a Nominations,
    pub(super) start: usize,
}

impl Attempt<'_> {
    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &NodeTable {
        self.nodes
    }

    /// The node where room was being made for the pod.
    #[must_use]
    pub fn nominated(&self) -> Option<Row> {
        self.nodes.row_of(self.nominations.node_of(&self.pod.uid)?)
    }

    /// Whether other pods' going could make a node take the pod.
    pub fn may_help(&mut self, row: Row) -> bool {
        self.class.refresh(self.plugins, self.nodes);
        let refusal = self.class.judge(self.plugins, self.nodes, row);
        let refusal = refusal.or_else(|| self.with_nominated(row));
        refusal.is_some_and(|(_, refusal)| !refusal.unresolvable)
    }

    /// The nodes of which that is true, each time from another place on.
    pub fn candidates(&mut self) -> Vec<Row> {
        if self.class.cycle.rejection.is_some() {
            return Vec::new();
        }
        let rows = self.nodes.rows();
        let start = if rows.is_empty() { 0 } else { self.start % rows.len() };
        let rows: Vec<Row> = rows[start..].iter().chain(&rows[..start]).copied().collect();
        rows.into_iter().filter(|row| self.may_help(*row)).collect()
    }

    /// Whether a node takes the pod as the table is now.
    ///
    /// # Errors
    /// Why it does not, in words.
    pub fn fits(&mut self, row: Row) -> Result<(), Vec<String>> {
        self.class.refresh(self.plugins, self.nodes);
        let refusal = self.with_nominated(row).or_else(|| self.class.judge(self.plugins, self.nodes, row));
        let Some((id, refusal)) = refusal else { return Ok(()) };
        let (plugin, cx) = (self.plugins[id], self.class.cycle.context(self.nodes));
        Err(refusal.reasons().map(|reason| (plugin.describe)(&cx, reason)).collect())
    }

    fn with_nominated(&mut self, row: Row) -> Option<(usize, super::Refusal)> {
        self.nominations.refusal(self.pod, self.plugins, self.nodes, self.class, row)
    }

    /// The pods of a node.
    #[must_use]
    pub fn pods(&self, row: Row) -> Vec<Arc<PodInfo>> {
        self.nodes.pods[row.index()].clone()
    }

    /// Takes a pod off its node.
    pub fn take_off(&mut self, pod: &PodInfo) {
        self.nodes.remove_pod(&pod.uid);
    }

    /// Puts it back.
    pub fn put_back(&mut self, pod: &Arc<PodInfo>, row: Row) {
        let node = self.nodes.name(row).clone();
        self.nodes.add_pod(pod.clone(), &node);
    }
}
