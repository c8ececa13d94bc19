//! What NetworkPolicies mean on one node: which of its pods may be reached by whom, and whom they may reach.
//!
//! Invariants
//! - The result depends on nothing but the given objects and the node's name; equal input gives equal output.
//! - A pod that no policy selects is not mentioned: everything is allowed.
//! - Only policies that select a pod of this node are compiled, each once however many pods it selects.
//!
//! Pods of the host's network are no pods here: policies do not hold for them, and no selector means them.
//!
//! Not here: packet rules (see kontiki-net).

mod nets;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Pod},
        networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector as Spec, util::intstr::IntOrString},
};
use kontiki_model::selector::Selector;

use crate::services::Protocol;

/// Which way packets go, from the selected pod's point of view.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Way {
    In,
    Out,
}

/// A policy in one direction.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PolicyKey {
    pub namespace: String,
    pub name: String,
    pub way: Way,
}

/// What the policies of a cluster mean on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// Pods of this node that only what a policy allows may reach, or that may reach only that.
    pub isolated: BTreeMap<(Ipv4Addr, Way), BTreeSet<PolicyKey>>,
    /// What each of those policies allows.
    pub allowed: BTreeMap<PolicyKey, Vec<Allowed>>,
}

/// One rule: what it allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// The other side; `None`: anybody. Disjoint and sorted.
    pub peers: Option<Vec<Ipv4Net>>,
    /// The ports of whoever is reached; `None`: any.
    pub ports: Option<Ports>,
}

/// Ports of whoever is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// First and last; all of a protocol: 0 to 65535.
    pub ranges: BTreeSet<(Protocol, u16, u16)>,
    /// Ports that a name stands for, each pod's own.
    pub named: BTreeSet<(Ipv4Addr, Protocol, u16)>,
}

/// What policies are compiled from.
pub struct Cluster<'a> {
    pub policies: Vec<&'a NetworkPolicy>,
    pub namespaces: Vec<&'a Namespace>,
    /// All pods of the cluster.
    pub pods: Vec<&'a Pod>,
}

/// A pod as policies see it.
struct Member<'a> {
    namespace: &'a str,
    labels: &'a BTreeMap<String, String>,
    ip: Ipv4Addr,
    local: bool,
    pod: &'a Pod,
}

type Labels = BTreeMap<String, String>;
static NO_LABELS: Labels = Labels::new();

fn member<'a>(pod: &'a Pod, node: &str) -> Option<Member<'a>> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if ended || spec.host_network == Some(true) {
        return None;
    }
    let texts = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).chain(status.pod_ip.as_deref());
    Some(Member {
        namespace: pod.metadata.namespace.as_deref()?,
        labels: pod.metadata.labels.as_ref().unwrap_or(&NO_LABELS),
        ip: texts.into_iter().find_map(|ip| ip.parse().ok())?,
        local: spec.node_name.as_deref() == Some(node),
        pod,
    })
}

/// What the policies mean on `node`.
#[must_use]
pub fn compile(cluster: &Cluster<'_>, node: &str) -> Policies {
    let mut members: Vec<Member<'_>> = cluster.pods.iter().filter_map(|pod| member(pod, node)).collect();
    members.sort_by_key(|member| member.ip);
    let namespaces = cluster.namespaces.iter().filter_map(|namespace| {
        let labels = namespace.metadata.labels.as_ref().unwrap_or(&NO_LABELS);
        Some((namespace.metadata.name.as_deref()?, labels))
    });
    let world = Candidates { namespaces: namespaces.collect(), members };
    let mut out = Policies::default();
    for policy in &cluster.policies {
        world.add(policy, &mut out);
    }
    out
}

struct Candidates<'a> {
    namespaces: BTreeMap<&'a str, &'a Labels>,
    members: Vec<Member<'a>>,
}

/// The ports that a rule names.
type Named<'a> = Option<&'a [NetworkPolicyPort]>;

impl Candidates<'_> {
    fn add(&self, policy: &NetworkPolicy, out: &mut Policies) {
        let (Some(namespace), Some(name), Some(spec)) =
            (policy.metadata.namespace.as_deref(), policy.metadata.name.as_deref(), &policy.spec)
        else {
            return;
        };
        let default = Spec::default();
        let Some(selector) = selector(spec.pod_selector.as_ref().unwrap_or(&default)) else { return };
        let selected: Vec<&Member<'_>> = self
            .members
            .iter()
            .filter(|member| member.local && member.namespace == namespace && selector.matches(member.labels))
            .collect();
        if selected.is_empty() {
            return;
        }
        for way in ways(spec.policy_types.as_deref(), spec.egress.is_some()) {
            let key = PolicyKey { namespace: namespace.to_owned(), name: name.to_owned(), way };
            for member in &selected {
                out.isolated.entry((member.ip, way)).or_default().insert(key.clone());
            }
            let rules: Vec<(Option<&[NetworkPolicyPeer]>, Named<'_>)> = match way {
                Way::In => spec.ingress.iter().flatten().map(|r| (r.from.as_deref(), r.ports.as_deref())).collect(),
                Way::Out => spec.egress.iter().flatten().map(|r| (r.to.as_deref(), r.ports.as_deref())).collect(),
            };
            let allowed = rules.into_iter().filter_map(|(peers, ports)| self.rule(&key, &selected, peers, ports));
            out.allowed.insert(key.clone(), allowed.collect());
        }
    }

    /// One rule; `None` if it allows nothing.
    fn rule(
        &self,
        key: &PolicyKey,
        selected: &[&Member<'_>],
        peers: Option<&[NetworkPolicyPeer]>,
        ports: Named<'_>,
    ) -> Option<Allowed> {
        let peers = peers.filter(|peers| !peers.is_empty());
        let others = peers.map(|peers| self.peers(&key.namespace, peers));
        let nets = others.as_ref().map(|others| others.nets.clone()).filter(|nets| !nets::is_all(nets));
        if nets.as_ref().is_some_and(Vec::is_empty) {
            return None;
        }
        let ports = match ports.filter(|ports| !ports.is_empty()) {
            None => None,
            Some(ports) => {
                // Names are those of whoever is reached.
                let all: Vec<&Member<'_>>;
                let reached = match (key.way, &others) {
                    (Way::In, _) => selected,
                    (Way::Out, Some(others)) => {
                        all = self.members.iter().filter(|m| nets::holds(&others.nets, m.ip)).collect();
                        &all
                    }
                    (Way::Out, None) => {
                        all = self.members.iter().collect();
                        &all
                    }
                };
                let found = ports_of(ports, reached);
                if found == Ports::default() {
                    return None;
                }
                Some(found)
            }
        };
        Some(Allowed { peers: nets, ports })
    }

    fn peers(&self, own: &str, peers: &[NetworkPolicyPeer]) -> Others {
        let mut all = Vec::new();
        for peer in peers {
            if let Some(block) = &peer.ip_block {
                let Some(cidr) = net(&block.cidr) else { continue };
                let except: Vec<Ipv4Net> = block.except.iter().flatten().filter_map(|text| net(text)).collect();
                all.extend(nets::without(cidr, &except));
            } else {
                all.extend(self.selected(own, peer).map(Ipv4Net::from));
            }
        }
        Others { nets: Ipv4Net::aggregate(&all) }
    }

    fn selected<'a>(&'a self, own: &'a str, peer: &NetworkPolicyPeer) -> impl Iterator<Item = Ipv4Addr> + 'a {
        // A selector that cannot be read selects nobody.
        let pods = peer.pod_selector.as_ref().map_or_else(|| selector(&Spec::default()), selector);
        let spaces: BTreeSet<&str> = match &peer.namespace_selector {
            None => BTreeSet::from([own]),
            Some(spec) => {
                let wanted = selector(spec);
                let fits = |labels: &Labels| wanted.as_ref().is_some_and(|wanted| wanted.matches(labels));
                self.namespaces.iter().filter(|(_, labels)| fits(labels)).map(|(name, _)| *name).collect()
            }
        };
        let fits = move |member: &&Member<'_>| {
            spaces.contains(member.namespace) && pods.as_ref().is_some_and(|pods| pods.matches(member.labels))
        };
        self.members.iter().filter(fits).map(|member| member.ip)
    }
}

/// The other side of a rule.
struct Others {
    nets: Vec<Ipv4Net>,
}

fn net(text: &str) -> Option<Ipv4Net> {
    text.parse::<Ipv4Net>().ok().map(|net| net.trunc())
}

fn selector(spec: &Spec) -> Option<Selector> {
    Selector::from_spec(spec)
}

fn ways(types: Option<&[String]>, has_egress: bool) -> Vec<Way> {
    match types.filter(|types| !types.is_empty()) {
        Some(types) => [("Ingress", Way::In), ("Egress", Way::Out)]
            .into_iter()
            .filter(|(name, _)| types.iter().any(|kind| kind == name))
            .map(|(_, way)| way)
            .collect(),
        None if has_egress => vec![Way::In, Way::Out],
        None => vec![Way::In],
    }
}

fn ports_of(ports: &[NetworkPolicyPort], reached: &[&Member<'_>]) -> Ports {
    let mut out = Ports::default();
    for port in ports {
        let Some(protocol) = Protocol::from_api(port.protocol.as_deref()) else { continue };
        match &port.port {
            None => {
                out.ranges.insert((protocol, 0, u16::MAX));
            }
            Some(IntOrString::Int(number)) => {
                let last = port.end_port.unwrap_or(*number);
                if let (Ok(first), Ok(last)) = (u16::try_from(*number), u16::try_from(last)) {
                    out.ranges.insert((protocol, first, last));
                }
            }
            Some(IntOrString::String(name)) => {
                let own = reached
                    .iter()
                    .flat_map(|member| named(member.pod, name, protocol).map(|p| (member.ip, protocol, p)));
                out.named.extend(own);
            }
        }
    }
    out
}

fn named<'a>(pod: &'a Pod, name: &'a str, protocol: Protocol) -> impl Iterator<Item = u16> + 'a {
    let ports =
        pod.spec.iter().flat_map(|spec| &spec.containers).flat_map(|container| container.ports.iter().flatten());
    let fits = move |port: &&k8s_openapi::api::core::v1::ContainerPort| {
        port.name.as_deref() == Some(name) && Protocol::from_api(port.protocol.as_deref()) == Some(protocol)
    };
    ports.filter(fits).filter_map(|port| u16::try_from(port.container_port).ok())
}
