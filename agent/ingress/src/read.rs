//! From objects to routes, and to the hosts that certificates are for. Pure.
//!
//! Invariants
//! - Ingresses are taken by age, of equal age by name: two nodes that know the same have the same routes, and nobody takes a
//!   host and path away from who had it before.
//! - What cannot be served as it is written leads nowhere (404, 503), never to something else.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::networking::v1::{Ingress, IngressBackend, ServiceBackendPort};
use kontiki_agent_plan::services::{Protocol, ServicePort};
use kontiki_model::ingress::{Options, backends};

use crate::table::{Backend, Host, Match, Route, Service, Table};

/// Where a certificate is taken from.
pub type SecretName = (String, String);

/// The Services that routes lead to.
#[must_use]
pub fn services(ingresses: &[Arc<Ingress>]) -> BTreeSet<(&str, &str)> {
    ingresses
        .iter()
        .flat_map(|ingress| {
            let namespace = namespace(ingress);
            backends(ingress).filter_map(move |backend| Some((namespace, backend.service.as_ref()?.name.as_str())))
        })
        .collect()
}

fn namespace(ingress: &Ingress) -> &str {
    ingress.metadata.namespace.as_deref().unwrap_or_default()
}

/// The oldest first.
fn by_age(ingresses: &[Arc<Ingress>]) -> Vec<&Ingress> {
    let mut all: Vec<&Ingress> = ingresses.iter().map(Arc::as_ref).collect();
    all.sort_by_key(|ingress| {
        let meta = &ingress.metadata;
        (meta.creation_timestamp.as_ref().map(|time| time.0), meta.namespace.as_deref(), meta.name.as_deref())
    });
    all
}

/// The routes of all Ingresses; `ports` are those of the Services that they name.
#[must_use]
pub fn table(ingresses: &[Arc<Ingress>], ports: &[ServicePort]) -> Table {
    let mut known = Backends { ports: BTreeMap::new(), made: BTreeMap::new() };
    for port in ports.iter().filter(|port| port.protocol == Protocol::Tcp) {
        known.ports.entry((port.namespace.as_str(), port.name.as_str())).or_default().push(port);
    }
    let mut table = Table::default();
    for ingress in by_age(ingresses) {
        add(&mut table, ingress, &mut known);
    }
    table
}

fn add(table: &mut Table, ingress: &Ingress, known: &mut Backends<'_>) {
    let Some(spec) = &ingress.spec else { return };
    let (options, _) = Options::of(ingress.metadata.annotations.as_ref());
    let mut route = |backend: &IngressBackend| {
        let backend = known.of(namespace(ingress), backend);
        Arc::new(Route { backend, options })
    };
    let rules = spec.rules.as_deref().unwrap_or_default();
    for rule in rules {
        let host = Host::read(rule.host.as_deref().unwrap_or_default());
        for path in rule.http.iter().flat_map(|http| &http.paths) {
            let how = if path.path_type == "Exact" { Match::Exact } else { Match::Prefix };
            let text = path.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
            table.add(host.clone(), how, text, route(&path.backend));
        }
    }
    if let Some(backend) = &spec.default_backend {
        let default = route(backend);
        for rule in rules {
            table.add_default(Host::read(rule.host.as_deref().unwrap_or_default()), default.clone());
        }
        table.add_default(Host::Any, default);
    }
}

/// Backends, each made once.
struct Backends<'a> {
    ports: BTreeMap<(&'a str, &'a str), Vec<&'a ServicePort>>,
    made: BTreeMap<(String, String, String, i32), Arc<Backend>>,
}

impl Backends<'_> {
    fn of(&mut self, namespace: &str, backend: &IngressBackend) -> Arc<Backend> {
        let Some(service) = &backend.service else { return Arc::new(Backend::Unsupported) };
        let none = ServiceBackendPort::default();
        let port = service.port.as_ref().unwrap_or(&none);
        let (name, number) = (port.name.as_deref().unwrap_or_default(), port.number.unwrap_or_default());
        let key = (namespace.to_owned(), service.name.clone(), name.to_owned(), number);
        let ports = self.ports.get(&(namespace, service.name.as_str()));
        let made = self.made.entry(key).or_insert_with(|| {
            let found = ports
                .into_iter()
                .flatten()
                .find(|port| if name.is_empty() { i32::from(port.port) == number } else { port.port_name == name });
            let service =
                found.map(|port| Service { targets: port.cluster_targets(), sticky: port.affinity_seconds.is_some() });
            Arc::new(Backend::Service(service.unwrap_or_default()))
        });
        made.clone()
    }
}

/// Which certificate is for which hosts, the oldest Ingress first. Where no hosts are named it is for those of the rules.
#[must_use]
pub fn certificates(ingresses: &[Arc<Ingress>]) -> Vec<(Host, SecretName)> {
    let mut out = Vec::new();
    for ingress in by_age(ingresses) {
        let Some(spec) = &ingress.spec else { continue };
        for tls in spec.tls.iter().flatten() {
            let Some(secret) = tls.secret_name.as_deref().filter(|name| !name.is_empty()) else { continue };
            let named = tls.hosts.as_deref().unwrap_or_default();
            let hosts: Vec<&str> = if named.is_empty() {
                let rules = spec.rules.iter().flatten().map(|rule| rule.host.as_deref().unwrap_or_default());
                rules.chain(spec.default_backend.iter().map(|_| "")).collect()
            } else {
                named.iter().map(String::as_str).collect()
            };
            let from = (namespace(ingress).to_owned(), secret.to_owned());
            out.extend(hosts.into_iter().map(|host| (Host::read(host), from.clone())));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn ingress(name: &str, born: u32, spec: &str) -> Arc<Ingress> {
        let text = format!(
            "{{metadata: {{namespace: d, name: {name}, creationTimestamp: '2026-01-01T00:00:{born:02}Z', \
             annotations: {{kontiki.dev/max-body-bytes: '{born}'}}}}, spec: {{{spec}}}}}"
        );
        Arc::new(serde_yaml_ng::from_str(&text).expect("an Ingress"))
    }

    fn port(name: &str, port_name: &str, port: u16, last: u8) -> ServicePort {
        ServicePort {
            namespace: "d".into(),
            name: name.into(),
            port_name: port_name.into(),
            protocol: Protocol::Tcp,
            cluster_ips: Vec::new(),
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
            endpoints: vec![kontiki_agent_plan::services::Endpoint {
                ip: IpAddr::from(Ipv4Addr::new(10, 0, 0, last)),
                port: 8080,
                ready: true,
                serving: true,
                terminating: false,
                local: false,
                near: true,
            }],
        }
    }

    /// The last part of the endpoint's address, `404` without a route or with one that is not supported, `503` without an
    /// endpoint.
    fn outcome(table: &Table, host: &str, path: &str) -> u16 {
        match table.find(host, path).map(|route| &*route.backend) {
            None | Some(Backend::Unsupported) => 404,
            Some(Backend::Service(service)) => match service.targets.first().map(|target| target.ip()) {
                Some(IpAddr::V4(four)) => u16::from(four.octets()[3]),
                _ => 503,
            },
        }
    }

    fn http(path: &str, kind: &str, backend: &str) -> String {
        format!("http: {{paths: [{{path: {path}, pathType: {kind}, backend: {backend}}}]}}")
    }

    fn service(name: &str, port: &str) -> String {
        format!("{{service: {{name: {name}, port: {{{port}}}}}}}")
    }

    #[test]
    fn ports_are_found_by_number_and_by_name() {
        let ports = [port("web", "http", 80, 1), port("web", "admin", 9000, 2)];
        let udp = ServicePort { protocol: Protocol::Udp, ..port("web", "dns", 53, 3) };
        let ports = [ports.as_slice(), &[udp]].concat();
        for (backend, expect) in [
            (service("web", "number: 80"), 1),
            (service("web", "name: admin"), 2),
            (service("web", "name: other"), 503),
            (service("web", "number: 81"), 503),
            (service("web", "number: 53"), 503),
            (service("gone", "number: 80"), 503),
            ("{resource: {apiGroup: a.b, kind: Bucket, name: x}}".to_owned(), 404),
        ] {
            let rules = format!("rules: [{{{}}}]", http("/", "Prefix", &backend));
            let table = table(&[ingress("a", 1, &rules)], &ports);
            assert_eq!(outcome(&table, "any", "/x"), expect, "{backend}");
        }
    }

    #[test]
    fn the_older_ingress_keeps_what_it_has() {
        let ports = [port("one", "", 80, 1), port("two", "", 80, 2)];
        let rule = |path: &str, kind: &str, to: &str| {
            format!("rules: [{{host: a.b, {}}}]", http(path, kind, &service(to, "number: 80")))
        };
        let (old, new) = (rule("/p", "Prefix", "one"), rule("/p/", "ImplementationSpecific", "two"));
        for (name, all) in [
            ("in order", [ingress("x", 1, &old), ingress("y", 2, &new)]),
            ("however they come", [ingress("y", 2, &new), ingress("x", 1, &old)]),
            ("of one age by name", [ingress("y", 1, &new), ingress("x", 1, &old)]),
        ] {
            let table = table(&all, &ports);
            assert_eq!(outcome(&table, "a.b", "/p/q"), 1, "{name}");
            assert_eq!(outcome(&table, "a.b", "/q"), 404, "{name}");
        }
    }

    #[test]
    fn a_default_backend_is_for_its_hosts_and_for_all() {
        let ports = [port("one", "", 80, 1), port("two", "", 80, 2), port("web", "", 80, 3)];
        let default = |to: &str| format!("defaultBackend: {}", service(to, "number: 80"));
        let rules =
            format!("rules: [{{host: a.b, {}}}, {{host: c.d}}]", http("/p", "Exact", &service("web", "number: 80")));
        let all = [ingress("first", 1, &default("one")), ingress("second", 2, &format!("{}, {rules}", default("two")))];
        let table = table(&all, &ports);
        for (host, path, expect) in [("a.b", "/p", 3), ("a.b", "/q", 2), ("c.d", "/", 2), ("e.f", "/", 1), ("", "/", 1)]
        {
            assert_eq!(outcome(&table, host, path), expect, "{host}{path}");
        }
        assert_eq!(table.find("a.b", "/p").and_then(|route| route.options.most_bytes), Some(2));
        assert_eq!(services(&all), BTreeSet::from([("d", "one"), ("d", "two"), ("d", "web")]));
    }

    #[test]
    fn certificates_are_for_the_hosts_that_are_named() {
        let all = [
            ingress("new", 2, "rules: [{host: r.s}, {}], tls: [{secretName: by-rules}, {hosts: [x.y]}]"),
            ingress("old", 1, "tls: [{hosts: ['*.A.b', c.d], secretName: named}]"),
        ];
        let found: Vec<String> =
            certificates(&all).into_iter().map(|(host, (_, secret))| format!("{host:?} {secret}")).collect();
        assert_eq!(found, ["Below(\"a.b\") named", "Name(\"c.d\") named", "Name(\"r.s\") by-rules", "Any by-rules"]);
    }
}
