//! The Service under which the name servers of the nodes are known. Each node answers at its address by itself, so it has
//! no endpoints.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::action::{Plan, create};

/// Where it is: kubeadm's place, which charts and `kubectl cluster-info` know.
pub const NAMESPACE: &str = "kube-system";
/// Its name.
pub const NAME: &str = "kube-dns";
const PORT: i32 = 53;

/// Makes it if it is not `there`. What people change in it stays.
#[must_use]
pub fn plan(there: bool, address: IpAddr) -> Plan {
    if there {
        return Plan::rest("it is there");
    }
    Plan::new("the Service is missing", vec![create(&service(address), None)])
}

fn service(address: IpAddr) -> Service {
    let labels = [("k8s-app", NAME), ("kubernetes.io/cluster-service", "true"), ("kubernetes.io/name", "KubeDNS")];
    let port = |name: &str, protocol: &str| ServicePort {
        name: Some(name.to_owned()),
        port: PORT,
        protocol: Some(protocol.to_owned()),
        target_port: Some(IntOrString::Int(PORT)),
        ..ServicePort::default()
    };
    let spec = ServiceSpec {
        cluster_ip: Some(address.to_string()),
        ports: Some(vec![port("dns", "UDP"), port("dns-tcp", "TCP")]),
        ..ServiceSpec::default()
    };
    let metadata = ObjectMeta {
        name: Some(NAME.to_owned()),
        namespace: Some(NAMESPACE.to_owned()),
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
        ..ObjectMeta::default()
    };
    Service { metadata, spec: Some(spec), status: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, show};

    #[test]
    fn it_is_made_once() {
        let address = IpAddr::from([10, 96, 0, 10]);
        assert_eq!(show(&plan(false, address).actions), format!("+{NAME}"));
        let mut cluster = Cluster::default();
        let rested = cluster.settle(2, |cluster| plan(!cluster.list::<Service>().is_empty(), address).actions);
        assert!(rested, "{}", cluster.trace());
        let made = cluster.list::<Service>();
        assert_eq!(made[0].spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()), Some("10.96.0.10"));
    }
}
