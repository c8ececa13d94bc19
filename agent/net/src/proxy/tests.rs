//! Tables over the pure parts: notation in, rules or commands out.

use std::net::IpAddr;

use kontiki_agent_plan::{
    policy::{Allowed, Policies, PolicyKey, Ports, Way},
    services::{Endpoint, Protocol, ServicePort},
};

use super::{diff, flows, policy, rules, rules::Facts};

fn facts() -> Facts {
    let net = |text: &str| text.parse().expect("range");
    Facts {
        pods: net("10.244.0.0/16"),
        services: net("10.96.0.0/16"),
        subnet: net("10.0.0.0/24"),
        own_pods: Some(net("10.244.1.0/24")),
        dns: None,
        egress: true,
    }
}

/// `1.2` is ready pod 10.244.1.2 on this node if it begins with 1; `!` not ready, `~` terminating.
fn endpoint(text: &str) -> Endpoint {
    let bare = text.trim_end_matches(['!', '~']);
    let (ready, terminating) = (bare == text, text.ends_with('~'));
    Endpoint {
        ip: format!("10.244.{bare}").parse().expect("ip"),
        port: 8080,
        ready,
        serving: ready || terminating,
        terminating,
        local: bare.starts_with("1."),
        near: true,
    }
}

/// `web tcp 80 node=30080 ext=9.9.9.9 lb=8.8.8.8 ours from=10.0.0.0/8 sticky=60 local-in local-out -> 1.2 2.2!`
fn service(text: &str) -> ServicePort {
    let (front, back) = text.split_once("->").expect("an arrow");
    let mut words = front.split_whitespace();
    let name = words.next().expect("name").to_owned();
    let protocol = if words.next() == Some("udp") { Protocol::Udp } else { Protocol::Tcp };
    let port = words.next().and_then(|p| p.parse().ok()).expect("port");
    let ip: IpAddr = "10.96.0.1".parse().expect("ip");
    let mut service = ServicePort {
        namespace: "d".into(),
        name,
        port_name: String::new(),
        protocol,
        cluster_ips: vec![ip],
        port,
        node_port: None,
        external_ips: Vec::new(),
        balancer_ips: Vec::new(),
        announced_ips: Vec::new(),
        source_ranges: None,
        health_check_port: None,
        affinity_seconds: None,
        external_policy_local: false,
        internal_policy_local: false,
        endpoints: back.split_whitespace().map(endpoint).collect(),
    };
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("node", value) => service.node_port = value.parse().ok(),
            ("ext", value) => service.external_ips = vec![value.parse().expect("ip")],
            ("lb", value) => service.balancer_ips = vec![value.parse().expect("ip")],
            ("ours", _) => service.announced_ips = service.balancer_ips.clone(),
            ("from", value) => service.source_ranges = Some(vec![value.parse().expect("range")]),
            ("sticky", value) => service.affinity_seconds = value.parse().ok(),
            ("local-in", _) => service.internal_policy_local = true,
            ("local-out", _) => service.external_policy_local = true,
            other => panic!("unknown word {other:?}"),
        }
    }
    service
}

fn built(facts: &Facts, services: &[ServicePort]) -> rules::Ruleset {
    rules::build(facts, services)
}

/// What a service adds to the table of no services.
fn added(text: &str) -> String {
    let empty = built(&facts(), &[]);
    diff::between(&empty, &built(&facts(), &[service(text)])).replace(" ip kontiki", "")
}

#[test]
fn a_service_becomes_a_chain_and_an_element() {
    for (text, expect) in [
        (
            "web tcp 80 -> 1.2",
            "add chain svc/d/web/tcp/80
add rule svc/d/web/tcp/80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
add rule svc/d/web/tcp/80 meta l4proto tcp dnat to 10.244.1.2:8080
add element hairpins { 10.244.1.2 . 10.244.1.2 }
add element services { 10.96.0.1 . tcp . 80 : goto svc/d/web/tcp/80 }
",
        ),
        (
            "dns udp 53 -> 2.2 3.2!",
            "add chain svc/d/dns/udp/53
add rule svc/d/dns/udp/53 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
add rule svc/d/dns/udp/53 meta l4proto udp dnat to 10.244.2.2:8080
add element services { 10.96.0.1 . udp . 53 : goto svc/d/dns/udp/53 }
",
        ),
        (
            "none tcp 80 node=30080 ->",
            "add element refused { 10.96.0.1 . tcp . 80 : goto refuse }\nadd element refused-node-ports { tcp . 30080 : goto refuse }\n",
        ),
        ("unready tcp 80 -> 2.2!", "add element refused { 10.96.0.1 . tcp . 80 : goto refuse }\n"),
        ("elsewhere tcp 80 local-in -> 2.2", "add element refused { 10.96.0.1 . tcp . 80 : drop }\n"),
    ] {
        assert_eq!(added(text), expect, "{text}");
    }
}

#[test]
fn terminating_endpoints_serve_when_nothing_else_does() {
    for (text, expect) in [
        ("web tcp 80 -> 2.2~ 2.3", "dnat to 10.244.2.3:8080"),
        ("web tcp 80 -> 2.2~ 2.3!", "dnat to 10.244.2.2:8080"),
        ("web tcp 80 -> 2.2 2.3", "numgen random mod 2 map { 0 : 10.244.2.2 . 8080, 1 : 10.244.2.3 . 8080 }"),
        ("web tcp 80 -> 2.3 2.2 2.3", "numgen random mod 2 map { 0 : 10.244.2.2 . 8080, 1 : 10.244.2.3 . 8080 }"),
    ] {
        assert!(added(text).contains(expect), "{text}: {}", added(text));
    }
}

#[test]
fn external_traffic_follows_its_policy() {
    let cluster = added("web tcp 80 node=30080 ext=9.9.9.9 -> 2.2");
    assert!(cluster.contains("add rule ext/d/web/tcp/80 jump mark-for-masquerade\n"), "{cluster}");
    assert!(cluster.contains("9.9.9.9 . tcp . 80 : goto ext/d/web/tcp/80"), "{cluster}");
    assert!(cluster.contains("add element node-ports { tcp . 30080 : goto ext/d/web/tcp/80 }"), "{cluster}");

    let local = added("web tcp 80 node=30080 local-out -> 1.2 2.2");
    assert!(local.contains("add rule ext/d/web/tcp/80 ip saddr 10.244.0.0/16 goto any/d/web/tcp/80\n"), "{local}");
    assert!(local.contains("add rule ext/d/web/tcp/80 meta l4proto tcp dnat to 10.244.1.2:8080\n"), "{local}");
    assert!(!local.contains("add rule ext/d/web/tcp/80 jump mark-for-masquerade\n"), "{local}");

    let away = added("web tcp 80 node=30080 local-out -> 2.2");
    assert!(away.contains("add rule ext/d/web/tcp/80 drop\n"), "{away}");
}

#[test]
fn source_ranges_guard_the_balancers_address_alone() {
    let text = added("web tcp 80 ext=9.9.9.9 lb=8.8.8.8 from=10.1.2.3/8 -> 2.2");
    for expect in [
        "add rule fw/d/web/tcp/80 ip saddr 10.0.0.0/8 return\n",
        "add rule fw/d/web/tcp/80 drop\n",
        "add element firewalled { 8.8.8.8 . tcp . 80 : jump fw/d/web/tcp/80 }\n",
        "8.8.8.8 . tcp . 80 : goto ext/d/web/tcp/80, 9.9.9.9 . tcp . 80 : goto ext/d/web/tcp/80",
    ] {
        assert!(text.contains(expect), "{expect} in {text}");
    }
    assert!(!added("web tcp 80 ext=9.9.9.9 from=10.0.0.0/8 -> 2.2").contains("fw/"), "no address, no firewall");
}

#[test]
fn nothing_but_services_answers_at_an_announced_address() {
    let text = added("web tcp 80 lb=8.8.8.8 ours -> 2.2");
    assert!(text.contains("add element announced { 8.8.8.8 }\n"), "{text}");
    let others = added("web tcp 80 lb=8.8.8.8 -> 2.2");
    assert!(!others.contains("announced"), "an address of somebody else's may be a node's: {others}");
    let table = diff::full(&built(&facts(), &[]));
    for rule in [
        "late-prerouting ip daddr @announced meta l4proto != icmp goto refuse",
        "late-output ip daddr @announced meta l4proto != icmp goto refuse",
        "ip daddr != @announced meta l4proto . th dport vmap @node-ports",
        "ip daddr != @announced meta l4proto . th dport vmap @refused-node-ports",
    ] {
        assert!(table.contains(rule), "{rule} in {table}");
    }
}

#[test]
fn affinity_remembers_per_endpoint() {
    let text = added("web tcp 80 sticky=60 -> 2.2 2.3");
    for expect in [
        "add set aff/d/web/tcp/80/10.244.2.2/8080 { type ipv4_addr; flags dynamic,timeout; timeout 60s; }\n",
        "add rule svc/d/web/tcp/80 ip saddr @aff/d/web/tcp/80/10.244.2.3/8080 goto ep/d/web/tcp/80/10.244.2.3/8080\n",
        "add rule svc/d/web/tcp/80 numgen random mod 2 vmap { 0 : goto ep/d/web/tcp/80/10.244.2.2/8080, 1 : goto ep/d/web/tcp/80/10.244.2.3/8080 }\n",
        "add rule ep/d/web/tcp/80/10.244.2.2/8080 update @aff/d/web/tcp/80/10.244.2.2/8080 { ip saddr }\n",
    ] {
        assert!(text.contains(expect), "{expect} in {text}");
    }
}

#[test]
fn a_change_mentions_only_what_changed() {
    let from = ["web tcp 80 -> 2.2", "api tcp 81 -> 2.9"].map(service);
    for (name, to, expect) in [
        ("nothing", ["web tcp 80 -> 2.2", "api tcp 81 -> 2.9"], ""),
        ("order", ["api tcp 81 -> 2.9", "web tcp 80 -> 2.2"], ""),
        (
            "another endpoint",
            ["web tcp 80 -> 2.3", "api tcp 81 -> 2.9"],
            "flush chain svc/d/web/tcp/80
add rule svc/d/web/tcp/80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
add rule svc/d/web/tcp/80 meta l4proto tcp dnat to 10.244.2.3:8080
",
        ),
        (
            "no endpoint any more",
            ["web tcp 80 ->", "api tcp 81 -> 2.9"],
            "add element refused { 10.96.0.1 . tcp . 80 : goto refuse }
delete element services { 10.96.0.1 . tcp . 80 : goto svc/d/web/tcp/80 }
flush chain svc/d/web/tcp/80
delete chain svc/d/web/tcp/80
",
        ),
    ] {
        let to = to.map(service);
        let script = diff::between(&built(&facts(), &from), &built(&facts(), &to));
        assert_eq!(script.replace(" ip kontiki", ""), expect, "{name}");
    }
}

#[test]
fn another_affinity_time_replaces_the_set_and_its_users() {
    let [from, to] =
        ["web tcp 80 sticky=60 -> 2.2", "web tcp 80 sticky=90 -> 2.2"].map(|t| built(&facts(), &[service(t)]));
    let script = diff::between(&from, &to).replace(" ip kontiki", "");
    let order = [
        "flush chain ep/d",
        "flush chain svc/d",
        "delete set aff/d",
        "add set aff/d",
        "add rule ep/d",
        "add rule svc/d",
    ];
    let places: Vec<_> = order.iter().map(|part| script.find(part)).collect();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{script}");
}

#[test]
fn long_names_stay_loadable_and_distinct() {
    let long = "n".repeat(63);
    let mut one = service("web tcp 80 -> 2.2");
    (one.namespace, one.name) = (long.clone(), long.clone());
    let mut two = one.clone();
    two.port = 81;
    let built = built(&facts(), &[one, two]);
    let names: Vec<_> = built.chains.keys().filter(|name| name.starts_with("svc/")).collect();
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|name| name.len() <= 120), "{names:?}");
}

#[test]
fn without_egress_pods_stay_inside() {
    let inside = built(&Facts { egress: false, ..facts() }, &[]);
    let open = built(&facts(), &[]);
    assert!(open.chains["forward"].rules.is_empty());
    assert_eq!(
        inside.chains["forward"].rules.last().map(String::as_str),
        Some("ip saddr 10.244.0.0/16 ip daddr != { 10.244.0.0/16, 10.0.0.0/24 } goto refuse")
    );
}

#[test]
fn udp_flows_to_lost_endpoints_are_forgotten() {
    for (name, from, to, expect) in [
        ("tcp is left alone", "web tcp 53 -> 2.2", "web tcp 53 -> 2.3", ""),
        ("same endpoints", "dns udp 53 -> 2.2", "dns udp 53 -> 2.2", ""),
        ("one more", "dns udp 53 -> 2.2", "dns udp 53 -> 2.2 2.3", ""),
        ("one replaced", "dns udp 53 -> 2.2", "dns udp 53 -> 2.3", "10.96.0.1:53<10.244.2.2"),
        (
            "with a node port",
            "dns udp 53 node=30053 -> 2.2",
            "dns udp 53 node=30053 -> 2.3",
            "*:30053<10.244.2.2 10.96.0.1:53<10.244.2.2",
        ),
        ("the first ever", "dns udp 53 ->", "dns udp 53 -> 2.2", "10.96.0.1:53"),
        ("drained but serving", "dns udp 53 -> 2.2", "dns udp 53 -> 2.2~", ""),
    ] {
        let shown: Vec<String> = flows::stale(&[service(from)], &[service(to)])
            .iter()
            .map(|f| {
                let to = f.to.map_or("*".to_owned(), |ip| ip.to_string());
                format!("{to}:{}{}", f.port, f.endpoint.map_or(String::new(), |ip| format!("<{ip}")))
            })
            .collect();
        assert_eq!(shown.join(" "), expect, "{name}");
    }
}

#[test]
fn policies_become_chains_and_sets() {
    let key = |name: &str, way| PolicyKey { namespace: "d".into(), name: name.into(), way };
    let ip = |text: &str| text.parse::<std::net::Ipv4Addr>().expect("ip");
    let nets = |texts: &[&str]| Some(texts.iter().map(|text| text.parse().expect("range")).collect());
    let ports = Ports {
        ranges: [(Protocol::Tcp, 80, 80), (Protocol::Tcp, 8000, 8010), (Protocol::Udp, 0, 65535)].into(),
        named: [(ip("10.244.1.2"), Protocol::Tcp, 8080)].into(),
    };
    let policies = Policies {
        isolated: [
            ((ip("10.244.1.2"), Way::In), [key("web", Way::In)].into()),
            ((ip("10.244.1.2"), Way::Out), [key("shut", Way::Out)].into()),
        ]
        .into(),
        allowed: [
            (
                key("web", Way::In),
                vec![
                    Allowed { peers: nets(&["10.244.2.2/32", "192.0.2.0/24"]), ports: Some(ports) },
                    Allowed { peers: None, ports: None },
                ],
            ),
            (key("shut", Way::Out), vec![]),
        ]
        .into(),
    };
    let empty = built(&facts(), &[]);
    let with = |policies: &Policies| {
        let mut rules = built(&facts(), &[]);
        policy::add(&mut rules, policies);
        rules
    };
    let full = with(&policies);
    let script = diff::between(&empty, &full).replace(" ip kontiki", "");
    for expect in [
        "add chain np-forward { type filter hook forward priority -10; }\n",
        "add set np/in/d/web/peers/0 { type ipv4_addr; flags interval; }\n",
        "add rule np/in/d/web ip saddr @np/in/d/web/peers/0 meta l4proto tcp th dport { 80, 8000-8010 } accept\n",
        "add rule np/in/d/web ip saddr @np/in/d/web/peers/0 meta l4proto udp accept\n",
        "add rule np/in/d/web ip saddr @np/in/d/web/peers/0 ip daddr . meta l4proto . th dport @np/in/d/web/ports/0 accept\n",
        "add rule np/in/d/web accept\n",
        "add rule np/in/10.244.1.2 jump np/in/d/web\nadd rule np/in/10.244.1.2 drop\n",
        "add rule np/out/10.244.1.2 jump np/out/d/shut\nadd rule np/out/10.244.1.2 drop\n",
        "add element np-in { 10.244.1.2 : goto np/in/10.244.1.2 }\n",
        "add element np/in/d/web/peers/0 { 10.244.2.2, 192.0.2.0/24 }\n",
    ] {
        assert!(script.contains(expect), "{expect} in {script}");
    }
    assert_eq!(diff::between(&full, &full), "", "nothing changed");
    let mut other = policies.clone();
    if let Some(rules) = other.allowed.get_mut(&key("web", Way::In)) {
        rules[0].peers = nets(&["10.244.2.3/32", "192.0.2.0/24"]);
    }
    let change = diff::between(&full, &with(&other)).replace(" ip kontiki", "");
    assert_eq!(
        change, "delete element np/in/d/web/peers/0 { 10.244.2.2 }\nadd element np/in/d/web/peers/0 { 10.244.2.3 }\n",
        "a pod that comes or goes costs an element"
    );
    let gone = diff::between(&full, &empty).replace(" ip kontiki", "");
    let order =
        ["flush map np-in\n", "delete chain np-forward\n", "delete map np-in\n", "delete set np/in/d/web/peers/0\n"];
    let places: Vec<_> = order.iter().map(|part| gone.find(part)).collect();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{gone}");
}
