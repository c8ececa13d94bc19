//! Which nodes a pod is drawn to: `nodeSelector` and the required terms of its node affinity.

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kontiki_model::selector::{Operator, Requirement, Selector};

use crate::object;

/// The only field of a node that a term may ask about.
pub const NAME_FIELD: &str = "metadata.name";

/// What the nodes that a pod may run on must have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attraction {
    selector: Selector,
    /// One has to match; `None`: there are none.
    terms: Option<Vec<NodeTerm>>,
}

impl Attraction {
    /// What a pod's spec asks for.
    #[must_use]
    pub fn of(spec: &PodSpec) -> Self {
        Self {
            selector: spec.node_selector.as_ref().map(Selector::from_map).unwrap_or_default(),
            terms: required(spec).map(terms),
        }
    }

    /// Whether the node of this metadata has it.
    #[must_use]
    pub fn matches(&self, node: &ObjectMeta) -> bool {
        self.selector.matches_with(|key| object::label(node, key))
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(node)))
    }
}

/// The required node affinity of a spec.
#[must_use]
pub fn required(spec: &PodSpec) -> Option<&NodeSelector> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    affinity.required_during_scheduling_ignored_during_execution.as_ref()
}

/// One alternative of a node affinity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeTerm {
    /// What it asks of a node's labels.
    pub labels: Vec<Requirement>,
    /// What it asks of a node's fields.
    pub fields: Vec<Requirement>,
}

impl NodeTerm {
    /// Reads a term. `None`: it selects nothing.
    #[must_use]
    pub fn read(term: &NodeSelectorTerm) -> Option<Self> {
        let read = |list: &Option<Vec<NodeSelectorRequirement>>| -> Option<Vec<Requirement>> {
            list.iter().flatten().map(requirement).collect()
        };
        let term = Self { labels: read(&term.match_expressions)?, fields: read(&term.match_fields)? };
        // An empty term selects nothing, by definition.
        (!term.labels.is_empty() || !term.fields.is_empty()).then_some(term)
    }

    fn matches(&self, meta: &ObjectMeta) -> bool {
        let field = |r: &Requirement| r.key == NAME_FIELD && r.matches(Some(object::name(meta)));
        self.labels.iter().all(|r| r.matches(object::label(meta, &r.key))) && self.fields.iter().all(field)
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

/// The alternatives of a node affinity, without those that select nothing.
#[must_use]
pub fn terms(selector: &NodeSelector) -> Vec<NodeTerm> {
    selector.node_selector_terms.iter().filter_map(NodeTerm::read).collect()
}
