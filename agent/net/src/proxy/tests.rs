//! Tables over the pure parts: notation in, rules or commands out.

use std::net::IpAddr;

use kontiki_agent_plan::services::{Endpoint, Protocol, ServicePort};

use super::{diff, flows, rules, rules::Facts};

fn facts() -> Facts {
    let net = |text: &str| text.parse().expect("range");
    Facts {
        pods: net("10.244.0.0/16"),
        services: net("10.96.0.0/16"),
        subnet: net("10.0.0.0/24"),
        own_pods: Some(net("10.244.1.0/24")),
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
    }
}

/// `web tcp 80 node=30080 ext=9.9.9.9 sticky=60 local-in local-out -> 1.2 2.2!`
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
        affinity_seconds: None,
        external_policy_local: false,
        internal_policy_local: false,
        endpoints: back.split_whitespace().map(endpoint).collect(),
    };
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("node", value) => service.node_port = value.parse().ok(),
            ("ext", value) => service.external_ips = vec![value.parse().expect("ip")],
            ("sticky", value) => service.affinity_seconds = value.parse().ok(),
            ("local-in", _) => service.internal_policy_local = true,
            ("local-out", _) => service.external_policy_local = true,
            other => panic!("unknown word {other:?}"),
        }
    }
    service
}

/// What a service adds to the table of no services.
fn added(text: &str) -> String {
    let empty = rules::build(&facts(), &[]);
    diff::between(&empty, &rules::build(&facts(), &[service(text)])).replace(" ip kontiki", "")
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
        let script = diff::between(&rules::build(&facts(), &from), &rules::build(&facts(), &to));
        assert_eq!(script.replace(" ip kontiki", ""), expect, "{name}");
    }
}

#[test]
fn another_affinity_time_replaces_the_set_and_its_users() {
    let [from, to] =
        ["web tcp 80 sticky=60 -> 2.2", "web tcp 80 sticky=90 -> 2.2"].map(|t| rules::build(&facts(), &[service(t)]));
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
    let built = rules::build(&facts(), &[one, two]);
    let names: Vec<_> = built.chains.keys().filter(|name| name.starts_with("svc/")).collect();
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|name| name.len() <= 120), "{names:?}");
}

#[test]
fn without_egress_pods_stay_inside() {
    let inside = rules::build(&Facts { egress: false, ..facts() }, &[]);
    let open = rules::build(&facts(), &[]);
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
