//! Rules about restarts and ends that the planner and the status share.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::{
    backoff::Backoff,
    observed::{self, Memory, Observed, State},
};

/// When a container is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Always,
    OnFailure,
    Never,
}

/// How a pod ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodEnd {
    Succeeded,
    Failed,
    DeadlineExceeded,
}

fn parse(policy: Option<&str>) -> Option<Policy> {
    match policy? {
        "Always" => Some(Policy::Always),
        "OnFailure" => Some(Policy::OnFailure),
        "Never" => Some(Policy::Never),
        _ => None,
    }
}

/// The pod's restart policy.
#[must_use]
pub fn pod_policy(spec: &PodSpec) -> Policy {
    parse(spec.restart_policy.as_deref()).unwrap_or(Policy::Always)
}

/// Whether an init container keeps running beside the others.
#[must_use]
pub fn sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The restart policy of a regular container.
#[must_use]
pub fn policy(spec: &PodSpec, container: &Container) -> Policy {
    parse(container.restart_policy.as_deref()).unwrap_or_else(|| pod_policy(spec))
}

/// The restart policy of an init container that is not a sidecar: it runs until it succeeds.
#[must_use]
pub fn init_policy(spec: &PodSpec) -> Policy {
    if pod_policy(spec) == Policy::Never { Policy::Never } else { Policy::OnFailure }
}

/// Init containers, then regular ones.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// The definition of a container by name.
#[must_use]
pub fn definition<'a>(spec: &'a PodSpec, name: &str) -> Option<&'a Container> {
    containers(spec).find(|c| c.name == name)
}

/// Whether `name` is an init container.
#[must_use]
pub fn is_init(spec: &PodSpec, name: &str) -> bool {
    spec.init_containers.iter().flatten().any(|c| c.name == name)
}

/// Whether a container that is seen so should be started (again).
#[must_use]
pub fn should_start(policy: Policy, latest: Option<&observed::Container>) -> bool {
    match latest {
        None => true,
        Some(latest) => match latest.state {
            State::Running | State::Unknown => false,
            State::Created => true,
            State::Exited => match policy {
                Policy::Always => true,
                Policy::OnFailure => latest.exit_code != 0,
                Policy::Never => false,
            },
        },
    }
}

/// How the pod ended. `None`: it has not.
#[must_use]
pub fn outcome(pod: &Pod, seen: &Observed, now: Timestamp) -> Option<PodEnd> {
    match pod.status.as_ref().and_then(|s| s.phase.as_deref()) {
        Some("Succeeded") => return Some(PodEnd::Succeeded),
        Some("Failed") => return Some(PodEnd::Failed),
        _ => {}
    }
    let spec = pod.spec.as_ref()?;
    if active_deadline(pod).is_some_and(|deadline| now >= deadline) {
        return Some(PodEnd::DeadlineExceeded);
    }
    let init_failed = |c: &&Container| {
        !sidecar(c) && seen.latest(&c.name).is_some_and(|s| s.state == State::Exited && s.exit_code != 0)
    };
    if init_policy(spec) == Policy::Never && spec.init_containers.iter().flatten().any(|c| init_failed(&c)) {
        return Some(PodEnd::Failed);
    }
    let mut failed = false;
    for container in &spec.containers {
        let latest = seen.latest(&container.name)?;
        if latest.state != State::Exited || should_start(policy(spec, container), Some(latest)) {
            return None;
        }
        failed |= latest.exit_code != 0;
    }
    Some(if failed { PodEnd::Failed } else { PodEnd::Succeeded })
}

/// When `activeDeadlineSeconds` runs out.
#[must_use]
pub fn active_deadline(pod: &Pod) -> Option<Timestamp> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    let started = pod.status.as_ref()?.start_time.as_ref()?.0;
    started.checked_add(SignedDuration::from_secs(seconds)).ok()
}

/// Until when a crashed container stays down. `None`: it may start now.
#[must_use]
pub fn crash_until(memory: &Memory, latest: &observed::Container, now: Timestamp) -> Option<Timestamp> {
    if latest.state != State::Exited {
        return None;
    }
    let backoff = memory.restarts.get(&latest.name).copied();
    Backoff::until(backoff, latest.finished.unwrap_or(latest.created)).filter(|until| *until > now)
}

/// The grace period that the pod's definition grants.
#[must_use]
pub fn grace(pod: &Pod) -> SignedDuration {
    let seconds = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
    SignedDuration::from_secs(seconds.clamp(0, i64::from(i32::MAX)))
}

/// Changes when the container must be replaced: its image is the one mutable part.
#[must_use]
pub fn definition_hash(container: &Container) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let image = container.image.as_deref().unwrap_or("");
    for byte in container.name.bytes().chain([0]).chain(image.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:x}")
}
