//! What an Ingress that nodes serve says of itself: the addresses of those nodes, and in events what of it is not served.
//!
//! Invariants
//! - Only Ingresses of a class with our controller are touched.
//! - A node counts while it is ready and says that it serves. Their order is that of their names, so that ties never flap.
//! - People are told once in a term of each thing that is not served.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::{Ingress, IngressLoadBalancerIngress};
use kontiki_model::ingress::{self, CERTIFICATE, CONDITION, Options};
use serde_json::{Value, json};

use crate::action::{Action, EventRecord, Plan, patch, reference};
use crate::key::NamespacedName;
use crate::nodes::node_lifecycle::{ready, state};
use crate::object::{deleting, name};

const COMPONENT: &str = "ingress-controller";

/// The addresses by which a node that serves is reached: those outside, if it has any.
#[must_use]
pub fn addresses(node: &Node) -> Vec<String> {
    let serves = ready(node) && state(node, CONDITION) == Some("True") && !deleting(&node.metadata);
    let all =
        node.status.as_ref().filter(|_| serves).and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let of = |kind: &str| -> Vec<String> {
        all.iter().filter(|address| address.type_ == kind).map(|address| address.address.clone()).collect()
    };
    let outside = of("ExternalIP");
    if outside.is_empty() { of("InternalIP") } else { outside }
}

/// The addresses of all nodes that serve, each once.
#[must_use]
pub fn serving(nodes: &[Arc<Node>]) -> Vec<String> {
    let mut nodes: Vec<&Node> = nodes.iter().map(Arc::as_ref).collect();
    nodes.sort_by_key(|node| name(&node.metadata));
    let mut seen = BTreeSet::new();
    nodes.into_iter().flat_map(addresses).filter(|address| seen.insert(address.clone())).collect()
}

/// What is known of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// There is none.
    Missing,
    /// Its type.
    OfType(String),
}

/// One thing of an Ingress that is not served: a reason, and what it is.
pub type Complaint = (&'static str, String);

/// What of an Ingress is not served as it is written.
#[must_use]
pub fn complaints(ingress: &Ingress, secret: impl Fn(&str) -> Secret) -> Vec<Complaint> {
    let (_, wrong) = Options::of(ingress.metadata.annotations.as_ref());
    let mut all: Vec<Complaint> = wrong.into_iter().map(|text| ("BadAnnotation", text)).collect();
    for resource in ingress::backends(ingress).filter_map(|backend| backend.resource.as_ref()) {
        let what = format!("{} {}", resource.kind, resource.name);
        all.push(("ResourceBackend", format!("The backend {what} is not supported, only Services are")));
    }
    for named in ingress::secrets(ingress) {
        match secret(named) {
            Secret::Missing => all.push(("NoCertificate", format!("There is no Secret {named}"))),
            Secret::OfType(kind) if kind != CERTIFICATE => {
                all.push(("NoCertificate", format!("The Secret {named} is of type {kind}, not {CERTIFICATE}")));
            }
            Secret::OfType(_) => {}
        }
    }
    all.dedup();
    all
}

/// What people have been told.
#[derive(Debug, Default)]
pub struct Told(HashMap<NamespacedName, Vec<Complaint>>);

impl Told {
    /// Keeps what is to be said of an Ingress now; gives what of it is new.
    pub fn keep(&mut self, key: &NamespacedName, complaints: Vec<Complaint>) -> Vec<Complaint> {
        let before =
            if complaints.is_empty() { self.0.remove(key) } else { self.0.insert(key.clone(), complaints.clone()) };
        let before = before.unwrap_or_default();
        complaints.into_iter().filter(|complaint| !before.contains(complaint)).collect()
    }

    /// An Ingress is gone, or is another's.
    pub fn forget(&mut self, key: &NamespacedName) {
        self.0.remove(key);
    }
}

/// What a plan is made from. There is none for an Ingress that is not ours.
pub struct View {
    /// The Ingress.
    pub ingress: Arc<Ingress>,
    /// The addresses of the nodes that serve ([`serving`]).
    pub addresses: Vec<String>,
    /// What people are to be told.
    pub news: Vec<Complaint>,
}

/// Decides what one Ingress says.
#[must_use]
pub fn plan(view: &View) -> Plan {
    let ingress = view.ingress.as_ref();
    if deleting(&ingress.metadata) {
        return Plan::rest("it is being deleted");
    }
    let event = |(reason, message): &Complaint| {
        Action::Event(EventRecord::warning(reference(ingress), COMPONENT, reason, message.clone()))
    };
    let mut actions: Vec<Action> = view.news.iter().map(event).collect();
    let entry =
        |ip: &String| IngressLoadBalancerIngress { ip: Some(ip.clone()), ..IngressLoadBalancerIngress::default() };
    let wanted: Vec<IngressLoadBalancerIngress> = view.addresses.iter().map(entry).collect();
    let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    if balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default() == wanted {
        return Plan::new("its status is right", actions);
    }
    let wanted = if wanted.is_empty() { Value::Null } else { json!(wanted) };
    actions.push(patch(ingress, Some("status"), json!({"status": {"loadBalancer": {"ingress": wanted}}})));
    Plan::new("other nodes serve it than it says", actions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, show};

    /// `n1` serves at 10.0.0.1, `n1!` is not ready, `n1-` does not serve, `n1~` is being deleted, `n1+` has an address outside.
    fn node(text: &str) -> Arc<Node> {
        let bare = text.trim_end_matches(['!', '-', '~', '+']);
        let mark = &text[bare.len()..];
        let number = bare.trim_start_matches('n');
        let mut addresses = vec![
            json!({"type": "Hostname", "address": bare}),
            json!({"type": "InternalIP", "address": format!("10.0.0.{number}")}),
        ];
        if mark == "+" {
            addresses.push(json!({"type": "ExternalIP", "address": format!("203.0.113.{number}")}));
        }
        let mut conditions = vec![json!({"type": "Ready", "status": if mark == "!" { "Unknown" } else { "True" }})];
        if mark != "-" {
            conditions.push(json!({"type": CONDITION, "status": "True"}));
        }
        let mut metadata = json!({"name": bare});
        if mark == "~" {
            metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let status = json!({"addresses": addresses, "conditions": conditions});
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap())
    }

    fn ingress(shown: &str, spec: Value) -> Ingress {
        let ips: Vec<Value> = shown.split_whitespace().map(|ip| json!({"ip": ip})).collect();
        let metadata = json!({
            "name": "web", "namespace": "ns", "uid": "u", "resourceVersion": "1",
            "annotations": {"kontiki.dev/redirect-https": "maybe"},
        });
        let status = json!({"loadBalancer": {"ingress": ips}});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap()
    }

    /// Turns until nothing is written: what it shows then, and what was done on the way.
    fn settled(shown: &str, nodes: &str) -> String {
        let mut cluster = Cluster::default();
        cluster.add(&ingress(shown, json!({})));
        let nodes: Vec<Arc<Node>> = nodes.split_whitespace().map(node).collect();
        let mut done = Vec::new();
        let rested = cluster.settle(3, |cluster| {
            let ingress = Arc::new(cluster.only::<Ingress>());
            let actions = plan(&View { ingress, addresses: serving(&nodes), news: Vec::new() }).actions;
            done.push(show(&actions));
            actions
        });
        assert!(rested, "{}", cluster.trace());
        let balancer = cluster.only::<Ingress>().status.unwrap().load_balancer.unwrap();
        let ips: Vec<String> = balancer.ingress.into_iter().flatten().filter_map(|entry| entry.ip).collect();
        format!("{} | {}", ips.join(" "), done.concat())
    }

    #[test]
    fn an_ingress_shows_the_nodes_that_serve_it() {
        for (title, shown, nodes, expect) in [
            ("one", "", "n1", "10.0.0.1 | status web"),
            ("it rests", "10.0.0.1 10.0.0.2", "n1 n2", "10.0.0.1 10.0.0.2 | "),
            ("by name, however they come", "", "n2 n1", "10.0.0.1 10.0.0.2 | status web"),
            ("one is lost", "10.0.0.1 10.0.0.2", "n1 n2!", "10.0.0.1 | status web"),
            ("one does not serve", "10.0.0.1 10.0.0.2", "n1- n2", "10.0.0.2 | status web"),
            ("one goes", "10.0.0.1 10.0.0.2", "n1 n2~", "10.0.0.1 | status web"),
            ("an address outside", "", "n1+ n2", "203.0.113.1 10.0.0.2 | status web"),
            ("none is left", "10.0.0.1", "n1-", " | status web"),
            ("there is none", "", "", " | "),
        ] {
            assert_eq!(settled(shown, nodes), expect, "{title}");
        }
    }

    #[test]
    fn what_goes_is_left_alone() {
        let mut gone = ingress("", json!({}));
        gone.metadata.deletion_timestamp = Some(crate::object::time(crate::testing::NOW));
        let news = vec![("Reason", "text".to_owned())];
        let view = View { ingress: Arc::new(gone), addresses: vec!["10.0.0.1".into()], news };
        assert_eq!(plan(&view).actions, []);
    }

    #[test]
    fn what_is_not_served_is_told_once() {
        let backend = json!({"resource": {"kind": "Bucket", "name": "files"}});
        let spec = json!({
            "rules": [{"http": {"paths": [
                {"pathType": "Exact", "backend": backend}, {"pathType": "Exact", "backend": backend},
                {"pathType": "Exact", "backend": {"service": {"name": "web"}}},
            ]}}],
            "tls": [{"secretName": "good"}, {"secretName": "gone"}, {"secretName": "opaque"}],
        });
        let ingress = Arc::new(ingress("", spec));
        let secret = |name: &str| match name {
            "good" => Secret::OfType(CERTIFICATE.into()),
            "opaque" => Secret::OfType("Opaque".into()),
            _ => Secret::Missing,
        };
        let all = complaints(&ingress, secret);
        let reasons: Vec<&str> = all.iter().map(|(reason, _)| *reason).collect();
        assert_eq!(reasons, ["BadAnnotation", "ResourceBackend", "NoCertificate", "NoCertificate"]);
        assert!(all[2].1.contains("no Secret gone") && all[3].1.contains("opaque is of type Opaque"), "{all:?}");
        let (mut told, key) = (Told::default(), NamespacedName::new("ns", "web"));
        let news = told.keep(&key, all.clone());
        let view = View { ingress: ingress.clone(), addresses: Vec::new(), news };
        assert_eq!(show(&plan(&view).actions), "!BadAnnotation !ResourceBackend !NoCertificate !NoCertificate");
        assert_eq!(told.keep(&key, all.clone()), []);
        assert_eq!(told.keep(&key, all[..2].to_vec()), []);
        assert_eq!(told.keep(&key, all.clone()), all[2..], "once more, for it was well in between");
        told.forget(&key);
        assert_eq!(told.keep(&key, all.clone()), all);
    }
}
