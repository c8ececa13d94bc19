//! The account of a pod: what each plugin refused, and why.

use std::collections::BTreeMap;
use std::fmt;

use super::PluginSet;
use crate::scheduler::NodeName;

/// What one plugin refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its name.
    pub plugin: &'static str,
    /// Nodes it was the first to refuse.
    pub nodes: usize,
    /// Nodes per reason; a node that lacks two resources counts under both.
    pub reasons: BTreeMap<String, usize>,
}

/// Pods that are to go so that another fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preemption {
    /// The node that they leave.
    pub node: NodeName,
    /// Who goes, the most important first.
    pub victims: Vec<Victim>,
}

/// A pod that has to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    /// Its incarnation.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What becomes of the node that a pod waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Nomination {
    /// It stays as it is.
    #[default]
    Keep,
    /// The pod waits for no node any more.
    Clear,
    /// Room is being made for it there.
    Node(NodeName),
}

/// How all nodes answered a pod. Every node counts once: as feasible, or under the first plugin that
/// refused it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// Nodes there are.
    pub nodes: usize,
    /// Plugins that refused any, in the order they are asked.
    pub refused: Vec<Refused>,
    /// Nodes on which not even an empty node would do.
    pub unresolvable: usize,
    /// What PostFilter has to add.
    pub post_filter: Option<String>,
    /// Pods that are to go for it.
    pub preemption: Option<Preemption>,
    /// The node where room is being made for it.
    pub nominated: Option<NodeName>,
    /// Those plugins, as numbers: what has to change before another try is worth it.
    pub rejectors: PluginSet,
}

impl Diagnosis {
    /// Nodes that would take the pod.
    #[must_use]
    pub fn feasible(&self) -> usize {
        self.nodes - self.refused.iter().map(|refused| refused.nodes).sum::<usize>()
    }
}

impl fmt::Display for Diagnosis {
    /// Upstream's `FailedScheduling` text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let mut counts = BTreeMap::<&str, usize>::new();
        for (reason, count) in self.refused.iter().flat_map(|refused| &refused.reasons) {
            *counts.entry(reason).or_default() += count;
        }
        let mut reasons: Vec<String> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        write!(f, "{}/{} nodes are available: {}.", self.feasible(), self.nodes, reasons.join(", "))?;
        match &self.post_filter {
            Some(text) => write!(f, " {text}"),
            None => Ok(()),
        }
    }
}
