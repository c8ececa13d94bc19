//! Requests and limits: names, amounts, and sums over containers.

use serde_json::Value;

use super::super::value::{entries, get, has, list, text};
use super::super::vocab::{self, Errors};
use crate::schema::quantity::Amount;
use crate::{FieldError, Path};
use kontiki_model::requests;

const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];
const WHOLE: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

fn huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Resources of Kubernetes itself.
fn native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Resources of device plugins, in a domain of their own.
pub fn extended(name: &str) -> bool {
    !native(name) && !name.starts_with("requests.") && vocab::qualified_errors(&format!("requests.{name}")).is_empty()
}

/// Whether requests may stay below limits.
pub fn overcommittable(name: &str) -> bool {
    native(name) && !huge_pages(name)
}

pub use kontiki_model::requests::pod_level;

/// Whose resources are checked.
#[derive(Clone, Copy, PartialEq)]
pub enum Of {
    /// A container's.
    Container,
    /// The pod's own.
    Pod,
}

/// Whether it is a resource without a domain that is known.
pub fn standard(name: &str) -> bool {
    STANDARD.contains(&name) || huge_pages(name) || name.starts_with("requests.hugepages-")
}

/// Checks the name of a resource of whatever kind.
pub fn check_any_name(errs: &mut Errors, path: &Path, name: &str) {
    let before = errs.len();
    vocab::qualified_name(errs, path, name);
    if errs.len() == before && !name.contains('/') && !standard(name) {
        errs.push(FieldError::invalid(path, name, "must be a standard resource type or fully qualified"));
    }
}

/// Checks the name of a resource that containers or pods ask for.
pub fn check_name(errs: &mut Errors, path: &Path, name: &str, of: Of) {
    let before = errs.len();
    check_any_name(errs, path, name);
    if of == Of::Pod {
        if errs.len() == before && !pod_level(name) {
            errs.push(FieldError::not_supported(path, name, &["cpu", "hugepages-", "memory"]));
        }
        return;
    }
    if !name.contains('/') {
        if !["cpu", "memory", "ephemeral-storage"].contains(&name) && !huge_pages(name) {
            errs.push(FieldError::invalid(path, name, "must be a standard resource for containers"));
        }
    } else if !native(name) && !extended(name) {
        errs.push(FieldError::invalid(path, name, "doesn't follow extended resource name standard"));
    }
}

/// Checks one amount of a resource.
pub fn check_amount(errs: &mut Errors, path: &Path, name: &str, value: &Value) {
    let Some(amount) = Amount::of(value) else { return };
    if amount.negative() {
        errs.push(FieldError::invalid(path, amount.to_string(), vocab::NOT_NEGATIVE));
    }
    if (WHOLE.contains(&name) || extended(name)) && amount.fractional() {
        errs.push(FieldError::invalid(path, amount.to_string(), "must be an integer"));
    }
}

fn check_huge_page(errs: &mut Errors, path: &Path, name: &str, amount: Amount) {
    let Some(size) = name.strip_prefix("hugepages-").and_then(Amount::parse) else { return };
    let divisible = size.whole() > 0 && amount.whole() % size.whole() == 0;
    if !divisible {
        let message = format!("{amount} is not positive integer multiple of {name}");
        errs.push(FieldError::invalid(path, amount.to_string(), message));
    }
}

/// Checks requests and limits.
pub fn check(errs: &mut Errors, path: &Path, needs: &Value, of: Of, claims: &[&str]) {
    for kind in ["limits", "requests"] {
        for (name, value) in entries(needs, kind) {
            let key = path.child(kind).key(name);
            check_name(errs, &key, name, of);
            check_amount(errs, &key, name, value);
            let Some(amount) = Amount::of(value) else { continue };
            if kind == "requests" {
                check_against_limit(errs, path, needs, name, amount);
            }
            if huge_pages(name) {
                check_huge_page(errs, &key, name, amount);
            }
        }
    }
    let named =
        |test: fn(&str) -> bool| ["limits", "requests"].iter().any(|kind| entries(needs, kind).any(|(n, _)| test(n)));
    if named(huge_pages) && !named(|name| name == "cpu" || name == "memory") {
        errs.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
    check_claims(errs, &path.child("claims"), list(needs, "claims"), claims);
}

fn check_against_limit(errs: &mut Errors, path: &Path, needs: &Value, name: &str, amount: Amount) {
    let requests = path.child("requests");
    match Amount::of(get(get(needs, "limits"), name)) {
        Some(limit) if amount != limit && !overcommittable(name) => {
            let message = format!("must be equal to {name} limit of {limit}");
            errs.push(FieldError::invalid(requests, amount.to_string(), message));
        }
        Some(limit) if amount > limit => {
            let message = format!("must be less than or equal to {name} limit of {limit}");
            errs.push(FieldError::invalid(requests, amount.to_string(), message));
        }
        None if !overcommittable(name) => {
            let message = "Limit must be set for non overcommitable resources";
            errs.push(FieldError::required(path.child("limits"), message));
        }
        _ => {}
    }
}

fn check_claims(errs: &mut Errors, path: &Path, used: &[Value], known: &[&str]) {
    let mut seen: Vec<String> = Vec::new();
    for (i, claim) in used.iter().enumerate() {
        let path = path.index(i);
        let name = text(claim, "name");
        if name.is_empty() {
            errs.push(FieldError::required(&path, ""));
            continue;
        }
        let request = text(claim, "request");
        if !request.is_empty() {
            vocab::label(errs, &path.child("request"), request);
        }
        let key = if request.is_empty() { name.to_owned() } else { format!("{name}/{request}") };
        let clash = |other: &String| {
            *other == key || *other == name || (request.is_empty() && other.split('/').next() == Some(name))
        };
        if seen.iter().any(clash) {
            errs.push(FieldError::duplicate(&path, key.clone()));
        }
        seen.push(key);
        if !known.contains(&name) {
            let mut missing = FieldError::not_found(&path, name);
            missing.detail = match known {
                [] => "must be one of the names in pod.spec.resourceClaims which is empty".into(),
                known => format!("must be one of the names in pod.spec.resourceClaims: {}", known.join(", ")),
            };
            errs.push(missing);
        }
    }
}

/// Checks the resources of the pod as a whole against those of its containers.
pub fn check_pod_level(errs: &mut Errors, path: &Path, spec: &Value) {
    let own = get(spec, "resources");
    if own.is_null() {
        return;
    }
    if has(own, "claims") {
        errs.push(FieldError::forbidden(path.child("claims"), "claims cannot be set for Resources at pod-level"));
    }
    check(errs, path, own, Of::Pod, &[]);
    for (name, sum) in requests::of_containers(spec, "requests") {
        let asked = Amount::of(get(get(own, "requests"), &name)).unwrap_or(Amount::ZERO);
        if sum > asked {
            let message = format!("must be greater than or equal to aggregate container requests of {sum}");
            errs.push(FieldError::invalid(path.child("requests").key(&name), asked.to_string(), message));
        }
    }
    for (i, container) in list(spec, "containers").iter().enumerate() {
        for (name, limit) in entries(get(container, "resources"), "limits") {
            let (Some(limit), Some(pod)) = (Amount::of(limit), Amount::of(get(get(own, "limits"), name))) else {
                continue;
            };
            if limit > pod {
                let path = path.child("containers").index(i).key(name).child("limits");
                errs.push(FieldError::invalid(
                    path,
                    limit.to_string(),
                    format!("must be less than or equal to pod limits of {pod}"),
                ));
            }
        }
    }
}
