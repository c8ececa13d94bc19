//! The `status` of a pod, as kubelet reports it.
//!
//! Invariants
//! - A phase of `Succeeded` or `Failed` is never taken back.
//! - `lastTransitionTime` changes only with a condition's status.
//! - Conditions that the node does not own are kept as they are.
//!
//! Not here: writing it (the masters merge and store it).

use std::net::IpAddr;

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, HostIP, PodIP, PodSpec, PodStatus, ResourceRequirements, VolumeMountStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    backoff::go_duration,
    observed::{self, State},
    resources::Qos,
    rules::{self, PodEnd},
    step::View,
    time::whole_seconds,
};

mod conditions;
mod phase;
pub mod sync;

/// The pod's status now. `host_ips`: addresses of the node.
#[must_use]
pub fn status(view: &View<'_>, host_ips: &[IpAddr]) -> PodStatus {
    let old = view.pod.status.clone().unwrap_or_default();
    let Some(spec) = &view.pod.spec else { return old };
    let of = |container: &Container, sort| container_status(view, spec, container, sort, &old);
    let init = spec.init_containers.iter().flatten().map(|c| of(c, Sort::Init)).collect::<Vec<_>>();
    let regular = spec.containers.iter().map(|c| of(c, Sort::Regular)).collect::<Vec<_>>();
    let ephemeral = rules::ephemeral(spec).map(|c| of(&c, Sort::Ephemeral)).collect::<Vec<_>>();
    let outcome = rules::outcome(view.pod, view.seen, view.now);
    let settled = view.seen.containers.iter().all(|c| !c.alive());
    let terminal = settled && (view.ending.is_some() || outcome.is_some());
    let phase = match old.phase.as_deref() {
        Some(done @ ("Succeeded" | "Failed")) => done.to_owned(),
        _ if outcome == Some(PodEnd::DeadlineExceeded) || view.memory.ended_by_node.is_some() => "Failed".to_owned(),
        _ => phase::phase(spec, &init, &regular, terminal).to_owned(),
    };
    let ips = pod_ips(view, spec, host_ips, &old);
    let (reason, message) = match (outcome, &view.memory.ended_by_node) {
        (_, Some(why)) => (Some(why.reason.to_owned()), Some(why.message.clone())),
        (Some(PodEnd::DeadlineExceeded), _) => deadline_text(),
        _ => (old.reason.clone(), old.message.clone()),
    };
    let mut new = PodStatus {
        conditions: None,
        observed_generation: view.pod.metadata.generation,
        host_ip: host_ips.first().map(IpAddr::to_string),
        host_ips: Some(host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        qos_class: Some(old.qos_class.clone().unwrap_or_else(|| Qos::of(spec).name().to_owned())),
        start_time: Some(old.start_time.clone().unwrap_or(Time(whole_seconds(view.now)))),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: Some(regular),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        reason,
        message,
        phase: Some(phase),
        ..old.clone()
    };
    new.conditions = Some(conditions::conditions(view, spec, &new, &old));
    new
}

fn deadline_text() -> (Option<String>, Option<String>) {
    let message = "Pod was active on the node longer than the specified deadline";
    (Some("DeadlineExceeded".to_owned()), Some(message.to_owned()))
}

fn pod_ips(view: &View<'_>, spec: &PodSpec, host_ips: &[IpAddr], old: &PodStatus) -> Vec<String> {
    let Some(sandbox) = view.seen.sandbox().filter(|s| s.ready && !view.memory.stopped_sandboxes.contains(&s.id))
    else {
        // Clients still want to know where a finished pod was.
        return old.pod_ips.iter().flatten().map(|p| p.ip.clone()).collect();
    };
    let ips = if spec.host_network == Some(true) { host_ips } else { &sandbox.ips };
    ips.iter().map(IpAddr::to_string).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Init,
    Regular,
    Ephemeral,
}

fn container_status(
    view: &View<'_>,
    spec: &PodSpec,
    container: &Container,
    sort: Sort,
    old: &PodStatus,
) -> ContainerStatus {
    let is_init = sort == Sort::Init;
    let list = match sort {
        Sort::Init => &old.init_container_statuses,
        Sort::Regular => &old.container_statuses,
        Sort::Ephemeral => &old.ephemeral_container_statuses,
    };
    let known = list.iter().flatten().find(|s| s.name == container.name);
    let Some(latest) = view.seen.latest(&container.name) else {
        return unseen(view, spec, container, known);
    };
    let probed = view.memory.probed.get(&latest.id).copied().unwrap_or_default();
    let running = latest.state == State::Running && !view.memory.post_start.contains(&latest.id);
    let started = running && probed.started(container);
    let finished_init = is_init && !rules::sidecar(container) && latest.state == State::Exited && latest.exit_code == 0;
    let serves = sort == Sort::Regular || (is_init && rules::sidecar(container));
    let (state, last) = states(view, spec, container, latest);
    ContainerStatus {
        name: container.name.clone(),
        state: Some(state),
        last_state: Some(last.or_else(|| remembered(known?, latest)).unwrap_or_default()),
        ready: finished_init || (serves && started && probed.ready(container)),
        started: (sort != Sort::Ephemeral).then_some(started),
        restart_count: i32::try_from(latest.attempt).unwrap_or(i32::MAX),
        image: image_name(container, latest),
        image_id: latest.image_id.clone(),
        container_id: Some(format!("containerd://{}", latest.id)),
        resources: Some(resources(view, container, latest)),
        ..skeleton(container)
    }
}

/// What the container has; what it is granted, if it does not run.
fn resources(view: &View<'_>, container: &Container, latest: &observed::Container) -> ResourceRequirements {
    let applied = view.memory.resizing.applied.get(&latest.id).filter(|_| latest.state == State::Running);
    let declared = applied.or(container.resources.as_ref()).cloned().unwrap_or_default();
    ResourceRequirements {
        limits: declared.limits.filter(|m| !m.is_empty()),
        requests: declared.requests.filter(|m| !m.is_empty()),
        claims: None,
    }
}

fn image_name(container: &Container, latest: &observed::Container) -> String {
    if latest.image.is_empty() || latest.image.starts_with("sha256:") {
        return container.image.clone().unwrap_or_default();
    }
    latest.image.clone()
}

fn skeleton(container: &Container) -> ContainerStatus {
    let resources = container.resources.clone().unwrap_or_default();
    let limits = resources.limits.filter(|m| !m.is_empty());
    let requests = resources.requests.filter(|m| !m.is_empty());
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        allocated_resources: requests.clone(),
        resources: Some(ResourceRequirements { limits, requests, claims: None }),
        volume_mounts: container.volume_mounts.as_ref().map(|mounts| mounts.iter().map(mount_status).collect()),
        ..ContainerStatus::default()
    }
}

fn mount_status(mount: &k8s_openapi::api::core::v1::VolumeMount) -> VolumeMountStatus {
    let read_only = mount.read_only == Some(true);
    VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: read_only.then_some(true),
        recursive_read_only: read_only
            .then(|| mount.recursive_read_only.clone().unwrap_or_else(|| "Disabled".to_owned())),
        ..VolumeMountStatus::default()
    }
}

/// A container that the runtime does not know.
fn unseen(view: &View<'_>, spec: &PodSpec, container: &Container, known: Option<&ContainerStatus>) -> ContainerStatus {
    let ran = known.filter(|k| k.container_id.as_deref().is_some_and(|id| !id.is_empty()));
    let ending = view.ending.is_some() || rules::outcome(view.pod, view.seen, view.now).is_some();
    if let Some(known) = ran {
        let mut status = known.clone();
        if known.state.as_ref().is_some_and(|s| s.running.is_some()) {
            let lost = lost(known);
            (status.ready, status.started) = (false, Some(false));
            if ending {
                status.state = Some(lost);
            } else {
                status.state =
                    Some(start_failure(view, container).unwrap_or_else(|| waiting(default_reason(spec), None)));
                status.last_state = Some(lost);
            }
        } else if !ending && let Some(failure) = start_failure(view, container) {
            status.state = Some(failure);
        }
        return status;
    }
    ContainerStatus {
        state: Some(start_failure(view, container).unwrap_or_else(|| waiting(default_reason(spec), None))),
        last_state: Some(ContainerState::default()),
        started: Some(false),
        ..skeleton(container)
    }
}

/// How the earlier run ended, when the runtime has forgotten it: the machine started anew.
fn remembered(known: &ContainerStatus, latest: &observed::Container) -> Option<ContainerState> {
    if known.restart_count >= i32::try_from(latest.attempt).unwrap_or(i32::MAX) {
        return known.last_state.clone();
    }
    let state = known.state.as_ref()?;
    match (&state.running, &state.terminated) {
        (Some(_), _) => Some(lost(known)),
        (_, Some(_)) => Some(state.clone()),
        _ => known.last_state.clone(),
    }
}

fn lost(known: &ContainerStatus) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some("The container could not be located when the pod was terminated".to_owned()),
            container_id: known.container_id.clone(),
            started_at: known.state.as_ref().and_then(|s| s.running.as_ref()?.started_at.clone()),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

fn default_reason(spec: &PodSpec) -> &'static str {
    if spec.init_containers.iter().flatten().next().is_some() { "PodInitializing" } else { "ContainerCreating" }
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..ContainerState::default()
    }
}

fn start_failure(view: &View<'_>, container: &Container) -> Option<ContainerState> {
    let failure = view.memory.failures.get(&container.name)?;
    Some(waiting(failure.why.reason(), Some(failure.message.clone())))
}

/// The current state, and the last one if another attempt is or will be made.
fn states(
    view: &View<'_>,
    spec: &PodSpec,
    container: &Container,
    latest: &observed::Container,
) -> (ContainerState, Option<ContainerState>) {
    let previous = view.seen.previous(&container.name).filter(|c| c.state == State::Exited);
    let last = previous.map(|c| terminated(view, c));
    match latest.state {
        State::Running if view.memory.post_start.contains(&latest.id) => (waiting(default_reason(spec), None), last),
        State::Running => (running(latest), last),
        State::Created | State::Unknown => {
            (start_failure(view, container).unwrap_or_else(|| waiting(default_reason(spec), None)), last)
        }
        State::Exited => match comes_back(view, spec, container, latest) {
            Some(why) => (why, Some(terminated(view, latest))),
            None => (terminated(view, latest), last),
        },
    }
}

/// Why an exited container that will be started again is not running yet.
fn comes_back(
    view: &View<'_>,
    spec: &PodSpec,
    container: &Container,
    latest: &observed::Container,
) -> Option<ContainerState> {
    let once = spec.ephemeral_containers.iter().flatten().any(|c| c.name == container.name);
    let done = once || view.ending.is_some() || rules::outcome(view.pod, view.seen, view.now).is_some();
    if done || !rules::should_start(spec, container, Some(latest)) {
        return None;
    }
    if let Some(failure) = start_failure(view, container) {
        return Some(failure);
    }
    rules::crash_until(view.memory, latest, view.now)?;
    Some(waiting("CrashLoopBackOff", Some(crash_message(view, container)?)))
}

/// The text of a container's crash back-off, in its status and its event.
#[must_use]
pub fn crash_message(view: &View<'_>, container: &Container) -> Option<String> {
    let delay = go_duration(view.memory.restarts.get(&container.name)?.delay);
    let meta = &view.pod.metadata;
    let (name, namespace, uid) = (meta.name.as_deref()?, meta.namespace.as_deref()?, meta.uid.as_deref()?);
    Some(format!("back-off {delay} restarting failed container={} pod={name}_{namespace}({uid})", container.name))
}

fn running(seen: &observed::Container) -> ContainerState {
    let started_at = seen.started.map(|at| Time(whole_seconds(at)));
    ContainerState { running: Some(ContainerStateRunning { started_at }), ..ContainerState::default() }
}

fn terminated(view: &View<'_>, seen: &observed::Container) -> ContainerState {
    let message = view.memory.messages.get(&seen.id).cloned().or_else(|| Some(seen.message.clone()));
    let fallback = if seen.exit_code == 0 { "Completed" } else { "Error" };
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: seen.exit_code,
            reason: Some(if seen.reason.is_empty() { fallback.to_owned() } else { seen.reason.clone() }),
            message: message.filter(|m| !m.is_empty()),
            started_at: seen.started.map(|at| Time(whole_seconds(at))),
            finished_at: seen.finished.map(|at| Time(whole_seconds(at))),
            container_id: Some(format!("containerd://{}", seen.id)),
            signal: None,
        }),
        ..ContainerState::default()
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
