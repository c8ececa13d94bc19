//! A pod as the scheduler sees it: everything that plugins need, read once.
//!
//! Invariants
//! - A [`SchedulingSpec`] holds all that Filter and Score may read of a pod, and nothing that tells
//!   pods of one workload apart.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Container, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};
use kontiki_model::selector::{Operator, Requirement, Selector};

use super::resources::{Resources, for_score, of_pod};
use crate::hash::fnv64;
use crate::object::{controller, name, namespace, uid};
use crate::pod;

/// A port of the node that a pod wants: protocol, address (empty for all), number.
pub type HostPort = (String, String, i32);

/// One alternative of a node affinity.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NodeTerm {
    pub labels: Vec<Requirement>,
    pub fields: Vec<Requirement>,
}

impl NodeTerm {
    fn read(term: &NodeSelectorTerm) -> Option<Self> {
        let read = |list: &Option<Vec<NodeSelectorRequirement>>| -> Option<Vec<Requirement>> {
            list.iter().flatten().map(requirement).collect()
        };
        let term = Self { labels: read(&term.match_expressions)?, fields: read(&term.match_fields)? };
        // An empty term selects nothing, by definition.
        (!term.labels.is_empty() || !term.fields.is_empty()).then_some(term)
    }
}

fn requirement(from: &NodeSelectorRequirement) -> Option<Requirement> {
    let values = from.values.clone().unwrap_or_default();
    let number = || values.first().and_then(|value| value.parse().ok());
    let operator = match from.operator.as_str() {
        "In" => Operator::In(values),
        "NotIn" => Operator::NotIn(values),
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::Gt(number()?),
        "Lt" => Operator::Lt(number()?),
        _ => return None,
    };
    Some(Requirement { key: from.key.clone(), operator })
}

/// Everything that decides which nodes are feasible for a pod, and which of them is best.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulingSpec {
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
    /// Whom it is spread with: its workload, and the Services that select it.
    pub(super) groups: Vec<u64>,
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
        let mut read = Self {
            requests: of_pod(spec),
            non_zero_requests: for_score(spec),
            ports: host_ports(spec),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            node_selector: spec.node_selector.as_ref().map(Selector::from_map).unwrap_or_default(),
            required: required.map(terms),
            preferred: preferred.filter_map(|p| Some((NodeTerm::read(&p.preference)?, i64::from(p.weight)))).collect(),
            node_name: pod::node(pod).map(str::to_owned),
            images: spec.containers.iter().filter_map(|container| container.image.clone()).collect(),
            groups: groups(pod, services),
            fingerprint: 0,
        };
        let mut hasher = DefaultHasher::new();
        read.hash_to(&mut hasher);
        read.fingerprint = hasher.finish();
        read
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
            && self.groups == other.groups
    }

    fn hash_to(&self, hasher: &mut impl Hasher) {
        (&self.requests, &self.non_zero_requests, &self.ports).hash(hasher);
        for t in &self.tolerations {
            (&t.key, &t.operator, &t.value, &t.effect, t.toleration_seconds).hash(hasher);
        }
        hash_requirements(&self.node_selector.requirements, hasher);
        self.required.as_ref().map(Vec::len).hash(hasher);
        let required = self.required.iter().flatten().map(|term| (term, 0));
        for (term, weight) in required.chain(self.preferred.iter().map(|(term, weight)| (term, *weight))) {
            weight.hash(hasher);
            hash_requirements(&term.labels, hasher);
            hash_requirements(&term.fields, hasher);
        }
        (&self.node_name, &self.images, &self.groups).hash(hasher);
    }
}

fn hash_requirements(requirements: &[Requirement], hasher: &mut impl Hasher) {
    requirements.len().hash(hasher);
    for requirement in requirements {
        requirement.key.hash(hasher);
        std::mem::discriminant(&requirement.operator).hash(hasher);
        match &requirement.operator {
            Operator::In(values) | Operator::NotIn(values) => values.hash(hasher),
            Operator::Gt(bound) | Operator::Lt(bound) => bound.hash(hasher),
            Operator::Exists | Operator::DoesNotExist => {}
        }
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
    /// What it wants.
    pub spec: Arc<SchedulingSpec>,
}

impl PodInfo {
    /// Reads `pod`; `services` are the names of the Services that select it.
    #[must_use]
    pub fn new(pod: &Pod, services: &[String]) -> Self {
        Self {
            uid: uid(&pod.metadata).to_owned(),
            namespace: namespace(&pod.metadata).to_owned(),
            name: name(&pod.metadata).to_owned(),
            priority: pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0),
            spec: Arc::new(SchedulingSpec::read(pod, services)),
        }
    }
}

fn terms(selector: &NodeSelector) -> Vec<NodeTerm> {
    selector.node_selector_terms.iter().filter_map(NodeTerm::read).collect()
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
    let owner = controller(&pod.metadata).map(|owner| fnv64(format!("owner/{}", owner.uid).as_bytes()));
    let services = services.iter().map(|service| fnv64(format!("service/{space}/{service}").as_bytes()));
    owner.into_iter().chain(services).collect()
}
