//! IPAddresses: an object for each cluster address of a Service (KEP-1880). What Services have is decided where they are
//! written; this makes it visible, and repairs what somebody else did to it.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, IPAddressSpec, ParentReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::action::{DeleteHow, Plan, create, delete};
use crate::object::{deleting, label, name, namespace};

/// Who looks after an address.
pub const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
/// Us, under upstream's name.
pub const MANAGER: &str = "ipallocator.k8s.io";
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

/// What a plan is made from.
pub struct View {
    /// The address.
    pub ip: IpAddr,
    /// Its object.
    pub address: Option<Arc<IPAddress>>,
    /// The Service that has it.
    pub service: Option<Arc<Service>>,
}

/// Whether we look after it.
#[must_use]
pub fn is_ours(address: &IPAddress) -> bool {
    label(&address.metadata, MANAGED_BY) == Some(MANAGER)
}

/// The addresses of a Service in the cluster.
#[must_use]
pub fn of(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let listed = spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.iter());
    let mut all: Vec<IpAddr> = listed.filter_map(|ip| ip.parse().ok()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Decides the next write for one address.
#[must_use]
pub fn plan(view: &View) -> Plan {
    match (&view.address, &view.service) {
        (None, Some(service)) => {
            let made = address(view.ip, namespace(&service.metadata), name(&service.metadata));
            Plan::new("a Service has the address", vec![create(&made, None)])
        }
        (Some(found), service) if is_ours(found) && !deleting(&found.metadata) => {
            let right = service.as_ref().is_some_and(|service| belongs(found, service));
            if right {
                return Plan::rest("it is right");
            }
            Plan::new("it is not its Service's", vec![delete(found.as_ref(), DeleteHow::default(), None)])
        }
        _ => Plan::rest("it is not ours"),
    }
}

fn belongs(address: &IPAddress, service: &Service) -> bool {
    let parent = &address.spec.parent_ref;
    parent.group.as_deref().unwrap_or_default().is_empty()
        && parent.resource == "services"
        && parent.namespace.as_deref() == service.metadata.namespace.as_deref()
        && parent.name == name(&service.metadata)
}

/// The object of an address that a Service has.
#[must_use]
pub fn address(ip: IpAddr, namespace: &str, service: &str) -> IPAddress {
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let labels = [(FAMILY, family), (MANAGED_BY, MANAGER)];
    IPAddress {
        metadata: ObjectMeta {
            name: Some(ip.to_string()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        spec: IPAddressSpec {
            parent_ref: ParentReference {
                group: None,
                resource: "services".into(),
                namespace: Some(namespace.to_owned()),
                name: service.to_owned(),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ServiceSpec;

    use super::*;
    use crate::testing::{Cluster, meta, show};

    fn service(name: &str) -> Service {
        let spec = ServiceSpec {
            cluster_ip: Some("10.96.0.7".into()),
            cluster_ips: Some(vec!["10.96.0.7".into()]),
            ..ServiceSpec::default()
        };
        Service { metadata: meta(name), spec: Some(spec), status: None }
    }

    #[test]
    fn objects_follow_the_addresses_of_services() {
        let ip = IpAddr::from([10, 96, 0, 7]);
        let space = meta("web").namespace.unwrap_or_default();
        let foreign = |mut address: IPAddress| {
            address.metadata.labels = None;
            address
        };
        for (title, there, taken, expect, rests) in [
            ("a new Service", None, true, "+10.96.0.7", "10.96.0.7"),
            ("as it should be", Some(address(ip, &space, "web")), true, "", "10.96.0.7"),
            ("of a Service that is gone", Some(address(ip, &space, "old")), false, "-10.96.0.7", ""),
            ("taken over by another", Some(address(ip, &space, "old")), true, "-10.96.0.7", "10.96.0.7"),
            ("somebody else's", Some(foreign(address(ip, &space, "old"))), false, "", "10.96.0.7"),
        ] {
            let mut cluster = Cluster::default();
            if let Some(address) = &there {
                cluster.add(address);
            }
            if taken {
                cluster.add(&service("web"));
            }
            let turn = |cluster: &Cluster| {
                let address = cluster.list().into_iter().next();
                plan(&View { ip, address, service: cluster.list().into_iter().next() }).actions
            };
            assert_eq!(show(&turn(&cluster)), expect, "{title}");
            assert!(cluster.settle(3, turn), "{title}: {}", cluster.trace());
            let left: Vec<Arc<IPAddress>> = cluster.list();
            let left: Vec<&str> = left.iter().map(|address| name(&address.metadata)).collect();
            assert_eq!(left.join(" "), rests, "{title}");
        }
        assert_eq!(of(&service("web")), [ip]);
    }
}
