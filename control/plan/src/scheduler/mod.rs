//! The scheduler's decision: which node a pod goes to, or why there is none.
//!
//! Invariants
//! - [`place`] is a function of the table and the pod: the same two give the same node. Ties are
//!   broken by a hash of pod and node, so that equal pods spread over equal nodes.
//! - The table holds every pod that takes up room somewhere, bound or about to be; a pod counts
//!   once, whatever order its events come in.
//! - A refusal counts every node exactly once, under the first filter that refused it.
//!
//! `resources` adds up requests, `table` keeps nodes as rows, `filters` and `scores` are static
//! lists. Not here: queueing, binding, waiting (`kontiki-scheduler`).

mod filters;
mod pod;
pub mod resources;
mod scores;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

pub use filters::{FILTERS, Filter, Refusal};
pub use pod::PodInfo;
pub use scores::{SCORES, Score};
pub use table::{NodeRow, Snapshot};

use crate::hash::fnv64;

/// The name of a node.
pub type NodeName = std::sync::Arc<str>;

/// Clusters up to this size are searched completely.
const SMALL: usize = 100;

/// Why no node takes a pod: nodes per reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unschedulable {
    /// Nodes there are.
    pub nodes: usize,
    /// Nodes per reason; a node that lacks two resources counts under both.
    pub reasons: BTreeMap<String, usize>,
    /// Nodes on which not even an empty node would do.
    pub hopeless: usize,
}

impl fmt::Display for Unschedulable {
    /// Upstream's `FailedScheduling` text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let mut reasons: Vec<String> = self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        write!(f, "0/{} nodes are available: {}.", self.nodes, reasons.join(", "))?;
        let victims = self.nodes - self.hopeless;
        let mut preemption = Vec::new();
        if victims > 0 {
            preemption.push(format!("{victims} No preemption victims found for incoming pod"));
        }
        if self.hopeless > 0 {
            preemption.push(format!("{} Preemption is not helpful for scheduling", self.hopeless));
        }
        preemption.sort();
        write!(f, " preemption: 0/{} nodes are available: {}.", self.nodes, preemption.join(", "))
    }
}

/// Finds a node for a pod.
///
/// # Errors
/// Counts what each filter refused, if no node is left.
pub fn place(snapshot: &Snapshot, pod: &PodInfo) -> Result<NodeName, Unschedulable> {
    let nodes: Vec<&NodeRow> = snapshot.nodes().collect();
    let feasible = feasible(&nodes, pod)?;
    let totals = scores::total(&feasible, pod);
    let tie = |row: &NodeRow| fnv64(format!("{}/{}", pod.uid, row.name).as_bytes());
    let best = feasible.iter().zip(totals).max_by_key(|(row, total)| (*total, tie(row), row.name.clone()));
    let (row, _) = best.expect("a search without nodes fails earlier");
    Ok(row.name.clone())
}

/// How many feasible nodes are enough: all of a small cluster, a sample of a big one.
fn enough(nodes: usize) -> usize {
    if nodes <= SMALL {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(SMALL)
}

/// The nodes that pass all filters, or the account of those that do not. The search starts at a
/// place that depends on the pod, so that a sample is not always the same.
fn feasible<'a>(nodes: &[&'a NodeRow], pod: &PodInfo) -> Result<Vec<&'a NodeRow>, Unschedulable> {
    let (mut found, mut account) = (Vec::new(), Unschedulable { nodes: nodes.len(), ..Unschedulable::default() });
    let start =
        if nodes.is_empty() { 0 } else { usize::try_from(fnv64(pod.uid.as_bytes()) >> 1).unwrap_or(0) % nodes.len() };
    let enough = enough(nodes.len());
    for row in nodes[start..].iter().chain(&nodes[..start]) {
        match FILTERS.iter().find_map(|filter| (filter.check)(pod, row)) {
            None => {
                found.push(*row);
                if found.len() >= enough {
                    break;
                }
            }
            Some(refusal) => {
                account.hopeless += usize::from(refusal.hopeless);
                for reason in refusal.reasons {
                    *account.reasons.entry(reason).or_default() += 1;
                }
            }
        }
    }
    if found.is_empty() { Err(account) } else { Ok(found) }
}
