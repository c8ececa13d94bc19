//! The scheduler's decision: which node a pod goes to, or why there is none.
//!
//! Invariants
//! - A decision depends on the table, the pod, the settings and the decisions before it, on nothing
//!   else: the same sequence gives the same nodes. Ties are broken by a hash of pod and node, so
//!   that equal pods spread over equal nodes.
//! - The table holds every pod that takes up room somewhere, bound or about to be; a pod counts
//!   once, whatever order its events come in.
//! - A refusal counts every node exactly once, under the first plugin that refused it.
//!
//! `resources` adds up requests, `table` keeps nodes as columns, `framework` asks the `plugins`. A
//! module knows only those before it. Not here: queueing, binding, waiting (`kontiki-scheduler`).

pub mod framework;
mod plugins;
mod pod;
pub mod resources;
mod table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use framework::{Assignment, Diagnosis, PluginSet, Scheduler, Settings};
pub use pod::{PodInfo, SchedulingSpec};
pub use table::{ClusterEvent, EventKinds, NodeTable, Row};

/// The name of a node.
pub type NodeName = std::sync::Arc<str>;

impl Default for Scheduler {
    /// With all plugins.
    fn default() -> Self {
        Self::with_plugins(plugins::DEFAULT, Settings::default())
    }
}
