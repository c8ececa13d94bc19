//! Node IPAM: gives every node its own part of the pod network.
//!
//! Invariants
//! - No two nodes share a range: a plan sees all nodes at once, and the next plan is made only
//!   after its own writes are seen.
//! - A range that a node has is never changed. One outside the pod network counts as taken
//!   nowhere.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::action::{Action, EventRecord, Plan, patch, reference};
use crate::object::{deleting, name};

/// Most nodes served by one plan.
const BURST: usize = 100;

/// What a plan is made from.
pub struct View<'a> {
    /// All nodes.
    pub nodes: &'a [Arc<Node>],
    /// The pod network.
    pub network: IpNet,
    /// Prefix length of one node's part.
    pub prefix: u8,
}

/// Decides the next writes.
#[must_use]
pub fn plan(view: &View<'_>) -> Plan {
    let mut taken: BTreeSet<u128> =
        view.nodes.iter().flat_map(|node| ranges(node)).filter_map(|range| number(view, &range)).collect();
    let mut waiting: Vec<&Arc<Node>> =
        view.nodes.iter().filter(|node| ranges(node).is_empty() && !deleting(&node.metadata)).collect();
    waiting.sort_by_key(|node| name(&node.metadata).to_owned());
    let mut next = 0;
    let assign = |node: &&Arc<Node>| match free(view, &mut taken, &mut next) {
        Some(range) => {
            let range = range.to_string();
            patch(node.as_ref(), None, json!({"spec": {"podCIDR": range, "podCIDRs": [range]}}))
        }
        None => Action::Event(EventRecord::normal(
            reference(node.as_ref()),
            "cidrAllocator",
            "CIDRNotAvailable",
            format!("Node {} status is now: CIDRNotAvailable", name(&node.metadata)),
        )),
    };
    Plan::now(waiting.iter().take(BURST).map(assign).collect())
}

fn ranges(node: &Node) -> Vec<String> {
    let Some(spec) = node.spec.as_ref() else { return Vec::new() };
    let mut ranges: Vec<String> = spec.pod_cidrs.clone().unwrap_or_default();
    ranges.extend(spec.pod_cidr.clone());
    ranges.retain(|range| !range.is_empty());
    ranges
}

fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    }
}

/// How many bits a part leaves for pods.
fn shift(view: &View<'_>) -> u32 {
    u32::from(bits(view.network.network()).1.saturating_sub(view.prefix))
}

/// Which part of the network a range is, if it is one.
fn number(view: &View<'_>, range: &str) -> Option<u128> {
    let range: IpNet = range.parse().ok()?;
    if !view.network.contains(&range.network()) {
        return None;
    }
    let base = bits(view.network.network()).0;
    (bits(range.network()).0 - base).checked_shr(shift(view))
}

/// The lowest free part at or after `next`.
fn free(view: &View<'_>, taken: &mut BTreeSet<u128>, next: &mut u128) -> Option<IpNet> {
    let (base, _) = bits(view.network.network());
    let parts = 1u128.checked_shl(u32::from(view.prefix.checked_sub(view.network.prefix_len())?))?;
    while *next < parts && taken.contains(next) {
        *next += 1;
    }
    if *next >= parts {
        return None;
    }
    taken.insert(*next);
    let start = base + next.checked_shl(shift(view))?;
    match view.network {
        IpNet::V4(_) => Ipv4Net::new(u32::try_from(start).ok()?.into(), view.prefix).ok().map(IpNet::V4),
        IpNet::V6(_) => Ipv6Net::new(start.into(), view.prefix).ok().map(IpNet::V6),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::NodeSpec;

    use super::*;
    use crate::testing::{World, meta};

    fn node(name: &str, range: Option<&str>) -> Node {
        let spec = NodeSpec { pod_cidr: range.map(str::to_owned), ..NodeSpec::default() };
        Node { metadata: meta(name), spec: Some(spec), status: None }
    }

    #[test]
    fn takes_the_lowest_free_part() {
        for (network, prefix, have, expect) in [
            ("10.244.0.0/16", 24, vec![("a", None)], "10.244.0.0/24"),
            ("10.244.0.0/16", 24, vec![("b", Some("10.244.0.0/24")), ("a", None)], "10.244.1.0/24"),
            ("10.244.0.0/16", 24, vec![("b", Some("10.244.1.0/24")), ("a", None)], "10.244.0.0/24"),
            ("10.244.0.0/16", 24, vec![("b", Some("192.168.0.0/24")), ("a", None)], "10.244.0.0/24"),
            ("10.244.0.0/24", 24, vec![("b", Some("10.244.0.0/24")), ("a", None)], ""),
            ("fd00::/48", 64, vec![("b", Some("fd00::/64")), ("a", None)], "fd00:0:0:1::/64"),
        ] {
            let nodes: Vec<_> = have.iter().map(|(name, range)| Arc::new(node(name, *range))).collect();
            let plan = plan(&View { nodes: &nodes, network: network.parse().unwrap(), prefix });
            let got = match &plan.actions[..] {
                [Action::Patch(patch)] => patch.body["spec"]["podCIDR"].as_str().unwrap().to_owned(),
                _ => String::new(),
            };
            assert_eq!(got, expect, "{network}");
        }
    }

    #[test]
    fn no_two_nodes_share_a_part() {
        let mut world = World::default();
        (0..150).for_each(|n| world.add(&node(&format!("n{n}"), None)));
        let rested = world.settle(4, |world| {
            let nodes = world.list::<Node>();
            plan(&View { nodes: &nodes, network: "10.244.0.0/16".parse().unwrap(), prefix: 24 }).actions
        });
        assert!(rested);
        let ranges: BTreeSet<_> = world.list::<Node>().iter().map(|node| ranges(node)[0].clone()).collect();
        assert_eq!(ranges.len(), 150);
    }
}
