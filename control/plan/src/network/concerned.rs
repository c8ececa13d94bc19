//! Which Services a change concerns.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};

use super::endpointslice::place;
use crate::key::NamespacedName;
use crate::object::{deleting, labels};
use crate::pod;
use crate::selection::Selects as _;

/// What endpoints show of a pod.
fn shown(pod: &Pod) -> impl PartialEq + '_ {
    let status = pod.status.as_ref();
    (
        (labels(&pod.metadata), pod.metadata.uid.as_deref(), deleting(&pod.metadata)),
        (pod::node(pod), pod::ready(pod), pod::finished(pod)),
        (status.and_then(|status| status.pod_ip.as_deref()), status.and_then(|status| status.pod_ips.as_ref())),
    )
}

/// Those that select or selected a pod whose endpoints would look different.
pub fn by_pod(
    old: Option<&Pod>,
    new: Option<&Pod>,
    selecting: impl Fn(&Pod) -> Vec<Arc<Service>>,
) -> Vec<NamespacedName> {
    if let (Some(old), Some(new)) = (old, new)
        && shown(old) == shown(new)
    {
        return Vec::new();
    }
    let mut keys = Vec::new();
    for pod in old.into_iter().chain(new) {
        let services = selecting(pod).into_iter().filter(|service| service.selects(&pod.metadata));
        keys.extend(services.map(|service| NamespacedName::of(&service.metadata)));
    }
    keys.sort();
    keys.dedup();
    keys
}

/// Those with pods on a node that came, went or moved.
pub fn by_node(
    old: Option<&Node>,
    new: Option<&Node>,
    pods: impl FnOnce() -> Vec<Arc<Pod>>,
    selecting: impl Fn(&Pod) -> Vec<Arc<Service>>,
) -> Vec<NamespacedName> {
    if place(old) == place(new) {
        return Vec::new();
    }
    let mut keys: Vec<_> = pods().iter().flat_map(|pod| by_pod(None, Some(pod), &selecting)).collect();
    keys.sort();
    keys.dedup();
    keys
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ServiceSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;
    use crate::testing::{map, meta, pods};

    fn service(name: &str) -> Arc<Service> {
        let spec = ServiceSpec { selector: Some(map(&[("app", name)])), ..ServiceSpec::default() };
        Arc::new(Service { metadata: meta(name), spec: Some(spec), status: None })
    }

    fn show(keys: &[NamespacedName]) -> String {
        keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_pod_concerns_those_that_select_it() {
        let selecting = |_: &Pod| vec![service("web"), service("changed"), service("other")];
        for (name, old, new, expect) in [
            ("a new pod", "", "a", "ns/web"),
            ("its end", "a", "", "ns/web"),
            ("nothing that shows", "a", "a?", ""),
            ("readiness", "a", "a!", "ns/web"),
            ("on its way out", "a", "a~", "ns/web"),
            ("other labels", "a", "a-", "ns/changed ns/web"),
        ] {
            let (old, new) = (pods("web", old), pods("web", new));
            let keys = by_pod(old.first().map(Arc::as_ref), new.first().map(Arc::as_ref), selecting);
            assert_eq!(show(&keys), expect, "{name}");
        }
    }

    #[test]
    fn a_node_concerns_the_services_of_its_pods() {
        let selecting = |_: &Pod| vec![service("web"), service("other")];
        let node = |zone: &str| {
            let labels = Some(map(&[("topology.kubernetes.io/zone", zone)]));
            Some(Node { metadata: ObjectMeta { labels, ..meta("n1") }, ..Node::default() })
        };
        for (name, old, new, have, expect) in [
            ("it comes", None, node("z1"), "a b", "ns/web"),
            ("it goes", node("z1"), None, "a", "ns/web"),
            ("it moves", node("z1"), node("z2"), "a", "ns/web"),
            ("it stays", node("z1"), node("z1"), "a", ""),
            ("without pods", node("z1"), None, "", ""),
        ] {
            let keys = by_node(old.as_ref(), new.as_ref(), || pods("web", have), selecting);
            assert_eq!(show(&keys), expect, "{name}");
        }
    }
}
