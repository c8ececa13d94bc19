//! The frame that plugins fill: upstream's extension points, in upstream's order.
//!
//! A pod's cycle: PreFilter and PreScore once per equivalence class; Filter for each node until
//! enough are feasible; PostFilter if none is; Score and its normalization over the feasible ones;
//! then, for the node chosen, Reserve (undone by Unreserve in reverse order) and PreBind.
//!
//! Invariants
//! - Filter and Score see a pod's [`SchedulingSpec`] and the table, nothing else of the pod: so pods
//!   with equal specs may share their answers.
//! - A plugin that was skipped for a pod is not asked about any node.
//! - This folder knows no plugin by name.

mod attempt;
mod budget;
mod cache;
mod cycle;
mod cycle_state;
mod diagnosis;
mod nominations;
mod reason;
mod scheduler;
mod search;
#[cfg(test)]
mod tests;

pub use attempt::Attempt;
pub use budget::{Budget, violating};
pub use cycle_state::CycleState;
pub use diagnosis::{Diagnosis, Nomination, Preemption, Refused, Victim};
pub use reason::{Reason, Refusal};
pub use scheduler::{Assignment, Scheduler, Settings};

use super::NodeName;
use super::pod::{PodInfo, SchedulingSpec};
use super::table::{ClusterEvent, EventKinds, NodeTable, Row};
use super::volumes::ClaimKey;
use crate::action::Patch;

/// A plugin: its name and the extension points it fills.
pub struct Plugin {
    /// Upstream's name of it.
    pub name: &'static str,
    /// Which nodes take the pod.
    pub filter: Option<&'static dyn Filter>,
    /// What could be done if none does.
    pub post_filter: Option<&'static dyn PostFilter>,
    /// Which of them is best.
    pub score: Option<&'static dyn Score>,
    /// Its score's weight in the sum.
    pub weight: i64,
    /// What is taken besides room on the node.
    pub reserve: Option<&'static dyn Reserve>,
    /// What has to be written before the binding.
    pub pre_bind: Option<&'static dyn PreBind>,
    /// Puts one of its reasons into words.
    pub describe: fn(&Context<'_>, Reason) -> String,
}

impl Plugin {
    /// A plugin that fills no point yet.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            filter: None,
            post_filter: None,
            score: None,
            weight: 1,
            reserve: None,
            pre_bind: None,
            describe: |_, _| String::new(),
        }
    }
}

/// Plugins, in the order they are asked.
pub type Plugins = &'static [&'static Plugin];

/// What a plugin may look at while it judges a node.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The pod's wishes.
    pub pod: &'a SchedulingSpec,
    /// All nodes.
    pub nodes: &'a NodeTable,
    /// What plugins worked out before.
    pub state: &'a CycleState,
}

/// What a plugin has to do for a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// Nothing: it passes all nodes, or rates them alike.
    Skip,
    /// To judge nodes, each by its own row alone: an answer holds until that row changes.
    PerNode,
    /// To judge nodes by what is on others too: an answer holds until anything in the table changes.
    PerCluster,
}

/// PreFilter, Filter, and when to try again.
pub trait Filter: Sync {
    /// Works out what all nodes have in common.
    ///
    /// # Errors
    /// A reason why no node will do, whatever it is like.
    fn pre_filter(&self, _: &SchedulingSpec, _: &NodeTable, _: &mut CycleState) -> Result<Prepared, Reason> {
        Ok(Prepared::PerNode)
    }

    /// Judges one node.
    ///
    /// # Errors
    /// Why the node does not take the pod.
    fn filter(&self, cx: &Context<'_>, row: Row) -> Result<(), Refusal>;

    /// Changes that may turn a refusal of this plugin: all that touch what it reads.
    fn events(&self) -> EventKinds;

    /// Whether a change makes another try worth it, for a pod that this plugin refused.
    fn queueing_hint(&self, cx: &Context<'_>, event: ClusterEvent) -> bool {
        cx.nodes.is_present(event.row) && self.filter(cx, event.row).is_ok()
    }
}

/// Looks for a way out for a pod that no node takes.
pub trait PostFilter: Sync {
    /// What came of it.
    fn post_filter(&self, attempt: &mut Attempt<'_>) -> WayOut;
}

/// What came of looking for a way out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WayOut {
    /// What people are told, if there is none.
    pub text: String,
    /// Pods that have to go, and where.
    pub preemption: Option<Preemption>,
    /// What becomes of the pod's nomination.
    pub nomination: Nomination,
}

/// PreScore, Score and normalization.
pub trait Score: Sync {
    /// Works out what all nodes have in common.
    fn pre_score(&self, _: &SchedulingSpec, _: &NodeTable, _: &mut CycleState) -> Prepared {
        Prepared::PerNode
    }

    /// Looks at the nodes that are feasible before they are rated; for a plugin that judges [`Prepared::PerCluster`].
    fn survey(&self, _: &SchedulingSpec, _: &NodeTable, _feasible: &[Row], _: &mut CycleState) {}

    /// Rates a node, in a unit of its own.
    fn score(&self, cx: &Context<'_>, row: Row) -> i64;

    /// Brings the ratings of all feasible nodes to 0..=[`MAX_SCORE`].
    fn normalize(&self, _: &mut [i64]) {}
}

/// The best score.
pub const MAX_SCORE: i64 = 100;

/// Takes things for a pod that is about to be bound, and gives them back.
pub trait Reserve: Sync {
    /// Takes them.
    ///
    /// # Errors
    /// Why it cannot; the pod is then not bound, and what other plugins took is given back.
    fn reserve(
        &self,
        nodes: &mut NodeTable,
        state: &mut CycleState,
        pod: &PodInfo,
        node: &NodeName,
    ) -> Result<(), Reason>;

    /// Gives them back. Also asked if its own reservation failed.
    fn unreserve(&self, nodes: &mut NodeTable, state: &mut CycleState, pod: &PodInfo, node: &NodeName);
}

/// Says what has to be written before a pod is bound.
pub trait PreBind: Sync {
    /// In order; the pod is bound only if all succeed.
    fn pre_bind(&self, state: &CycleState, pod: &PodInfo, node: &NodeName) -> Vec<Patch>;

    /// The claims that have to have volumes before that.
    fn awaited(&self, _: &CycleState) -> Vec<ClaimKey> {
        Vec::new()
    }
}

/// Some of the plugins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PluginSet(u64);

impl PluginSet {
    fn insert(&mut self, id: usize) {
        self.0 |= 1 << id;
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn contains(self, id: usize) -> bool {
        self.0 & (1 << id) != 0
    }
}
