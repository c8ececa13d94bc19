//! Node IPAM: gives every node its own part of the pod network.
//!
//! Invariants
//! - No two nodes share a range: what is offered to one node is taken from that moment, and stays so until the node
//!   shows a range or is gone.
//! - A range that a node has is never changed. One outside the pod network counts as taken
//!   nowhere.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::action::{Action, EventRecord, Plan, patch, reference};
use crate::key::Name;
use crate::object::{deleting, name};

/// What a plan is made from.
pub struct View {
    /// The node.
    pub node: Arc<Node>,
    /// What is offered to it; `None` if nothing is left, or it needs nothing.
    pub offer: Option<IpNet>,
}

/// Decides the next write for one node.
#[must_use]
pub fn plan(view: &View) -> Plan {
    let node = view.node.as_ref();
    if !needs_range(node) {
        return Plan::rest("it has a range");
    }
    let Some(range) = view.offer else {
        let message = format!("Node {} status is now: CIDRNotAvailable", name(&node.metadata));
        let event = EventRecord::normal(reference(node), "cidrAllocator", "CIDRNotAvailable", message);
        return Plan::new("no range is left", vec![Action::Event(event)]);
    };
    let range = range.to_string();
    let body = json!({"spec": {"podCIDR": range, "podCIDRs": [range]}});
    Plan::new("it has no range yet", vec![patch(node, None, body)])
}

/// Whether a node waits for a range.
#[must_use]
pub fn needs_range(node: &Node) -> bool {
    ranges(node).is_empty() && !deleting(&node.metadata)
}

fn ranges(node: &Node) -> Vec<String> {
    let Some(spec) = node.spec.as_ref() else { return Vec::new() };
    let mut ranges: Vec<String> = spec.pod_cidrs.clone().unwrap_or_default();
    ranges.extend(spec.pod_cidr.clone());
    ranges.retain(|range| !range.is_empty());
    ranges
}

/// Who has which part of the pod network, and who is about to get one.
pub struct Ranges {
    network: IpNet,
    /// Prefix length of one node's part.
    prefix: u8,
    /// The parts of each node that is there.
    nodes: HashMap<Name, BTreeSet<u128>>,
    offers: HashMap<Name, u128>,
    /// How many nodes and offers have each part.
    taken: BTreeMap<u128, usize>,
    /// No part below is free.
    lowest: u128,
    /// Nodes that nothing was left for.
    waiting: BTreeSet<Name>,
}

impl Ranges {
    /// The parts of `network`, all of them free.
    #[must_use]
    pub fn new(network: IpNet, prefix: u8) -> Self {
        let (nodes, offers) = (HashMap::new(), HashMap::new());
        Self { network, prefix, nodes, offers, taken: BTreeMap::new(), lowest: 0, waiting: BTreeSet::new() }
    }

    /// Takes note of a node as it is, or that it is gone. Returns a node that has waited for the part that this freed.
    pub fn see(&mut self, key: &Name, node: Option<&Node>) -> Option<Name> {
        let has = node.map(ranges).unwrap_or_default();
        let parts: BTreeSet<u128> = has.iter().filter_map(|range| self.number(range)).collect();
        parts.iter().for_each(|part| self.take(*part));
        if let Some(offer) = self.offers.remove(key) {
            if node.is_some_and(needs_range) {
                self.offers.insert(key.clone(), offer);
            } else {
                self.free(offer);
            }
        }
        let before = match node {
            Some(_) => self.nodes.insert(key.clone(), parts),
            None => self.nodes.remove(key),
        };
        before.into_iter().flatten().for_each(|part| self.free(part));
        if !node.is_some_and(needs_range) {
            self.waiting.remove(key);
        }
        self.lowest_free()?;
        self.waiting.pop_first()
    }

    /// The part for a node that needs one: the same whenever it is asked for.
    pub fn offer(&mut self, key: &Name) -> Option<IpNet> {
        if let Some(part) = self.offers.get(key) {
            return self.range(*part);
        }
        let Some(part) = self.lowest_free() else {
            self.waiting.insert(key.clone());
            return None;
        };
        self.take(part);
        self.offers.insert(key.clone(), part);
        self.range(part)
    }

    fn take(&mut self, part: u128) {
        *self.taken.entry(part).or_default() += 1;
    }

    fn free(&mut self, part: u128) {
        let Some(count) = self.taken.get_mut(&part) else { return };
        *count -= 1;
        if *count == 0 {
            self.taken.remove(&part);
            self.lowest = self.lowest.min(part);
        }
    }

    fn lowest_free(&mut self) -> Option<u128> {
        let parts = 1u128.checked_shl(u32::from(self.prefix.checked_sub(self.network.prefix_len())?))?;
        while self.lowest < parts && self.taken.contains_key(&self.lowest) {
            self.lowest += 1;
        }
        (self.lowest < parts).then_some(self.lowest)
    }

    /// How many bits a part leaves for pods.
    fn shift(&self) -> u32 {
        u32::from(bits(self.network.network()).1.saturating_sub(self.prefix))
    }

    /// Which part of the network a range is, if it is one.
    fn number(&self, range: &str) -> Option<u128> {
        let range: IpNet = range.parse().ok()?;
        if !self.network.contains(&range.network()) {
            return None;
        }
        let base = bits(self.network.network()).0;
        (bits(range.network()).0 - base).checked_shr(self.shift())
    }

    fn range(&self, part: u128) -> Option<IpNet> {
        let start = bits(self.network.network()).0 + part.checked_shl(self.shift())?;
        match self.network {
            IpNet::V4(_) => Ipv4Net::new(u32::try_from(start).ok()?.into(), self.prefix).ok().map(IpNet::V4),
            IpNet::V6(_) => Ipv6Net::new(start.into(), self.prefix).ok().map(IpNet::V6),
        }
    }
}

fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::NodeSpec;
    use proptest::prelude::*;

    use super::*;
    use crate::object::time;
    use crate::testing::{Cluster, NOW, meta, show};

    fn node(name: &str, range: Option<&str>) -> Node {
        let spec = NodeSpec { pod_cidr: range.map(str::to_owned), ..NodeSpec::default() };
        Node { metadata: meta(name), spec: Some(spec), status: None }
    }

    #[test]
    fn takes_the_lowest_free_part() {
        for (network, prefix, have, expect, why) in [
            ("10.244.0.0/16", 24, None, "10.244.0.0/24", "it has no range yet"),
            ("10.244.0.0/16", 24, Some("10.244.0.0/24"), "10.244.1.0/24", "it has no range yet"),
            ("10.244.0.0/16", 24, Some("10.244.1.0/24"), "10.244.0.0/24", "it has no range yet"),
            ("10.244.0.0/16", 24, Some("192.168.0.0/24"), "10.244.0.0/24", "it has no range yet"),
            ("10.244.0.0/24", 24, Some("10.244.0.0/24"), "", "no range is left"),
            ("fd00::/48", 64, Some("fd00::/64"), "fd00:0:0:1::/64", "it has no range yet"),
        ] {
            let mut ranges = Ranges::new(network.parse().unwrap(), prefix);
            ranges.see(&"b".into(), Some(&node("b", have)));
            let plan = plan(&View { node: Arc::new(node("a", None)), offer: ranges.offer(&"a".into()) });
            let got = match &plan.actions[..] {
                [Action::Patch(patch)] => patch.body["spec"]["podCIDR"].as_str().unwrap().to_owned(),
                _ => String::new(),
            };
            assert_eq!((got.as_str(), plan.why), (expect, why), "{network}");
        }
    }

    #[test]
    fn a_node_that_needs_nothing_is_left_alone() {
        let mut going = node("a", None);
        going.metadata.deletion_timestamp = Some(time(NOW));
        for node in [node("a", Some("192.168.0.0/24")), going] {
            let plan = plan(&View { node: Arc::new(node), offer: None });
            assert_eq!((show(&plan.actions).as_str(), plan.why), ("", "it has a range"));
        }
    }

    #[test]
    fn who_had_to_wait_is_asked_again_when_a_part_is_free() {
        let mut ranges = Ranges::new("10.244.0.0/23".parse().unwrap(), 24);
        let key = |name: &str| Name::from(name);
        let shown = |range: Option<IpNet>| range.map(|range| range.to_string()).unwrap_or_default();
        assert_eq!(shown(ranges.offer(&key("a"))), "10.244.0.0/24");
        assert_eq!(shown(ranges.offer(&key("a"))), "10.244.0.0/24", "the same again");
        assert_eq!(shown(ranges.offer(&key("b"))), "10.244.1.0/24");
        assert_eq!(shown(ranges.offer(&key("c"))), "");
        assert_eq!(ranges.see(&key("a"), Some(&node("a", None))), None, "the write is under way");
        assert_eq!(ranges.see(&key("a"), Some(&node("a", Some("10.244.0.0/24")))), None);
        assert_eq!(ranges.see(&key("a"), None), Some(key("c")));
        assert_eq!(shown(ranges.offer(&key("c"))), "10.244.0.0/24");
        assert_eq!(ranges.see(&key("b"), None), None, "nobody waits any more");
    }

    proptest! {
        /// Nodes come, go and are served in any order; writes are seen late, or not at all.
        #[test]
        fn no_two_nodes_share_a_part(steps in prop::collection::vec((0usize..12, 0u8..4), 0..120)) {
            let mut ranges = Ranges::new("10.244.0.0/21".parse().unwrap(), 24);
            let mut cluster = Cluster::default();
            let find = |cluster: &Cluster, name: &str| {
                cluster.list::<Node>().into_iter().find(|node| node.metadata.name.as_deref() == Some(name))
            };
            for (number, step) in steps {
                let name = format!("n{number}");
                let key = Name::from(name.as_str());
                match (step, find(&cluster, &name)) {
                    (0, None) => {
                        cluster.add(&node(&name, None));
                        ranges.see(&key, find(&cluster, &name).as_deref());
                    }
                    (1, Some(node)) => {
                        cluster.apply(crate::action::delete(node.as_ref(), crate::DeleteHow::default(), None));
                        ranges.see(&key, None);
                    }
                    (2, Some(node)) if needs_range(&node) => {
                        let offer = ranges.offer(&key);
                        plan(&View { node, offer }).actions.into_iter().for_each(|action| cluster.apply(action));
                    }
                    (3, Some(node)) => drop(ranges.see(&key, Some(&node))),
                    _ => {}
                }
                let nodes = cluster.list::<Node>();
                let all: Vec<String> = nodes.iter().filter_map(|node| super::ranges(node).first().cloned()).collect();
                prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{:?}", all);
            }
            for node in cluster.list::<Node>() {
                let offer = needs_range(&node).then(|| ranges.offer(&name(&node.metadata).into())).flatten();
                if let Some(offer) = offer {
                    plan(&View { node, offer: Some(offer) }).actions.into_iter().for_each(|a| cluster.apply(a));
                }
            }
            let nodes = cluster.list::<Node>();
            let served = nodes.iter().filter(|node| !needs_range(node)).count();
            prop_assert_eq!(served, nodes.len().min(8), "no part is lost");
        }
    }
}
