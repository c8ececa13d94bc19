use std::sync::Arc;

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

use super::{Answer, Data, Type, Zone};

fn service(name: &str, spec: &str) -> Arc<Service> {
    let text = format!("{{metadata: {{namespace: ns, name: {name}}}, spec: {{{spec}}}}}");
    Arc::new(serde_yaml_ng::from_str(&text).expect("a service"))
}

fn slice(owner: &str, rest: &str) -> Arc<EndpointSlice> {
    let labels = format!("labels: {{kubernetes.io/service-name: {owner}}}");
    let text = format!("{{metadata: {{namespace: ns, name: {owner}-1, {labels}}}, addressType: IPv4, {rest}}}");
    Arc::new(serde_yaml_ng::from_str(&text).expect("a slice"))
}

fn zone() -> Zone {
    let mut zone = Zone::new("Cluster.Local.");
    let services = [
        service(
            "web",
            "clusterIP: 10.96.0.5, clusterIPs: [10.96.0.5, 'fd00::5'], ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]",
        ),
        service("bare", "clusterIP: 10.96.0.6"),
        service("db", "clusterIP: None, ports: [{name: sql, port: 5432}]"),
        service("portless", "clusterIP: None"),
        service("empty", "clusterIP: None, ports: [{port: 1}]"),
        service("out", "type: ExternalName, externalName: example.org."),
    ];
    let slices = [
        slice(
            "db",
            "ports: [{name: sql, port: 5432}], endpoints: [{addresses: [10.1.0.2], hostname: Db-0}, {addresses: [10.1.0.3]}, {addresses: [10.1.0.4], conditions: {ready: false}}]",
        ),
        slice("portless", "endpoints: [{addresses: [10.1.0.7]}]"),
        slice(
            "web",
            "ports: [{name: http, port: 8080}], endpoints: [{addresses: [10.1.0.2]}, {addresses: [10.1.0.9]}]",
        ),
        slice("ghost", "ports: [], endpoints: [{addresses: [10.1.0.8]}]"),
    ];
    zone.update(&services, &slices);
    zone
}

fn show(answer: &Answer) -> String {
    let one = |data: &Data| match data {
        Data::Address(ip) => ip.to_string(),
        Data::Cname(name) | Data::Ns(name) | Data::Ptr(name) | Data::Txt(name) => name.clone(),
        Data::Soa => "soa".to_owned(),
        Data::Srv { weight, port, target, address } => format!("{weight} {port} {target} {address}"),
    };
    match answer {
        Answer::Foreign => "foreign".to_owned(),
        Answer::NoName => "no such name".to_owned(),
        Answer::Alias(name) => format!("-> {name}"),
        Answer::Records(records) => records.iter().map(one).collect::<Vec<_>>().join(", "),
    }
}

#[test]
fn names_are_answered_as_the_specification_says() {
    use Type::{A, Aaaa, Cname, Ns, Other, Ptr, Soa, Srv, Txt};
    let zone = zone();
    for (name, wanted, expect) in [
        ("web.ns.svc.cluster.local", A, "10.96.0.5"),
        ("WEB.ns.SVC.cluster.LOCAL", A, "10.96.0.5"),
        ("web.ns.svc.cluster.local", Aaaa, "fd00::5"),
        ("web.ns.svc.cluster.local", Other, ""),
        ("bare.ns.svc.cluster.local", A, "no such name"),
        ("none.ns.svc.cluster.local", A, "no such name"),
        ("web.other.svc.cluster.local", A, "no such name"),
        ("_http._tcp.web.ns.svc.cluster.local", A, "10.96.0.5"),
        (
            "_http._tcp.web.ns.svc.cluster.local",
            Srv,
            "50 80 web.ns.svc.cluster.local 10.96.0.5, 50 80 web.ns.svc.cluster.local fd00::5",
        ),
        ("_http._udp.web.ns.svc.cluster.local", Srv, "no such name"),
        ("10-1-0-9.web.ns.svc.cluster.local", A, "10.1.0.9"),
        ("db.ns.svc.cluster.local", A, "10.1.0.2, 10.1.0.3"),
        ("db.ns.svc.cluster.local", Aaaa, ""),
        ("db-0.db.ns.svc.cluster.local", A, "10.1.0.2"),
        ("10-1-0-3.db.ns.svc.cluster.local", A, "10.1.0.3"),
        ("10-1-0-4.db.ns.svc.cluster.local", A, "no such name"),
        (
            "_sql._tcp.db.ns.svc.cluster.local",
            Srv,
            "50 5432 db-0.db.ns.svc.cluster.local 10.1.0.2, 50 5432 10-1-0-3.db.ns.svc.cluster.local 10.1.0.3",
        ),
        ("portless.ns.svc.cluster.local", A, "10.1.0.7"),
        ("portless.ns.svc.cluster.local", Srv, ""),
        ("empty.ns.svc.cluster.local", A, "no such name"),
        ("out.ns.svc.cluster.local", A, "-> example.org"),
        ("out.ns.svc.cluster.local", Cname, "example.org"),
        ("x.out.ns.svc.cluster.local", A, "no such name"),
        ("10-1-2-3.any.pod.cluster.local", A, "10.1.2.3"),
        ("10-1-2-3.any.pod.cluster.local", Aaaa, ""),
        ("fd00--9.any.pod.cluster.local", Aaaa, "fd00::9"),
        ("web.any.pod.cluster.local", A, "no such name"),
        ("cluster.local", Soa, "soa"),
        ("cluster.local", Ns, "ns.dns.cluster.local"),
        ("cluster.local", A, ""),
        ("svc.cluster.local", A, ""),
        ("ns.svc.cluster.local", A, ""),
        ("other.svc.cluster.local", A, "no such name"),
        ("dns-version.cluster.local", Txt, "1.1.0"),
        ("other.cluster.local", A, "no such name"),
        ("a.b.c.web.ns.svc.cluster.local", A, "no such name"),
        ("notcluster.local", A, "foreign"),
        ("example.org", A, "foreign"),
        ("", A, "foreign"),
        ("5.0.96.10.in-addr.arpa", Ptr, "web.ns.svc.cluster.local"),
        ("5.0.96.10.in-addr.arpa", A, ""),
        ("2.0.1.10.in-addr.arpa", Ptr, "db-0.db.ns.svc.cluster.local, 10-1-0-2.web.ns.svc.cluster.local"),
        ("4.0.1.10.in-addr.arpa", Ptr, "foreign"),
        ("8.0.1.10.in-addr.arpa", Ptr, "foreign"),
        ("x.1.10.in-addr.arpa", Ptr, "foreign"),
        ("5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", Ptr, "web.ns.svc.cluster.local"),
    ] {
        assert_eq!(show(&zone.lookup(name, wanted)), expect, "{wanted:?} {name:?}");
    }
}

#[test]
fn a_change_leaves_nothing_behind() {
    let mut zone = zone();
    let web = service("web", "clusterIP: 10.96.0.9, ports: [{port: 80}]");
    zone.update(std::slice::from_ref(&web), &[]);
    for (name, wanted, expect) in [
        ("web.ns.svc.cluster.local", Type::A, "10.96.0.9"),
        ("db.ns.svc.cluster.local", Type::A, "no such name"),
        ("5.0.96.10.in-addr.arpa", Type::Ptr, "foreign"),
        ("2.0.1.10.in-addr.arpa", Type::Ptr, "foreign"),
        ("9.0.96.10.in-addr.arpa", Type::Ptr, "web.ns.svc.cluster.local"),
    ] {
        assert_eq!(show(&zone.lookup(name, wanted)), expect, "{name}");
    }
    let ends = slice("web", "ports: [{port: 80}], endpoints: [{addresses: [10.1.0.2]}]");
    zone.update(&[web], &[ends]);
    assert_eq!(show(&zone.lookup("2.0.1.10.in-addr.arpa", Type::Ptr)), "10-1-0-2.web.ns.svc.cluster.local");
    zone.update(&[], &[]);
    assert_eq!(show(&zone.lookup("ns.svc.cluster.local", Type::A)), "no such name");
}
