//! Small questions about pods, as upstream answers them.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use crate::action::{Action, Announce, Kind, patch, reference, to_value};
use crate::object::{self, after_seconds, deleting};

/// The phase; empty before it has one.
#[must_use]
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Whether all its containers have ended for good.
#[must_use]
pub fn finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether it counts as a replica: neither ended nor on its way out.
#[must_use]
pub fn active(pod: &Pod) -> bool {
    !finished(pod) && !deleting(&pod.metadata)
}

/// The node it is bound to.
#[must_use]
pub fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// One condition.
#[must_use]
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// Whether it serves.
#[must_use]
pub fn ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Since when it serves; `None` if it does not or nobody noted it.
#[must_use]
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let condition = condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    condition.last_transition_time.as_ref().map(|time| time.0)
}

/// When the pod will have been ready for `min_ready` seconds; `None` while it is not ready.
#[must_use]
pub fn available_at(pod: &Pod, min_ready: i32) -> Option<Timestamp> {
    if !ready(pod) {
        return None;
    }
    if min_ready <= 0 {
        return Some(Timestamp::MIN);
    }
    ready_since(pod).map(|since| after_seconds(since, i64::from(min_ready)))
}

/// The most restarts of any container.
#[must_use]
pub fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).max().unwrap_or(0)
}

/// Says why the system deletes the pod, in its `DisruptionTarget` condition. Nothing if it says so
/// already.
#[must_use]
pub fn disrupt(pod: &Pod, reason: &str, message: &str, now: Timestamp) -> Option<Action> {
    if condition(pod, "DisruptionTarget").is_some_and(|c| c.status == "True" && c.reason.as_deref() == Some(reason)) {
        return None;
    }
    let target = PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(object::time(now)),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    };
    let conditions = with_condition(pod, target);
    Some(patch(pod, Some("status"), json!({"status": {"conditions": to_value(&conditions)}})))
}

/// The pod's conditions with `new` in place of its namesake, or added at the end.
#[must_use]
pub fn with_condition(pod: &Pod, new: PodCondition) -> Vec<PodCondition> {
    let mut conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    match conditions.iter_mut().find(|condition| condition.type_ == new.type_) {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
    conditions
}

/// A pod made from `template`, managed by `owner`, with a generated name.
#[must_use]
pub fn from_template<K: Kind>(template: &PodTemplateSpec, owner: &K) -> Pod {
    let wanted = template.metadata.clone().unwrap_or_default();
    let meta = owner.metadata();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", object::name(meta))),
            namespace: meta.namespace.clone(),
            labels: wanted.labels,
            annotations: wanted.annotations,
            finalizers: wanted.finalizers,
            owner_references: Some(vec![object::controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone().unwrap_or_default()),
        status: None,
    }
}

/// What `component` tells people when a pod with a generated name is made for `owner`.
#[must_use]
pub fn announce_creation<K: Kind>(owner: &K, component: &'static str) -> Announce {
    Announce {
        regarding: reference(owner),
        component,
        done: ("SuccessfulCreate", "Created pod: "),
        failed: ("FailedCreate", "Error creating: "),
    }
}

/// What `component` tells people when it deletes a pod of `owner`.
#[must_use]
pub fn announce_deletion<K: Kind>(owner: &K, component: &'static str) -> Announce {
    Announce {
        done: ("SuccessfulDelete", "Deleted pod: "),
        failed: ("FailedDelete", "Error deleting: "),
        ..announce_creation(owner, component)
    }
}
