//! The packet rules of NetworkPolicies.
//!
//! Invariants
//! - Where no pod of this node is isolated there is no chain, and no packet pays.
//! - Packets that answer are allowed; packets that ask are judged each, so that what is under way stops when it is no
//!   longer allowed.
//! - What comes from this node itself does not pass here: its agent has to reach its pods.
//!
//! Life of a packet between pods: `np-forward` → what its sender may reach (`np/out/*`, a chain for each pod, which asks
//! those of its policies) → `np-arrive` → what may reach its receiver (`np/in/*`). Both ends are judged after a Service's
//! address has been replaced by the endpoint's.

use ipnet::Ipv4Net;
use kontiki_agent_plan::{
    policy::{Allowed, Policies, PolicyKey, Ports, Way},
    services::Protocol,
};

use super::rules::{Chain, Elements, Ruleset, shortened};

/// Before `forward`, which judges what leaves the cluster.
const HOOK: &str = "type filter hook forward priority -10;";
const BY_POD: &str = "type ipv4_addr : verdict;";

/// Adds the rules of `policies`.
pub(super) fn add(rules: &mut Ruleset, policies: &Policies) {
    if policies.isolated.is_empty() {
        return;
    }
    for name in ["np-out", "np-in"] {
        rules.sets.insert(name.into(), ("map", BY_POD.into()));
        rules.elements.insert(name.into(), Elements::new());
    }
    let base = [
        "ct state related accept",
        "ct state established ct direction reply accept",
        // A pod may always reach itself, by way of a Service.
        "ip saddr . ip daddr @hairpins accept",
        "ip saddr vmap @np-out",
        "goto np-arrive",
    ];
    let line = |text: &str| text.to_owned();
    rules.chains.insert("np-forward".into(), Chain { hook: Some(HOOK), rules: base.map(line).into() });
    let arrive = ["ip daddr vmap @np-in", "accept"];
    rules.chains.insert("np-arrive".into(), Chain { hook: None, rules: arrive.map(line).into() });
    for (key, allowed) in &policies.allowed {
        add_policy(rules, key, allowed);
    }
    for ((pod, way), keys) in &policies.isolated {
        let (map, side) = match way {
            Way::In => ("np-in", "in"),
            Way::Out => ("np-out", "out"),
        };
        let chain = format!("np/{side}/{pod}");
        let mut lines: Vec<String> = keys.iter().map(|key| format!("jump {}", name(key))).collect();
        lines.push("drop".into());
        rules.chains.insert(chain.clone(), Chain { hook: None, rules: lines });
        rules.put(map, pod.to_string(), Some(format!("goto {chain}")));
    }
}

fn name(key: &PolicyKey) -> String {
    let side = if key.way == Way::In { "in" } else { "out" };
    shortened(format!("np/{side}/{}/{}", key.namespace, key.name))
}

fn add_policy(rules: &mut Ruleset, key: &PolicyKey, allowed: &[Allowed]) {
    let chain = name(key);
    let (other, verdict) = match key.way {
        Way::In => ("ip saddr", "accept"),
        Way::Out => ("ip daddr", "goto np-arrive"),
    };
    let mut lines = Vec::new();
    for (i, allowed) in allowed.iter().enumerate() {
        let peers = match &allowed.peers {
            None => String::new(),
            Some(nets) => {
                let set = shortened(format!("{chain}/peers/{i}"));
                rules.sets.insert(set.clone(), ("set", "type ipv4_addr; flags interval;".into()));
                rules.elements.insert(set.clone(), nets.iter().map(|net| (element(net), None)).collect());
                format!("{other} @{set} ")
            }
        };
        match &allowed.ports {
            None => lines.push(format!("{peers}{verdict}")),
            Some(ports) => add_ports(rules, &shortened(format!("{chain}/ports/{i}")), ports, &mut |ports| {
                lines.push(format!("{peers}{ports}{verdict}"));
            }),
        }
    }
    rules.chains.insert(chain, Chain { hook: None, rules: lines });
}

/// As nft shows it: one address without its length.
fn element(net: &Ipv4Net) -> String {
    if net.prefix_len() == 32 { net.addr().to_string() } else { net.to_string() }
}

/// What matches the ports, once for each protocol, and once for those that have a name.
fn add_ports(rules: &mut Ruleset, set: &str, ports: &Ports, put: &mut dyn FnMut(String)) {
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        let ranges: Vec<(u16, u16)> =
            ports.ranges.iter().filter(|(of, ..)| *of == protocol).map(|(_, first, last)| (*first, *last)).collect();
        if ranges.is_empty() {
            continue;
        }
        let all = ranges.contains(&(0, u16::MAX));
        let shown: Vec<String> = joined(ranges).iter().map(|(first, last)| range(*first, *last)).collect();
        let ports = if all { String::new() } else { format!("th dport {{ {} }} ", shown.join(", ")) };
        put(format!("meta l4proto {} {ports}", protocol.lower()));
    }
    if !ports.named.is_empty() {
        rules.sets.insert(set.to_owned(), ("set", "type ipv4_addr . inet_proto . inet_service;".into()));
        let element = |(ip, protocol, port): &(_, Protocol, _)| (format!("{ip} . {} . {port}", protocol.lower()), None);
        rules.elements.insert(set.to_owned(), ports.named.iter().map(element).collect());
        put(format!("ip daddr . meta l4proto . th dport @{set} "));
    }
}

fn range(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// Sorted ranges, without what overlaps: a set would refuse it.
fn joined(ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    let mut out: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match out.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => out.push((first, last)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_one() {
        for (ranges, expect) in [
            (vec![(80, 80), (81, 90), (85, 86), (443, 443)], vec![(80, 90), (443, 443)]),
            (vec![(0, 65535), (80, 80)], vec![(0, 65535)]),
            (vec![], vec![]),
        ] {
            assert_eq!(joined(ranges.clone()), expect, "{ranges:?}");
        }
    }
}
