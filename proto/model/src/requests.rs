//! What a pod asks for, summed over its containers, from its JSON form (upstream's `component-helpers/resource`).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::amount::Amount;

/// Amounts by the name of a resource.
pub type Amounts = BTreeMap<String, Amount>;

/// Reads a map of amounts; what is none is left out.
#[must_use]
pub fn amounts(map: &Value) -> Amounts {
    let entries = map.as_object().into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), Amount::of(value)?))).collect()
}

fn list<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object[field].as_array().map_or(&[], Vec::as_slice)
}

/// Whether a pod as a whole can ask for it.
#[must_use]
pub fn pod_level(name: &str) -> bool {
    name == "cpu" || name == "memory" || name.starts_with("hugepages-")
}

/// What all containers of a pod's spec together need (`kind`: `requests`, `limits`): the sum of the regular ones and
/// sidecars, or what the hungriest init container needs beside the sidecars started before it.
#[must_use]
pub fn of_containers(spec: &Value, kind: &str) -> Amounts {
    sum(spec, |container| amounts(&container["resources"][kind]))
}

/// What a pod holds: its containers, by what they ask for or already have while that is changed; what it asks for as
/// a whole instead; and its overhead.
#[must_use]
pub fn of_pod(pod: &Value, kind: &str) -> Amounts {
    let spec = &pod["spec"];
    let mut total = sum(spec, |container| held(pod, container, kind));
    for (name, amount) in amounts(&spec["resources"][kind]) {
        if pod_level(&name) {
            total.insert(name, amount);
        }
    }
    for (name, amount) in amounts(&spec["overhead"]) {
        match total.get_mut(&name) {
            Some(sum) => *sum = sum.plus(amount),
            // An overhead is no limit for what has none.
            None if kind == "requests" => drop(total.insert(name, amount)),
            None => {}
        }
    }
    total
}

fn held(pod: &Value, container: &Value, kind: &str) -> Amounts {
    let asked = amounts(&container["resources"][kind]);
    let statuses = ["containerStatuses", "initContainerStatuses"].into_iter();
    let mut statuses = statuses.flat_map(|field| list(&pod["status"], field));
    let Some(status) = statuses.find(|status| status["name"] == container["name"]) else { return asked };
    let mut most = if infeasible(pod) { Amounts::new() } else { asked };
    let mut seen = vec![amounts(&status["resources"][kind])];
    if kind == "requests" {
        seen.push(amounts(&status["allocatedResources"]));
    }
    let known = !most.is_empty();
    for (name, amount) in seen.into_iter().flatten() {
        most.entry(name).and_modify(|most| *most = most.or_more(amount)).or_insert(amount);
    }
    if most.is_empty() && !known { amounts(&container["resources"][kind]) } else { most }
}

/// Whether what was asked for can never be given.
fn infeasible(pod: &Value) -> bool {
    list(&pod["status"], "conditions")
        .iter()
        .any(|condition| condition["type"] == "PodResizePending" && condition["reason"] == "Infeasible")
}

fn add(into: &mut Amounts, needs: &Amounts) {
    for (name, amount) in needs {
        into.entry(name.clone()).and_modify(|sum| *sum = sum.plus(*amount)).or_insert(*amount);
    }
}

fn sum(spec: &Value, needs: impl Fn(&Value) -> Amounts) -> Amounts {
    let (mut total, mut sidecars, mut peak) = (Amounts::new(), Amounts::new(), Amounts::new());
    for container in list(spec, "containers") {
        add(&mut total, &needs(container));
    }
    for container in list(spec, "initContainers") {
        let (mut now, needs) = (sidecars.clone(), needs(container));
        add(&mut now, &needs);
        if container["restartPolicy"] == "Always" {
            add(&mut total, &needs);
            sidecars.clone_from(&now);
        }
        for (name, amount) in now {
            peak.entry(name).and_modify(|most| *most = most.or_more(amount)).or_insert(amount);
        }
    }
    for (name, amount) in peak {
        total.entry(name).and_modify(|most| *most = most.or_more(amount)).or_insert(amount);
    }
    total
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_asks_for_what_it_needs_at_once() {
        let needs = |name: &str, cpu: &str| json!({"name": name, "resources": {"requests": {"cpu": cpu}}});
        let sidecar =
            |cpu: &str| json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        for (what, pod, expect) in [
            ("a sum", json!({"spec": {"containers": [needs("a", "1"), needs("b", "500m")]}}), "1500m"),
            (
                "an init container",
                json!({"spec": {"containers": [needs("a", "1")], "initContainers": [needs("i", "2")]}}),
                "2",
            ),
            (
                "beside a sidecar",
                json!({"spec": {"containers": [needs("a", "1")], "initContainers": [sidecar("1"), needs("i", "2")]}}),
                "3",
            ),
            (
                "as a whole",
                json!({"spec": {"containers": [needs("a", "1")], "resources": {"requests": {"cpu": "4"}}}}),
                "4",
            ),
            ("with overhead", json!({"spec": {"containers": [needs("a", "1")], "overhead": {"cpu": "1"}}}), "2"),
            (
                "shrinking",
                json!({"spec": {"containers": [needs("a", "1")]},
                    "status": {"containerStatuses": [{"name": "a", "allocatedResources": {"cpu": "3"}}]}}),
                "3",
            ),
            (
                "growing in vain",
                json!({"spec": {"containers": [needs("a", "9")]},
                    "status": {"conditions": [{"type": "PodResizePending", "reason": "Infeasible"}],
                        "containerStatuses": [{"name": "a", "allocatedResources": {"cpu": "3"}}]}}),
                "3",
            ),
        ] {
            assert_eq!(of_pod(&pod, "requests")["cpu"].to_string(), expect, "{what}");
        }
        assert!(of_pod(&json!({"spec": {"overhead": {"cpu": "1"}}}), "limits").is_empty());
    }
}
