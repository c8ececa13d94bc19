//! Who serves a service: the ready endpoints of its slices, and the nodes that they are on.

use std::net::IpAddr;

use kontiki_machinery::{
    GroupResource,
    access::Objects,
    outcall::{Endpoint, NoEndpoint, Resolver},
};
use serde_json::Value;

use crate::rows::value::{at, get, int, list, text};

const SERVICES: GroupResource<'static> = GroupResource { group: "", resource: "services" };
const SLICES: GroupResource<'static> = GroupResource { group: "discovery.k8s.io", resource: "endpointslices" };
/// Says which service a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Services by their EndpointSlices.
pub struct Services;

impl Resolver for Services {
    fn endpoints(
        &self,
        objects: &dyn Objects,
        namespace: &str,
        name: &str,
        port: u16,
    ) -> Result<Vec<Endpoint>, NoEndpoint> {
        let service = objects.get(SERVICES, Some(namespace), name);
        let service = service.ok_or_else(|| NoEndpoint::Service(format!("service \"{name}\" not found")))?;
        if text(get(&service, "spec"), "type") == "ExternalName" {
            return Err(NoEndpoint::Service("unsupported service type \"ExternalName\"".to_owned()));
        }
        let mut ports = list(get(&service, "spec"), "ports").iter();
        let unknown = || NoEndpoint::Port(format!("no service port {port} found for service \"{name}\""));
        let port = ports.find(|known| int(known, "port") == Some(i64::from(port))).ok_or_else(unknown)?;
        let own = |slice: &Value| at(slice, &["metadata", "labels", SERVICE_NAME]) == name;
        let slices = objects.list(SLICES, namespace).filter(own);
        let endpoints: Vec<Endpoint> = slices.flat_map(|slice| ready(&slice, text(port, "name"))).collect();
        if endpoints.is_empty() {
            return Err(NoEndpoint::Endpoints(format!("no endpoints available for service \"{name}\"")));
        }
        Ok(endpoints)
    }
}

/// The ready endpoints of a slice at its port of this name.
fn ready(slice: &Value, port: &str) -> Vec<Endpoint> {
    let port = list(slice, "ports").iter().find(|known| text(known, "name") == port);
    let Some(port) = port.and_then(|port| u16::try_from(int(port, "port")?).ok()) else { return Vec::new() };
    let serving = |endpoint: &&Value| at(endpoint, &["conditions", "ready"]).as_bool().unwrap_or(true);
    let ready = |endpoint: &Value| {
        let address: IpAddr = list(endpoint, "addresses").first()?.as_str()?.parse().ok()?;
        // What has a pod is reached by the pod's node; other addresses are nobody's but their own.
        let of_a_pod = text(get(endpoint, "targetRef"), "kind") == "Pod";
        let node = Some(text(endpoint, "nodeName")).filter(|node| of_a_pod && !node.is_empty());
        Some(Endpoint { node: node.map(str::to_owned), address, port })
    };
    list(slice, "endpoints").iter().filter(serving).filter_map(ready).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Cluster(Vec<Value>, Vec<Value>);

    impl Objects for Cluster {
        fn get(&self, _: GroupResource<'_>, _: Option<&str>, name: &str) -> Option<Value> {
            self.0.iter().find(|object| object["metadata"]["name"] == name).cloned()
        }

        fn list<'a>(&'a self, _: GroupResource<'_>, _: &str) -> Box<dyn Iterator<Item = Value> + 'a> {
            Box::new(self.1.iter().cloned())
        }
    }

    #[test]
    fn a_service_is_served_by_its_ready_endpoints() {
        let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 443, "name": "https"}, {"port": 80}]}});
        let slice = |name: &str, endpoints: Value| {
            json!({"metadata": {"labels": {SERVICE_NAME: name}}, "ports": [{"name": "https", "port": 8443}],
                   "endpoints": endpoints})
        };
        let pod = |address: &str, ready: bool| json!({"addresses": [address], "conditions": {"ready": ready}, "nodeName": "a1", "targetRef": {"kind": "Pod"}});
        let outside = json!({"metadata": {"name": "out"}, "spec": {"type": "ExternalName"}});
        let cluster = Cluster(
            vec![service("s"), service("none"), outside],
            vec![
                slice("s", json!([pod("10.2.0.1", true), pod("10.2.0.2", false)])),
                slice("s", json!([{"addresses": ["192.0.2.1"]}, {"addresses": ["x"]}])),
                slice("other", json!([pod("10.2.0.3", true)])),
                slice("none", json!([pod("10.2.0.4", false)])),
            ],
        );
        for (name, port, expect) in [
            ("s", 443, Ok("a1/10.2.0.1:8443 -/192.0.2.1:8443")),
            ("s", 80, Err("no endpoints available for service \"s\"")),
            ("s", 81, Err("no service port 81 found for service \"s\"")),
            ("none", 443, Err("no endpoints available for service \"none\"")),
            ("out", 443, Err("unsupported service type \"ExternalName\"")),
            ("gone", 443, Err("service \"gone\" not found")),
        ] {
            let shown = |b: &Endpoint| format!("{}/{}:{}", b.node.as_deref().unwrap_or("-"), b.address, b.port);
            let found = Services.endpoints(&cluster, "n", name, port);
            let found = found.map(|all| all.iter().map(shown).collect::<Vec<_>>().join(" "));
            let found = found.map_err(|why| why.to_string());
            assert_eq!(found.as_deref().map_err(String::as_str), expect, "{name} {port}");
        }
    }
}
