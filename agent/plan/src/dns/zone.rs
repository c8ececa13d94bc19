//! The cluster's names, kept equal to its Services and EndpointSlices.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

use super::{
    Answer, Data, Type, VERSION,
    facts::{Facts, Host, Kind, Port},
};

/// Namespace and name.
type Key = (String, String);

/// A Service with what it was read from; equal pointers are equal objects.
struct Entry {
    service: Arc<Service>,
    slices: Vec<Arc<EndpointSlice>>,
    facts: Facts,
}

impl Entry {
    fn is_of(&self, service: &Arc<Service>, slices: &[Arc<EndpointSlice>]) -> bool {
        let same = |(a, b): (&Arc<EndpointSlice>, &Arc<EndpointSlice>)| Arc::ptr_eq(a, b);
        Arc::ptr_eq(&self.service, service)
            && self.slices.len() == slices.len()
            && self.slices.iter().zip(slices).all(same)
    }
}

/// The names below one domain, and the addresses that lead back to them.
pub struct Zone {
    /// Lower case, without a dot at the end.
    domain: String,
    services: BTreeMap<Key, Entry>,
    reverse: HashMap<IpAddr, BTreeSet<(Key, String)>>,
}

impl Zone {
    /// An empty zone.
    #[must_use]
    pub fn new(domain: &str) -> Self {
        let domain = domain.trim_end_matches('.').to_ascii_lowercase();
        Self { domain, services: BTreeMap::new(), reverse: HashMap::new() }
    }

    /// The domain, without a dot at the end.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Takes over what has changed. Objects that are the same `Arc`s as last time are not read again.
    pub fn update(&mut self, services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) {
        let mut slices = by_service(slices);
        let mut gone: BTreeSet<Key> = self.services.keys().cloned().collect();
        for service in services {
            let meta = &service.metadata;
            let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else { continue };
            let key = (namespace.clone(), name.clone());
            gone.remove(&key);
            let slices = slices.remove(&key).unwrap_or_default();
            if self.services.get(&key).is_none_or(|entry| !entry.is_of(service, &slices)) {
                let facts = Facts::of(service, slices.iter().map(Arc::as_ref));
                self.put(key, Entry { service: service.clone(), slices, facts });
            }
        }
        for key in gone {
            self.take(&key);
        }
    }

    fn put(&mut self, key: Key, entry: Entry) {
        self.take(&key);
        for (ip, label) in entry.facts.reverse() {
            self.reverse.entry(ip).or_default().insert((key.clone(), label));
        }
        self.services.insert(key, entry);
    }

    fn take(&mut self, key: &Key) {
        let Some(entry) = self.services.remove(key) else { return };
        for (ip, label) in entry.facts.reverse() {
            if let Some(names) = self.reverse.get_mut(&ip) {
                names.remove(&(key.clone(), label));
                if names.is_empty() {
                    self.reverse.remove(&ip);
                }
            }
        }
    }

    /// What is known of `name` (without a dot at the end).
    #[must_use]
    pub fn lookup(&self, name: &str, wanted: Type) -> Answer {
        let name = name.to_ascii_lowercase();
        if let Some(ip) = reversed(&name) {
            return self.backwards(ip, wanted);
        }
        match name.strip_suffix(&self.domain) {
            Some("") => self.apex(wanted),
            Some(below) => match below.strip_suffix('.') {
                Some(below) => self.below(&below.split('.').collect::<Vec<_>>(), wanted),
                None => Answer::Foreign,
            },
            None => Answer::Foreign,
        }
    }

    fn apex(&self, wanted: Type) -> Answer {
        Answer::Records(match wanted {
            Type::Soa => vec![Data::Soa],
            Type::Ns => vec![Data::Ns(format!("ns.dns.{}", self.domain))],
            _ => Vec::new(),
        })
    }

    fn backwards(&self, ip: IpAddr, wanted: Type) -> Answer {
        let Some(names) = self.reverse.get(&ip) else { return Answer::Foreign };
        // The Service whose own address it is comes before those that it is an endpoint of.
        let own: Vec<_> = names.iter().filter(|(_, label)| label.is_empty()).take(1).collect();
        let names = if own.is_empty() { names.iter().collect() } else { own };
        let target = |(key, label): &(Key, String)| Data::Ptr(self.full(key, label));
        Answer::Records(if wanted == Type::Ptr { names.into_iter().map(target).collect() } else { Vec::new() })
    }

    fn full(&self, (namespace, name): &Key, label: &str) -> String {
        let dot = if label.is_empty() { "" } else { "." };
        format!("{label}{dot}{name}.{namespace}.svc.{}", self.domain)
    }

    /// A name below the domain, by its labels.
    fn below(&self, labels: &[&str], wanted: Type) -> Answer {
        match labels {
            ["svc" | "pod"] => Answer::Records(Vec::new()),
            ["dns-version"] if wanted == Type::Txt => Answer::Records(vec![Data::Txt(VERSION.to_owned())]),
            ["dns-version" | "dns"] | ["ns", "dns"] => Answer::Records(Vec::new()),
            [namespace, "svc" | "pod"] if self.has(namespace) => Answer::Records(Vec::new()),
            [address, _, "pod"] => match pod_address(address) {
                Some(ip) => Answer::Records(addresses([ip], wanted)),
                None => Answer::NoName,
            },
            [name, namespace, "svc"] => self.service(namespace, name, Part::Whole, wanted),
            [host, name, namespace, "svc"] => self.service(namespace, name, Part::Host(host), wanted),
            [port, protocol, name, namespace, "svc"] => {
                let part = Part::Port(port.trim_start_matches('_'), protocol.trim_start_matches('_'));
                self.service(namespace, name, part, wanted)
            }
            _ => Answer::NoName,
        }
    }

    fn has(&self, namespace: &str) -> bool {
        let from = (namespace.to_owned(), String::new());
        self.services.range(from..).next().is_some_and(|((found, _), _)| found == namespace)
    }

    fn service(&self, namespace: &str, name: &str, part: Part<'_>, wanted: Type) -> Answer {
        let key = (namespace.to_owned(), name.to_owned());
        let Some(Entry { facts, .. }) = self.services.get(&key) else { return Answer::NoName };
        let targets = match (&facts.kind, part) {
            (Kind::External(target), Part::Whole) => return external(target, wanted),
            (Kind::External(_), _) => return Answer::NoName,
            (Kind::Cluster(ips, ports), Part::Whole | Part::Port(..)) => own_targets(ips, ports, part),
            (Kind::Headless, _) | (_, Part::Host(_)) => host_targets(&facts.hosts, part),
        };
        if targets.is_empty() {
            return Answer::NoName;
        }
        Answer::Records(match wanted {
            Type::Srv => self.srv(&key, targets),
            wanted => addresses(targets.into_iter().map(|target| target.ip), wanted),
        })
    }

    fn srv(&self, key: &Key, targets: Vec<Target<'_>>) -> Vec<Data> {
        let targets: BTreeSet<_> = targets.into_iter().filter(|target| target.port != 0).collect();
        let weight = u16::try_from(100 / targets.len().max(1)).unwrap_or(0);
        let record = |target: Target<'_>| {
            let (port, address) = (target.port, target.ip);
            Data::Srv { weight, port, target: self.full(key, target.label), address }
        };
        targets.into_iter().map(record).collect()
    }
}

/// What of a Service a name asks for.
#[derive(Clone, Copy)]
enum Part<'a> {
    Whole,
    /// One endpoint.
    Host(&'a str),
    /// One port, by its name and protocol.
    Port(&'a str, &'a str),
}

/// Where one record points. Port 0 stands for an endpoint without ports.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Target<'a> {
    ip: IpAddr,
    label: &'a str,
    port: u16,
}

fn matches(port: &Port, part: Part<'_>) -> bool {
    match part {
        Part::Port(name, protocol) => port.name == name && port.protocol == protocol,
        Part::Whole | Part::Host(_) => true,
    }
}

fn own_targets<'a>(ips: &[IpAddr], ports: &'a [Port], part: Part<'_>) -> Vec<Target<'a>> {
    let ports = ports.iter().filter(|port| matches(port, part));
    ports.flat_map(|port| ips.iter().map(|ip| Target { ip: *ip, label: "", port: port.number })).collect()
}

fn host_targets<'a>(hosts: &'a [Host], part: Part<'_>) -> Vec<Target<'a>> {
    let wanted = |host: &&Host| match part {
        Part::Host(label) => host.label == label,
        _ => true,
    };
    let ports = |host: &'a Host| -> Vec<u16> {
        match part {
            // An endpoint without ports still has a name.
            Part::Whole | Part::Host(_) if host.ports.is_empty() => vec![0],
            part => host.ports.iter().filter(|port| matches(port, part)).map(|port| port.number).collect(),
        }
    };
    let target = |host: &'a Host| {
        ports(host).into_iter().map(|port| Target { ip: host.ip, label: host.label.as_str(), port }).collect::<Vec<_>>()
    };
    hosts.iter().filter(wanted).flat_map(target).collect()
}

fn external(target: &str, wanted: Type) -> Answer {
    match wanted {
        Type::Cname => Answer::Records(vec![Data::Cname(target.to_owned())]),
        _ => Answer::Alias(target.to_owned()),
    }
}

/// Addresses of the wanted family, each once.
fn addresses(ips: impl IntoIterator<Item = IpAddr>, wanted: Type) -> Vec<Data> {
    let fits = |ip: &IpAddr| match wanted {
        Type::A => ip.is_ipv4(),
        Type::Aaaa => ip.is_ipv6(),
        _ => false,
    };
    let ips: BTreeSet<IpAddr> = ips.into_iter().filter(fits).collect();
    ips.into_iter().map(Data::Address).collect()
}

/// The address in the name of a pod: `10-1-2-3`, or of its longer kind with dashes for colons.
fn pod_address(label: &str) -> Option<IpAddr> {
    let v4 = label.matches('-').count() == 3 && !label.contains("--");
    label.replace('-', if v4 { "." } else { ":" }).parse().ok()
}

/// The address in a name below `in-addr.arpa` or `ip6.arpa`.
fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let parts: Vec<&str> = labels.rsplit('.').collect();
        return parts.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let digits: Vec<&str> = name.strip_suffix(".ip6.arpa")?.rsplit('.').collect();
    if digits.len() != 32 || digits.iter().any(|digit| digit.len() != 1) {
        return None;
    }
    let bits = u128::from_str_radix(&digits.concat(), 16).ok()?;
    Some(IpAddr::V6(Ipv6Addr::from(bits)))
}

fn by_service(slices: &[Arc<EndpointSlice>]) -> BTreeMap<Key, Vec<Arc<EndpointSlice>>> {
    let mut out: BTreeMap<Key, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in slices {
        let labels = slice.metadata.labels.as_ref();
        let owner = labels.and_then(|labels| labels.get("kubernetes.io/service-name"));
        if let (Some(namespace), Some(owner)) = (&slice.metadata.namespace, owner) {
            out.entry((namespace.clone(), owner.clone())).or_default().push(slice.clone());
        }
    }
    out
}
