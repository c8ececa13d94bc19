//! The nodes, as rows of numbers that are kept up to date pod by pod.
//!
//! Invariants
//! - A row's sums are those of the pods filed under it, always: rows change only together with the
//!   file of pods.
//! - A row without a node (`present == false`) keeps the sums of pods bound to a node that is not
//!   known yet, or any more; it is never offered.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use super::NodeName;
use super::pod::{HostPort, PodInfo};
use super::resources::Resources;
use crate::object::{Labels, labels, name};

/// One node.
#[derive(Clone, Debug)]
pub struct NodeRow {
    /// Its name.
    pub name: NodeName,
    pub(super) present: bool,
    pub(super) labels: Labels,
    pub(super) taints: Vec<Taint>,
    pub(super) unschedulable: bool,
    pub(super) allocatable: Resources,
    pub(super) max_pods: usize,
    pub(super) pods: usize,
    pub(super) used: Resources,
    pub(super) scored: Resources,
    pub(super) ports: Vec<HostPort>,
    /// Pods per spreading group.
    pub(super) groups: HashMap<u64, u32>,
    /// Size of each image that is there.
    pub(super) images: HashMap<String, i64>,
}

impl NodeRow {
    fn empty(name: &str) -> Self {
        Self {
            name: name.into(),
            present: false,
            labels: Labels::new(),
            taints: Vec::new(),
            unschedulable: false,
            allocatable: Resources::default(),
            max_pods: 0,
            pods: 0,
            used: Resources::default(),
            scored: Resources::default(),
            ports: Vec::new(),
            groups: HashMap::new(),
            images: HashMap::new(),
        }
    }

    /// True if it says anything new.
    fn read(&mut self, node: &Node) -> bool {
        let before = (self.present, self.unschedulable, self.max_pods, std::mem::take(&mut self.labels));
        let (taints, allocatable) = (std::mem::take(&mut self.taints), std::mem::take(&mut self.allocatable));
        self.take(node);
        (before.0, before.1, before.2) != (self.present, self.unschedulable, self.max_pods)
            || before.3 != self.labels
            || taints != self.taints
            || allocatable != self.allocatable
    }

    fn take(&mut self, node: &Node) {
        let (spec, status) = (node.spec.as_ref(), node.status.as_ref());
        // A node that says nothing of what it has left for pods has all it has.
        let amounts = status.and_then(|status| status.allocatable.clone().or_else(|| status.capacity.clone()));
        let pods = amounts.as_ref().and_then(|amounts| amounts.get("pods")?.0.parse::<kontiki_model::Quantity>().ok());
        self.present = true;
        self.labels = labels(&node.metadata);
        self.taints = spec.and_then(|spec| spec.taints.clone()).unwrap_or_default();
        self.unschedulable = spec.and_then(|spec| spec.unschedulable) == Some(true);
        self.max_pods = pods.map_or(0, |pods| usize::try_from(pods.units()).unwrap_or(0));
        self.allocatable = Resources::read(&amounts);
        let images = status.and_then(|status| status.images.as_ref()).into_iter().flatten();
        let named = images.flat_map(|image| {
            let size = image.size_bytes.unwrap_or(0);
            image.names.iter().flatten().map(move |name| (name.clone(), size))
        });
        self.images = named.collect();
    }

    fn add(&mut self, pod: &PodInfo) {
        self.pods += 1;
        self.used.add(&pod.requests);
        self.scored.add(&pod.scored);
        self.ports.extend(pod.ports.iter().cloned());
        for group in &pod.groups {
            *self.groups.entry(*group).or_default() += 1;
        }
    }

    fn remove(&mut self, pod: &PodInfo) {
        self.pods -= 1;
        self.used.subtract(&pod.requests);
        self.scored.subtract(&pod.scored);
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|taken| taken == port) {
                self.ports.swap_remove(at);
            }
        }
        for group in &pod.groups {
            if let Some(count) = self.groups.get_mut(group) {
                *count -= 1;
                if *count == 0 {
                    self.groups.remove(group);
                }
            }
        }
    }
}

/// Nodes and the pods on them.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    rows: Vec<NodeRow>,
    index: HashMap<NodeName, usize>,
    /// Pods by uid, with the row each is filed under.
    pods: HashMap<String, (usize, Arc<PodInfo>)>,
}

impl Snapshot {
    /// The nodes that are there.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRow> {
        self.rows.iter().filter(|row| row.present)
    }

    fn row(&mut self, name: &str) -> usize {
        if let Some(at) = self.index.get(name) {
            return *at;
        }
        let row = NodeRow::empty(name);
        self.index.insert(row.name.clone(), self.rows.len());
        self.rows.push(row);
        self.rows.len() - 1
    }

    /// A node came or changed. True if that may matter to a pod that fits nowhere.
    pub fn set_node(&mut self, node: &Node) -> bool {
        let at = self.row(name(&node.metadata));
        self.rows[at].read(node)
    }

    /// A node went.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(at) = self.index.get(name) {
            self.rows[*at].present = false;
        }
    }

    /// A pod takes up room on `node`. Said again, it replaces what was said before.
    pub fn add_pod(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove_pod(&pod.uid);
        let at = self.row(node);
        self.rows[at].add(&pod);
        self.pods.insert(pod.uid.clone(), (at, pod));
    }

    /// A pod does not take up room any more.
    pub fn remove_pod(&mut self, uid: &str) {
        if let Some((at, pod)) = self.pods.remove(uid) {
            self.rows[at].remove(&pod);
        }
    }

    /// Where a pod is filed.
    #[must_use]
    pub fn node_of(&self, uid: &str) -> Option<NodeName> {
        self.pods.get(uid).map(|(at, _)| self.rows[*at].name.clone())
    }
}
