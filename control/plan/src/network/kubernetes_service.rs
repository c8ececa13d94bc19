//! The `kubernetes` Service, through which pods reach the API, and the addresses behind it: those of the servers.
//!
//! Invariants
//! - Missing objects are made and the addresses follow the members; what people changed elsewhere in these objects
//!   stays.
//! - A server that does not answer is left out as long as another one does. Addresses of the loopback interface are
//!   never among them: others cannot reach them, and the API refuses them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort as SlicePort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::endpointslice::SERVICE_NAME;
use crate::action::{Action, Plan, create, patch, to_value};
use crate::object::Labels;

/// Where the three objects are.
pub const NAMESPACE: &str = "default";
/// The name of all three.
pub const NAME: &str = "kubernetes";
const PORT_NAME: &str = "https";

/// One server of the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Whether it answers.
    pub reachable: bool,
    /// Where clients reach its API.
    pub api: SocketAddr,
}

/// What a plan is made from.
pub struct View {
    /// The Service.
    pub service: Option<Arc<Service>>,
    /// Its older endpoints.
    pub endpoints: Option<Arc<Endpoints>>,
    /// Its slice.
    pub slice: Option<Arc<EndpointSlice>>,
    /// The address that it gets: the first of the service range.
    pub service_ip: IpAddr,
    /// The servers, in the order of their ids.
    pub members: Vec<Member>,
}

/// Decides what is made or set right.
#[must_use]
pub fn plan(view: &View) -> Plan {
    let mut plan = Plan::rest("the servers are where it says");
    if view.service.is_none() {
        plan.extend(Plan::new("the Service is missing", vec![create(&service(view.service_ip), None)]));
    }
    let addresses = answering(&view.members);
    let Some(port) = addresses.first().map(|address| i32::from(address.port())) else { return plan };
    let ipv6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let ips: BTreeSet<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    let actions = [
        follow_endpoints(view.endpoints.as_deref(), endpoints(&ips, port)),
        follow_slice(view.slice.as_deref(), slice(&ips, port, ipv6)),
    ];
    plan.extend(Plan::new("the servers' addresses changed", actions.into_iter().flatten().collect()));
    plan
}

/// Where clients reach the API: every member that answers, or every member if none does.
fn answering(members: &[Member]) -> Vec<SocketAddr> {
    let of = |all: bool| -> Vec<SocketAddr> {
        let wanted = members.iter().filter(|member| all || member.reachable);
        wanted.map(|member| member.api).filter(|address| !address.ip().is_loopback()).collect()
    };
    let answering = of(false);
    if answering.is_empty() { of(true) } else { answering }
}

fn meta(labels: &[(&str, &str)]) -> ObjectMeta {
    let labels: Labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    ObjectMeta {
        name: Some(NAME.into()),
        namespace: Some(NAMESPACE.into()),
        labels: Some(labels),
        ..ObjectMeta::default()
    }
}

fn service(ip: IpAddr) -> Service {
    let port = ServicePort {
        name: Some(PORT_NAME.into()),
        port: 443,
        protocol: Some("TCP".into()),
        target_port: Some(IntOrString::Int(6443)),
        ..ServicePort::default()
    };
    let spec = ServiceSpec {
        type_: Some("ClusterIP".into()),
        cluster_ip: Some(ip.to_string()),
        session_affinity: Some("None".into()),
        ports: Some(vec![port]),
        ..ServiceSpec::default()
    };
    let metadata = meta(&[("component", "apiserver"), ("provider", "kubernetes")]);
    Service { metadata, spec: Some(spec), status: None }
}

fn endpoints(ips: &BTreeSet<String>, port: i32) -> Endpoints {
    let port =
        EndpointPort { name: Some(PORT_NAME.into()), port, protocol: Some("TCP".into()), ..EndpointPort::default() };
    let addresses = ips.iter().map(|ip| EndpointAddress { ip: ip.clone(), ..EndpointAddress::default() });
    let subset =
        EndpointSubset { addresses: Some(addresses.collect()), ports: Some(vec![port]), ..EndpointSubset::default() };
    Endpoints { metadata: meta(&[("endpointslice.kubernetes.io/skip-mirror", "true")]), subsets: Some(vec![subset]) }
}

fn slice(ips: &BTreeSet<String>, port: i32, ipv6: bool) -> EndpointSlice {
    let port = SlicePort {
        name: Some(PORT_NAME.into()),
        port: Some(port),
        protocol: Some("TCP".into()),
        ..SlicePort::default()
    };
    let conditions = EndpointConditions { ready: Some(true), ..EndpointConditions::default() };
    let endpoints = ips.iter().map(|ip| Endpoint {
        addresses: vec![ip.clone()],
        conditions: Some(conditions.clone()),
        ..Endpoint::default()
    });
    EndpointSlice {
        metadata: meta(&[(SERVICE_NAME, NAME)]),
        address_type: if ipv6 { "IPv6" } else { "IPv4" }.into(),
        endpoints: Some(endpoints.collect()),
        ports: Some(vec![port]),
    }
}

fn follow_endpoints(old: Option<&Endpoints>, wanted: Endpoints) -> Option<Action> {
    let Some(old) = old else { return Some(create(&wanted, None)) };
    let (wanted, stored) = (to_value(&wanted.subsets), to_value(&old.subsets));
    (!says(&stored, &wanted)).then(|| patch(old, None, json!({ "subsets": wanted })))
}

fn follow_slice(old: Option<&EndpointSlice>, wanted: EndpointSlice) -> Option<Action> {
    let Some(old) = old else { return Some(create(&wanted, None)) };
    let part = |slice: &EndpointSlice| json!({ "endpoints": slice.endpoints, "ports": slice.ports });
    let (wanted, stored) = (part(&wanted), part(old));
    (!says(&stored, &wanted)).then(|| patch(old, None, wanted))
}

/// Whether `stored` says what `wanted` does; defaults that the API added do not count.
fn says(stored: &Value, wanted: &Value) -> bool {
    match (wanted, stored) {
        (Value::Object(wanted), Value::Object(stored)) => {
            wanted.iter().all(|(key, value)| stored.get(key).is_some_and(|stored| says(stored, value)))
        }
        (Value::Array(wanted), Value::Array(stored)) => {
            wanted.len() == stored.len() && wanted.iter().zip(stored).all(|(wanted, stored)| says(stored, wanted))
        }
        (wanted, stored) => wanted == stored,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Cluster, show};

    /// `1` a member that answers, `1!` one that does not, `lo` one on the loopback interface.
    fn members(text: &str) -> Vec<Member> {
        let one = |word: &str| {
            let number = word.trim_end_matches('!');
            let api = if number == "lo" { "127.0.0.1:6443".into() } else { format!("10.0.0.{number}:6443") };
            Member { reachable: !word.ends_with('!'), api: api.parse().unwrap() }
        };
        text.split_whitespace().map(one).collect()
    }

    fn view(cluster: &Cluster, text: &str) -> View {
        View {
            service: cluster.list().first().cloned(),
            endpoints: cluster.list().first().cloned(),
            slice: cluster.list().first().cloned(),
            service_ip: "10.96.0.1".parse().unwrap(),
            members: members(text),
        }
    }

    #[test]
    fn addresses_are_those_of_the_members_that_answer() {
        for (name, text, expect) in [
            ("all answer", "1 2", "10.0.0.1 10.0.0.2"),
            ("one is silent", "1 2!", "10.0.0.1"),
            ("none answers", "1! 2!", "10.0.0.1 10.0.0.2"),
            ("one is on the loopback interface", "lo 2", "10.0.0.2"),
            ("only that one answers", "lo 2!", "10.0.0.2"),
            ("nobody is there yet", "", ""),
        ] {
            let ips: Vec<String> = answering(&members(text)).iter().map(|address| address.ip().to_string()).collect();
            assert_eq!(ips.join(" "), expect, "{name}");
        }
    }

    #[test]
    fn follows_the_members() {
        let mut cluster = Cluster::default();
        for (text, expect, why) in [
            ("", "+kubernetes", "the Service is missing"),
            ("lo", "", "the servers are where it says"),
            ("1 2", "+kubernetes +kubernetes", "the servers' addresses changed"),
            ("2 1", "", "the servers are where it says"),
            ("1 2!", "patch kubernetes patch kubernetes", "the servers' addresses changed"),
            ("1!", "", "the servers are where it says"),
        ] {
            let plan = plan(&view(&cluster, text));
            assert_eq!((show(&plan.actions).as_str(), plan.why), (expect, why), "{text}");
            plan.actions.into_iter().for_each(|action| cluster.apply(action));
        }
    }

    #[test]
    fn added_defaults_do_not_count_as_a_difference() {
        for (wanted, stored, expect) in [
            (json!([{"port": 1}]), json!([{"port": 1, "protocol": "TCP"}]), true),
            (json!([{"port": 1}]), json!([{"port": 2}]), false),
            (json!([{"port": 1}]), json!([{"port": 1}, {"port": 2}]), false),
            (json!([{"port": 1}]), Value::Null, false),
        ] {
            assert_eq!(says(&stored, &wanted), expect, "{wanted} {stored}");
        }
    }

    proptest! {
        #[test]
        fn rests_with_the_addresses_there_are(turns in prop::collection::vec("( 1| 1!| 2| 2!| 3){0,3}", 1..5)) {
            let mut cluster = Cluster::default();
            for text in turns {
                prop_assert!(cluster.settle(2, |cluster| plan(&view(cluster, &text)).actions), "{}", cluster.trace());
                let expect: BTreeSet<String> =
                    answering(&members(&text)).iter().map(|address| address.ip().to_string()).collect();
                if !expect.is_empty() {
                    let slice = cluster.only::<EndpointSlice>();
                    let got = slice.endpoints.unwrap_or_default().into_iter().flat_map(|endpoint| endpoint.addresses);
                    prop_assert_eq!(got.collect::<BTreeSet<String>>(), expect);
                }
                prop_assert_eq!(cluster.list::<Service>().len(), 1);
            }
        }
    }
}
