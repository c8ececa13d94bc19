//! The `status` subresource.

use std::net::IpAddr;

use serde_json::Value;

use super::super::value::{child, copy, get, items_mut, list, num, set, text};
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
}

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
    check_addresses(&mut errs, &path.child("podIPs"), list(status, "podIPs"));
    check_host_addresses(&mut errs, &path.child("hostIPs"), status);
    errs
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
