//! The `status` subresource.

use std::net::IpAddr;

use serde_json::Value;

use super::super::value::{child, copy, get, has, items_mut, list, num, set, text, unset};
use super::super::vocab::{self, Errors};
use super::update;
use crate::{FieldError, Path};

/// Keeps the spec, the owners (old kubelets garble them) and the class.
pub fn prepare(new: &mut Value, old: &Value) {
    copy(new, old, "spec");
    copy(child(new, "metadata"), get(old, "metadata"), "ownerReferences");
    let class = text(get(old, "status"), "qosClass").to_owned();
    let status = child(new, "status");
    if text(status, "qosClass").is_empty() && !class.is_empty() {
        set(status, "qosClass", class);
    }
    keep_generations(status, get(old, "status"));
    if get(get(old, "status"), GATED).is_null() {
        unset(child(new, "status"), GATED);
    }
}

/// What is there already is kept, though what it belongs to (`DRANodeAllocatableResources`) is off in 1.37.
const GATED: &str = "nodeAllocatableResourceClaimStatuses";

const GENERATION: &str = "observedGeneration";

/// Of which generation something was said is kept where that is not said anew.
fn keep_generations(status: &mut Value, before: &Value) {
    if num(status, GENERATION) == 0 {
        copy(status, before, GENERATION);
    }
    // There may be several conditions of a type.
    let mut known: Vec<(&str, i64)> =
        list(before, "conditions").iter().map(|old| (text(old, "type"), num(old, GENERATION))).collect();
    for condition in items_mut(status, "conditions") {
        let Some(at) = known.iter().position(|(kind, _)| *kind == text(condition, "type")) else { continue };
        let (_, generation) = known.remove(at);
        if generation != 0 && num(condition, GENERATION) == 0 {
            set(condition, GENERATION, generation);
        }
    }
}

/// Checks an update of the status.
#[must_use]
pub fn check(new: &Value, old: &Value) -> Errors {
    let mut errs = Errors::new();
    update::check_annotations(&mut errs, new, old);
    let (status, before) = (get(new, "status"), get(old, "status"));
    for (i, condition) in list(status, "conditions").iter().enumerate() {
        let kind = text(condition, "type");
        if !["PodScheduled", "Ready", "Initialized"].contains(&kind) {
            let path = Path::new("metadata").child("conditions").index(i).child("Type");
            vocab::qualified_name(&mut errs, &path, kind);
        }
    }
    let path = Path::new("status");
    let nominated = text(status, "nominatedNodeName");
    if nominated != text(before, "nominatedNodeName") && !nominated.is_empty() {
        vocab::subdomain(&mut errs, &path.child("nominatedNodeName"), nominated);
    }
    vocab::immutable(&mut errs, "status.qosClass", get(status, "qosClass"), get(before, "qosClass"));
    check_transitions(&mut errs, &path, status, old);
    let spec = get(new, "spec");
    check_claims(&mut errs, &path.child("resourceClaimStatuses"), list(status, "resourceClaimStatuses"), spec);
    check_addresses(&mut errs, &path.child("podIPs"), list(status, "podIPs"));
    check_host_addresses(&mut errs, &path.child("hostIPs"), status);
    for (field, containers) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")] {
        check_allocated(&mut errs, &path.child(field), list(status, field), list(spec, containers));
    }
    for (i, container) in list(status, "ephemeralContainerStatuses").iter().enumerate() {
        if !list(container, ALLOCATED).is_empty() {
            let path = path.child("ephemeralContainerStatuses").index(i).child(ALLOCATED);
            errs.push(FieldError::forbidden(path, "must not be specified in container status"));
        }
    }
    errs
}

/// Warns of addresses in spellings of their own.
#[must_use]
pub fn warnings(obj: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for field in ["podIPs", "hostIPs"] {
        for (i, address) in list(get(obj, "status"), field).iter().enumerate() {
            vocab::warn_ip(&mut out, &Path::new("status").child(field).index(i).child("ip"), text(address, "ip"));
        }
    }
    out
}

/// The claims that were made for the pod, by their names in its spec.
fn check_claims(errs: &mut Errors, path: &Path, claims: &[Value], spec: &Value) {
    for (i, claim) in claims.iter().enumerate() {
        let (path, name) = (path.index(i).child("name"), text(claim, "name"));
        if !list(spec, "resourceClaims").iter().any(|known| text(known, "name") == name) {
            errs.push(FieldError::invalid(&path, name, "must match the name of an entry in `spec.resourceClaims`"));
        }
        if claims[..i].iter().any(|known| text(known, "name") == name) {
            errs.push(FieldError::duplicate(&path, name));
        }
        if has(claim, "resourceClaimName") {
            let made = text(claim, "resourceClaimName");
            vocab::invalid(errs, &path, made, vocab::subdomain_errors(made));
        }
    }
}

const ALLOCATED: &str = "allocatedResourcesStatus";
const HEALTH: [&str; 3] = ["Healthy", "Unhealthy", "Unknown"];

/// How the devices fare that containers were given.
fn check_allocated(errs: &mut Errors, path: &Path, statuses: &[Value], containers: &[Value]) {
    for (i, status) in statuses.iter().enumerate() {
        let container = containers.iter().find(|container| text(container, "name") == text(status, "name"));
        for (j, given) in list(status, ALLOCATED).iter().enumerate() {
            let (path, name) = (path.index(i).child(ALLOCATED).index(j), text(given, "name"));
            // A status may speak of a container that is not there.
            if let Some(why) = container.and_then(|container| unasked(get(container, "resources"), name)) {
                errs.push(FieldError::invalid(path.child("name"), name, why));
            }
            let devices = list(given, "resources");
            for (k, device) in devices.iter().enumerate() {
                let (path, id) = (path.child("resources").index(k), text(device, "resourceID"));
                if !HEALTH.contains(&text(device, "health")) {
                    errs.push(FieldError::not_supported(path.child("health"), text(device, "health"), &HEALTH));
                }
                if devices[..k].iter().any(|known| text(known, "resourceID") == id) {
                    errs.push(FieldError::duplicate(path.child("resourceID"), id));
                }
            }
        }
    }
}

/// Why a container cannot have been given what is called `name`.
fn unasked(resources: &Value, name: &str) -> Option<&'static str> {
    if !name.starts_with("claim:") {
        let why = "must match one of the container's resource requests";
        return (!has(get(resources, "requests"), name)).then_some(why);
    }
    let named = |claim: &Value| match text(claim, "request") {
        "" => format!("claim:{}", text(claim, "name")),
        request => format!("claim:{}/{request}", text(claim, "name")),
    };
    let why = "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty";
    (!list(resources, "claims").iter().any(|claim| named(claim) == name)).then_some(why)
}

/// What ended for good must not run again.
fn check_transitions(errs: &mut Errors, path: &Path, status: &Value, old: &Value) {
    let policy = text(get(old, "spec"), "restartPolicy");
    for (field, policy) in
        [("containerStatuses", policy), ("initContainerStatuses", policy), ("ephemeralContainerStatuses", "Never")]
    {
        if policy == "Always" {
            continue;
        }
        for (i, before) in list(get(old, "status"), field).iter().enumerate() {
            let Some(ended) = get(before, "state").get("terminated") else { continue };
            let failed = ended.get("exitCode").and_then(Value::as_i64).unwrap_or(0) != 0;
            let name = text(before, "name");
            if (failed && policy == "OnFailure") || restarts_by_itself(old, name) {
                continue;
            }
            let revived = |now: &&Value| text(now, "name") == name && get(now, "state").get("terminated").is_none();
            for _ in list(status, field).iter().filter(revived) {
                let path = path.child(field).index(i).child("state");
                errs.push(FieldError::forbidden(path, "may not be transitioned to non-terminated state"));
            }
        }
    }
}

/// A sidecar, or a container with a policy or rules of its own.
fn restarts_by_itself(pod: &Value, name: &str) -> bool {
    let spec = get(pod, "spec");
    let mut containers = list(spec, "initContainers").iter().chain(list(spec, "containers"));
    let own = |container: &Value| {
        !["", "Never"].contains(&text(container, "restartPolicy")) || !list(container, "restartPolicyRules").is_empty()
    };
    containers.any(|container| text(container, "name") == name && own(container))
}

fn check_addresses(errs: &mut Errors, path: &Path, addresses: &[Value]) {
    for (i, address) in addresses.iter().enumerate() {
        vocab::ip(errs, &path.index(i), text(address, "ip"));
    }
    let parsed: Vec<IpAddr> = addresses.iter().filter_map(|address| text(address, "ip").parse().ok()).collect();
    let dual = parsed.iter().any(IpAddr::is_ipv4) && parsed.iter().any(IpAddr::is_ipv6);
    if addresses.len() > 1 && (!dual || addresses.len() > 2) {
        let message = "may specify no more than one IP for each IP family";
        errs.push(FieldError::invalid(path, Value::from(addresses), message));
    }
    for (i, address) in addresses.iter().enumerate() {
        if addresses[..i].contains(address) {
            errs.push(FieldError::duplicate(path.index(i), address.clone()));
        }
    }
}

fn check_host_addresses(errs: &mut Errors, path: &Path, status: &Value) {
    let addresses = list(status, "hostIPs");
    let Some(first) = addresses.first() else { return };
    let ip = text(first, "ip");
    if text(status, "hostIP") != ip {
        errs.push(FieldError::invalid(path.index(0).child("ip"), ip, "must be equal to `hostIP`"));
    }
    check_addresses(errs, path, addresses);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_pod_was_given_is_kept_and_judged() {
        let spec = json!({
            "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "t"}],
            "containers": [{"name": "c", "resources": {
                "requests": {"a.b/c": "1"}, "claims": [{"name": "gpu", "request": "one"}]}}],
        });
        let with = |status: Value| json!({"metadata": {}, "spec": spec, "status": status});
        let given = |name: &str, health: &str, ids: &[&str]| {
            let resources: Vec<Value> = ids.iter().map(|id| json!({"resourceID": id, "health": health})).collect();
            let allocated = json!([{"name": name, "resources": resources}]);
            json!({"containerStatuses": [{"name": "c", "allocatedResourcesStatus": allocated}]})
        };
        let claims = |claims: Value| json!({ "resourceClaimStatuses": claims });
        let at = "status.containerStatuses[0].allocatedResourcesStatus[0]";
        for (status, expect) in [
            (claims(json!([{"name": "gpu", "resourceClaimName": "p-gpu-1"}])), String::new()),
            (claims(json!([{"name": "other"}])), "status.resourceClaimStatuses[0].name".into()),
            (claims(json!([{"name": "gpu"}, {"name": "gpu"}])), "status.resourceClaimStatuses[1].name".into()),
            (claims(json!([{"name": "gpu", "resourceClaimName": "A"}])), "status.resourceClaimStatuses[0].name".into()),
            (given("a.b/c", "Healthy", &["1", "2"]), String::new()),
            (given("claim:gpu/one", "Unknown", &["1"]), String::new()),
            (given("claim:gpu", "Unhealthy", &["1"]), format!("{at}.name")),
            (given("cpu", "Healthy", &["1"]), format!("{at}.name")),
            (given("a.b/c", "Odd", &["1"]), format!("{at}.resources[0].health")),
            (given("a.b/c", "Healthy", &["1", "1"]), format!("{at}.resources[1].resourceID")),
        ] {
            let old = with(json!({}));
            let mut new = with(status.clone());
            prepare(&mut new, &old);
            assert_eq!(new["status"], status, "nothing of it is dropped");
            let errs = check(&new, &old);
            let paths: Vec<&str> = errs.iter().map(|error| error.path.as_str()).collect();
            assert_eq!(paths.join(" "), expect, "{status}");
        }
        let gated = json!({"nodeAllocatableResourceClaimStatuses": [{"resourceClaimName": "x"}],
            "extendedResourceClaimStatus": {"resourceClaimName": "x"}, "resources": {"requests": {"cpu": "1"}}});
        let mut fresh = with(gated.clone());
        prepare(&mut fresh, &with(json!({})));
        assert!(fresh["status"].get("nodeAllocatableResourceClaimStatuses").is_none());
        assert_eq!(fresh["status"]["extendedResourceClaimStatus"], gated["extendedResourceClaimStatus"]);
        assert_eq!(fresh["status"]["resources"], gated["resources"]);
        let mut used = with(gated.clone());
        prepare(&mut used, &with(gated.clone()));
        assert_eq!(used["status"], gated);
    }

    #[test]
    fn addresses_are_warned_of() {
        let pod = json!({"status": {"podIPs": [{"ip": "2001:DB8::1"}], "hostIPs": [{"ip": "::ffff:10.0.0.1"}]}});
        assert_eq!(
            warnings(&pod),
            [
                "status.podIPs[0].ip: IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")",
                "status.hostIPs[0].ip: non-standard IP address \"::ffff:10.0.0.1\" will be considered invalid in a future Kubernetes release: use \"10.0.0.1\"",
            ]
        );
    }

    #[test]
    fn generations_are_kept_until_others_are_said() {
        let condition = |kind: &str, generation: i64| match generation {
            0 => json!({"type": kind}),
            generation => json!({"type": kind, "observedGeneration": generation}),
        };
        let old = json!({"status": {"observedGeneration": 2, "conditions": [condition("A", 2), condition("A", 3), condition("B", 2)]}});
        let mut new = json!({"metadata": {}, "status": {"conditions": [condition("A", 0), condition("A", 4), condition("C", 0)]}});
        prepare(&mut new, &old);
        let expect =
            json!({"observedGeneration": 2, "conditions": [condition("A", 2), condition("A", 4), condition("C", 0)]});
        assert_eq!(new["status"], expect);
    }
}
