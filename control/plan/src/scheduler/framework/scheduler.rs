//! Decides pod by pod on the table of nodes, and keeps the table.
//!
//! Invariants
//! - A decision is a function of the table, the pod, the settings and the decisions before: nothing
//!   random, no clock.
//! - A pod that was decided takes up its room from that moment (it is *assumed*), until it is seen
//!   bound or given back.
//! - Of a big cluster a sample of feasible nodes is enough; the next search starts where the last
//!   one ended, so that all nodes get their turn.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use super::cache::{Class, EquivalenceCache, PASSES};
use super::diagnosis::{Diagnosis, Refused};
use super::{Context, CycleState, PluginSet, Plugins, Reason};
use crate::action::Patch;
use crate::hash::fnv64;
use crate::scheduler::NodeName;
use crate::scheduler::pod::PodInfo;
use crate::scheduler::table::{ClusterEvent, NodeTable, Row};

/// Clusters up to this size are searched completely.
const SMALL: usize = 100;

/// What a scheduler is made with.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Decides between equally good nodes, together with pod and node.
    pub tie_break: u64,
    /// Rows that the equivalence cache may hold, over all classes; zero turns it off.
    pub cached_rows: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { tie_break: 0, cached_rows: 1 << 18 }
    }
}

/// A node for a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// Its name.
    pub node: NodeName,
    /// What has to be written before the binding (PreBind).
    pub patches: Vec<Patch>,
}

/// A pod that was decided, until it is seen bound.
struct Assumed {
    pod: Arc<PodInfo>,
    node: NodeName,
    state: CycleState,
}

/// See the module.
pub struct Scheduler {
    plugins: Plugins,
    settings: Settings,
    nodes: NodeTable,
    classes: EquivalenceCache,
    assumed: HashMap<String, Assumed>,
    /// Where in [`NodeTable::rows`] the next search starts.
    next_start: usize,
}

/// How many feasible nodes are enough: all of a small cluster, a sample of a big one. Upstream's
/// rule where `percentageOfNodesToScore` is not set.
fn enough(nodes: usize) -> usize {
    if nodes <= SMALL {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(SMALL)
}

impl Scheduler {
    /// A scheduler that knows no nodes yet.
    #[must_use]
    pub fn with_plugins(plugins: Plugins, settings: Settings) -> Self {
        Self {
            plugins,
            settings,
            nodes: NodeTable::default(),
            classes: EquivalenceCache::new(settings.cached_rows),
            assumed: HashMap::new(),
            next_start: 0,
        }
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &NodeTable {
        &self.nodes
    }

    /// A node came or changed. What of it may matter to a pod that fits nowhere.
    pub fn set_node(&mut self, node: &Node) -> Option<ClusterEvent> {
        self.nodes.set_node(node)
    }

    /// A node went.
    pub fn remove_node(&mut self, name: &str) {
        self.nodes.remove_node(name);
    }

    /// A pod is bound to `node`. Said again, it replaces what was said before.
    pub fn add_pod(&mut self, pod: Arc<PodInfo>, node: &str) -> Option<ClusterEvent> {
        // What was reserved is its own now, unless somebody bound it elsewhere.
        if let Some(assumed) = self.assumed.remove(&pod.uid).filter(|assumed| *assumed.node != *node) {
            self.undo_reservations(assumed, self.plugins.len());
        }
        self.nodes.add_pod(pod, node)
    }

    /// A pod does not take up room any more: it is gone, has ended, or was not bound as decided.
    pub fn remove_pod(&mut self, uid: &str) -> Option<ClusterEvent> {
        if let Some(assumed) = self.assumed.remove(uid) {
            self.undo_reservations(assumed, self.plugins.len());
        }
        self.nodes.remove_pod(uid)
    }

    /// Whether a pod was decided and not yet seen bound.
    #[must_use]
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.assumed.contains_key(uid)
    }

    /// Finds a node for a pod and assumes the pod there.
    ///
    /// # Errors
    /// Says what each plugin refused, if no node is left.
    pub fn decide(&mut self, pod: &Arc<PodInfo>) -> Result<Assignment, Diagnosis> {
        let (row, state) = self.find(pod)?;
        let node = self.nodes.name(row).clone();
        self.nodes.add_pod(pod.clone(), &node);
        let mut assumed = Assumed { pod: pod.clone(), node: node.clone(), state };
        for (id, plugin) in self.plugins.iter().enumerate() {
            let Some(reserve) = plugin.reserve else { continue };
            if let Err(reason) = reserve.reserve(&mut assumed.state, pod, &node) {
                let diagnosis = self.refused_at_last(pod, &assumed.state, id, reason);
                self.undo_reservations(assumed, id + 1);
                self.nodes.remove_pod(&pod.uid);
                return Err(diagnosis);
            }
        }
        let pre_bind = self.plugins.iter().filter_map(|plugin| plugin.pre_bind);
        let patches = pre_bind.flat_map(|plugin| plugin.pre_bind(&assumed.state, pod, &node)).collect();
        self.assumed.insert(pod.uid.clone(), assumed);
        Ok(Assignment { node, patches })
    }

    /// Unreserve, by the first `count` plugins, the last of them first.
    fn undo_reservations(&self, mut assumed: Assumed, count: usize) {
        for plugin in self.plugins[..count].iter().rev() {
            if let Some(reserve) = plugin.reserve {
                reserve.unreserve(&mut assumed.state, &assumed.pod, &assumed.node);
            }
        }
    }

    /// As upstream, a failed reservation is told as if the chosen node were the only one.
    fn refused_at_last(&self, pod: &PodInfo, state: &CycleState, id: usize, reason: Reason) -> Diagnosis {
        let plugin = self.plugins[id];
        let cx = Context { pod: &pod.spec, nodes: &self.nodes, state };
        let reasons = [((plugin.describe)(&cx, reason), 1)].into();
        let mut rejectors = PluginSet::default();
        rejectors.insert(id);
        let refused = vec![Refused { plugin: plugin.name, nodes: 1, reasons }];
        Diagnosis { nodes: 1, refused, rejectors, ..Diagnosis::default() }
    }

    /// Filters until enough nodes are feasible, and takes the best of them.
    fn find(&mut self, pod: &PodInfo) -> Result<(Row, CycleState), Diagnosis> {
        let Self { plugins, nodes, classes, settings, next_start, .. } = self;
        let (plugins, nodes) = (*plugins, &*nodes);
        let class = classes.class(plugins, &pod.spec, nodes);
        let rows = nodes.rows();
        let start = if rows.is_empty() { 0 } else { *next_start % rows.len() };
        let search = rows[start..].iter().chain(&rows[..start]).copied();
        let found = if class.cycle.rejection.is_some() {
            Search::default()
        } else {
            Search::run(class, plugins, nodes, search, enough(rows.len()))
        };
        *next_start = start + found.judged;
        if found.feasible.is_empty() {
            let mut diagnosis = diagnose(class, plugins, nodes, &found);
            let post_filter = plugins.iter().filter_map(|plugin| plugin.post_filter);
            let texts: Vec<String> = post_filter.map(|plugin| plugin.post_filter(pod, &diagnosis)).collect();
            diagnosis.post_filter = (!texts.is_empty()).then(|| texts.join(" "));
            return Err(diagnosis);
        }
        let totals = totals(class, plugins, nodes, &found.feasible);
        let pod_hash = fnv64(pod.uid.as_bytes()) ^ settings.tie_break;
        let tie = |row: Row| fnv64(&(pod_hash ^ nodes.name_hash(row)).to_le_bytes());
        let best = totals.iter().copied().max().unwrap_or(0);
        let equals = found.feasible.iter().zip(&totals).filter(|(_, total)| **total == best).map(|(row, _)| *row);
        let row = equals.max_by_key(|row| (tie(*row), nodes.name(*row))).expect("there are feasible nodes");
        Ok((row, class.cycle.state.clone()))
    }

    /// How every node answers a pod, whether or not it is feasible.
    pub fn explain(&mut self, pod: &PodInfo) -> Diagnosis {
        let class = self.classes.class(self.plugins, &pod.spec, &self.nodes);
        let rows = self.nodes.rows();
        let found = if class.cycle.rejection.is_some() {
            Search::default()
        } else {
            Search::run(class, self.plugins, &self.nodes, rows.iter().copied(), rows.len())
        };
        diagnose(class, self.plugins, &self.nodes, &found)
    }

    /// Whether what changed makes another try worth it for a pod that `rejectors` refused.
    pub fn queueing_hint(&mut self, pod: &PodInfo, rejectors: PluginSet, events: &[ClusterEvent]) -> bool {
        if rejectors.is_empty() {
            return !events.is_empty();
        }
        let class = self.classes.class(self.plugins, &pod.spec, &self.nodes);
        let cx = class.cycle.context(&self.nodes);
        (0..self.plugins.len()).filter(|id| rejectors.contains(*id)).any(|id| {
            // A plugin that has nothing to say of the pod any more does not hold it back, nor does one that
            // does not say what it waits for.
            let Some(filter) = self.plugins[id].filter.filter(|_| class.cycle.filters.contains(&id)) else {
                return !events.is_empty();
            };
            let heard = filter.events();
            events.iter().any(|event| event.kinds.intersects(heard) && filter.queueing_hint(&cx, *event))
        })
    }
}

/// What a search through the nodes found.
#[derive(Default)]
struct Search {
    feasible: Vec<Row>,
    /// Nodes per refusal of the class.
    refused: Vec<usize>,
    judged: usize,
}

impl Search {
    fn run(
        class: &mut Class,
        plugins: Plugins,
        nodes: &NodeTable,
        rows: impl Iterator<Item = Row>,
        enough: usize,
    ) -> Self {
        let mut found = Self::default();
        for row in rows {
            found.judged += 1;
            match class.verdict(plugins, nodes, row) {
                PASSES => {
                    found.feasible.push(row);
                    if found.feasible.len() >= enough {
                        break;
                    }
                }
                refusal => {
                    let at = refusal as usize - 1;
                    if found.refused.len() <= at {
                        found.refused.resize(at + 1, 0);
                    }
                    found.refused[at] += 1;
                }
            }
        }
        found
    }
}

/// Score: the weighted sum for each feasible node.
fn totals(class: &mut Class, plugins: Plugins, nodes: &NodeTable, feasible: &[Row]) -> Vec<i64> {
    let mut totals = vec![0; feasible.len()];
    let scorers = class.cycle.scorers.clone();
    if feasible.len() < 2 || scorers.is_empty() {
        return totals;
    }
    let mut raw = Vec::with_capacity(feasible.len() * scorers.len());
    for row in feasible {
        class.scores(plugins, nodes, *row, &mut raw);
    }
    let mut column = vec![0; feasible.len()];
    for (at, id) in scorers.iter().enumerate() {
        let plugin = plugins[*id];
        let Some(score) = plugin.score else { continue };
        column.iter_mut().zip(raw.iter().skip(at).step_by(scorers.len())).for_each(|(cell, raw)| *cell = *raw);
        score.normalize(&mut column);
        totals.iter_mut().zip(&column).for_each(|(total, score)| *total += score * plugin.weight);
    }
    totals
}

/// Puts what was counted into words.
fn diagnose(class: &Class, plugins: Plugins, nodes: &NodeTable, found: &Search) -> Diagnosis {
    let mut diagnosis = Diagnosis { nodes: nodes.rows().len(), ..Diagnosis::default() };
    let cx = class.cycle.context(nodes);
    if let Some((id, reason)) = class.cycle.rejection {
        let (plugin, count) = (plugins[id], diagnosis.nodes);
        let reasons = [((plugin.describe)(&cx, reason), count)].into();
        diagnosis.refused = vec![Refused { plugin: plugin.name, nodes: count, reasons }];
        diagnosis.rejectors.insert(id);
        diagnosis.unresolvable = count;
        return diagnosis;
    }
    let counted = || class.refusals().iter().zip(&found.refused).filter(|(_, count)| **count > 0);
    for (id, plugin) in plugins.iter().enumerate() {
        let mut refused = Refused { plugin: plugin.name, nodes: 0, reasons: Default::default() };
        for ((_, refusal), count) in counted().filter(|((by, _), _)| *by == id) {
            refused.nodes += count;
            diagnosis.unresolvable += if refusal.unresolvable { *count } else { 0 };
            for reason in refusal.reasons() {
                *refused.reasons.entry((plugin.describe)(&cx, reason)).or_default() += count;
            }
        }
        if refused.nodes > 0 {
            diagnosis.rejectors.insert(id);
            diagnosis.refused.push(refused);
        }
    }
    diagnosis
}

#[cfg(test)]
mod tests {
    use super::enough;

    #[test]
    fn big_clusters_are_sampled() {
        for (nodes, expect) in [(0, 0), (50, 50), (100, 100), (101, 100), (250, 120), (1000, 420), (5000, 500)] {
            assert_eq!(enough(nodes), expect, "{nodes}");
        }
        assert_eq!(enough(10_000), 500);
    }
}
