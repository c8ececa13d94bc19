//! The packet rules as data: what the table `ip kontiki` must hold for given services.
//!
//! Invariants
//! - [`build`] is a pure function; equal input gives equal rules, whatever the order of services.
//! - Chains are named after the service port, not its content, so that a change of endpoints
//!   rewrites one chain and leaves the maps alone.
//! - A service address without endpoints is refused (or dropped, where a policy says so), never
//!   forwarded unchanged: `late-*` catches whatever of the service range was not redirected.
//!
//! Life of a packet to a service: `early-*` (refuse) → `nat-*` → `dispatch` looks its destination
//! up in `services` or `node-ports` → the service's chain picks an endpoint and rewrites the
//! destination → `late-*` → `masquerade`, if the mark or the pair of addresses asks for it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use ipnet::{IpNet, Ipv4Net};
use kontiki_agent_plan::services::ServicePort;

/// Family and name of our table, as nft wants them.
pub(crate) const TABLE: &str = "ip kontiki";
/// Packet mark "masquerade me"; kube-proxy's, which other tools know to leave alone.
const MASQUERADE: &str = "0x4000";
/// nft refuses longer names.
const LONGEST_NAME: usize = 120;

/// What the rules need to know of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// All pods of the cluster.
    pub(crate) pods: Ipv4Net,
    /// All ClusterIPs.
    pub(crate) services: Ipv4Net,
    /// The subnet the node's own address is in.
    pub(crate) subnet: Ipv4Net,
    /// This node's pods, once known.
    pub(crate) own_pods: Option<Ipv4Net>,
    pub(crate) egress: bool,
    /// Where the node's own name server answers: no service's business here.
    pub(crate) dns: Option<Ipv4Addr>,
}

/// A chain: its hook, if it is a base chain, and its rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) hook: Option<&'static str>,
    pub(crate) rules: Vec<String>,
}

/// Elements of a set, or of a map with their values.
pub(crate) type Elements = BTreeMap<String, Option<String>>;

/// The whole table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ruleset {
    pub(crate) chains: BTreeMap<String, Chain>,
    /// Sets and maps: `set`/`map` and what stands between the braces.
    pub(crate) sets: BTreeMap<String, (&'static str, String)>,
    /// Elements that we write; those the kernel adds by itself are not here.
    pub(crate) elements: BTreeMap<String, Elements>,
}

impl Ruleset {
    pub(super) fn put(&mut self, set: &str, key: String, value: Option<String>) {
        self.elements.entry(set.to_owned()).or_default().insert(key, value);
    }
}

/// The rules for these services on this node.
pub(crate) fn build(facts: &Facts, services: &[ServicePort]) -> Ruleset {
    let mut rules = Ruleset::default();
    declare(&mut rules);
    base(&mut rules, facts);
    let mut sorted: Vec<&ServicePort> = services.iter().collect();
    sorted.sort();
    for service in sorted {
        add_service(&mut rules, facts, service);
    }
    rules
}

const BY_ADDRESS: &str = "type ipv4_addr . inet_proto . inet_service : verdict;";
const BY_PORT: &str = "type inet_proto . inet_service : verdict;";

fn declare(rules: &mut Ruleset) {
    let maps = [
        ("services", BY_ADDRESS),
        ("node-ports", BY_PORT),
        ("firewalled", BY_ADDRESS),
        ("refused", BY_ADDRESS),
        ("refused-node-ports", BY_PORT),
    ];
    for (name, kind) in maps {
        rules.sets.insert(name.into(), ("map", kind.into()));
        rules.elements.insert(name.into(), Elements::new());
    }
    rules.sets.insert("announced".into(), ("set", "type ipv4_addr;".into()));
    rules.elements.insert("announced".into(), Elements::new());
    rules.sets.insert("hairpins".into(), ("set", "type ipv4_addr . ipv4_addr;".into()));
    rules.elements.insert("hairpins".into(), Elements::new());
}

fn base(rules: &mut Ruleset, facts: &Facts) {
    let lookup = |by_address: &str, by_port: &str| {
        vec![
            format!("ip daddr . meta l4proto . th dport vmap @{by_address}"),
            // As kube-proxy's nftables mode: node ports do not listen on loopback. Nor where load balancers are announced.
            format!(
                "fib daddr type local ip daddr != 127.0.0.0/8 ip daddr != @announced meta l4proto . th dport vmap @{by_port}"
            ),
        ]
    };
    let jump = |to: &str| vec![format!("ct state new jump {to}")];
    let but = facts.dns.map_or_else(String::new, |dns| format!(" ip daddr != {dns}"));
    let mut check = vec!["ip daddr . meta l4proto . th dport vmap @firewalled".to_owned()];
    check.extend(lookup("refused", "refused-node-ports"));
    let late = vec![
        format!("ip daddr {}{but} goto refuse", facts.services),
        // The node that announces an address has it, but none of its own services is meant by it.
        "ip daddr @announced meta l4proto != icmp goto refuse".to_owned(),
    ];
    let table: [(&str, Option<&'static str>, Vec<String>); 11] = [
        ("dispatch", None, lookup("services", "node-ports")),
        ("check", None, check),
        (
            "refuse",
            None,
            vec!["meta l4proto tcp reject with tcp reset".into(), "reject with icmp type port-unreachable".into()],
        ),
        ("mark-for-masquerade", None, vec![format!("meta mark set meta mark or {MASQUERADE}")]),
        ("early-prerouting", Some("type filter hook prerouting priority -110;"), jump("check")),
        ("early-output", Some("type filter hook output priority -110;"), jump("check")),
        ("nat-prerouting", Some("type nat hook prerouting priority -100;"), vec!["jump dispatch".into()]),
        ("nat-output", Some("type nat hook output priority -100;"), vec!["jump dispatch".into()]),
        ("late-prerouting", Some("type filter hook prerouting priority -90;"), late.clone()),
        ("late-output", Some("type filter hook output priority -90;"), late),
        ("nat-postrouting", Some("type nat hook postrouting priority 100;"), postrouting(facts)),
    ];
    for (name, hook, lines) in table {
        rules.chains.insert(name.into(), Chain { hook, rules: lines });
    }
    rules
        .chains
        .insert("forward".into(), Chain { hook: Some("type filter hook forward priority 0;"), rules: forward(facts) });
}

fn postrouting(facts: &Facts) -> Vec<String> {
    let mut lines = vec![
        format!(
            "meta mark and {MASQUERADE} == {MASQUERADE} meta mark set meta mark xor {MASQUERADE} masquerade fully-random"
        ),
        // A pod that reached itself must see the node, or it would answer itself directly.
        "ip saddr . ip daddr @hairpins masquerade fully-random".into(),
    ];
    if let Some(own) = facts.own_pods {
        // Nobody outside knows the way back to a pod. Where to a pod may go is `forward`'s matter.
        lines.push(format!("ip saddr {own} ip daddr != {} masquerade fully-random", facts.pods));
    }
    lines
}

fn forward(facts: &Facts) -> Vec<String> {
    if facts.egress {
        return Vec::new();
    }
    vec![
        "ct state established,related accept".into(),
        // Through a Service, for example to the masters, wherever they are.
        "ct status dnat accept".into(),
        format!("ip saddr {} ip daddr != {{ {}, {} }} goto refuse", facts.pods, facts.pods, facts.subnet),
    ]
}

/// A backend with an IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    ip: Ipv4Addr,
    port: u16,
}

fn v4_targets(targets: Vec<SocketAddr>) -> Vec<Target> {
    let target = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => Some(Target { ip, port: address.port() }),
        IpAddr::V6(_) => None,
    };
    targets.into_iter().filter_map(target).collect()
}

/// What a service's packets are sent to.
struct Targets {
    /// By the `Cluster` policy. Empty only if no endpoint of the cluster would answer.
    all: Vec<Target>,
    /// By the `Local` policy.
    local: Vec<Target>,
}

impl Targets {
    fn of(service: &ServicePort) -> Self {
        Self { all: v4_targets(service.cluster_targets()), local: v4_targets(service.local_targets()) }
    }
}

/// `prefix/namespace/name/protocol/port`.
fn chain_name(prefix: &str, service: &ServicePort, tail: &str) -> String {
    let (namespace, name) = (&service.namespace, &service.name);
    shortened(format!("{prefix}/{namespace}/{name}/{}/{}{tail}", service.protocol.lower(), service.port))
}

/// A name, shortened where nft would not take it.
pub(super) fn shortened(name: String) -> String {
    if name.len() <= LONGEST_NAME {
        return name;
    }
    // FNV-1a: stable across runs and versions, which the standard hasher does not promise.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("{}/{hash:016x}", &name[..LONGEST_NAME - 17])
}

fn v4(addresses: &[IpAddr]) -> impl Iterator<Item = Ipv4Addr> {
    addresses.iter().filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None })
}

fn add_service(rules: &mut Ruleset, facts: &Facts, service: &ServicePort) {
    let targets = Targets::of(service);
    for target in service.endpoints.iter().filter(|e| e.local) {
        if let IpAddr::V4(ip) = target.ip {
            rules.put("hairpins", format!("{ip} . {ip}"), None);
        }
    }
    add_internal(rules, facts, service, &targets);
    if service.node_port.is_some() || entrances(service).next().is_some() {
        add_external(rules, facts, service, &targets);
    }
    for ip in v4(&service.announced_ips) {
        rules.put("announced", ip.to_string(), None);
    }
    if let Some(ranges) = &service.source_ranges {
        add_firewall(rules, service, ranges);
    }
}

/// Addresses beside the cluster's own by which a service is entered.
fn entrances(service: &ServicePort) -> impl Iterator<Item = Ipv4Addr> {
    v4(&service.external_ips).chain(v4(&service.balancer_ips))
}

fn key(ip: Ipv4Addr, service: &ServicePort) -> String {
    format!("{ip} . {} . {}", service.protocol.lower(), service.port)
}

/// What a destination of a service without usable endpoints leads to.
fn refusal(targets: &Targets) -> &'static str {
    // With endpoints elsewhere the caller may find them by another node: no answer, as upstream.
    if targets.all.is_empty() { "goto refuse" } else { "drop" }
}

fn add_internal(rules: &mut Ruleset, facts: &Facts, service: &ServicePort, targets: &Targets) {
    let chosen = if service.internal_policy_local { &targets.local } else { &targets.all };
    let name = chain_name("svc", service, "");
    let (map, verdict) = if chosen.is_empty() {
        ("refused", refusal(targets).to_owned())
    } else {
        // Who is not a pod has an address that the endpoint's node may answer by another way.
        let first = format!("ip saddr != {} jump mark-for-masquerade", facts.pods);
        add_balancer(rules, service, &name, vec![first], chosen);
        ("services", format!("goto {name}"))
    };
    for ip in v4(&service.cluster_ips).filter(|ip| Some(*ip) != facts.dns) {
        rules.put(map, key(ip, service), Some(verdict.clone()));
    }
}

fn add_external(rules: &mut Ruleset, facts: &Facts, service: &ServicePort, targets: &Targets) {
    let verdict = if targets.all.is_empty() {
        None
    } else if service.external_policy_local {
        Some(external_local(rules, facts, service, targets))
    } else {
        let name = chain_name("ext", service, "");
        add_balancer(rules, service, &name, vec!["jump mark-for-masquerade".into()], &targets.all);
        Some(format!("goto {name}"))
    };
    let mut put = |served: &'static str, refused: &'static str, key: String| match &verdict {
        Some(verdict) => rules.put(served, key, Some(verdict.clone())),
        None => rules.put(refused, key, Some("goto refuse".to_owned())),
    };
    for ip in entrances(service) {
        put("services", "refused", key(ip, service));
    }
    if let Some(port) = service.node_port {
        put("node-ports", "refused-node-ports", format!("{} . {port}", service.protocol.lower()));
    }
}

/// Whoever is not of the load balancer's source ranges gets no answer at its addresses.
fn add_firewall(rules: &mut Ruleset, service: &ServicePort, ranges: &[IpNet]) {
    let name = chain_name("fw", service, "");
    let ranges: Vec<String> =
        ranges.iter().filter(|r| matches!(r, IpNet::V4(_))).map(|r| r.trunc().to_string()).collect();
    // One rule for each: ranges may overlap, which a set would refuse.
    let mut lines: Vec<String> = ranges.iter().map(|range| format!("ip saddr {range} return")).collect();
    lines.push("drop".into());
    let addresses: Vec<Ipv4Addr> = v4(&service.balancer_ips).collect();
    if addresses.is_empty() {
        return;
    }
    rules.chains.insert(name.clone(), Chain { hook: None, rules: lines });
    for ip in addresses {
        rules.put("firewalled", key(ip, service), Some(format!("jump {name}")));
    }
}

/// `externalTrafficPolicy: Local`: from outside only to this node's endpoints, with the client's
/// address kept; from pods and from the node itself to all.
fn external_local(rules: &mut Ruleset, facts: &Facts, service: &ServicePort, targets: &Targets) -> String {
    let (name, inside) = (chain_name("ext", service, ""), chain_name("any", service, ""));
    add_balancer(rules, service, &inside, Vec::new(), &targets.all);
    let head = vec![
        format!("ip saddr {} goto {inside}", facts.pods),
        "fib saddr type local jump mark-for-masquerade".into(),
        format!("fib saddr type local goto {inside}"),
    ];
    if targets.local.is_empty() {
        let lines = head.into_iter().chain(["drop".to_owned()]).collect();
        rules.chains.insert(name.clone(), Chain { hook: None, rules: lines });
    } else {
        add_balancer(rules, service, &name, head, &targets.local);
    }
    format!("goto {name}")
}

/// A chain that sends a packet to one of `targets`, after the rules in `head`.
fn add_balancer(rules: &mut Ruleset, service: &ServicePort, name: &str, head: Vec<String>, targets: &[Target]) {
    let mut lines = head;
    match service.affinity_seconds {
        None => lines.push(spread(service, targets)),
        Some(seconds) => {
            let chains: Vec<String> = targets.iter().map(|t| add_sticky(rules, service, seconds, t)).collect();
            lines.extend(chains.iter().map(|chain| format!("ip saddr @{} goto {chain}", set_of(chain))));
            lines.push(pick(chains.iter().map(|chain| format!("goto {chain}")), chains.len(), "vmap"));
        }
    }
    rules.chains.insert(name.to_owned(), Chain { hook: None, rules: lines });
}

fn spread(service: &ServicePort, targets: &[Target]) -> String {
    let protocol = service.protocol.lower();
    match targets {
        [one] => format!("meta l4proto {protocol} dnat to {}:{}", one.ip, one.port),
        many => {
            let values = many.iter().map(|t| format!("{} . {}", t.ip, t.port));
            format!("meta l4proto {protocol} dnat ip addr . port to {}", pick(values, many.len(), "map"))
        }
    }
}

fn pick(values: impl Iterator<Item = String>, count: usize, how: &str) -> String {
    let mut text = format!("numgen random mod {count} {how} {{ ");
    for (i, value) in values.enumerate() {
        let comma = if i == 0 { "" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(text, "{comma}{i} : {value}");
    }
    text.push_str(" }");
    text
}

/// The set of clients that belong to an endpoint's chain.
fn set_of(chain: &str) -> String {
    chain.replacen("ep/", "aff/", 1)
}

/// A chain for one endpoint that remembers who was sent there.
fn add_sticky(rules: &mut Ruleset, service: &ServicePort, seconds: u32, target: &Target) -> String {
    let chain = chain_name("ep", service, &format!("/{}/{}", target.ip, target.port));
    let set = set_of(&chain);
    rules.sets.insert(set.clone(), ("set", format!("type ipv4_addr; flags dynamic,timeout; timeout {seconds}s;")));
    let lines = vec![
        format!("update @{set} {{ ip saddr }}"),
        format!("meta l4proto {} dnat to {}:{}", service.protocol.lower(), target.ip, target.port),
    ];
    rules.chains.insert(chain.clone(), Chain { hook: None, rules: lines });
    chain
}
