//! Tables: pods, namespaces and a policy in, what it allows out.

use super::*;

/// Pods: `namespace/name ip node labels`. `db` has a port named `sql`.
const PODS: [&str; 6] = [
    "a/web 10.1.0.2 n1 app=web",
    "a/db 10.1.0.3 n1 app=db",
    "a/old 10.1.0.4 n2 app=web",
    "b/web 10.2.0.2 n2 app=web",
    "b/db 10.2.0.3 n2 app=db",
    "c/host 10.0.0.1 n1 app=web,host",
];

fn yaml<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_yaml_ng::from_str(text).expect("an object")
}

fn pod(text: &str) -> Pod {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (namespace, name) = words[0].split_once('/').expect("a namespace");
    let app = words[3].split(',').next().and_then(|label| label.split_once('=')).expect("a label").1;
    let (host, number) = (words[3].contains("host"), if namespace == "a" { 5432 } else { 5433 });
    yaml(&format!(
        "{{metadata: {{namespace: {namespace}, name: {name}, labels: {{app: {app}}}}}, \
         spec: {{nodeName: {}, hostNetwork: {host}, containers: [{{name: c, ports: [{{name: sql, containerPort: {number}}}]}}]}}, \
         status: {{podIP: {}, phase: Running}}}}",
        words[2], words[1]
    ))
}

fn compiled(specs: &[&str]) -> Policies {
    let pods: Vec<Pod> = PODS.iter().map(|text| pod(text)).collect();
    let namespace = |name: &str| -> Namespace {
        yaml(&format!("{{metadata: {{name: {name}, labels: {{kubernetes.io/metadata.name: {name}, team: {name}}}}}}}"))
    };
    let namespaces = ["a", "b", "c"].map(namespace);
    let policy = |(i, spec): (usize, &&str)| -> NetworkPolicy {
        yaml(&format!("{{metadata: {{namespace: a, name: p{i}}}, spec: {{{spec}}}}}"))
    };
    let policies: Vec<NetworkPolicy> = specs.iter().enumerate().map(policy).collect();
    let cluster = Cluster {
        policies: policies.iter().collect(),
        namespaces: namespaces.iter().collect(),
        pods: pods.iter().collect(),
    };
    compile(&cluster, "n1")
}

/// `pod way: policies; …` and what each policy allows: `peers>ports`, `*` for anybody.
fn show(policies: &Policies) -> String {
    let way = |way: Way| if way == Way::In { "in" } else { "out" };
    let mut out = Vec::new();
    for ((pod, to), keys) in &policies.isolated {
        let keys: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
        out.push(format!("{pod} {}: {}", way(*to), keys.join(" ")));
    }
    for (key, rules) in &policies.allowed {
        for rule in rules {
            let peers = rule.peers.as_ref().map_or_else(
                || "*".to_owned(),
                |nets| nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            );
            let ports = rule.ports.as_ref().map_or_else(
                || "*".to_owned(),
                |ports| {
                    let ranges = ports.ranges.iter().map(|(p, first, last)| format!("{}:{first}-{last}", p.lower()));
                    let named = ports.named.iter().map(|(ip, p, port)| format!("{ip}:{}:{port}", p.lower()));
                    ranges.chain(named).collect::<Vec<_>>().join(",")
                },
            );
            out.push(format!("{} {} {peers}>{ports}", key.name, way(key.way)));
        }
    }
    out.join("; ")
}

#[test]
fn a_policy_says_who_may_reach_whom() {
    for (name, spec, expect) in [
        ("default deny, in", "podSelector: {}", "10.1.0.2 in: p0; 10.1.0.3 in: p0"),
        (
            "default deny, both",
            "podSelector: {}, policyTypes: [Ingress, Egress]",
            "10.1.0.2 in: p0; 10.1.0.2 out: p0; 10.1.0.3 in: p0; 10.1.0.3 out: p0",
        ),
        ("allow all", "podSelector: {matchLabels: {app: db}}, ingress: [{}]", "10.1.0.3 in: p0; p0 in *>*"),
        ("nobody of this node", "podSelector: {matchLabels: {app: none}}, ingress: [{}]", ""),
        (
            "pods of its namespace, any node",
            "podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]",
            "10.1.0.3 in: p0; p0 in 10.1.0.2/32,10.1.0.4/32>*",
        ),
        (
            "all pods of a namespace",
            "podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}]}]",
            "10.1.0.3 in: p0; p0 in 10.2.0.2/31>*",
        ),
        (
            "both selectors of one peer",
            "podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}, podSelector: {matchLabels: {app: web}}}]}]",
            "10.1.0.3 in: p0; p0 in 10.2.0.2/32>*",
        ),
        (
            "two peers",
            "podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}, {podSelector: {matchLabels: {app: web}}}]}]",
            "10.1.0.3 in: p0; p0 in 10.1.0.2/32,10.1.0.4/32,10.2.0.2/31>*",
        ),
        (
            "nobody fits",
            "podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: none}}}]}]",
            "10.1.0.3 in: p0",
        ),
        (
            "a block with a hole, and ports",
            "podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/30, except: [10.0.0.0/31]}}], ports: [{port: 80, endPort: 90}, {protocol: UDP}]}]",
            "10.1.0.3 in: p0; p0 in 10.0.0.2/31>tcp:80-90,udp:0-65535",
        ),
        (
            "everybody by address",
            "podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]",
            "10.1.0.3 in: p0; p0 in *>*",
        ),
        (
            "a named port is the selected pod's",
            "podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: sql}]}]",
            "10.1.0.3 in: p0; p0 in *>10.1.0.3:tcp:5432",
        ),
        (
            "out, a named port is the peer's",
            "podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}], ports: [{port: sql}]}]",
            "10.1.0.2 out: p0; p0 out 10.1.0.3/32,10.2.0.3/32>10.1.0.3:tcp:5432,10.2.0.3:tcp:5433",
        ),
        (
            "a name that no port has",
            "podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: nosuch}]}]",
            "10.1.0.3 in: p0",
        ),
    ] {
        assert_eq!(show(&compiled(&[spec])), expect, "{name}");
    }
}

#[test]
fn policies_add_up_and_equal_input_gives_equal_output() {
    let specs = ["podSelector: {matchLabels: {app: db}}", "podSelector: {}, ingress: [{ports: [{port: 80}]}]"];
    let first = compiled(&specs);
    assert_eq!(show(&first), "10.1.0.2 in: p1; 10.1.0.3 in: p0 p1; p1 in *>tcp:80-80");
    assert_eq!(first, compiled(&specs));
}
