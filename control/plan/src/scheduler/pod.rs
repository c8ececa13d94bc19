//! A pod as the scheduler sees it: everything that filters and scores need, read once.

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, Toleration};
use kontiki_model::selector::{Operator, Requirement, Selector};

use super::resources::{Resources, for_score, of_pod};
use crate::hash::fnv64;
use crate::object::{controller, name, namespace, uid};
use crate::pod;

/// A port of the node that a pod wants: protocol, address (empty for all), number.
pub type HostPort = (String, String, i32);

/// One alternative of a node affinity.
#[derive(Clone, Debug)]
pub(super) struct Term {
    labels: Vec<Requirement>,
    names: Vec<Requirement>,
}

impl Term {
    fn read(term: &NodeSelectorTerm) -> Option<Self> {
        let read = |list: &Option<Vec<NodeSelectorRequirement>>| -> Option<Vec<Requirement>> {
            list.iter().flatten().map(requirement).collect()
        };
        let term = Self { labels: read(&term.match_expressions)?, names: read(&term.match_fields)? };
        // An empty term selects nothing, by definition.
        (!term.labels.is_empty() || !term.names.is_empty()).then_some(term)
    }

    pub(super) fn matches(&self, row: &super::NodeRow) -> bool {
        self.labels.iter().all(|r| r.matches(row.labels.get(&r.key).map(String::as_str)))
            && self.names.iter().all(|r| r.key == "metadata.name" && r.matches(Some(&row.name)))
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
    pub(super) requests: Resources,
    pub(super) scored: Resources,
    pub(super) ports: Vec<HostPort>,
    pub(super) tolerations: Vec<Toleration>,
    pub(super) node_selector: Selector,
    /// `None`: no requirement. An empty list fits nowhere.
    pub(super) required: Option<Vec<Term>>,
    pub(super) preferred: Vec<(Term, i64)>,
    pub(super) node_name: Option<String>,
    pub(super) images: Vec<String>,
    /// Whom it is spread with: its workload, and the Services that select it.
    pub(super) groups: Vec<u64>,
}

impl PodInfo {
    /// Reads `pod`; `services` are the names of the Services that select it.
    #[must_use]
    pub fn new(pod: &Pod, services: &[String]) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let node_affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let required = node_affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let preferred = node_affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let preferred = preferred.into_iter().flatten();
        Self {
            uid: uid(&pod.metadata).to_owned(),
            namespace: namespace(&pod.metadata).to_owned(),
            name: name(&pod.metadata).to_owned(),
            priority: spec.priority.unwrap_or(0),
            requests: of_pod(&spec),
            scored: for_score(&spec),
            ports: host_ports(pod),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            node_selector: spec.node_selector.as_ref().map(Selector::from_map).unwrap_or_default(),
            required: required.map(terms),
            preferred: preferred.filter_map(|p| Some((Term::read(&p.preference)?, i64::from(p.weight)))).collect(),
            node_name: pod::node(pod).map(str::to_owned),
            images: spec.containers.iter().filter_map(|container| container.image.clone()).collect(),
            groups: groups(pod, services),
        }
    }
}

fn terms(selector: &NodeSelector) -> Vec<Term> {
    selector.node_selector_terms.iter().filter_map(Term::read).collect()
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = pod.spec.as_ref() else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
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
