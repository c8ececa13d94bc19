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
//! `resources` adds up requests, `peers` reads what pods ask about others, `volumes` has claims and volumes, `table` keeps nodes as columns, `framework` asks the `plugins`. A
//! module knows only those before it. Not here: queueing, binding, waiting (`kontiki-scheduler`).

pub mod framework;
mod peers;
mod plugins;
mod pod;
pub mod resources;
mod table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod testing_peers;
#[cfg(test)]
mod tests;
mod volumes;

pub use framework::{Assignment, Budget, Diagnosis, PluginSet, Preemption, Scheduler, Settings, Victim};
pub use pod::{PREEMPTED, PodInfo, SchedulingSpec};
pub use table::{ClusterEvent, EventKinds, NodeTable, Row};
pub use volumes::{ClaimKey, Volumes};

/// The name of a node.
pub type NodeName = std::sync::Arc<str>;

impl Default for Scheduler {
    /// With all plugins.
    fn default() -> Self {
        Self::with_plugins(plugins::DEFAULT, Settings::default())
    }
}
