//! EndpointSlice mirroring: Endpoints that people keep for a Service without a selector, as EndpointSlices.
//!
//! Invariants
//! - Only Endpoints of a Service without a selector are mirrored, and none that say they are not to be.
//! - There is one slice for each address family and set of ports.
//! - Slices of others (another `managed-by`) are never touched.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{self as core, EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::endpointslice::{MANAGED_BY, Ports, SERVICE_NAME, ports_of_slice, write_ports};
use crate::action::{DeleteHow, Plan, create, delete, patch_to};
use crate::object::{Labels, annotation, controller_reference, deleting, label, labels, name};

/// Us, under upstream's name, so that tools recognise the slices.
pub const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Says that Endpoints are not to be mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that were misused to elect a leader.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that are about the Endpoints themselves.
const OWN: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];
/// Most endpoints that are mirrored of one set of ports.
const MOST: usize = 1000;

/// What a plan is made from.
pub struct View {
    /// The Endpoints, if they are there.
    pub endpoints: Option<Arc<Endpoints>>,
    /// The Service of the same name, if it is there.
    pub service: Option<Arc<Service>>,
    /// The slices that name the Service; those of other managers are ignored.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// Whether its namespace is on its way out: nothing can be created there.
    pub namespace_terminating: bool,
}

/// Decides the next writes for one name.
#[must_use]
pub fn plan(view: &View) -> Plan {
    let managed =
        |slice: &&EndpointSlice| label(&slice.metadata, MANAGED_BY) == Some(MANAGER) && !deleting(&slice.metadata);
    let ours: Vec<&EndpointSlice> = view.slices.iter().map(Arc::as_ref).filter(managed).collect();
    let Some(endpoints) = mirrored(view) else {
        let actions = ours.into_iter().map(|slice| delete(slice, DeleteHow::default(), None)).collect();
        return Plan::new("there is nothing to mirror", actions);
    };
    let (mut actions, mut kept) = (Vec::new(), Vec::new());
    for ((family, ports), wanted) in wanted(endpoints) {
        let same = ours.iter().find(|slice| slice.address_type == family && ports_of_slice(slice) == ports);
        let wanted = Some(wanted.into_values().take(MOST).collect());
        match same {
            Some(slice) => {
                kept.push(name(&slice.metadata));
                let new = EndpointSlice { endpoints: wanted, ..(*slice).clone() };
                actions.extend(patch_to(*slice, &with_metadata(endpoints, new), None));
            }
            None if view.namespace_terminating => {}
            None => {
                let address_type = family.to_owned();
                let (metadata, ports) = (fresh(endpoints), write_ports(&ports));
                let slice = EndpointSlice { address_type, endpoints: wanted, metadata, ports };
                actions.push(create(&with_metadata(endpoints, slice), None));
            }
        }
    }
    let stale = ours.iter().filter(|slice| !kept.contains(&name(&slice.metadata)));
    actions.extend(stale.map(|slice| delete(*slice, DeleteHow::default(), None)));
    let why = if actions.is_empty() { "its slices are right" } else { "its endpoints changed" };
    Plan::new(why, actions)
}

/// The Endpoints, if they are to be mirrored.
fn mirrored(view: &View) -> Option<&Endpoints> {
    let endpoints = view.endpoints.as_deref().filter(|endpoints| !deleting(&endpoints.metadata))?;
    let service = view.service.as_deref()?.spec.as_ref()?;
    let selects = service.selector.as_ref().is_some_and(|selector| !selector.is_empty());
    let skipped = label(&endpoints.metadata, SKIP) == Some("true") || annotation(&endpoints.metadata, LEADER).is_some();
    (!selects && !skipped).then_some(endpoints)
}

/// By family and ports: the endpoints by their address.
fn wanted(endpoints: &Endpoints) -> BTreeMap<(&'static str, Ports), BTreeMap<String, Endpoint>> {
    let mut out: BTreeMap<(&'static str, Ports), BTreeMap<String, Endpoint>> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports_of(subset.ports.as_deref().unwrap_or_default());
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        // An address that is on both lists is ready.
        for (address, ready) in unready.chain(ready) {
            let family = match address.ip.parse() {
                Ok(IpAddr::V4(_)) => "IPv4",
                Ok(IpAddr::V6(_)) => "IPv6",
                Err(_) => continue,
            };
            out.entry((family, ports.clone())).or_default().insert(address.ip.clone(), endpoint(address, ready));
        }
    }
    out
}

fn ports_of(ports: &[core::EndpointPort]) -> Ports {
    let one = |port: &core::EndpointPort| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
        (port.name.clone().unwrap_or_default(), protocol, port.port, port.app_protocol.clone())
    };
    let mut ports: Ports = ports.iter().map(one).collect();
    ports.sort();
    ports
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn fresh(endpoints: &Endpoints) -> ObjectMeta {
    ObjectMeta {
        generate_name: Some(format!("{}-", name(&endpoints.metadata))),
        namespace: endpoints.metadata.namespace.clone(),
        owner_references: Some(vec![controller_reference(endpoints)]),
        ..ObjectMeta::default()
    }
}

/// A slice carries the labels and annotations of its Endpoints, and two labels of its own.
fn with_metadata(endpoints: &Endpoints, mut slice: EndpointSlice) -> EndpointSlice {
    let mut wanted: Labels = labels(&endpoints.metadata);
    wanted.insert(SERVICE_NAME.into(), name(&endpoints.metadata).to_owned());
    wanted.insert(MANAGED_BY.into(), MANAGER.into());
    slice.metadata.labels = Some(wanted);
    let mut about: Labels = endpoints.metadata.annotations.clone().unwrap_or_default();
    about.retain(|key, _| !OWN.contains(&key.as_str()));
    slice.metadata.annotations = Some(about).filter(|about| !about.is_empty());
    slice
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{EndpointPort, EndpointSubset, ServiceSpec};
    use proptest::prelude::*;

    use super::*;
    use crate::action::Action;
    use crate::testing::{Cluster, map, meta, show};

    /// Subsets in short: `10.0.0.1,!10.0.0.2:80`; `!` is not ready.
    fn endpoints(text: &str) -> Endpoints {
        let subset = |word: &str| {
            let (addresses, port) = word.rsplit_once('@').unwrap();
            let of = |ready: bool| {
                let own = addresses.split(',').filter(|address| address.starts_with('!') != ready);
                let address =
                    |ip: &str| EndpointAddress { ip: ip.trim_start_matches('!').into(), ..Default::default() };
                Some(own.map(address).collect::<Vec<_>>()).filter(|all| !all.is_empty())
            };
            let port = EndpointPort { port: port.parse().unwrap(), ..EndpointPort::default() };
            EndpointSubset { addresses: of(true), not_ready_addresses: of(false), ports: Some(vec![port]) }
        };
        let subsets = text.split_whitespace().map(subset).collect();
        Endpoints { metadata: meta("web"), subsets: Some(subsets) }
    }

    fn service(selects: bool) -> Service {
        let selector = selects.then(|| map(&[("app", "web")]));
        Service { metadata: meta("web"), spec: Some(ServiceSpec { selector, ..Default::default() }), status: None }
    }

    fn turn(cluster: &Cluster) -> Vec<Action> {
        let first = |all: Vec<Arc<Endpoints>>| all.into_iter().next();
        plan(&View {
            endpoints: first(cluster.list()),
            service: cluster.list().into_iter().next(),
            slices: cluster.list(),
            namespace_terminating: false,
        })
        .actions
    }

    fn slices(cluster: &Cluster) -> String {
        let show = |slice: &Arc<EndpointSlice>| {
            let port = slice.ports.iter().flatten().next().and_then(|port| port.port).unwrap_or_default();
            let one = |endpoint: &Endpoint| {
                let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true);
                format!("{}{}", if ready { "" } else { "!" }, endpoint.addresses.join("+"))
            };
            let all: Vec<String> = slice.endpoints.iter().flatten().map(one).collect();
            format!("{}@{port}", all.join(","))
        };
        let mut all: Vec<String> = cluster.list::<EndpointSlice>().iter().map(show).collect();
        all.sort();
        all.join(" ")
    }

    #[test]
    fn slices_follow_endpoints() {
        let mut cluster = Cluster::default();
        cluster.add(&service(false));
        for (name, now, first, expect) in [
            ("they come", "10.0.0.1,!10.0.0.2@80", "+web-", "10.0.0.1,!10.0.0.2@80"),
            ("one gets ready", "10.0.0.1,10.0.0.2@80", "patch web-v1", "10.0.0.1,10.0.0.2@80"),
            ("another port", "10.0.0.1@81", "+web- -web-v1", "10.0.0.1@81"),
            ("two sets of ports", "10.0.0.1@81 10.0.0.2@82", "+web-", "10.0.0.1@81 10.0.0.2@82"),
            ("two families", "10.0.0.1,2001:db8::1@81", "+web- -web-v4", "10.0.0.1@81 2001:db8::1@81"),
            ("none are left", "", "-web-v3 -web-v5", ""),
        ] {
            cluster.add(&endpoints(now));
            let actions = turn(&cluster);
            assert_eq!(show(&actions), first, "{name}");
            assert!(cluster.settle(3, turn), "{name}: {}", cluster.trace());
            assert_eq!(slices(&cluster), expect, "{name}");
        }
    }

    #[test]
    fn only_what_people_keep_is_mirrored() {
        let labelled = |mut endpoints: Endpoints| {
            endpoints.metadata.labels = Some(map(&[(SKIP, "true")]));
            endpoints
        };
        let elected = |mut endpoints: Endpoints| {
            endpoints.metadata.annotations = Some(map(&[(LEADER, "{}")]));
            endpoints
        };
        let there = || endpoints("10.0.0.1@80");
        for (name, service, endpoints, namespace_terminating, expect) in [
            ("a Service without selector", Some(service(false)), Some(there()), false, "+web-"),
            ("a Service with one", Some(service(true)), Some(there()), false, "-old"),
            ("no Service", None, Some(there()), false, "-old"),
            ("no Endpoints", Some(service(false)), None, false, "-old"),
            ("not to be mirrored", Some(service(false)), Some(labelled(there())), false, "-old"),
            ("a leader's", Some(service(false)), Some(elected(there())), false, "-old"),
            ("in a namespace that goes", Some(service(false)), Some(there()), true, "-old"),
        ] {
            let old = EndpointSlice { address_type: "IPv6".into(), metadata: meta("old"), ..EndpointSlice::default() };
            let old = with_metadata(&there(), old);
            let other = EndpointSlice { metadata: meta("other"), ..EndpointSlice::default() };
            let plan = plan(&View {
                endpoints: endpoints.map(Arc::new),
                service: service.map(Arc::new),
                slices: vec![Arc::new(old), Arc::new(other)],
                namespace_terminating,
            });
            let shown = show(&plan.actions);
            let expect = if expect == "+web-" { "+web- -old" } else { expect };
            assert_eq!(shown, expect, "{name}");
        }
    }

    #[test]
    fn a_slice_is_the_endpoints_own() {
        let mut endpoints = endpoints("10.0.0.1@80");
        endpoints.metadata.labels = Some(map(&[("a", "b"), (MANAGED_BY, "me")]));
        endpoints.metadata.annotations = Some(map(&[(OWN[0], "{}"), ("c", "d")]));
        let slice =
            with_metadata(&endpoints, EndpointSlice { metadata: fresh(&endpoints), ..EndpointSlice::default() });
        let expect = map(&[("a", "b"), (MANAGED_BY, MANAGER), (SERVICE_NAME, "web")]);
        assert_eq!(slice.metadata.labels, Some(expect));
        assert_eq!(slice.metadata.annotations, Some(map(&[("c", "d")])));
        assert_eq!(slice.metadata.owner_references, Some(vec![controller_reference(&endpoints)]));
    }

    proptest! {
        #[test]
        fn whatever_is_there_comes_to_rest(
            before in prop::collection::vec((1u8..5, 80u8..82, any::<bool>()), 0..6),
            after in prop::collection::vec((1u8..5, 80u8..82, any::<bool>()), 0..6),
        ) {
            let text = |all: &[(u8, u8, bool)]| {
                let word = |(n, port, ready): &(u8, u8, bool)| {
                    format!("{}10.0.0.{n}@{port}", if *ready { "" } else { "!" })
                };
                all.iter().map(word).collect::<Vec<_>>().join(" ")
            };
            let mut cluster = Cluster::default();
            cluster.add(&service(false));
            for now in [before, after] {
                cluster.add(&endpoints(&text(&now)));
                prop_assert!(cluster.settle(3, turn), "{}", cluster.trace());
            }
        }
    }
}
