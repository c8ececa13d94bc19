//! EndpointSlice: the addresses behind a Service, in slices of bounded size.
//!
//! Invariants
//! - An endpoint stays in its slice while it exists, so one pod's change rewrites one slice.
//! - All endpoints of a slice share address family and ports.
//! - A Service with a selector always has a slice per address family, an empty one if need be.
//! - Slices of others (another `managed-by`) are never touched.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::action::{Action, DeleteHow, Plan, create, delete, patch_to};
use crate::network::hints::hints;
use crate::object::{Labels, controller_reference, deleting, label, labels, name};
use crate::pod;

/// Most endpoints in one slice.
const FULL: usize = 100;
/// Says which Service a slice belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Says who writes a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Us, under upstream's name, so that tools recognise the slices.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

const ZONE: &str = "topology.kubernetes.io/zone";

/// The nodes there are, each with its zone if it has one.
pub type Zones = HashMap<String, Option<String>>;

/// What a plan is made from.
pub struct View {
    /// The Service.
    pub service: Arc<Service>,
    /// The pods that its selector selects, in its namespace.
    pub pods: Vec<Arc<Pod>>,
    /// The slices that name the Service; those of other managers are ignored.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// The nodes of the pods, as far as they are there.
    pub zones: Zones,
    /// Whether its namespace is on its way out: nothing can be created there.
    pub namespace_terminating: bool,
}

/// Whether and where a node is, as far as endpoints show it.
pub(super) fn place(node: Option<&Node>) -> Option<Option<&str>> {
    node.map(|node| label(&node.metadata, ZONE))
}

/// Where the nodes of the pods are.
pub fn zones(pods: &[Arc<Pod>], node: impl Fn(&str) -> Option<Arc<Node>>) -> Zones {
    let names: BTreeSet<&str> = pods.iter().filter_map(|pod| pod::node(pod)).collect();
    let there = names.into_iter().filter_map(|name| Some((name, node(name)?)));
    there.map(|(name, node)| (name.to_owned(), label(&node.metadata, ZONE).map(str::to_owned))).collect()
}

/// Decides the next writes for one Service.
#[must_use]
pub fn plan(view: &View) -> Plan {
    if !has_endpoints(&view.service) {
        return Plan::rest("its Service selects nothing");
    }
    let managed =
        |slice: &&Arc<EndpointSlice>| label(&slice.metadata, MANAGED_BY) == Some(MANAGER) && !deleting(&slice.metadata);
    let ours: Vec<&EndpointSlice> = view.slices.iter().filter(managed).map(Arc::as_ref).collect();
    let families = families(&view.service);
    let strange = ours.iter().filter(|slice| !families.contains(&slice.address_type.as_str()));
    let mut actions: Vec<Action> = strange.map(|slice| delete(*slice, DeleteHow::default(), None)).collect();
    for family in families {
        let slices = ours.iter().copied().filter(|slice| slice.address_type == family).collect();
        actions.extend(plan_family(view, family, slices));
    }
    let why = match (actions.is_empty(), view.namespace_terminating) {
        (false, _) => "its endpoints changed",
        (true, true) => "its namespace is terminating",
        (true, false) => "its slices are right",
    };
    Plan::new(why, actions)
}

/// Whether the system looks after the endpoints of this Service.
#[must_use]
pub fn has_endpoints(service: &Service) -> bool {
    let Some(spec) = service.spec.as_ref() else { return false };
    !deleting(&service.metadata)
        && spec.type_.as_deref() != Some("ExternalName")
        && spec.selector.as_ref().is_some_and(|selector| !selector.is_empty())
}

fn families(service: &Service) -> Vec<&'static str> {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    let named = families.iter().map(|family| if family == "IPv6" { "IPv6" } else { "IPv4" });
    let families: BTreeSet<&str> = named.collect();
    if families.is_empty() { vec!["IPv4"] } else { families.into_iter().collect() }
}

/// Whether the Service has no address of its own.
pub(crate) fn headless(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"))
}

/// The pod's address of a family.
pub(crate) fn address<'a>(pod: &'a Pod, family: &str) -> Option<&'a str> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).chain(status.pod_ip.as_deref());
    all.into_iter().find(|ip| match ip.parse() {
        Ok(IpAddr::V4(_)) => family == "IPv4",
        Ok(IpAddr::V6(_)) => family == "IPv6",
        Err(_) => false,
    })
}

/// The number of a Service's port on this pod; `None` if the pod has no port of that name.
pub(crate) fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match port.target_port.as_ref() {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(wanted)) if wanted.is_empty() => Some(port.port),
        Some(IntOrString::String(wanted)) => {
            let spec = pod.spec.as_ref()?;
            let sidecar = |c: &&k8s_openapi::api::core::v1::Container| c.restart_policy.as_deref() == Some("Always");
            let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(sidecar));
            let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
            let named =
                ports.find(|p| p.name.as_ref() == Some(wanted) && p.protocol.as_deref().unwrap_or("TCP") == protocol);
            named.map(|port| port.container_port)
        }
    }
}

/// Ports in a form that can be compared and sorted: name, protocol, number, application protocol.
pub(super) type Ports = Vec<(String, String, i32, Option<String>)>;

fn ports_of(service: &Service, pod: &Pod) -> Ports {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let one = |port: &ServicePort| {
        let number = target_port(pod, port)?;
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
        Some((port.name.clone().unwrap_or_default(), protocol, number, port.app_protocol.clone()))
    };
    let mut ports: Ports = ports.iter().filter_map(one).collect();
    ports.sort();
    ports
}

pub(super) fn ports_of_slice(slice: &EndpointSlice) -> Ports {
    let one = |port: &EndpointPort| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
        (port.name.clone().unwrap_or_default(), protocol, port.port.unwrap_or(0), port.app_protocol.clone())
    };
    let mut ports: Ports = slice.ports.iter().flatten().map(one).collect();
    ports.sort();
    ports
}

pub(super) fn write_ports(ports: &Ports) -> Option<Vec<EndpointPort>> {
    let one = |(name, protocol, port, app_protocol): &(String, String, i32, Option<String>)| EndpointPort {
        name: Some(name.clone()),
        protocol: Some(protocol.clone()),
        port: Some(*port),
        app_protocol: app_protocol.clone(),
    };
    (!ports.is_empty()).then(|| ports.iter().map(one).collect())
}

fn endpoint(view: &View, pod: &Pod, family: &str) -> Option<Endpoint> {
    if pod::finished(pod) {
        return None;
    }
    let spec = view.service.spec.as_ref()?;
    let eager = spec.publish_not_ready_addresses == Some(true);
    let node = pod::node(pod);
    let zone = match node.map(|node| view.zones.get(node)) {
        Some(Some(zone)) => zone.clone(),
        // A pod of a node that is not there cannot answer.
        Some(None) if !eager => return None,
        _ => None,
    };
    let (serving, terminating) = (pod::ready(pod), deleting(&pod.metadata));
    let pod_spec = pod.spec.as_ref()?;
    let ready = eager || (serving && !terminating);
    let hostname = pod_spec
        .hostname
        .clone()
        .filter(|hostname| !hostname.is_empty() && pod_spec.subdomain.as_deref() == Some(name(&view.service.metadata)));
    Some(Endpoint {
        addresses: vec![address(pod, family)?.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hints: hints(&view.service, node, zone.as_deref()).filter(|_| ready),
        hostname,
        node_name: node.map(str::to_owned),
        target_ref: Some(pod_reference(pod)),
        zone,
        ..Endpoint::default()
    })
}

/// How endpoints name their pod.
pub(crate) fn pod_reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// What an endpoint is known by: pod and address.
type Id = (String, Vec<String>);

fn id(endpoint: &Endpoint) -> Id {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone()).unwrap_or_default();
    (uid, endpoint.addresses.clone())
}

fn plan_family(view: &View, family: &'static str, slices: Vec<&EndpointSlice>) -> Vec<Action> {
    let mut wanted: BTreeMap<Ports, BTreeMap<Id, Endpoint>> = BTreeMap::new();
    for pod in &view.pods {
        if let Some(endpoint) = endpoint(view, pod, family) {
            wanted.entry(ports_of(&view.service, pod)).or_default().insert(id(&endpoint), endpoint);
        }
    }
    if wanted.is_empty() {
        let kept = slices.iter().find(|slice| slice.ports.iter().flatten().next().is_none());
        let ports = kept.map(|slice| ports_of_slice(slice)).unwrap_or_default();
        wanted.insert(ports, BTreeMap::new());
    }
    let (mut actions, mut used) = (Vec::new(), BTreeSet::new());
    for (ports, endpoints) in wanted {
        let same: Vec<&EndpointSlice> = slices.iter().copied().filter(|slice| ports_of_slice(slice) == ports).collect();
        used.extend(same.iter().map(|slice| name(&slice.metadata)));
        actions.extend(plan_ports(view, family, &ports, endpoints, &same));
    }
    let stale = slices.iter().filter(|slice| !used.contains(name(&slice.metadata)));
    actions.extend(stale.map(|slice| delete(*slice, DeleteHow::default(), None)));
    actions
}

/// Spreads `left` over the slices of one family and port set.
fn plan_ports(
    view: &View,
    family: &'static str,
    ports: &Ports,
    mut left: BTreeMap<Id, Endpoint>,
    slices: &[&EndpointSlice],
) -> Vec<Action> {
    let keep = |slice: &&EndpointSlice| {
        slice.endpoints.iter().flatten().filter_map(|endpoint| left.remove(&id(endpoint))).collect::<Vec<_>>()
    };
    let mut filled: Vec<Vec<Endpoint>> = slices.iter().map(keep).collect();
    let mut left = left.into_values();
    // The fullest slices first, so that few slices change and few are needed.
    let mut order: Vec<usize> = (0..filled.len()).collect();
    order.sort_by_key(|at| (std::cmp::Reverse(filled[*at].len()), *at));
    for at in order {
        let room = FULL.saturating_sub(filled[at].len());
        filled[at].extend(left.by_ref().take(room));
    }
    let mut actions = Vec::new();
    let mut some = filled.iter().any(|endpoints| !endpoints.is_empty());
    for (slice, endpoints) in slices.iter().zip(filled) {
        if endpoints.is_empty() && std::mem::replace(&mut some, true) {
            actions.push(delete(*slice, DeleteHow::default(), None));
        } else {
            let new = EndpointSlice { endpoints: Some(endpoints), ..(*slice).clone() };
            actions.extend(patch_to(*slice, &with_labels(view, new), None));
        }
    }
    if view.namespace_terminating {
        return actions;
    }
    let rest: Vec<Endpoint> = left.collect();
    if rest.is_empty() && !some {
        actions.push(create(&fresh(view, family, ports, Vec::new()), None));
    }
    actions.extend(rest.chunks(FULL).map(|chunk| create(&fresh(view, family, ports, chunk.to_vec()), None)));
    actions
}

fn fresh(view: &View, family: &str, ports: &Ports, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let service = view.service.as_ref();
    let slice = EndpointSlice {
        address_type: family.to_owned(),
        endpoints: (!endpoints.is_empty()).then_some(endpoints),
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", name(&service.metadata))),
            namespace: service.metadata.namespace.clone(),
            owner_references: Some(vec![controller_reference(service)]),
            ..ObjectMeta::default()
        },
        ports: write_ports(ports),
    };
    with_labels(view, slice)
}

/// A slice carries its Service's labels, and three of its own.
fn with_labels(view: &View, mut slice: EndpointSlice) -> EndpointSlice {
    let mut wanted: Labels = labels(&view.service.metadata);
    wanted.insert(SERVICE_NAME.into(), name(&view.service.metadata).to_owned());
    wanted.insert(MANAGED_BY.into(), MANAGER.into());
    wanted.remove(HEADLESS);
    if headless(&view.service) {
        wanted.insert(HEADLESS.into(), String::new());
    }
    slice.metadata.labels = Some(wanted);
    slice
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PodIP, ServiceSpec};
    use proptest::prelude::*;

    use super::*;
    use crate::object::time;
    use crate::testing::{Cluster, NOW, map, meta, pod, pod_condition, show};

    fn service() -> Service {
        let port = ServicePort { port: 80, target_port: Some(IntOrString::Int(8080)), ..ServicePort::default() };
        let spec = ServiceSpec {
            selector: Some(map(&[("app", "web")])),
            ports: Some(vec![port]),
            ip_families: Some(vec!["IPv4".into()]),
            ..ServiceSpec::default()
        };
        Service { metadata: meta("web"), spec: Some(spec), status: None }
    }

    fn view(service: Service, pods: &[Arc<Pod>], slices: Vec<Arc<EndpointSlice>>) -> View {
        let zones = HashMap::from([("n1".to_owned(), Some("z1".to_owned()))]);
        View { service: Arc::new(service), pods: pods.to_vec(), slices, zones, namespace_terminating: false }
    }

    fn backend(number: usize) -> Arc<Pod> {
        let mut pod = pod(&format!("p{number}"), &[("app", "web")]);
        let ip = format!("10.244.{}.{}", number / 250, number % 250 + 1);
        let status = pod.status.as_mut().unwrap();
        status.pod_ips = Some(vec![PodIP { ip: ip.clone() }]);
        status.pod_ip = Some(ip);
        Arc::new(pod)
    }

    fn settle(cluster: &mut Cluster, pods: &[Arc<Pod>]) -> bool {
        cluster
            .settle(6, |cluster| plan(&view(cluster.only::<Service>(), pods, cluster.list::<EndpointSlice>())).actions)
    }

    #[test]
    fn conditions_follow_the_pod() {
        for (name, change, expect) in [
            ("ready", (|_| {}) as fn(&mut Pod), Some((true, true, false))),
            (
                "not ready",
                |p| p.status.as_mut().unwrap().conditions = Some(vec![pod_condition("Ready", "False")]),
                Some((false, false, false)),
            ),
            ("going away", |p| p.metadata.deletion_timestamp = Some(time(NOW)), Some((false, true, true))),
            ("ended", |p| p.status.as_mut().unwrap().phase = Some("Succeeded".into()), None),
            ("without an address", |p| p.status.as_mut().unwrap().pod_ip = None, None),
            ("on a node that is gone", |p| p.spec.as_mut().unwrap().node_name = Some("gone".into()), None),
        ] {
            let mut pod = pod("p", &[("app", "web")]);
            change(&mut pod);
            let got = endpoint(&view(service(), &[], Vec::new()), &pod, "IPv4").map(|endpoint| {
                let conditions = endpoint.conditions.unwrap();
                (conditions.ready.unwrap(), conditions.serving.unwrap(), conditions.terminating.unwrap())
            });
            assert_eq!(got, expect, "{name}");
        }
    }

    #[test]
    fn writes_what_is_missing_and_says_why() {
        let mut selects_nothing = service();
        selects_nothing.spec.as_mut().unwrap().selector = None;
        for (name, service, pods, terminating, expect, why) in [
            ("without pods: an empty slice", service(), 0, false, "+web-", "its endpoints changed"),
            ("with a pod", service(), 1, false, "+web-", "its endpoints changed"),
            ("in a namespace on its way out", service(), 1, true, "", "its namespace is terminating"),
            ("there, without pods", service(), 0, true, "", "its namespace is terminating"),
            ("without a selector", selects_nothing, 1, false, "", "its Service selects nothing"),
        ] {
            let pods: Vec<_> = (0..pods).map(backend).collect();
            let plan = plan(&View { namespace_terminating: terminating, ..view(service, &pods, Vec::new()) });
            assert_eq!((show(&plan.actions).as_str(), plan.why), (expect, why), "{name}");
        }
    }

    #[test]
    fn zones_are_those_of_nodes_that_are_there() {
        let node = |name: &str| {
            let labels = Some(map(&[(ZONE, "z1")]));
            (name == "n1").then(|| Arc::new(Node { metadata: ObjectMeta { labels, ..meta(name) }, ..Node::default() }))
        };
        let mut gone = pod("p", &[]);
        gone.spec.as_mut().unwrap().node_name = Some("gone".into());
        let zones = zones(&[backend(0), backend(1), Arc::new(gone)], node);
        assert_eq!(zones, HashMap::from([("n1".to_owned(), Some("z1".to_owned()))]));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        #[test]
        fn every_pod_is_in_exactly_one_slice(first in 0usize..350, second in 0usize..350) {
            let mut cluster = Cluster::default();
            cluster.add(&service());
            for number in [first, second, 0] {
                let pods: Vec<_> = (0..number).map(backend).collect();
                prop_assert!(settle(&mut cluster, &pods), "{}", cluster.trace());
                let slices = cluster.list::<EndpointSlice>();
                let endpoints: Vec<_> = slices.iter().flat_map(|s| s.endpoints.iter().flatten()).map(id).collect();
                let distinct: BTreeSet<_> = endpoints.iter().cloned().collect();
                prop_assert_eq!(endpoints.len(), number);
                prop_assert_eq!(distinct.len(), number);
                prop_assert!(slices.iter().all(|s| s.endpoints.as_ref().is_none_or(|e| e.len() <= FULL)));
                prop_assert!(!slices.is_empty() && slices.len() <= number.div_ceil(FULL) + 4);
            }
        }
    }
}
