//! Whom `spec.trafficDistribution` means endpoints for (KEP-4444, KEP-3015).

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{EndpointHints, ForNode, ForZone};

/// The hints of a ready endpoint on `node`, in `zone`.
pub(super) fn hints(service: &Service, node: Option<&str>, zone: Option<&str>) -> Option<EndpointHints> {
    let wanted = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    if !["PreferClose", "PreferSameZone", "PreferSameNode"].contains(&wanted) {
        return None;
    }
    let node = node.filter(|_| wanted == "PreferSameNode");
    let hints = EndpointHints {
        for_nodes: node.map(|name| vec![ForNode { name: name.to_owned() }]),
        for_zones: zone.map(|name| vec![ForZone { name: name.to_owned() }]),
    };
    (hints.for_nodes.is_some() || hints.for_zones.is_some()).then_some(hints)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ServiceSpec;

    use super::*;

    #[test]
    fn endpoints_are_meant_for_those_near_them() {
        let shown = |wanted: &str, node: Option<&str>, zone: Option<&str>| {
            let traffic_distribution = Some(wanted.to_owned()).filter(|wanted| !wanted.is_empty());
            let spec = ServiceSpec { traffic_distribution, ..ServiceSpec::default() };
            let service = Service { spec: Some(spec), ..Service::default() };
            let found = hints(&service, node, zone).unwrap_or_default();
            let nodes = found.for_nodes.into_iter().flatten().map(|node| node.name);
            let zones = found.for_zones.into_iter().flatten().map(|zone| zone.name);
            nodes.chain(zones).collect::<Vec<_>>().join(" ")
        };
        for (wanted, node, zone, expect) in [
            ("", Some("n1"), Some("z1"), ""),
            ("PreferClose", Some("n1"), Some("z1"), "z1"),
            ("PreferSameZone", Some("n1"), Some("z1"), "z1"),
            ("PreferSameZone", Some("n1"), None, ""),
            ("PreferSameNode", Some("n1"), Some("z1"), "n1 z1"),
            ("PreferSameNode", Some("n1"), None, "n1"),
            ("PreferSameNode", None, None, ""),
        ] {
            assert_eq!(shown(wanted, node, zone), expect, "{wanted} {node:?} {zone:?}");
        }
    }
}
