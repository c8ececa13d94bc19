//! What the LimitRanges of a namespace do: pods get the defaults, and pods and claims stay within the bounds.

use kontiki_machinery::admission::{Lookup, Request, Step};
use kontiki_machinery::status::aggregate;
use kontiki_model::quota::CLAIMS;
use kontiki_model::requests::{self, Amounts};
use kontiki_model::{GroupResource, resource::PODS};
use serde_json::{Value, json};

use crate::{
    Status,
    rows::value::{child, default_to, entries, fields, get, has, items_mut, list, set, text},
    schema::quantity::Amount,
};

const RANGES: GroupResource<'static> = GroupResource { group: "", resource: "limitranges" };
/// Says on a pod what it was given.
const GIVEN: &str = "kubernetes.io/limit-ranger";

pub(super) struct LimitRanger;

impl Step for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn admit(&self, request: &Request<'_>, pod: &mut Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
        // The containers of a pod that is there do not change.
        if let Some(namespace) = request.namespace.filter(|_| request.is(PODS) && request.creates()) {
            cluster.within(RANGES, namespace)?.iter().for_each(|range| give(pod, range));
        }
        Ok(())
    }

    fn validate(&self, request: &Request<'_>, object: &Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
        let Some(namespace) = request.namespace else { return Ok(()) };
        let resized = || request.def.group_resource() == PODS && request.sub == Some("resize");
        let check: fn(&Value, &Value) -> Vec<String> = match request {
            _ if request.is(PODS) && request.creates() || resized() => check_pod,
            _ if request.is(CLAIMS) && !request.old.is_some_and(going) => check_claim,
            _ => return Ok(()),
        };
        for range in cluster.within(RANGES, namespace)? {
            if let Some(why) = aggregate(check(&range, object)) {
                return Err(request.forbid(object, why));
            }
        }
        Ok(())
    }
}

fn going(object: &Value) -> bool {
    has(get(object, "metadata"), "deletionTimestamp")
}

/// The items of a range that are about a type.
fn items<'a>(range: &'a Value, kind: &'static str) -> impl Iterator<Item = &'a Value> {
    list(get(range, "spec"), "limits").iter().filter(move |item| text(item, "type") == kind)
}

/// Gives the containers of a pod the defaults of a range.
fn give(pod: &mut Value, range: &Value) {
    let mut given = Vec::new();
    for (field, word) in [("containers", "container"), ("initContainers", "init container")] {
        for container in items_mut(child(pod, "spec"), field) {
            for (kind, default, what) in [("requests", "defaultRequest", "request"), ("limits", "default", "limit")] {
                let names = items(range, "Container").flat_map(|item| fill(container, kind, get(item, default)));
                let mut names: Vec<String> = names.collect();
                names.sort();
                if !names.is_empty() {
                    given.push(format!("{} {what} for {word} {}", names.join(", "), text(container, "name")));
                }
            }
        }
    }
    if !given.is_empty() {
        let note = format!("LimitRanger plugin set: {}", given.join("; "));
        set(child(child(pod, "metadata"), "annotations"), GIVEN, note);
    }
}

/// Sets what a container does not say of `kind`; the names of it.
fn fill(container: &mut Value, kind: &str, defaults: &Value) -> Vec<String> {
    let missing = |container: &Value, name: &str| !has(get(get(container, "resources"), kind), name);
    let defaults = defaults.as_object().into_iter().flatten();
    let wanted: Vec<_> = defaults.filter(|(name, _)| missing(container, name)).collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    let needs = child(container, "resources");
    default_to(needs, kind, json!({}));
    let known = fields(child(needs, kind));
    wanted.iter().for_each(|(name, value)| drop(known.insert((*name).clone(), (*value).clone())));
    wanted.into_iter().map(|(name, _)| name.clone()).collect()
}

/// What somebody asks for and may have at most.
struct Needs {
    requests: Amounts,
    limits: Amounts,
}

impl Needs {
    fn of_container(container: &Value) -> Self {
        let of = |kind| requests::amounts(get(get(container, "resources"), kind));
        Self { requests: of("requests"), limits: of("limits") }
    }

    /// Of a pod, its overhead apart.
    fn of_pod(pod: &Value) -> Self {
        let spec = get(pod, "spec");
        let of = |kind| {
            let mut sum = requests::of_containers(spec, kind);
            sum.extend(requests::amounts(get(get(spec, "resources"), kind)));
            sum
        };
        Self { requests: of("requests"), limits: of("limits") }
    }
}

fn check_pod(range: &Value, pod: &Value) -> Vec<String> {
    let mut errs = Vec::new();
    for item in list(get(range, "spec"), "limits") {
        match text(item, "type") {
            "Container" => {
                let lists = ["containers", "initContainers"].into_iter();
                for container in lists.flat_map(|field| list(get(pod, "spec"), field)) {
                    check(&mut errs, item, &Needs::of_container(container));
                }
            }
            "Pod" => check(&mut errs, item, &Needs::of_pod(pod)),
            _ => {}
        }
    }
    errs
}

/// A claim asks for storage; it has no limits.
fn check_claim(range: &Value, claim: &Value) -> Vec<String> {
    let requests = requests::amounts(get(get(get(claim, "spec"), "resources"), "requests"));
    let mut errs = Vec::new();
    for item in items(range, "PersistentVolumeClaim") {
        for (name, least) in bounds(item, "min") {
            errs.extend(too_little(item, name, least, requests.get(name), None));
        }
        for (name, most) in bounds(item, "max") {
            let intro = format!("maximum {name} usage per PersistentVolumeClaim is {most}");
            match requests.get(name) {
                None => errs.push(format!("{intro}.  No request is specified")),
                Some(request) if *request > most => errs.push(format!("{intro}, but request is {request}")),
                Some(_) => {}
            }
        }
    }
    errs
}

fn bounds<'a>(item: &'a Value, field: &str) -> impl Iterator<Item = (&'a str, Amount)> {
    entries(item, field).filter_map(|(name, value)| Some((name.as_str(), Amount::of(value)?)))
}

fn check(errs: &mut Vec<String>, item: &Value, Needs { requests, limits }: &Needs) {
    for (name, least) in bounds(item, "min") {
        errs.extend(too_little(item, name, least, requests.get(name), limits.get(name)));
    }
    for (name, most) in bounds(item, "max") {
        errs.extend(too_much(item, name, most, requests.get(name), limits.get(name)));
    }
    for (name, ratio) in bounds(item, "maxLimitRequestRatio") {
        errs.extend(too_far_apart(item, name, ratio, requests.get(name), limits.get(name)));
    }
}

fn too_little(
    item: &Value,
    name: &str,
    least: Amount,
    request: Option<&Amount>,
    limit: Option<&Amount>,
) -> Option<String> {
    let intro = format!("minimum {name} usage per {} is {least}", text(item, "type"));
    match (request, limit) {
        (None, _) => Some(format!("{intro}.  No request is specified")),
        (Some(request), _) if *request < least => Some(format!("{intro}, but request is {request}")),
        (_, Some(limit)) if *limit < least => Some(format!("{intro}, but limit is {limit}")),
        _ => None,
    }
}

fn too_much(
    item: &Value,
    name: &str,
    most: Amount,
    request: Option<&Amount>,
    limit: Option<&Amount>,
) -> Option<String> {
    let intro = format!("maximum {name} usage per {} is {most}", text(item, "type"));
    match (request, limit) {
        (_, None) => Some(format!("{intro}.  No limit is specified")),
        (_, Some(limit)) if *limit > most => Some(format!("{intro}, but limit is {limit}")),
        (Some(request), _) if *request > most => Some(format!("{intro}, but request is {request}")),
        _ => None,
    }
}

fn too_far_apart(
    item: &Value,
    name: &str,
    most: Amount,
    request: Option<&Amount>,
    limit: Option<&Amount>,
) -> Option<String> {
    let intro = format!("{name} max limit to request ratio per {} is {most}", text(item, "type"));
    let set = |amount: Option<&Amount>| amount.copied().filter(|amount| !amount.is_zero());
    let Some(request) = set(request) else {
        return Some(format!("{intro}, but no request is specified or request is 0"));
    };
    let Some(limit) = set(limit) else {
        return Some(format!("{intro}, but no limit is specified or limit is 0"));
    };
    let ratio = limit.as_f64() / request.as_f64();
    (ratio > most.as_f64()).then(|| format!("{intro}, but provided ratio is {ratio:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(item: Value) -> Value {
        json!({"spec": {"limits": [item]}})
    }

    fn pod(containers: &[Value]) -> Value {
        json!({"spec": {"containers": containers}})
    }

    #[test]
    fn a_pod_gets_what_it_does_not_say() {
        let range = range(
            json!({"type": "Container", "default": {"cpu": "2", "memory": "1Gi"}, "defaultRequest": {"cpu": "1"}}),
        );
        let mut given = json!({"spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": "3"}}}],
            "initContainers": [{"name": "i"}]}});
        give(&mut given, &range);
        assert_eq!(
            given["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "3", "memory": "1Gi"}, "requests": {"cpu": "1"}})
        );
        assert_eq!(
            given["metadata"]["annotations"][GIVEN],
            "LimitRanger plugin set: cpu request for container a; memory limit for container a; cpu request for init container i; cpu, memory limit for init container i"
        );
        let mut twice = given.clone();
        give(&mut twice, &range);
        assert_eq!(twice, given, "a second run changes nothing");
    }

    #[test]
    fn pods_and_claims_stay_within_bounds() {
        let needs = |requests: Value, limits: Value| json!({"resources": {"requests": requests, "limits": limits}});
        let one = pod(&[needs(json!({"cpu": "1"}), json!({"cpu": "4"}))]);
        let two = pod(&[needs(json!({"cpu": "1"}), json!({})), needs(json!({"cpu": "1500m"}), json!({}))]);
        let claim = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
        for (item, object, expect) in [
            (
                json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "4"}, "maxLimitRequestRatio": {"cpu": "4"}}),
                &one,
                "",
            ),
            (
                json!({"type": "Container", "min": {"cpu": "2"}}),
                &one,
                "minimum cpu usage per Container is 2, but request is 1",
            ),
            (
                json!({"type": "Container", "min": {"memory": "2"}}),
                &one,
                "minimum memory usage per Container is 2.  No request is specified",
            ),
            (
                json!({"type": "Container", "max": {"cpu": "2"}}),
                &one,
                "maximum cpu usage per Container is 2, but limit is 4",
            ),
            (
                json!({"type": "Container", "max": {"memory": "2"}}),
                &one,
                "maximum memory usage per Container is 2.  No limit is specified",
            ),
            (
                json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2500m"}}),
                &one,
                "cpu max limit to request ratio per Container is 2500m, but provided ratio is 4.000000",
            ),
            (json!({"type": "Pod", "min": {"cpu": "3"}}), &two, "minimum cpu usage per Pod is 3, but request is 2500m"),
            (
                json!({"type": "Pod", "min": {"cpu": "3"}, "max": {"cpu": "2"}}),
                &two,
                "[minimum cpu usage per Pod is 3, but request is 2500m, maximum cpu usage per Pod is 2.  No limit is specified]",
            ),
            (json!({"type": "PersistentVolumeClaim", "max": {"storage": "2Gi"}}), &claim, ""),
            (
                json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}),
                &claim,
                "maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi",
            ),
            (
                json!({"type": "PersistentVolumeClaim", "min": {"storage": "3Gi"}}),
                &claim,
                "minimum storage usage per PersistentVolumeClaim is 3Gi, but request is 2Gi",
            ),
        ] {
            let range = range(item);
            let found = [check_pod(&range, object), check_claim(&range, object)].concat();
            // An item is about one of the two.
            assert_eq!(aggregate(found).unwrap_or_default(), expect, "{range}");
        }
    }
}
