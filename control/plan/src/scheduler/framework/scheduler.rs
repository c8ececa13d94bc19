//! Decides pod by pod on the table of nodes, and keeps the table.
//!
//! Invariants
//! - A decision is a function of the table, the pod, the settings and the decisions before: nothing
//!   random, no clock.
//! - A pod that was decided takes up its room from that moment (it is *assumed*), until it is seen
//!   bound or given back.
//! - A pod for which others have to go waits for that node: nobody less important gets the room.
//! - Of a big cluster a sample of feasible nodes is enough; the next search starts where the last
//!   one ended, so that all nodes get their turn.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use super::attempt::Attempt;
use super::budget::Budget;
use super::cache::EquivalenceCache;
use super::diagnosis::{Diagnosis, Nomination, Refused};
use super::nominations::Nominations;
use super::search::{Search, diagnose, totals};
use super::{Context, CycleState, PluginSet, Plugins, Reason};
use crate::action::Patch;
use crate::hash::fnv64;
use crate::scheduler::NodeName;
use crate::scheduler::pod::PodInfo;
use crate::scheduler::table::{ClusterEvent, EventKinds, NodeTable, Row};
use crate::scheduler::volumes::{ClaimKey, Volumes};

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
    /// The claims that have to have volumes before that.
    pub awaited: Vec<ClaimKey>,
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
    nominations: Nominations,
    budgets: Vec<Budget>,
    /// What decisions brought about since somebody asked.
    events: Vec<ClusterEvent>,
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
            nominations: Nominations::default(),
            budgets: Vec::new(),
            events: Vec::new(),
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
    pub fn remove_node(&mut self, name: &str) -> Option<ClusterEvent> {
        self.nodes.remove_node(name)
    }

    /// A namespace has these labels; `None`: it is gone.
    pub fn set_namespace(&mut self, name: &str, labels: Option<BTreeMap<String, String>>) -> Option<ClusterEvent> {
        self.nodes.set_namespace(name, labels).then(ClusterEvent::other)
    }

    /// Claims, volumes or classes changed.
    pub fn change_volumes(&mut self, change: impl FnOnce(&mut Volumes)) -> ClusterEvent {
        self.nodes.change_volumes(change);
        ClusterEvent::other()
    }

    /// What disruption budgets allow.
    pub fn set_budgets(&mut self, budgets: Vec<Budget>) {
        self.budgets = budgets;
    }

    /// A pod is bound to `node`. Said again, it replaces what was said before.
    pub fn add_pod(&mut self, pod: Arc<PodInfo>, node: &str) -> Option<ClusterEvent> {
        // What was reserved is its own now, unless somebody bound it elsewhere.
        if let Some(assumed) = self.assumed.remove(&pod.uid).filter(|assumed| *assumed.node != *node) {
            self.undo_reservations(assumed, self.plugins.len());
        }
        self.denominate(&pod.uid);
        self.nodes.add_pod(pod, node)
    }

    /// A pod does not take up room any more: it is gone, has ended, or was not bound as decided.
    pub fn remove_pod(&mut self, uid: &str) -> Option<ClusterEvent> {
        if let Some(assumed) = self.assumed.remove(uid) {
            self.undo_reservations(assumed, self.plugins.len());
        }
        self.denominate(uid);
        self.nodes.remove_pod(uid)
    }

    /// A pod waits, for a certain node if it says so.
    pub fn set_waiting(&mut self, pod: &Arc<PodInfo>) {
        if let Some(node) = &pod.nominated {
            self.nominations.insert(pod, &node.as_str().into());
        }
    }

    /// A pod waits for no node any more: others may have the room.
    fn denominate(&mut self, uid: &str) {
        let row = self.nominations.remove(uid).and_then(|node| self.nodes.row_of(&node));
        self.events.extend(row.and_then(|row| ClusterEvent::new(row, EventKinds::POD_DELETE)));
    }

    /// What decisions brought about since the last call.
    pub fn take_events(&mut self) -> Vec<ClusterEvent> {
        std::mem::take(&mut self.events)
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
        self.events.extend(self.nodes.add_pod(pod.clone(), &node));
        let mut assumed = Assumed { pod: pod.clone(), node: node.clone(), state };
        for (id, plugin) in self.plugins.iter().enumerate() {
            let Some(reserve) = plugin.reserve else { continue };
            if let Err(reason) = reserve.reserve(&mut self.nodes, &mut assumed.state, pod, &node) {
                let diagnosis = self.refused_at_last(pod, &assumed.state, id, reason);
                self.undo_reservations(assumed, id + 1);
                self.nodes.remove_pod(&pod.uid);
                return Err(diagnosis);
            }
        }
        let pre_bind = || self.plugins.iter().filter_map(|plugin| plugin.pre_bind);
        let patches = pre_bind().flat_map(|plugin| plugin.pre_bind(&assumed.state, pod, &node)).collect();
        let awaited = pre_bind().flat_map(|plugin| plugin.awaited(&assumed.state)).collect();
        self.assumed.insert(pod.uid.clone(), assumed);
        self.denominate(&pod.uid);
        Ok(Assignment { node, patches, awaited })
    }

    /// Unreserve, by the first `count` plugins, the last of them first.
    fn undo_reservations(&mut self, mut assumed: Assumed, count: usize) {
        for plugin in self.plugins[..count].iter().rev() {
            if let Some(reserve) = plugin.reserve {
                reserve.unreserve(&mut self.nodes, &mut assumed.state, &assumed.pod, &assumed.node);
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
    fn find(&mut self, pod: &Arc<PodInfo>) -> Result<(Row, CycleState), Diagnosis> {
        let Self { plugins, nodes, classes, settings, nominations, next_start, .. } = self;
        let plugins = *plugins;
        let class = classes.class(plugins, &pod.spec, nodes);
        let reserved = nominations.refusals(pod, plugins, nodes, class);
        let nodes = &*nodes;
        let rows = nodes.rows();
        let start = if rows.is_empty() { 0 } else { *next_start % rows.len() };
        // Where room was made for it, it goes, if it can.
        let own = nominations.node_of(&pod.uid).and_then(|node| nodes.row_of(node));
        let mut found = Search::run(class, plugins, nodes, &reserved, own.into_iter(), 1);
        if found.feasible.is_empty() {
            let search = rows[start..].iter().chain(&rows[..start]).copied();
            found = Search::run(class, plugins, nodes, &reserved, search, enough(rows.len()));
            *next_start = start + found.judged;
        }
        if found.feasible.is_empty() {
            let diagnosis = diagnose(class, plugins, nodes, &found);
            return Err(self.look_for_a_way_out(pod, diagnosis));
        }
        let totals = totals(class, plugins, nodes, &found.feasible);
        let pod_hash = fnv64(pod.uid.as_bytes()) ^ settings.tie_break;
        let tie = |row: Row| fnv64(&(pod_hash ^ nodes.name_hash(row)).to_le_bytes());
        let best = totals.iter().copied().max().unwrap_or(0);
        let equals = found.feasible.iter().zip(&totals).filter(|(_, total)| **total == best).map(|(row, _)| *row);
        let row = equals.max_by_key(|row| (tie(*row), nodes.name(*row))).expect("there are feasible nodes");
        Ok((row, class.cycle.state.clone()))
    }

    /// PostFilter: until one finds something.
    fn look_for_a_way_out(&mut self, pod: &Arc<PodInfo>, mut diagnosis: Diagnosis) -> Diagnosis {
        let Self { plugins, nodes, classes, nominations, budgets, next_start, .. } = self;
        let plugins = *plugins;
        let mut texts = Vec::new();
        let mut nomination = Nomination::Keep;
        for post_filter in plugins.iter().filter_map(|plugin| plugin.post_filter) {
            let class = classes.class(plugins, &pod.spec, nodes);
            let (diagnosis_so_far, start) = (&diagnosis, *next_start);
            let mut attempt =
                Attempt { pod, diagnosis: diagnosis_so_far, budgets, plugins, nodes, class, nominations, start };
            let way = post_filter.post_filter(&mut attempt);
            if way.nomination != Nomination::Keep {
                nomination = way.nomination;
            }
            if way.preemption.is_some() {
                texts.clear();
                diagnosis.preemption = way.preemption;
                break;
            }
            texts.push(way.text);
        }
        if let Some(preemption) = &diagnosis.preemption {
            // They are on their way from now on, whenever it shows: the next look must not choose others.
            let nodes = &mut self.nodes;
            self.events.extend(preemption.victims.iter().filter_map(|victim| nodes.mark_preempted(&victim.uid)));
        }
        diagnosis.post_filter = (!texts.is_empty()).then(|| texts.join(", "));
        self.nominate(pod, nomination);
        diagnosis.nominated = self.nominations.node_of(&pod.uid).cloned();
        diagnosis
    }

    fn nominate(&mut self, pod: &Arc<PodInfo>, nomination: Nomination) {
        match nomination {
            Nomination::Keep => {}
            Nomination::Clear => self.denominate(&pod.uid),
            Nomination::Node(node) => {
                // Those who are less important look for another place.
                for uid in self.nominations.below(pod, &node) {
                    self.denominate(&uid);
                }
                self.nominations.insert(pod, &node);
            }
        }
    }

    /// How every node answers a pod, whether or not it is feasible.
    pub fn explain(&mut self, pod: &PodInfo) -> Diagnosis {
        let Self { plugins, nodes, classes, nominations, .. } = self;
        let plugins = *plugins;
        let class = classes.class(plugins, &pod.spec, nodes);
        let reserved = nominations.refusals(pod, plugins, nodes, class);
        let rows = nodes.rows();
        let found = Search::run(class, plugins, nodes, &reserved, rows.iter().copied(), rows.len());
        diagnose(class, plugins, nodes, &found)
    }

    /// Whether what changed makes another try worth it for a pod that `rejectors` refused.
    pub fn queueing_hint(&mut self, pod: &PodInfo, rejectors: PluginSet, events: &[ClusterEvent]) -> bool {
        if rejectors.is_empty() {
            return !events.is_empty();
        }
        let Self { plugins, nodes, classes, .. } = self;
        let plugins = *plugins;
        let ids = || (0..plugins.len()).filter(|id| rejectors.contains(*id));
        let heard = |id: usize| {
            let kinds = plugins[id].filter.map(|filter| filter.events());
            events.iter().any(|event| kinds.is_none_or(|kinds| event.kinds.intersects(kinds)))
        };
        if !ids().any(heard) {
            return false;
        }
        let class = classes.class(plugins, &pod.spec, nodes);
        let cx = class.cycle.context(nodes);
        ids().filter(|id| heard(*id)).any(|id| {
            // A plugin that has nothing to say of the pod any more does not hold it back, nor does one that
            // does not say what it waits for.
            let Some(filter) = plugins[id].filter.filter(|_| class.cycle.asks(id)) else { return true };
            let kinds = filter.events();
            events.iter().any(|event| event.kinds.intersects(kinds) && filter.queueing_hint(&cx, *event))
        })
    }
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
