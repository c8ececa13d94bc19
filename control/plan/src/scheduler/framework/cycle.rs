//! What the plugins say of one class of pods: prepared once, asked per node.
//!
//! Plugins that judge a node by its own row are asked before those that look at other nodes as well.

use std::sync::Arc;

use super::{Context, CycleState, Plugins, Prepared, Reason, Refusal};
use crate::scheduler::pod::SchedulingSpec;
use crate::scheduler::table::{NodeTable, Row};

/// The plugins that have something to do for a spec, and what they worked out.
pub(super) struct Cycle {
    pub spec: Arc<SchedulingSpec>,
    pub state: CycleState,
    /// Those that judge a node by its own row.
    pub filters: Vec<usize>,
    pub scorers: Vec<usize>,
    /// Those that look at other nodes.
    pub wide_filters: Vec<usize>,
    pub wide_scorers: Vec<usize>,
    /// The plugin that refuses all nodes at once.
    pub rejection: Option<(usize, Reason)>,
    /// What the table's rows had in common when this was prepared, and the table's time.
    made: ((u64, u64), u64),
}

impl Cycle {
    /// PreFilter and PreScore.
    pub fn prepare(plugins: Plugins, spec: Arc<SchedulingSpec>, nodes: &NodeTable) -> Self {
        let mut cycle = Self {
            spec,
            state: CycleState::default(),
            filters: Vec::new(),
            scorers: Vec::new(),
            wide_filters: Vec::new(),
            wide_scorers: Vec::new(),
            rejection: None,
            made: (nodes.shared_generation(), nodes.generation()),
        };
        for (id, plugin) in plugins.iter().enumerate() {
            let Some(filter) = plugin.filter else { continue };
            match filter.pre_filter(&cycle.spec, nodes, &mut cycle.state) {
                Ok(Prepared::Skip) => {}
                Ok(Prepared::PerNode) => cycle.filters.push(id),
                Ok(Prepared::PerCluster) => cycle.wide_filters.push(id),
                Err(reason) => {
                    cycle.rejection = Some((id, reason));
                    return cycle;
                }
            }
        }
        for (id, plugin) in plugins.iter().enumerate() {
            let Some(score) = plugin.score else { continue };
            match score.pre_score(&cycle.spec, nodes, &mut cycle.state) {
                Prepared::Skip => {}
                Prepared::PerNode => cycle.scorers.push(id),
                Prepared::PerCluster => cycle.wide_scorers.push(id),
            }
        }
        cycle
    }

    /// Whether it still holds.
    pub fn is_fresh(&self, nodes: &NodeTable) -> bool {
        let row_by_row = self.rejection.is_none() && self.wide_filters.is_empty() && self.wide_scorers.is_empty();
        self.made.0 == nodes.shared_generation() && (row_by_row || self.made.1 == nodes.generation())
    }

    /// Whether what plugins said of a row by itself under `other` is what they would say now.
    pub fn answers_like(&self, other: &Self) -> bool {
        self.made.0 == other.made.0
            && self.rejection.is_none()
            && other.rejection.is_none()
            && self.filters == other.filters
            && self.scorers == other.scorers
    }

    pub fn context<'a>(&'a self, nodes: &'a NodeTable) -> Context<'a> {
        Context { pod: &self.spec, nodes, state: &self.state }
    }

    fn first_refusal(&self, ids: &[usize], plugins: Plugins, nodes: &NodeTable, row: Row) -> Option<(usize, Refusal)> {
        let cx = self.context(nodes);
        ids.iter().find_map(|id| {
            let refused = plugins[*id].filter?.filter(&cx, row).err();
            refused.map(|refusal| (*id, refusal))
        })
    }

    /// Filter, by the row alone: the first plugin that refuses the node.
    pub fn filter(&self, plugins: Plugins, nodes: &NodeTable, row: Row) -> Option<(usize, Refusal)> {
        self.first_refusal(&self.filters, plugins, nodes, row)
    }

    /// Filter, by what is on other nodes too.
    pub fn wide_filter(&self, plugins: Plugins, nodes: &NodeTable, row: Row) -> Option<(usize, Refusal)> {
        self.first_refusal(&self.wide_filters, plugins, nodes, row)
    }

    /// Whether a plugin has anything to say of nodes.
    pub fn asks(&self, id: usize) -> bool {
        self.filters.contains(&id) || self.wide_filters.contains(&id)
    }

    /// Score, before normalization: one number for each of [`Self::scorers`].
    pub fn score<'a>(&'a self, plugins: Plugins, nodes: &'a NodeTable, row: Row) -> impl Iterator<Item = i64> + 'a {
        let cx = self.context(nodes);
        self.scorers.iter().filter_map(move |id| Some(plugins[*id].score?.score(&cx, row)))
    }

    /// Lets those who rate nodes by others know which nodes are feasible.
    pub fn survey(&mut self, plugins: Plugins, nodes: &NodeTable, feasible: &[Row]) {
        for id in &self.wide_scorers {
            if let Some(score) = plugins[*id].score {
                score.survey(&self.spec, nodes, feasible, &mut self.state);
            }
        }
    }
}
