//! `pods/proxy`, `services/proxy`, `nodes/proxy`: what is behind them, in upstream's words (`ResourceLocation` of each
//! registry).

use std::net::IpAddr;

use kontiki_model::resource::{NODES, PODS};
use serde_json::Value;

use super::value::{get, has, int, list, text};
use crate::field_error::quote;
use crate::subresource::{Behind, Place, Target};
use crate::{GroupResource, Handler, Status, Subresource, Verb, Verbs};
use kontiki_machinery::admission::{Guard, Lookup};

const SERVICES: GroupResource<'static> = GroupResource { group: "", resource: "services" };
const ENDPOINTS: GroupResource<'static> = GroupResource { group: "", resource: "endpoints" };
/// How often an address without a pod is passed over before the next part is looked at.
const TRIES: usize = 10;
/// Where an agent would listen, if it did: who asks for that port asks for the agent.
const AGENT_PORT: u16 = 10250;

/// The subresource; `kind` is that of its options.
pub(super) fn subresource(kind: &'static str, behind: &'static dyn Behind) -> Subresource {
    Subresource {
        name: "proxy".into(),
        group: "".into(),
        version: "v1".into(),
        kind: kind.into(),
        verbs: Verbs::of(&[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update]),
        handler: Handler::Proxy(behind),
    }
}

/// `[scheme:]name[:port]`, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Id<'a> {
    tls: bool,
    name: &'a str,
    port: &'a str,
}

impl<'a> Id<'a> {
    fn read(id: &'a str, what: &str) -> Result<Self, Status> {
        let parts: Vec<&str> = id.split(':').collect();
        let (scheme, name, port) = match parts[..] {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => ("?", "", ""),
        };
        if name.is_empty() || !["", "http", "https"].contains(&scheme) {
            return Err(Status::bad_request(format!("invalid {what} request {}", quote(id))));
        }
        Ok(Self { tls: scheme == "https", name, port })
    }

    fn server(&self, host: &str, port: u16) -> Place {
        Place::Server { tls: self.tls, host: host.to_owned(), port }
    }

    /// The port, where it is a number; that of the scheme, where there is none.
    fn number(&self) -> Result<u16, Status> {
        match self.port {
            "" if self.tls => Ok(443),
            "" => Ok(80),
            port => port.parse().map_err(|_| Status::bad_request(format!("invalid port {}", quote(port)))),
        }
    }
}

fn found(
    cluster: &mut dyn Lookup,
    resource: GroupResource<'_>,
    namespace: Option<&str>,
    name: &str,
) -> Result<Value, Status> {
    cluster.object(resource, namespace, name, Guard::Present)?.ok_or_else(|| Status::not_found(resource, name))
}

/// Whether requests may be sent there: not to the machine that the request happens to pass.
fn may_be_reached(ip: &str) -> bool {
    let link_local = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    ip.parse::<IpAddr>()
        .is_ok_and(|ip| !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local(ip)))
}

fn node_of(pod: &Value) -> String {
    text(get(pod, "spec"), "nodeName").to_owned()
}

/// What is behind a pod: its first address, at a port that is named by its number.
pub(super) struct PodProxy;

impl Behind for PodProxy {
    fn locate(&self, id: &str, namespace: Option<&str>, cluster: &mut dyn Lookup) -> Result<Target, Status> {
        let mut id = Id::read(id, "pod")?;
        let pod = found(cluster, PODS, namespace, id.name)?;
        let first = list(get(&pod, "spec"), "containers").iter().find_map(|c| list(c, "ports").first());
        let first = first.and_then(|port| int(port, "containerPort")).map(|port| port.to_string());
        if let (true, Some(first)) = (id.port.is_empty(), &first) {
            id.port = first;
        }
        let ip = text(get(&pod, "status"), "podIP");
        if !may_be_reached(ip) {
            return Err(Status::bad_request("address not allowed"));
        }
        Ok(Target { node: node_of(&pod), place: id.server(ip, id.number()?) })
    }
}

/// What is behind a Service: a pod among its ready endpoints.
pub(super) struct ServiceProxy;

impl Behind for ServiceProxy {
    fn locate(&self, id: &str, namespace: Option<&str>, cluster: &mut dyn Lookup) -> Result<Target, Status> {
        let whole = id;
        let id = Id::read(id, "service")?;
        let port = match id.port.parse::<i64>() {
            Ok(number) => named_port(&found(cluster, SERVICES, namespace, id.name)?, id.name, number)?,
            Err(_) => id.port.to_owned(),
        };
        let none = |of: &str| Status::service_unavailable(format!("no endpoints available for service {}", quote(of)));
        let endpoints = found(cluster, ENDPOINTS, namespace, id.name)?;
        let subsets = list(&endpoints, "subsets");
        if subsets.is_empty() {
            return Err(none(id.name));
        }
        let start = below(cluster, subsets.len());
        for subset in subsets.iter().cycle().skip(start).take(subsets.len()) {
            let matching = list(subset, "ports").iter().find(|p| text(p, "name") == port);
            let number = matching.and_then(|p| int(p, "port")).and_then(|port| u16::try_from(port).ok());
            let Some(number) = number else { continue };
            if let Some((node, ip)) = some_pod(cluster, namespace, list(subset, "addresses"))? {
                return Ok(Target { node, place: id.server(&ip, number) });
            }
        }
        Err(none(whole))
    }
}

fn below(cluster: &mut dyn Lookup, count: usize) -> usize {
    let count = u64::try_from(count).unwrap_or(u64::MAX).max(1);
    usize::try_from(cluster.random() % count).unwrap_or(0)
}

fn named_port(service: &Value, name: &str, number: i64) -> Result<String, Status> {
    let ports = list(get(service, "spec"), "ports");
    let port = ports.iter().find(|port| int(port, "port") == Some(number));
    port.map(|port| text(port, "name").to_owned()).ok_or_else(|| {
        Status::service_unavailable(format!("no service port {number} found for service {}", quote(name)))
    })
}

/// One of the addresses that is a pod's, with the pod's node.
fn some_pod(
    cluster: &mut dyn Lookup,
    namespace: Option<&str>,
    addresses: &[Value],
) -> Result<Option<(String, String)>, Status> {
    if addresses.is_empty() {
        return Ok(None);
    }
    let start = below(cluster, addresses.len());
    for address in addresses.iter().cycle().skip(start).take(addresses.len().min(TRIES)) {
        let (ip, target) = (text(address, "ip"), get(address, "targetRef"));
        let own = text(target, "kind") == "Pod" && Some(text(target, "namespace")) == namespace;
        if !own || !may_be_reached(ip) {
            continue;
        }
        let Some(pod) = cluster.object(PODS, namespace, text(target, "name"), Guard::Present)? else { continue };
        let status = get(&pod, "status");
        let has_it = text(status, "podIP") == ip || list(status, "podIPs").iter().any(|own| text(own, "ip") == ip);
        if has_it && has(get(&pod, "spec"), "nodeName") {
            return Ok(Some((node_of(&pod), ip.to_owned())));
        }
    }
    Ok(None)
}

/// What is behind a node: its agent, or another server of the machine.
pub(super) struct NodeProxy;

impl Behind for NodeProxy {
    fn locate(&self, id: &str, _: Option<&str>, cluster: &mut dyn Lookup) -> Result<Target, Status> {
        let id = Id::read(id, "node")?;
        let node = found(cluster, NODES, None, id.name)?;
        let name = id.name.to_owned();
        if id.port.is_empty() || id.number()? == AGENT_PORT {
            return Ok(Target { node: name, place: Place::Agent });
        }
        let addresses = list(get(&node, "status"), "addresses");
        let internal = addresses.iter().find(|address| text(address, "type") == "InternalIP");
        let ip = internal.map(|address| text(address, "address")).unwrap_or_default();
        if !may_be_reached(ip) {
            return Err(Status::bad_request("address not allowed"));
        }
        Ok(Target { node: name, place: id.server(ip, id.number()?) })
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    /// Objects by resource, namespace and name.
    struct Objects(Vec<(&'static str, Value)>);

    impl Lookup for Objects {
        fn object(
            &mut self,
            resource: GroupResource<'_>,
            _: Option<&str>,
            name: &str,
            _: Guard,
        ) -> Result<Option<Value>, Status> {
            let found = self.0.iter().find(|(kind, o)| *kind == resource.resource && o["metadata"]["name"] == name);
            Ok(found.map(|(_, object)| object.clone()))
        }
        fn objects(&self, _: GroupResource<'_>) -> Result<Vec<Value>, Status> {
            Ok(Vec::new())
        }
        fn random(&mut self) -> u64 {
            1
        }
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
    }

    fn world() -> Objects {
        let pod = |name: &str, ip: &str, ports: Value| {
            json!({"metadata": {"name": name}, "spec": {"nodeName": "n1", "containers": [{"ports": ports}]},
                   "status": {"podIP": ip}})
        };
        let address =
            |ip: &str, pod: &str| json!({"ip": ip, "targetRef": {"kind": "Pod", "namespace": "d", "name": pod}});
        let endpoints = |name: &str, addresses: Value| json!({"metadata": {"name": name}, "subsets": [{"addresses": addresses, "ports": [{"name": "web", "port": 8080}]}]});
        let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"name": "web", "port": 80}]}});
        Objects(vec![
            ("pods", pod("p", "10.1.0.2", json!([{"containerPort": 81}]))),
            ("pods", pod("bare", "10.1.0.3", json!([]))),
            ("pods", pod("new", "", json!([]))),
            ("pods", pod("odd", "127.0.0.1", json!([]))),
            ("services", service),
            ("endpoints", endpoints("s", json!([address("10.1.0.9", "gone"), address("10.1.0.2", "p")]))),
            ("endpoints", endpoints("hand", json!([{"ip": "10.1.0.2"}]))),
            ("endpoints", json!({"metadata": {"name": "empty"}})),
            (
                "nodes",
                json!({"metadata": {"name": "n1"}, "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}}),
            ),
        ])
    }

    #[test]
    fn names_lead_to_places() {
        let show = |behind: &dyn Behind, id: &str| match behind.locate(id, Some("d"), &mut world()) {
            Err(status) => format!("{} {}", status.code, status.message),
            Ok(Target { node, place: Place::Agent }) => format!("{node} agent"),
            Ok(Target { node, place: Place::Server { tls, host, port } }) => {
                format!("{node} {}{host}:{port}", if tls { "https " } else { "" })
            }
        };
        for (behind, id, expect) in [
            (&PodProxy as &dyn Behind, "p", "n1 10.1.0.2:81"),
            (&PodProxy, "p:90", "n1 10.1.0.2:90"),
            (&PodProxy, "https:p:90", "n1 https 10.1.0.2:90"),
            (&PodProxy, "http:p:", "n1 10.1.0.2:81"),
            (&PodProxy, "https:bare:", "n1 https 10.1.0.3:443"),
            (&PodProxy, "bare", "n1 10.1.0.3:80"),
            (&PodProxy, "new", "400 address not allowed"),
            (&PodProxy, "odd", "400 address not allowed"),
            (&PodProxy, "ftp:p:21", "400 invalid pod request \"ftp:p:21\""),
            (&PodProxy, "a:b:c:d", "400 invalid pod request \"a:b:c:d\""),
            (&PodProxy, "absent", "404 pods \"absent\" not found"),
            (&ServiceProxy, "s:web", "n1 10.1.0.2:8080"),
            (&ServiceProxy, "s:80", "n1 10.1.0.2:8080"),
            (&ServiceProxy, "https:s:web", "n1 https 10.1.0.2:8080"),
            (&ServiceProxy, "s:81", "503 no service port 81 found for service \"s\""),
            (&ServiceProxy, "s", "503 no endpoints available for service \"s\""),
            (&ServiceProxy, "hand:web", "503 no endpoints available for service \"hand:web\""),
            (&ServiceProxy, "empty", "503 no endpoints available for service \"empty\""),
            (&ServiceProxy, "absent", "404 endpoints \"absent\" not found"),
            (&NodeProxy, "n1", "n1 agent"),
            (&NodeProxy, "n1:10250", "n1 agent"),
            (&NodeProxy, "https:n1:9100", "n1 https 10.0.0.1:9100"),
        ] {
            assert_eq!(show(behind, id), expect, "{id}");
        }
    }
}
