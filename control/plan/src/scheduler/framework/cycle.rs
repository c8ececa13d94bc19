//! What the plugins say of one class of pods: prepared once, asked per node.

use std::sync::Arc;

use super::{Context, CycleState, Plugins, Prepared, Reason, Refusal};
use crate::scheduler::pod::SchedulingSpec;
use crate::scheduler::table::{NodeTable, Row};

/// The plugins that have something to do for a spec, and what they worked out.
pub(super) struct Cycle {
    pub spec: Arc<SchedulingSpec>,
    pub state: CycleState,
    pub filters: Vec<usize>,
    pub scorers: Vec<usize>,
    /// The plugin that refuses all nodes at once.
    pub rejection: Option<(usize, Reason)>,
    per_cluster: bool,
    /// The table's words and time when this was prepared.
    made: (u64, u64),
}

impl Cycle {
    /// PreFilter and PreScore.
    pub fn prepare(plugins: Plugins, spec: Arc<SchedulingSpec>, nodes: &NodeTable) -> Self {
        let made = (nodes.words().generation(), nodes.generation());
        let (state, filters, scorers) = (CycleState::default(), Vec::new(), Vec::new());
        let mut cycle = Self { spec, state, filters, scorers, rejection: None, per_cluster: false, made };
        for (id, plugin) in plugins.iter().enumerate() {
            let Some(filter) = plugin.filter else { continue };
            match filter.pre_filter(&cycle.spec, nodes, &mut cycle.state) {
                Ok(Prepared::Skip) => continue,
                Ok(prepared) => cycle.per_cluster |= prepared == Prepared::PerCluster,
                Err(reason) => {
                    cycle.rejection = Some((id, reason));
                    cycle.per_cluster = true;
                    return cycle;
                }
            }
            cycle.filters.push(id);
        }
        for (id, plugin) in plugins.iter().enumerate() {
            let Some(score) = plugin.score else { continue };
            let prepared = score.pre_score(&cycle.spec, nodes, &mut cycle.state);
            if prepared != Prepared::Skip {
                cycle.per_cluster |= prepared == Prepared::PerCluster;
                cycle.scorers.push(id);
            }
        }
        cycle
    }

    /// Whether it still holds.
    pub fn is_fresh(&self, nodes: &NodeTable) -> bool {
        self.made.0 == nodes.words().generation() && (!self.per_cluster || self.made.1 == nodes.generation())
    }

    pub fn context<'a>(&'a self, nodes: &'a NodeTable) -> Context<'a> {
        Context { pod: &self.spec, nodes, state: &self.state }
    }

    /// Filter: the first plugin that refuses the node.
    pub fn filter(&self, plugins: Plugins, nodes: &NodeTable, row: Row) -> Option<(usize, Refusal)> {
        let cx = self.context(nodes);
        self.filters.iter().find_map(|id| {
            let refused = plugins[*id].filter?.filter(&cx, row).err();
            refused.map(|refusal| (*id, refusal))
        })
    }

    /// Score, before normalization: one number for each of [`Self::scorers`].
    pub fn score<'a>(&'a self, plugins: Plugins, nodes: &'a NodeTable, row: Row) -> impl Iterator<Item = i64> + 'a {
        let cx = self.context(nodes);
        self.scorers.iter().filter_map(move |id| Some(plugins[*id].score?.score(&cx, row)))
    }
}
