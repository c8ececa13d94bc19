//! What a node reported, laid over what is stored. Pure.
//!
//! Invariants
//! - A node owns its own conditions and fields; conditions that others set (the scheduler's, a
//!   readiness gate's) outlive its reports.

use kontiki_model::ingress::CONDITION;
use serde_json::{Map, Value};

/// Conditions that the kubelet, here the agent, owns on a Pod: if its report leaves one out, it goes.
const AGENT_POD_CONDITIONS: [&str; 6] =
    ["Ready", "ContainersReady", "Initialized", "PodReadyToStartContainers", "PodResizePending", "PodResizeInProgress"];
/// Fields of a Pod's status that others write and that a report therefore does not remove.
const KEPT_OF_POD: [&str; 4] =
    ["qosClass", "nominatedNodeName", "resourceClaimStatuses", "extendedResourceClaimStatus"];
/// As above, of a Node's.
const KEPT_OF_NODE: [&str; 2] = ["volumesAttached", "phase"];

/// The status to store for a pod whose agent reports `new` over `old`.
#[must_use]
pub fn pod_status(old: &Value, new: &Value) -> Value {
    let owned = |kind: &str| AGENT_POD_CONDITIONS.contains(&kind);
    lay_over(old, new, &KEPT_OF_POD, &owned)
}

/// The status to store for a node whose agent reports `new` over `old`.
#[must_use]
pub fn node_status(old: &Value, new: &Value) -> Value {
    // Other conditions come from problem detectors and network add-ons.
    let owned = |kind: &str| matches!(kind, "Ready" | "MemoryPressure" | "DiskPressure" | "PIDPressure" | CONDITION);
    lay_over(old, new, &KEPT_OF_NODE, &owned)
}

fn lay_over(old: &Value, new: &Value, kept: &[&str], owned: &dyn Fn(&str) -> bool) -> Value {
    let mut out: Map<String, Value> = new.as_object().cloned().unwrap_or_default();
    for field in kept {
        if let (Some(value), false) = (old.get(field), out.contains_key(*field)) {
            out.insert((*field).to_owned(), value.clone());
        }
    }
    let list = |status: &Value| status.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let kind = |condition: &Value| condition["type"].as_str().unwrap_or_default().to_owned();
    let mut conditions = list(new);
    let reported: Vec<String> = conditions.iter().map(kind).collect();
    conditions.extend(list(old).into_iter().filter(|c| !owned(&kind(c)) && !reported.contains(&kind(c))));
    if !conditions.is_empty() {
        out.insert("conditions".to_owned(), Value::Array(conditions));
    }
    Value::Object(out)
}

/// The merge patch that brings a registered node's labels and annotations up to what its agent says;
/// `None` if they are. Labels that others set stay.
#[must_use]
pub fn node_patch(stored: &Value, hello: &Value) -> Option<Value> {
    let mut metadata = Map::new();
    for field in ["labels", "annotations"] {
        let wanted = hello["metadata"][field].as_object().into_iter().flatten();
        let changed: Map<String, Value> = wanted
            .filter(|(key, value)| stored["metadata"][field].get(key.as_str()) != Some(value))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !changed.is_empty() {
            metadata.insert(field.to_owned(), Value::Object(changed));
        }
    }
    (!metadata.is_empty()).then(|| serde_json::json!({ "metadata": metadata }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reports_replace_what_the_agent_owns_and_keep_the_rest() {
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
        for (name, old, new, expect) in [
            ("first report", json!({}), json!({"phase": "Running"}), json!({"phase": "Running"})),
            (
                "the scheduler's condition stays",
                json!({"phase": "Pending", "conditions": [condition("PodScheduled", "True")]}),
                json!({"phase": "Running", "conditions": [condition("Ready", "True")]}),
                json!({"phase": "Running", "conditions": [condition("Ready", "True"), condition("PodScheduled", "True")]}),
            ),
            (
                "the agent's own is replaced or goes",
                json!({"conditions": [condition("Ready", "True"), condition("PodResizePending", "True")]}),
                json!({"conditions": [condition("Ready", "False")]}),
                json!({"conditions": [condition("Ready", "False")]}),
            ),
            (
                "what the agent no longer says goes, what others wrote stays",
                json!({"reason": "Evicted", "qosClass": "Burstable", "nominatedNodeName": "a1"}),
                json!({"phase": "Running", "qosClass": "BestEffort"}),
                json!({"phase": "Running", "qosClass": "BestEffort", "nominatedNodeName": "a1"}),
            ),
            ("nonsense is an empty report", json!({"phase": "Running"}), json!([1]), json!({})),
        ] {
            assert_eq!(pod_status(&old, &new), expect, "{name}");
        }
    }

    #[test]
    fn a_node_keeps_labels_that_people_gave_it() {
        let stored = json!({"metadata": {"labels": {"disk": "ssd", "kubernetes.io/hostname": "old"}}});
        let hello = json!({"metadata": {"labels": {"kubernetes.io/hostname": "a1"}}});
        assert_eq!(
            node_patch(&stored, &hello),
            Some(json!({"metadata": {"labels": {"kubernetes.io/hostname": "a1"}}}))
        );
        assert_eq!(node_patch(&hello, &hello), None);
    }
}
