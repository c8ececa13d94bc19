//! Pods that wait to be counted though no Job will: their finalizer goes.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::Resource as _;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use super::{MANAGER, held, release};
use crate::action::Plan;
use crate::key::NamespacedName;
use crate::object::{controller, deleting, namespace, uid};
use crate::selection::Selects as _;

/// What a plan is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A Job with its pods.
    Job(NamespacedName),
    /// A pod that has no Job.
    Stray(NamespacedName),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job(name) => name.fmt(f),
            Self::Stray(name) => write!(f, "pod {name}"),
        }
    }
}

/// A pod, and the Job that it names as its manager, if that is there.
pub struct Stray {
    /// The pod.
    pub pod: Arc<Pod>,
    /// The Job of that name.
    pub job: Option<Arc<Job>>,
}

/// The Job that a pod names.
fn job_of(pod: &Pod) -> Option<NamespacedName> {
    let owner = controller(&pod.metadata).filter(|owner| owner.kind == Job::KIND)?;
    let ours = owner.api_version.split('/').next() == Some(Job::GROUP);
    ours.then(|| NamespacedName::new(namespace(&pod.metadata), &owner.name))
}

/// Whom a change of a pod concerns: the Jobs that manage or managed it, those that may adopt it, itself if it has a
/// finalizer and no Job.
pub fn by_pod(old: Option<&Pod>, new: Option<&Pod>, selecting: impl FnOnce(&Pod) -> Vec<Arc<Job>>) -> Vec<Key> {
    let mut keys: Vec<Key> = old.into_iter().chain(new).filter_map(job_of).map(Key::Job).collect();
    keys.dedup();
    let Some(pod) = new else { return keys };
    if held(pod) {
        keys.push(Key::Stray(NamespacedName::of(&pod.metadata)));
    }
    if controller(&pod.metadata).is_none() {
        let candidates = selecting(pod).into_iter().filter(|job| job.selects(&pod.metadata));
        keys.extend(candidates.map(|job| Key::Job(NamespacedName::of(&job.metadata))));
    }
    keys
}

/// Whom a change of a Job concerns: itself, and once it is gone its pods.
pub fn by_job(name: NamespacedName, gone: bool, pods: impl FnOnce() -> Vec<Arc<Pod>>) -> Vec<Key> {
    let mut keys = vec![Key::Job(name)];
    if gone {
        let strays = pods().into_iter().filter(|pod| held(pod));
        keys.extend(strays.map(|pod| Key::Stray(NamespacedName::of(&pod.metadata))));
    }
    keys
}

/// Frees the pod if no Job counts it.
#[must_use]
pub fn plan(stray: &Stray) -> Plan {
    let pod = stray.pod.as_ref();
    if !held(pod) {
        return Plan::rest("no finalizer holds it");
    }
    let owner = controller(&pod.metadata);
    let job = stray.job.as_ref().filter(|job| owner.is_some_and(|owner| owner.uid == uid(&job.metadata)));
    match job {
        Some(job) if !deleting(&job.metadata) => Plan::rest("its Job counts it"),
        Some(job) if job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref()).is_some_and(|m| m != MANAGER) => {
            Plan::rest("somebody else manages its Job")
        }
        _ => Plan::new("its Job is gone", vec![release(pod)]),
    }
}
