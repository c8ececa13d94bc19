//! `fieldRef` and `resourceFieldRef`: what a pod may ask about itself.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceFieldSelector};
use kontiki_model::Quantity;

use crate::{resources, rules};

/// What is known of a pod's place.
#[derive(Clone, Debug, Default)]
pub struct Place {
    pub pod_ips: Vec<IpAddr>,
    pub host_ips: Vec<IpAddr>,
    /// Allocatable of the node: what an absent limit means.
    pub cpu_milli: i64,
    pub memory_bytes: i64,
}

/// A field cannot be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("field path not supported: {0}")]
    Unsupported(String),
    #[error("container {0} not found")]
    NoContainer(String),
    #[error("unsupported container resource : {0}")]
    NoResource(String),
}

/// The text of a field of the pod.
///
/// # Errors
/// Names the path that has no meaning here.
pub fn field(pod: &Pod, place: &Place, path: &str) -> Result<String, FieldError> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let own = |text: &Option<String>| text.clone().unwrap_or_default();
    if let Some(key) = subscript(path, "metadata.labels") {
        return Ok(meta.labels.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    if let Some(key) = subscript(path, "metadata.annotations") {
        return Ok(meta.annotations.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => own(&meta.name),
        "metadata.namespace" => own(&meta.namespace),
        "metadata.uid" => own(&meta.uid),
        "metadata.labels" => format_map(meta.labels.as_ref()),
        "metadata.annotations" => format_map(meta.annotations.as_ref()),
        "spec.nodeName" => spec.map(|s| own(&s.node_name)).unwrap_or_default(),
        "spec.serviceAccountName" => spec.map(|s| own(&s.service_account_name)).unwrap_or_default(),
        "status.hostIP" => first(&place.host_ips),
        "status.hostIPs" => join(&place.host_ips),
        "status.podIP" => first(&place.pod_ips),
        "status.podIPs" => join(&place.pod_ips),
        other => return Err(FieldError::Unsupported(other.to_owned())),
    })
}

fn subscript<'a>(path: &'a str, of: &str) -> Option<&'a str> {
    path.strip_prefix(of)?.strip_prefix("['")?.strip_suffix("']")
}

fn first(ips: &[IpAddr]) -> String {
    ips.first().map(IpAddr::to_string).unwrap_or_default()
}

fn join(ips: &[IpAddr]) -> String {
    ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",")
}

/// `key="value"` lines, values quoted as Go's `%q` does.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let line = |(key, value): (&String, &String)| format!("{key}={}", quote(value));
    map.into_iter().flatten().map(line).collect::<Vec<_>>().join("\n")
}

fn quote(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The number behind a resource field, in units of its divisor, rounded up.
///
/// # Errors
/// Names the container or resource that does not exist.
pub fn resource(
    spec: &PodSpec,
    container: Option<&Container>,
    place: &Place,
    selector: &ResourceFieldSelector,
) -> Result<String, FieldError> {
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let container = match named {
        Some(name) => rules::definition(spec, name).ok_or_else(|| FieldError::NoContainer(name.to_owned()))?,
        None => Cow::Borrowed(container.ok_or_else(|| FieldError::NoContainer(String::new()))?),
    };
    let container = container.as_ref();
    let (is_limit, name) = match selector.resource.split_once('.') {
        Some(("limits", name)) => (true, name),
        Some(("requests", name)) => (false, name),
        _ => return Err(FieldError::NoResource(selector.resource.clone())),
    };
    let declared = if is_limit { resources::limit(container, name) } else { resources::request(container, name) };
    let whole_node = match name {
        "cpu" => Quantity::from_milli(place.cpu_milli),
        "memory" => Quantity::from_units(place.memory_bytes),
        "ephemeral-storage" => Quantity::ZERO,
        name if name.starts_with("hugepages-") => Quantity::ZERO,
        _ => return Err(FieldError::NoResource(selector.resource.clone())),
    };
    let value = declared.unwrap_or(if is_limit { whole_node } else { Quantity::ZERO });
    let divisor = selector.divisor.as_ref().and_then(|d| d.0.parse::<Quantity>().ok()).filter(|d| *d > Quantity::ZERO);
    let divisor = divisor.unwrap_or(Quantity::from_units(1));
    Ok(divide(name, value, divisor).to_string())
}

fn divide(name: &str, value: Quantity, divisor: Quantity) -> i64 {
    let (value, divisor) =
        if name == "cpu" { (value.milli(), divisor.milli()) } else { (value.units(), divisor.units()) };
    let divisor = divisor.max(1);
    value.div_euclid(divisor) + i64::from(value.rem_euclid(divisor) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn pods_learn_about_themselves() {
        let mut pod =
            pod("serviceAccountName: sa, containers: [{name: a, resources: {limits: {cpu: 1500m, memory: 10Mi}}}]");
        pod.metadata.labels = Some([("b".into(), "x\"y".into()), ("a".into(), "1".into())].into());
        let ip = |s: &str| s.parse::<IpAddr>().expect("an address");
        let place = Place {
            pod_ips: vec![ip("10.1.0.2"), ip("fd00::2")],
            host_ips: vec![ip("10.0.0.1")],
            cpu_milli: 4000,
            memory_bytes: 1 << 30,
        };
        for (path, expect) in [
            ("metadata.name", "web"),
            ("metadata.labels['a']", "1"),
            ("metadata.labels['none']", ""),
            ("metadata.labels", "a=\"1\"\nb=\"x\\\"y\""),
            ("spec.nodeName", "n1"),
            ("spec.serviceAccountName", "sa"),
            ("status.podIP", "10.1.0.2"),
            ("status.podIPs", "10.1.0.2,fd00::2"),
            ("status.hostIP", "10.0.0.1"),
        ] {
            assert_eq!(field(&pod, &place, path).as_deref(), Ok(expect), "{path}");
        }
        assert!(field(&pod, &place, "spec.priority").is_err());
        let spec = pod.spec.expect("has a spec");
        for (name, divisor, expect) in [
            ("limits.cpu", "0", Ok("2")),
            ("limits.cpu", "1m", Ok("1500")),
            ("limits.memory", "1Mi", Ok("10")),
            ("requests.memory", "1", Ok("10485760")),
            ("limits.cpux", "1", Err(())),
        ] {
            let selector = ResourceFieldSelector {
                resource: name.into(),
                divisor: Some(k8s_openapi::apimachinery::pkg::api::resource::Quantity(divisor.into())),
                container_name: None,
            };
            let got = resource(&spec, Some(&spec.containers[0]), &place, &selector);
            assert_eq!(got.as_deref().map_err(|_| ()), expect, "{name}/{divisor}");
        }
    }
}
