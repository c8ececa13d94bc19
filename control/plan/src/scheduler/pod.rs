//! A pod as the scheduler sees it: everything that plugins need, read once.
//!
//! Invariants
//! - A [`SchedulingSpec`] holds all that Filter and Score may read of a pod, and nothing that tells
//!   pods of one workload apart, but for labels: other pods' anti-affinity may be about any of them.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Toleration};
use kontiki_model::selector::Selector;

use super::peers::{Peers, Subject};
use super::resources::{Resources, for_score, of_pod};
use super::volumes::Mounts;
use crate::affinity::{NodeTerm, terms};
use crate::hash::fnv64;
use crate::object::{controller, deleting, name, namespace, uid};
use crate::pod;

/// A port of the node that a pod wants: protocol, address (empty for all), number.
pub type HostPort = (String, String, i32);

/// Why a pod is a `DisruptionTarget` that others had to make room for.
pub const PREEMPTED: &str = "PreemptionByScheduler";

/// Everything that decides which nodes are feasible for a pod, and which of them is best.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulingSpec {
    pub(super) namespace: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) requests: Resources,
    /// The same, with something for containers that ask for nothing.
    pub(super) non_zero_requests: Resources,
    pub(super) ports: Vec<HostPort>,
    pub(super) tolerations: Vec<Toleration>,
    pub(super) node_selector: Selector,
    /// `None`: no requirement. An empty list fits nowhere.
    pub(super) required: Option<Vec<NodeTerm>>,
    pub(super) preferred: Vec<(NodeTerm, i64)>,
    pub(super) node_name: Option<String>,
    pub(super) images: Vec<String>,
    /// Which volumes it mounts.
    pub(super) mounts: Mounts,
    /// Whether it claims devices.
    pub(super) resource_claims: bool,
    /// Whom it is spread with by default: its workload, or else the Services that select it.
    pub(super) groups: Vec<u64>,
    /// What it asks about other pods.
    pub(super) peers: Peers,
    fingerprint: u64,
}

impl SchedulingSpec {
    fn read(pod: &Pod, services: &[String]) -> Self {
        let none = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&none);
        let node_affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let required = node_affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let preferred = node_affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let preferred = preferred.into_iter().flatten();
        let (groups, labels) = (groups(pod, services), pod.metadata.labels.clone().unwrap_or_default());
        let mut read = Self {
            namespace: namespace(&pod.metadata).to_owned(),
            peers: Peers::read(spec, namespace(&pod.metadata), &labels, &groups),
            labels,
            requests: of_pod(spec),
            non_zero_requests: for_score(spec),
            ports: host_ports(spec),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            node_selector: spec.node_selector.as_ref().map(Selector::from_map).unwrap_or_default(),
            required: required.map(terms),
            preferred: preferred.filter_map(|p| Some((NodeTerm::read(&p.preference)?, i64::from(p.weight)))).collect(),
            node_name: pod::node(pod).map(str::to_owned),
            images: spec.containers.iter().filter_map(|container| container.image.clone()).collect(),
            mounts: Mounts::read(pod),
            resource_claims: spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()),
            groups,
            fingerprint: 0,
        };
        let mut hasher = DefaultHasher::new();
        read.hash_to(&mut hasher);
        read.fingerprint = hasher.finish();
        read
    }

    /// As other pods' questions see a pod that stays.
    pub(super) fn subject(&self) -> Subject<'_> {
        let Self { namespace, labels, groups, .. } = self;
        Subject { namespace, labels, groups, terminating: false }
    }

    /// Equal specs have equal fingerprints.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Whether both take up the same of a node.
    pub(super) fn same_footprint(&self, other: &Self) -> bool {
        self.requests == other.requests
            && self.non_zero_requests == other.non_zero_requests
            && self.ports == other.ports
            && self.namespace == other.namespace
            && self.labels == other.labels
            && self.groups == other.groups
            && self.peers.carried == other.peers.carried
            && self.mounts == other.mounts
    }

    fn hash_to(&self, hasher: &mut impl Hasher) {
        (&self.namespace, &self.labels, &self.requests, &self.non_zero_requests, &self.ports).hash(hasher);
        for t in &self.tolerations {
            (&t.key, &t.operator, &t.value, &t.effect, t.toleration_seconds).hash(hasher);
        }
        (&self.node_selector, &self.required, &self.preferred).hash(hasher);
        (&self.node_name, &self.images, &self.mounts, self.resource_claims, &self.groups, &self.peers).hash(hasher);
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// Its incarnation.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Higher goes first.
    pub priority: i32,
    /// Whether others may have to go for it.
    pub preempts: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Whether the scheduler made it go.
    pub preempted: bool,
    /// Since when it runs; `None`: it has not started.
    pub started: Option<Timestamp>,
    /// The node where room is being made for it.
    pub nominated: Option<String>,
    /// What it wants.
    pub spec: Arc<SchedulingSpec>,
}

impl PodInfo {
    /// As other pods' questions see it.
    pub(super) fn subject(&self) -> Subject<'_> {
        Subject { terminating: self.terminating, ..self.spec.subject() }
    }

    /// Reads `pod`; `services` are the names of the Services that select it.
    #[must_use]
    pub fn new(pod: &Pod, services: &[String]) -> Self {
        let status = pod.status.as_ref();
        Self {
            uid: uid(&pod.metadata).to_owned(),
            namespace: namespace(&pod.metadata).to_owned(),
            name: name(&pod.metadata).to_owned(),
            priority: pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0),
            preempts: pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref()) != Some("Never"),
            terminating: deleting(&pod.metadata),
            preempted: pod::condition(pod, "DisruptionTarget")
                .is_some_and(|c| c.status == "True" && c.reason.as_deref() == Some(PREEMPTED)),
            started: status.and_then(|status| status.start_time.as_ref()).map(|time| time.0),
            nominated: status.and_then(|status| status.nominated_node_name.clone()).filter(|name| !name.is_empty()),
            spec: Arc::new(SchedulingSpec::read(pod, services)),
        }
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(sidecar);
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let address = port.host_ip.clone().filter(|ip| ip != "0.0.0.0" && ip != "::").unwrap_or_default();
            Some((port.protocol.clone().unwrap_or_else(|| "TCP".into()), address, number))
        })
        .collect()
}

fn groups(pod: &Pod, services: &[String]) -> Vec<u64> {
    let space = namespace(&pod.metadata);
    match controller(&pod.metadata) {
        Some(owner) => vec![fnv64(format!("owner/{}", owner.uid).as_bytes())],
        None => services.iter().map(|service| fnv64(format!("service/{space}/{service}").as_bytes())).collect(),
    }
}
