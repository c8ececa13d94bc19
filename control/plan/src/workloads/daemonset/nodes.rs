//! On which nodes the pods of a DaemonSet run, and how one is bound to its node.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PodTemplateSpec, Toleration,
};

use super::{GENERATION_LABEL, template_generation};
use crate::affinity::{Attraction, NAME_FIELD, required};
use crate::object::{name, uid};
use crate::pod;
use crate::taint_eviction::tolerates;
use crate::workloads::history::POD_LABEL;

/// Taints that pods of every DaemonSet bear: they are part of the node, not of what runs on it.
const BORNE: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// One more that those bear that do not need the network of pods.
const BORNE_ON_HOST_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// What a node means to a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// A pod should be made there.
    pub run: bool,
    /// A pod that is there may stay.
    pub stay: bool,
}

/// Which nodes a set wants.
pub(super) struct Eligible {
    attraction: Attraction,
    tolerations: Vec<Toleration>,
    node: Option<String>,
}

impl Eligible {
    pub fn new(set: &DaemonSet) -> Self {
        let spec = set.spec.template.spec.clone().unwrap_or_default();
        Self {
            attraction: Attraction::of(&spec),
            tolerations: tolerations(&spec),
            node: spec.node_name.filter(|name| !name.is_empty()),
        }
    }

    pub fn verdict(&self, node: &Node) -> Verdict {
        let named = self.node.as_deref().is_none_or(|wanted| wanted == name(&node.metadata));
        if !named || !self.attraction.matches(&node.metadata) {
            return Verdict::default();
        }
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        let bears = |effect: &str| {
            let mut taints = taints.iter().filter(|taint| taint.effect == effect);
            taints.all(|taint| self.tolerations.iter().any(|toleration| tolerates(toleration, taint)))
        };
        let stay = bears("NoExecute");
        Verdict { run: stay && bears("NoSchedule"), stay }
    }
}

/// The tolerations of a set's pods: its own, and those of every DaemonSet.
fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let host = spec.host_network == Some(true);
    for (key, effect) in BORNE.iter().chain(host.then_some(&BORNE_ON_HOST_NETWORK)) {
        let borne = Toleration {
            key: Some((*key).to_owned()),
            operator: Some("Exists".into()),
            effect: Some((*effect).to_owned()),
            ..Toleration::default()
        };
        let same = |old: &Toleration| {
            (&old.key, &old.operator, &old.effect) == (&borne.key, &borne.operator, &borne.effect)
                && old.value.as_deref().unwrap_or_default().is_empty()
        };
        // Borne for ever, also where the set says for how long.
        match all.iter_mut().find(|old| same(old)) {
            Some(old) => *old = borne,
            None => all.push(borne),
        }
    }
    all
}

/// The node that a pod runs on, or was made for.
pub(super) fn target(pod: &Pod) -> Option<&str> {
    if let Some(node) = pod::node(pod) {
        return Some(node);
    }
    let terms = required(pod.spec.as_ref()?)?.node_selector_terms.iter();
    let fields = terms.flat_map(|term| term.match_fields.iter().flatten());
    let mut names = fields.filter(|field| field.key == NAME_FIELD && field.operator == "In");
    names.find_map(|field| field.values.as_ref()?.first().map(String::as_str))
}

/// The pod of a set for a node: the scheduler binds it, to that node and to no other.
pub(super) fn make(set: &DaemonSet, hash: &str, node: &str) -> Pod {
    let mut template: PodTemplateSpec = set.spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    if let Some(generation) = template_generation(set) {
        labels.insert(GENERATION_LABEL.into(), generation);
    }
    labels.insert(POD_LABEL.into(), hash.to_owned());
    let spec = template.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    let own_name =
        NodeSelectorRequirement { key: NAME_FIELD.into(), operator: "In".into(), values: Some(vec![node.to_owned()]) };
    let term = NodeSelectorTerm { match_fields: Some(vec![own_name]), match_expressions: None };
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    // What the set requires of nodes has been judged already.
    affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
    pod::from_template(&template, set)
}

/// The pods of a set by node, each node's first the one that counts: bound before unbound, then the oldest.
pub(super) fn by_node<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> BTreeMap<&'a str, Vec<&'a Pod>> {
    let mut out: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for pod in pods {
        if let Some(node) = target(pod) {
            out.entry(node).or_default().push(pod);
        }
    }
    for pods in out.values_mut() {
        pods.sort_by_key(|pod| {
            let meta = &pod.metadata;
            (pod::node(pod).is_none(), crate::object::created(meta), name(meta).to_owned(), uid(meta).to_owned())
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeSpec, Taint};

    use super::*;
    use crate::testing::{map, meta};
    use crate::workloads::daemonset::tests::set;

    fn node(taints: &str, labels: &[(&str, &str)]) -> Node {
        let taint = |word: &str| {
            let (key, effect) = word.split_once(':').unwrap();
            Taint { key: key.into(), effect: effect.into(), ..Taint::default() }
        };
        let spec = NodeSpec { taints: Some(taints.split_whitespace().map(taint).collect()), ..NodeSpec::default() };
        let mut meta = meta("n1");
        meta.labels = Some(map(labels));
        Node { metadata: meta, spec: Some(spec), status: None }
    }

    #[test]
    fn nodes_are_judged_as_the_scheduler_would() {
        let selecting = |set: &mut DaemonSet| {
            set.spec.template.spec.as_mut().unwrap().node_selector = Some(map(&[("disk", "ssd")]));
        };
        let named = |set: &mut DaemonSet| set.spec.template.spec.as_mut().unwrap().node_name = Some("n2".into());
        let tolerant = |set: &mut DaemonSet| {
            let all = Toleration { operator: Some("Exists".into()), ..Toleration::default() };
            set.spec.template.spec.as_mut().unwrap().tolerations = Some(vec![all]);
        };
        let on_host = |set: &mut DaemonSet| set.spec.template.spec.as_mut().unwrap().host_network = Some(true);
        let nothing = |_: &mut DaemonSet| {};
        let (yes, stay, no) =
            (Verdict { run: true, stay: true }, Verdict { run: false, stay: true }, Verdict::default());
        let network = "node.kubernetes.io/network-unavailable:NoSchedule";
        type Case<'a> = (&'a str, &'a dyn Fn(&mut DaemonSet), &'a str, &'a [(&'a str, &'a str)], Verdict);
        let cases: [Case<'_>; 13] = [
            ("any node", &nothing, "", &[], yes),
            ("not a tainted one", &nothing, "own:NoSchedule", &[], stay),
            ("not one that drives out", &nothing, "own:NoExecute", &[], no),
            ("a soft taint", &nothing, "own:PreferNoSchedule", &[], yes),
            ("a tolerated taint", &tolerant, "own:NoSchedule own:NoExecute", &[], yes),
            ("a cordoned node", &nothing, "node.kubernetes.io/unschedulable:NoSchedule", &[], yes),
            ("a lost node", &nothing, "node.kubernetes.io/unreachable:NoExecute", &[], yes),
            ("a lost node, by another effect", &nothing, "node.kubernetes.io/unreachable:NoSchedule", &[], stay),
            ("a node without network", &nothing, network, &[], stay),
            ("a node without network, for the host's", &on_host, network, &[], yes),
            ("a selector", &selecting, "", &[("disk", "ssd")], yes),
            ("a selector that does not match", &selecting, "", &[("disk", "hdd")], no),
            ("another node by name", &named, "", &[], no),
        ];
        for (name, change, taints, labels, expect) in cases {
            let mut set = set("1,0", "a");
            change(&mut set);
            assert_eq!(Eligible::new(&set).verdict(&node(taints, labels)), expect, "{name}");
        }
    }

    #[test]
    fn a_pod_is_pinned_to_its_node_and_bears_what_the_node_is() {
        let mut set = set("1,0", "a");
        let short = Toleration {
            key: Some("node.kubernetes.io/not-ready".into()),
            operator: Some("Exists".into()),
            effect: Some("NoExecute".into()),
            toleration_seconds: Some(5),
            ..Toleration::default()
        };
        set.spec.template.spec.as_mut().unwrap().tolerations = Some(vec![short]);
        let pod = make(&set, "hash", "n7");
        assert_eq!(target(&pod), Some("n7"));
        let tolerations = pod.spec.unwrap().tolerations.unwrap();
        assert_eq!(tolerations.len(), BORNE.len());
        assert!(tolerations.iter().all(|toleration| toleration.toleration_seconds.is_none()));
    }
}
