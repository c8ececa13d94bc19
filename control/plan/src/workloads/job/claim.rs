//! Which pods are the Job's.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{FINALIZER, View, finalizers};
use crate::action::{Action, patch, to_value};
use crate::object::{controller, controller_reference, deleting, labels, uid};
use crate::selection::Selects as _;

/// Adopts strangers that match, and lets go what no longer matches.
pub(super) fn plan(view: &View) -> Vec<Action> {
    let job = view.job.as_ref();
    let Some(selector) = job.selector() else { return Vec::new() };
    let gone = deleting(&job.metadata);
    let claim = |pod: &Pod| {
        let matches = selector.matches(&labels(&pod.metadata));
        match controller(&pod.metadata) {
            Some(owner) if owner.uid != uid(&job.metadata) => None,
            Some(_) if matches || gone => None,
            Some(_) => Some(let_go(pod, uid(&job.metadata))),
            None if matches && !gone && !deleting(&pod.metadata) => Some(adopt(pod, job)),
            None => None,
        }
    };
    view.pods.iter().filter_map(|pod| claim(pod)).collect()
}

/// What was adopted is counted from now on.
fn adopt(pod: &Pod, job: &Job) -> Action {
    let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
    owners.push(controller_reference(job));
    let mut names = finalizers(&pod.metadata).to_vec();
    if !names.iter().any(|name| name == FINALIZER) {
        names.push(FINALIZER.to_owned());
    }
    patch(pod, None, json!({"metadata": {"ownerReferences": to_value(&owners), "finalizers": names}}))
}

/// What was let go is not counted any more.
fn let_go(pod: &Pod, owner_uid: &str) -> Action {
    let owners = pod.metadata.owner_references.iter().flatten();
    let owners: Vec<_> = owners.filter(|owner| owner.uid != owner_uid).collect();
    let names: Vec<_> = finalizers(&pod.metadata).iter().filter(|name| *name != FINALIZER).collect();
    let owners = if owners.is_empty() { Value::Null } else { to_value(&owners) };
    let names = if names.is_empty() { Value::Null } else { to_value(&names) };
    patch(pod, None, json!({"metadata": {"ownerReferences": owners, "finalizers": names}}))
}
