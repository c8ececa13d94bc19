//! Which node announces the addresses of a load balancer.
//!
//! Invariants
//! - A node is named until it may no more: it is lost or not ready, is kept out by its label, or has no endpoint of a Service
//!   whose external traffic stays local. Nothing moves because another node came (back).
//! - A node counts as lost when the node lifecycle says so (`Ready` is `Unknown`), which is later than the node itself gives its
//!   addresses up (`kontiki_agent_plan::session::TENURE`).
//! - Services spread over the nodes that may by rendezvous: with a node go only those that it had.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use super::load_balancer::{ANNOUNCED_BY, is_marked, is_ours, shown};
use crate::action::{Action, EventRecord, Patch, Plan, patch, reference};
use crate::hash::fnv64;
use crate::nodes::node_lifecycle::ready;
use crate::object::{annotation, deleting, label, name, namespace};

/// Keeps a node from announcing anything; upstream's.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const COMPONENT: &str = "load-balancer-controller";

/// Whether a node may announce addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fitness {
    /// Yes.
    Fit,
    /// It may again once it is ready; another is better.
    NotReady,
    /// No.
    Barred,
}

/// Whether a node may announce addresses, as far as it goes by the node itself.
#[must_use]
pub fn fitness(node: Option<&Node>) -> Fitness {
    match node {
        Some(node) if deleting(&node.metadata) || label(&node.metadata, EXCLUDED).is_some() => Fitness::Barred,
        Some(node) if ready(node) => Fitness::Fit,
        Some(_) => Fitness::NotReady,
        None => Fitness::Barred,
    }
}

/// The node that a Service names.
#[must_use]
pub fn named(service: &Service) -> Option<&str> {
    annotation(&service.metadata, ANNOUNCED_BY)
}

/// Whether a Service has addresses that are to be announced.
#[must_use]
pub fn is_announced(service: &Service) -> bool {
    is_ours(service) && is_marked(service) && !deleting(&service.metadata) && !shown(service).is_empty()
}

/// Whether what comes from outside stays on the node where it arrives.
#[must_use]
pub fn is_local(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.external_traffic_policy.as_deref() == Some("Local"))
}

/// The nodes that have a ready endpoint.
#[must_use]
pub fn serving(slices: &[Arc<EndpointSlice>]) -> BTreeSet<String> {
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints).flatten();
    let ready = endpoints.filter(|e| e.conditions.as_ref().and_then(|c| c.ready) != Some(false));
    ready.filter_map(|endpoint| endpoint.node_name.clone()).collect()
}

/// What a plan is made from.
pub struct View {
    /// The Service.
    pub service: Arc<Service>,
    /// The node that it names.
    pub node: Option<Arc<Node>>,
    /// The nodes with a ready endpoint, if only those may.
    pub serving: Option<BTreeSet<String>>,
    /// The nodes to choose from, unless the named one stays ([`stays`]).
    pub nodes: Vec<Arc<Node>>,
}

/// Whether the node that a Service names goes on.
#[must_use]
pub fn stays(node: Option<&Node>, serving: Option<&BTreeSet<String>>) -> bool {
    judged(node, serving) == Fitness::Fit
}

fn judged(node: Option<&Node>, serving: Option<&BTreeSet<String>>) -> Fitness {
    let serves = |node: &Node| serving.is_none_or(|serving| serving.contains(name(&node.metadata)));
    if node.is_some_and(serves) { fitness(node) } else { Fitness::Barred }
}

/// Decides who announces one Service.
#[must_use]
pub fn plan(view: &View) -> Plan {
    let (service, serving) = (view.service.as_ref(), view.serving.as_ref());
    if !is_announced(service) {
        let ours = is_ours(service) && named(service).is_some();
        let actions = if ours { vec![name_node(service, None)] } else { Vec::new() };
        return Plan::new("it has nothing to announce", actions);
    }
    let now = judged(view.node.as_deref(), serving);
    if now == Fitness::Fit {
        return Plan::rest("the node that announces it stays");
    }
    let fit = view.nodes.iter().filter(|node| stays(Some(Arc::as_ref(node)), serving)).map(|node| name(&node.metadata));
    match fit.max_by_key(|node| (weight(service, node), *node)) {
        Some(node) => Plan::new("a node is to announce it", vec![name_node(service, Some(node))]),
        None if now == Fitness::NotReady => Plan::rest("no other node may announce it"),
        None if named(service).is_some() => Plan::new("no node may announce it", vec![name_node(service, None)]),
        None => Plan::rest("no node may announce it"),
    }
}

fn weight(service: &Service, node: &str) -> u64 {
    let meta = &service.metadata;
    let hash = fnv64(format!("{node}/{}/{}", namespace(meta), name(meta)).as_bytes());
    // FNV leaves the high bits of similar texts alike.
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

fn name_node(service: &Service, node: Option<&str>) -> Action {
    let action = patch(service, None, json!({"metadata": {"annotations": {ANNOUNCED_BY: node}}}));
    match (action, node) {
        (Action::Patch(patch), Some(node)) => {
            let message = format!("Announced by the node {node}");
            let event = EventRecord::normal(reference(service), COMPONENT, "AddressAnnounced", message);
            Action::Patch(Patch { announce: Some(event), ..patch })
        }
        (action, _) => action,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::core::v1::{
        LoadBalancerIngress, LoadBalancerStatus, NodeCondition, NodeStatus, ServiceSpec, ServiceStatus,
    };
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::super::load_balancer::POOL;
    use super::*;
    use crate::object::time;
    use crate::testing::{Cluster, NOW, map, meta};

    /// `n1` is ready, `n1?` lost, `n1!` not ready, `n1x` kept out by its label, `n1~` being deleted.
    fn node(text: &str) -> Node {
        let bare = text.trim_end_matches(['?', '!', 'x', '~']);
        let mut node = Node { metadata: ObjectMeta { namespace: None, ..meta(bare) }, ..Node::default() };
        let mut status = "True";
        match text.trim_start_matches(bare) {
            "?" => status = "Unknown",
            "!" => status = "False",
            "x" => node.metadata.labels = Some(map(&[(EXCLUDED, "")])),
            "~" => node.metadata.deletion_timestamp = Some(time(NOW)),
            _ => {}
        }
        let condition = NodeCondition { type_: "Ready".into(), status: status.into(), ..NodeCondition::default() };
        node.status = Some(NodeStatus { conditions: Some(vec![condition]), ..NodeStatus::default() });
        node
    }

    fn service(name: &str, by: Option<&str>) -> Service {
        let annotations = [(POOL, "main")].into_iter().chain(by.map(|node| (ANNOUNCED_BY, node)));
        let ingress = LoadBalancerIngress { ip: Some("10.0.0.7".into()), ..LoadBalancerIngress::default() };
        let load_balancer = Some(LoadBalancerStatus { ingress: Some(vec![ingress]) });
        Service {
            metadata: ObjectMeta { annotations: Some(map(&annotations.collect::<Vec<_>>())), ..meta(name) },
            spec: Some(ServiceSpec { type_: Some("LoadBalancer".into()), ..ServiceSpec::default() }),
            status: Some(ServiceStatus { load_balancer, ..ServiceStatus::default() }),
        }
    }

    /// Turns until nothing is written: who announces it then, and in how many writes.
    fn settled(service: &Service, nodes: &[Node], serving: Option<&BTreeSet<String>>) -> String {
        let mut cluster = Cluster::default();
        cluster.add(service);
        nodes.iter().for_each(|node| cluster.add(node));
        let mut writes = 0;
        let rested = cluster.settle(4, |cluster| {
            let (service, nodes) = (Arc::new(cluster.only::<Service>()), cluster.list::<Node>());
            let node = nodes.iter().find(|node| named(&service) == Some(name(&node.metadata))).cloned();
            let stays = stays(node.as_deref(), serving);
            let nodes = if stays { Vec::new() } else { nodes };
            let actions = plan(&View { service, node, serving: serving.cloned(), nodes }).actions;
            writes += actions.len();
            actions
        });
        assert!(rested, "{}", cluster.trace());
        format!("{} {writes}", named(&cluster.only::<Service>()).unwrap_or("-"))
    }

    #[test]
    fn a_node_is_named_until_it_may_no_more() {
        for (title, by, nodes, serving, expect) in [
            ("nobody yet", None, "n1", None, "n1 1"),
            ("it stays", Some("n1"), "n1 n2 n3", None, "n1 0"),
            ("nobody may", None, "n1? n2x n3! n4~", None, "- 0"),
            ("lost", Some("n1"), "n1? n2", None, "n2 1"),
            ("lost, and the others too", Some("n1"), "n1? n2?", None, "n1 0"),
            ("not ready", Some("n1"), "n1! n2", None, "n2 1"),
            ("kept out", Some("n1"), "n1x n2", None, "n2 1"),
            ("kept out, and no other", Some("n1"), "n1x n2?", None, "- 1"),
            ("being deleted", Some("n1"), "n1~ n2", None, "n2 1"),
            ("gone", Some("n1"), "n2", None, "n2 1"),
            ("only where endpoints are", None, "n1 n2 n3", Some("n2"), "n2 1"),
            ("its endpoint went", Some("n1"), "n1 n2 n3", Some("n3"), "n3 1"),
            ("all endpoints went", Some("n1"), "n1 n2", Some(""), "- 1"),
            ("the last endpoint is on a lost node", Some("n1"), "n1? n2", Some("n1"), "n1 0"),
        ] {
            let nodes: Vec<Node> = nodes.split_whitespace().map(node).collect();
            let serving = serving.map(|text| text.split_whitespace().map(str::to_owned).collect());
            assert_eq!(settled(&service("web", by), &nodes, serving.as_ref()), expect, "{title}");
        }
    }

    #[test]
    fn what_is_not_announced_names_nobody() {
        let change = |edit: fn(&mut Service)| {
            let mut service = service("web", Some("n1"));
            edit(&mut service);
            settled(&service, &[node("n1")], None)
        };
        type Edit = fn(&mut Service);
        let cases: [(&str, Edit, &str); 4] = [
            ("no address", |s| s.status = None, "- 1"),
            ("no mark", |s| drop(s.metadata.annotations.as_mut().map(|all| all.remove(POOL))), "- 1"),
            ("it goes", |s| s.metadata.deletion_timestamp = Some(time(NOW)), "- 1"),
            ("another's class", |s| s.spec.as_mut().unwrap().load_balancer_class = Some("a/b".into()), "n1 0"),
        ];
        for (title, edit, expect) in cases {
            assert_eq!(change(edit), expect, "{title}");
        }
    }

    #[test]
    fn services_spread_and_few_move() {
        let nodes: Vec<Node> = (1..=5).map(|number| node(&format!("n{number}"))).collect();
        let choose = |nodes: &[Node]| -> Vec<String> {
            let one = |number: u32| settled(&service(&format!("web-{number}"), None), nodes, None);
            (0..300).map(one).collect()
        };
        let (before, after) = (choose(&nodes), choose(&nodes[..4]));
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        before.iter().for_each(|node| *counts.entry(node.as_str()).or_default() += 1);
        assert!(counts.len() == 5 && counts.values().all(|count| (30..=90).contains(count)), "{counts:?}");
        let mut moved = before.iter().zip(&after).filter(|(before, after)| before != after);
        assert!(moved.all(|(before, _)| before == "n5 1"), "only those of the node that is gone");
    }

    #[test]
    fn ready_endpoints_tell_the_nodes() {
        let slice: EndpointSlice = serde_json::from_value(json!({"addressType": "IPv4", "metadata": {}, "endpoints": [
            {"addresses": ["10.1.0.1"], "nodeName": "n1", "conditions": {"ready": true}},
            {"addresses": ["10.1.0.2"], "nodeName": "n2", "conditions": {"ready": false, "serving": true}},
            {"addresses": ["10.1.0.3"], "nodeName": "n3"},
            {"addresses": ["10.1.0.4"]},
        ]}))
        .unwrap();
        assert_eq!(serving(&[Arc::new(slice)]), ["n1".to_owned(), "n3".to_owned()].into());
    }
}
