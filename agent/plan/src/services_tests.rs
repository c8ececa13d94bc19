//! Tables: a Service and its slices in, what is forwarded where out.

use super::*;

const HERE: Here<'_> = Here { node: "n1", zone: Some("z1") };

fn derived(service: &str, slices: &[&str]) -> Vec<ServicePort> {
    let yaml = |text: &str| {
        format!("{{metadata: {{namespace: d, name: web, labels: {{kubernetes.io/service-name: web}}}}, {text}}}")
    };
    let service = if service.contains("spec:") { service.to_owned() } else { format!("spec: {{{service}}}") };
    let service: Service = serde_yaml_ng::from_str(&yaml(&service)).expect("a service");
    let slices: Vec<EndpointSlice> = slices
        .iter()
        .map(|s| serde_yaml_ng::from_str(&yaml(&format!("addressType: IPv4, {s}"))).expect("a slice"))
        .collect();
    derive([&service], &slices, HERE)
}

/// `address:port`, with `!` if it is not ready and `*` if it is on this node.
fn show(service: &str, slices: &[&str]) -> String {
    let end = |e: &Endpoint| {
        format!("{}:{}{}{}", e.ip, e.port, if e.ready { "" } else { "!" }, if e.local { "*" } else { "" })
    };
    let line = |p: ServicePort| {
        let ends: Vec<_> = p.endpoints.iter().map(end).collect();
        format!("{:?}/{} {} -> {}", p.cluster_ips, p.port, p.node_port.unwrap_or(0), ends.join(" "))
    };
    derived(service, slices).into_iter().map(line).collect::<Vec<_>>().join("; ")
}

#[test]
fn ports_meet_their_endpoints() {
    let slice = "ports: [{port: 8080}], endpoints: [{addresses: [10.1.0.2], nodeName: n1}, {addresses: [10.1.1.3], nodeName: n2, conditions: {ready: false}}]";
    let one = |address: &str, ports: &str| format!("ports: [{ports}], endpoints: [{{addresses: [{address}]}}]");
    let (first, second) = (one("10.1.0.2", "{port: 80}"), one("10.1.0.2", "{port: 81}"));
    let other = one("10.1.0.3", "{port: 82}");
    let several = one("10.1.0.2", "{name: a, port: 1}, {name: b, port: 2}, {name: b, protocol: UDP, port: 3}");
    let (old, new) = (
        "ports: [{port: 80}], endpoints: [{addresses: [10.1.0.2], conditions: {ready: false}}]",
        "ports: [{port: 80}], endpoints: [{addresses: [10.1.0.2], conditions: {ready: true}}]",
    );
    for (name, service, slices, expect) in [
        (
            "plain",
            "clusterIP: 10.96.0.5, ports: [{port: 80, nodePort: 30080}]",
            vec![slice],
            "[10.96.0.5]/80 30080 -> 10.1.0.2:8080* 10.1.1.3:8080!",
        ),
        ("no endpoints", "clusterIP: 10.96.0.5, ports: [{port: 80}]", vec![], "[10.96.0.5]/80 0 -> "),
        ("headless", "clusterIP: None, ports: [{port: 80}]", vec![slice], ""),
        ("external name", "type: ExternalName, externalName: a.b", vec![], ""),
        (
            "port names must match",
            "clusterIP: 10.96.0.5, ports: [{port: 80, name: http}]",
            vec![slice],
            "[10.96.0.5]/80 0 -> ",
        ),
        (
            "slices of one address with several ports",
            "clusterIP: 10.96.0.5, ports: [{port: 80}]",
            vec![&first, &second],
            "[10.96.0.5]/80 0 -> 10.1.0.2:80 10.1.0.2:81",
        ),
        (
            "slices of several addresses and ports",
            "clusterIP: 10.96.0.5, ports: [{port: 80}]",
            vec![&other, &first],
            "[10.96.0.5]/80 0 -> 10.1.0.2:80 10.1.0.3:82",
        ),
        (
            "one name under two protocols",
            "clusterIP: 10.96.0.5, ports: [{name: a, port: 80}, {name: b, protocol: UDP, port: 80}]",
            vec![&several],
            "[10.96.0.5]/80 0 -> 10.1.0.2:1; [10.96.0.5]/80 0 -> 10.1.0.2:3",
        ),
        (
            "in two slices while it moves",
            "clusterIP: 10.96.0.5, ports: [{port: 80}]",
            vec![old, new],
            "[10.96.0.5]/80 0 -> 10.1.0.2:80",
        ),
        (
            "an address that is none",
            "clusterIP: 10.96.0.5, ports: [{port: 80}]",
            vec![
                "ports: [{port: 80}], endpoints: [{addresses: [a.b]}]",
                "ports: [{port: 99999}], endpoints: [{addresses: [1.1.1.1]}]",
            ],
            "[10.96.0.5]/80 0 -> ",
        ),
    ] {
        assert_eq!(show(service, &slices), expect, "{name}");
    }
}

/// What the two policies send to: `cluster | local`. Endpoints: `LAST@NODE` with `z=ZONE`, `n=NODE` for hints, `!`
/// not ready, `~` draining.
fn targets(endpoints: &str) -> String {
    let one = |text: &str| {
        let mut words = text.split(',');
        let (ip, node) = words.next().and_then(|first| first.split_once('@')).expect("ip@node");
        let mut conditions = "ready: true";
        let mut hints = Vec::new();
        for word in words {
            match word.split_once('=') {
                Some(("z", zone)) => hints.push(format!("forZones: [{{name: {zone}}}]")),
                Some(("n", node)) => hints.push(format!("forNodes: [{{name: {node}}}]")),
                _ if word == "!" => conditions = "ready: false, serving: false",
                _ => conditions = "ready: false, serving: true, terminating: true",
            }
        }
        let hints = hints.join(", ");
        format!("{{addresses: [10.1.0.{ip}], nodeName: {node}, conditions: {{{conditions}}}, hints: {{{hints}}}}}")
    };
    let all: Vec<String> = endpoints.split_whitespace().map(one).collect();
    let slice = format!("ports: [{{port: 80}}], endpoints: [{}]", all.join(", "));
    let derived = derived("clusterIP: 10.96.0.5, ports: [{port: 80}]", &[&slice]);
    let last = |all: Vec<SocketAddr>| {
        all.iter()
            .map(|a| a.ip().to_string().rsplit('.').next().expect("a part").to_owned())
            .collect::<Vec<_>>()
            .join(" ")
    };
    format!("{} | {}", last(derived[0].cluster_targets()), last(derived[0].local_targets()))
}

#[test]
fn traffic_goes_to_the_right_endpoints() {
    for (name, endpoints, expect) in [
        ("all that are ready", "1@n1 2@n2 3@n2,!", "1 2 | 1"),
        ("draining ones when none is ready", "1@n1,~ 2@n2,~ 3@n2,!", "1 2 | 1"),
        ("each policy falls back by itself", "1@n1,~ 2@n2", "2 | 1"),
        ("nobody", "1@n1,!", " | "),
        ("its zone", "1@n1,z=z1 2@n2,z=z1 3@n3,z=z2", "1 2 | 1"),
        ("no endpoint in its zone", "1@n2,z=z2 2@n3,z=z3", "1 2 | "),
        ("one has no hint", "1@n1,z=z1 2@n2,z=z2 3@n3", "1 2 3 | 1"),
        ("those without a hint are not ready", "1@n1,z=z1 2@n2,z=z2 3@n3,!", "1 | 1"),
        ("its node", "1@n1,n=n1,z=z1 2@n2,n=n2,z=z1", "1 | 1"),
        ("its zone when its node has none", "1@n3,n=n3,z=z1 2@n2,n=n2,z=z2", "1 | "),
        ("the local policy knows no hints", "1@n1,z=z2 2@n2,z=z1", "2 | 1"),
    ] {
        assert_eq!(targets(endpoints), expect, "{name}");
    }
}

#[test]
fn a_load_balancer_is_served_and_told() {
    let service = "spec: {type: LoadBalancer, clusterIP: 10.96.0.5, healthCheckNodePort: 31000, externalTrafficPolicy: Local, \
        loadBalancerSourceRanges: [10.0.0.0/8], externalIPs: [9.9.9.9], ports: [{name: a, port: 80}, {name: b, port: 81}]}, \
        status: {loadBalancer: {ingress: [{ip: 7.7.7.7}, {ip: 8.8.8.8, ipMode: Proxy}, {hostname: a.b}]}}";
    let slice = "ports: [{name: a, port: 1}, {name: b, port: 2}], endpoints: [{addresses: [10.1.0.2], nodeName: n1}, \
        {addresses: [10.1.0.3], nodeName: n1}, {addresses: [10.1.0.4], nodeName: n2}]";
    let ports = derived(service, &[slice]);
    let texts = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!((texts(&ports[0].external_ips), texts(&ports[0].balancer_ips)), ("9.9.9.9".into(), "7.7.7.7".into()));
    assert_eq!(ports[0].source_ranges, Some(vec!["10.0.0.0/8".parse().expect("a range")]));
    let told = health(&ports);
    assert_eq!(told.keys().collect::<Vec<_>>(), [&31000]);
    assert_eq!((told[&31000].name.as_str(), told[&31000].local), ("web", 2), "each endpoint once, of this node");
}

#[test]
fn whoever_sends_to_endpoints_gets_those_of_the_services_it_names() {
    let service = |name: &str, spec: &str| -> Service {
        serde_yaml_ng::from_str(&format!("{{metadata: {{namespace: d, name: {name}}}, spec: {{{spec}}}}}"))
            .expect("a service")
    };
    let slice = |name: &str, address: &str| -> EndpointSlice {
        let labels = format!("labels: {{kubernetes.io/service-name: {name}}}");
        serde_yaml_ng::from_str(&format!(
            "{{metadata: {{namespace: d, {labels}}}, addressType: IPv4, ports: [{{port: 8080}}], endpoints: [{{addresses: [{address}]}}]}}"
        ))
        .expect("a slice")
    };
    let services = [
        service("headless", "clusterIP: None, ports: [{port: 80}]"),
        service("other", "clusterIP: 10.96.0.5, ports: [{port: 80}]"),
        service("elsewhere", "type: ExternalName, externalName: a.b, ports: [{port: 80}]"),
    ];
    let slices = [slice("headless", "10.1.0.2"), slice("other", "10.1.0.3")];
    let wanted = BTreeSet::from([("d", "headless"), ("d", "elsewhere"), ("e", "other")]);
    let found = behind(&services, &slices, HERE, &wanted);
    let shown: Vec<String> = found.iter().map(|p| format!("{} {:?}", p.name, p.cluster_targets())).collect();
    assert_eq!(shown, ["headless [10.1.0.2:8080]"]);
    let shown: Vec<String> = derive(&services, &slices, HERE).into_iter().map(|p| p.name).collect();
    assert_eq!(shown, ["other"], "nobody sends packets to a Service without an address");
}
