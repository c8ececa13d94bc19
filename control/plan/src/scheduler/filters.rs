//! The questions that every node must pass, in upstream's order and wording.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::pod::{HostPort, PodInfo};
use super::table::NodeRow;
use crate::taint_eviction::tolerates;

/// Why a node was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// In words; several if several resources are short.
    pub reasons: Vec<String>,
    /// Whether the node would refuse the pod even if it were empty.
    pub hopeless: bool,
}

impl Refusal {
    fn hopeless(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], hopeless: true }
    }
}

/// One question. `None` means the node passes.
pub struct Filter {
    /// Upstream's name of it.
    pub name: &'static str,
    /// Asks it.
    pub check: fn(&PodInfo, &NodeRow) -> Option<Refusal>,
}

/// All questions, cheapest first.
pub static FILTERS: &[Filter] = &[
    Filter { name: "NodeUnschedulable", check: unschedulable },
    Filter { name: "NodeName", check: node_name },
    Filter { name: "TaintToleration", check: taints },
    Filter { name: "NodeAffinity", check: affinity },
    Filter { name: "NodePorts", check: ports },
    Filter { name: "NodeResourcesFit", check: fit },
];

fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

fn unschedulable(pod: &PodInfo, row: &NodeRow) -> Option<Refusal> {
    let cordon =
        || Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
    (row.unschedulable && !tolerated(&pod.tolerations, &cordon()))
        .then(|| Refusal::hopeless("node(s) were unschedulable"))
}

fn node_name(pod: &PodInfo, row: &NodeRow) -> Option<Refusal> {
    let other = pod.node_name.as_ref().is_some_and(|name| **name != *row.name);
    other.then(|| Refusal::hopeless("node(s) didn't match the requested node name"))
}

fn taints(pod: &PodInfo, row: &NodeRow) -> Option<Refusal> {
    let forbids = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    let taint = row.taints.iter().filter(forbids).find(|taint| !tolerated(&pod.tolerations, taint))?;
    let value = taint.value.as_deref().unwrap_or_default();
    Some(Refusal::hopeless(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)))
}

fn affinity(pod: &PodInfo, row: &NodeRow) -> Option<Refusal> {
    let selected = pod.node_selector.matches(&row.labels);
    let attracted = pod.required.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(row)));
    (!selected || !attracted).then(|| Refusal::hopeless("node(s) didn't match Pod's node affinity/selector"))
}

fn clash(a: &HostPort, b: &HostPort) -> bool {
    a.0 == b.0 && a.2 == b.2 && (a.1 == b.1 || a.1.is_empty() || b.1.is_empty())
}

fn ports(pod: &PodInfo, row: &NodeRow) -> Option<Refusal> {
    let taken = pod.ports.iter().any(|port| row.ports.iter().any(|other| clash(port, other)));
    let reason = || vec!["node(s) didn't have free ports for the requested pod ports".into()];
    taken.then(|| Refusal { reasons: reason(), hopeless: false })
}

fn fit(pod: &PodInfo, row: &NodeRow) -> Option<Refusal> {
    let (ask, have, used) = (&pod.requests, &row.allocatable, &row.used);
    let mut reasons = Vec::new();
    let mut hopeless = false;
    if row.pods + 1 > row.max_pods {
        reasons.push("Too many pods".to_owned());
    }
    let mut check = |name: &str, ask: i64, have: i64, used: i64| {
        if ask > 0 && ask > have - used {
            reasons.push(format!("Insufficient {name}"));
            hopeless |= ask > have;
        }
    };
    check("cpu", ask.milli_cpu, have.milli_cpu, used.milli_cpu);
    check("memory", ask.memory, have.memory, used.memory);
    check("ephemeral-storage", ask.ephemeral_storage, have.ephemeral_storage, used.ephemeral_storage);
    for (name, ask) in &ask.scalar {
        let of = |amounts: &super::resources::Resources| amounts.scalar.get(name).copied().unwrap_or(0);
        check(name, *ask, of(have), of(used));
    }
    (!reasons.is_empty()).then_some(Refusal { reasons, hopeless })
}
