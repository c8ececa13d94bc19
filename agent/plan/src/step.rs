//! The next thing to do for one pod.
//!
//! Invariants
//! - `next_step` names at most one action; the shell performs it, looks again, and asks again.
//! - Once every action has succeeded and nothing changes, the answer is [`Step::Wait`].
//! - No container is started before the volumes are in place, the sandbox is ready and every
//!   earlier init container has done its part.
//! - A container is created only for an attempt greater than every attempt seen of it.
//!
//! Not here: how an action is performed, its time-outs, and events (the agent's pod worker).

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::{
    observed::{self, Memory, Observed, Sandbox, State, Volumes},
    probe, resize, rules,
};

/// How many containers of one name are kept: the current one and one for `logs --previous`.
const KEPT_ATTEMPTS: usize = 2;
/// A stop is issued again only if it now must end this much sooner.
const SOONER: SignedDuration = SignedDuration::from_secs(1);

/// Everything a decision rests on.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub pod: &'a Pod,
    pub seen: &'a Observed,
    pub memory: &'a Memory,
    /// Set when the pod must stop although its own containers would go on.
    pub ending: Option<Ending>,
    pub now: Timestamp,
}

/// The pod must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// What still runs then is killed.
    pub deadline: Timestamp,
    /// Whether every trace of it must go from the machine too.
    pub remove: bool,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until something changes or this moment comes.
    Wait(Option<Timestamp>),
    PrepareVolumes,
    CreateSandbox {
        attempt: u32,
    },
    StopSandbox {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
    FindImage {
        container: String,
        attempt: u32,
    },
    CreateContainer {
        container: String,
        attempt: u32,
        image: String,
    },
    StartContainer {
        container: String,
        id: String,
    },
    StopContainers(Vec<Stop>),
    /// Give a running container the resources that it is granted.
    UpdateResources {
        container: String,
        id: String,
    },
    RemoveContainer {
        id: String,
    },
    /// Tear down volumes and cgroups.
    TearDown,
    /// Nothing runs or is mounted any more: remove directory and logs, and tell the masters.
    Gone,
}

/// One container to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    pub id: String,
    pub container: String,
    /// Killed then, if it has not ended.
    pub deadline: Timestamp,
    pub why: Why,
}

/// Why a container is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    PodEnds,
    Unhealthy(probe::Kind),
    Changed,
    Resized,
    SandboxLost,
    Other(String),
}

/// Until the node's network is there.
const NETWORK_WAIT: SignedDuration = SignedDuration::from_millis(200);

/// Until when a sandbox is not even tried: without the node's network it would fail, and the attempt would cost more
/// than waiting.
#[must_use]
pub fn sandbox_waits(pod: &Pod, node_ready: bool, now: Timestamp) -> Option<Timestamp> {
    let host_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    (!host_network && !node_ready).then_some(now + NETWORK_WAIT)
}

/// Decides.
#[must_use]
pub fn next_step(view: &View<'_>) -> Step {
    let Some(spec) = &view.pod.spec else {
        return Step::Wait(None);
    };
    if let Some(ending) = view.ending {
        return end(view, spec, ending);
    }
    if rules::outcome(view.pod, view.seen, view.now).is_some() {
        return end(view, spec, Ending { deadline: view.now + rules::grace(view.pod), remove: false });
    }
    match run(view, spec) {
        Step::Wait(wake) => Step::Wait(sooner(sooner(wake, rules::active_deadline(view.pod)), resize_due(view))),
        step => step,
    }
}

fn sooner(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// When a change of resources that could not be is looked at again.
fn resize_due(view: &View<'_>) -> Option<Timestamp> {
    let resizing = &view.memory.resizing;
    let deferred = resizing.pending.as_ref().filter(|pending| !pending.infeasible).map(|pending| pending.retry);
    sooner(deferred, resizing.failed.as_ref().map(|(_, retry)| *retry))
}

fn run(view: &View<'_>, spec: &PodSpec) -> Step {
    match &view.memory.volumes {
        Volumes::Ready => {}
        Volumes::Preparing => return Step::Wait(None),
        Volumes::Failed { retry } if view.now < *retry => return Step::Wait(Some(*retry)),
        Volumes::Unknown | Volumes::Failed { .. } | Volumes::TornDown => return Step::PrepareVolumes,
    }
    let sandbox = match view.seen.sandbox() {
        Some(sandbox) if usable(view.memory, sandbox) => sandbox,
        lost => return replace_sandbox(view, lost),
    };
    if let Some(step) = stop_misfits(view, spec, sandbox).or_else(|| sweep(view, sandbox)) {
        return step;
    }
    if let Some(step) = update_resources(view, spec) {
        return step;
    }
    start_containers(view, spec, sandbox)
}

fn usable(memory: &Memory, sandbox: &Sandbox) -> bool {
    sandbox.ready && !memory.stopped_sandboxes.contains(&sandbox.id)
}

/// A sandbox that died takes its containers with it; then a new one follows.
fn replace_sandbox(view: &View<'_>, lost: Option<&Sandbox>) -> Step {
    if let Some(sandbox) = lost {
        if let Some(step) = stop_alive(view, view.now + rules::grace(view.pod), &Why::SandboxLost, |_| true) {
            return step;
        }
        if !view.memory.stopped_sandboxes.contains(&sandbox.id) {
            return Step::StopSandbox { id: sandbox.id.clone() };
        }
    }
    match view.memory.sandbox_retry {
        Some(retry) if view.now < retry => Step::Wait(Some(retry)),
        _ => Step::CreateSandbox { attempt: lost.map_or(0, |s| s.attempt + 1) },
    }
}

/// Stops what is alive and chosen, or waits for it. `None`: nothing chosen is alive.
fn stop_alive(
    view: &View<'_>,
    deadline: Timestamp,
    why: &Why,
    chosen: impl Fn(&observed::Container) -> bool,
) -> Option<Step> {
    let alive: Vec<_> = view.seen.containers.iter().filter(|c| c.alive() && chosen(c)).collect();
    if alive.is_empty() {
        return None;
    }
    let late = |c: &observed::Container| view.memory.stopping.get(&c.id).is_none_or(|at| deadline + SOONER < *at);
    let stops: Vec<Stop> = alive.into_iter().filter(|c| late(c)).map(|c| stop(c, deadline, why.clone())).collect();
    // A container whose stop runs out is asked after again then, whatever became of the call.
    Some(if stops.is_empty() {
        Step::Wait(Some(deadline.max(view.now) + SOONER * 5))
    } else {
        Step::StopContainers(stops)
    })
}

fn stop(container: &observed::Container, deadline: Timestamp, why: Why) -> Stop {
    Stop { id: container.id.clone(), container: container.name.clone(), deadline, why }
}

/// Containers that must not go on as they are.
fn stop_misfits(view: &View<'_>, spec: &PodSpec, sandbox: &Sandbox) -> Option<Step> {
    let mut stops = Vec::new();
    for seen in view.seen.containers.iter().filter(|c| c.alive()) {
        if view.memory.stopping.contains_key(&seen.id) {
            continue;
        }
        if seen.state == State::Unknown {
            return Some(Step::RemoveContainer { id: seen.id.clone() });
        }
        let Some(definition) = rules::definition(spec, &seen.name) else { continue };
        if let Some((why, grace)) = misfit(view, &definition, seen, sandbox) {
            stops.push(stop(seen, view.now + grace, why));
        }
    }
    (!stops.is_empty()).then_some(Step::StopContainers(stops))
}

fn misfit(
    view: &View<'_>,
    definition: &Container,
    seen: &observed::Container,
    sandbox: &Sandbox,
) -> Option<(Why, SignedDuration)> {
    let grace = rules::grace(view.pod);
    if seen.sandbox != sandbox.id {
        return Some((Why::SandboxLost, grace));
    }
    if let Some(text) = view.memory.condemned.get(&seen.id) {
        return Some((Why::Other(text.clone()), grace));
    }
    if !seen.definition.is_empty() && seen.definition != rules::definition_hash(definition) {
        return Some((Why::Changed, grace));
    }
    if resize::needs_restart(definition, &view.memory.resizing.outstanding(definition, &seen.id)) {
        return Some((Why::Resized, grace));
    }
    let kind = view.memory.probed.get(&seen.id)?.condemned(definition)?;
    let own = kind.of(definition).and_then(|p| p.termination_grace_period_seconds);
    Some((Why::Unhealthy(kind), own.map_or(grace, SignedDuration::from_secs)))
}

/// Gives a running container what it is granted, unless the runtime refused that a moment ago.
fn update_resources(view: &View<'_>, spec: &PodSpec) -> Option<Step> {
    let resizing = &view.memory.resizing;
    if resizing.failed.as_ref().is_some_and(|(_, retry)| view.now < *retry) {
        return None;
    }
    let due = |seen: &&observed::Container| {
        let definition = rules::definition(spec, &seen.name);
        seen.state == State::Running
            && !view.memory.stopping.contains_key(&seen.id)
            && definition.is_some_and(|definition| !resizing.outstanding(&definition, &seen.id).is_empty())
    };
    let seen = view.seen.containers.iter().find(due)?;
    Some(Step::UpdateResources { container: seen.name.clone(), id: seen.id.clone() })
}

/// Removes what nobody will ask for again: attempts before the previous one, and old sandboxes.
fn sweep(view: &View<'_>, sandbox: &Sandbox) -> Option<Step> {
    let newer = |c: &observed::Container| {
        let newer = |o: &&observed::Container| o.name == c.name && (o.attempt, o.created) > (c.attempt, c.created);
        view.seen.containers.iter().filter(newer).count()
    };
    let stale = view.seen.containers.iter().find(|c| !c.alive() && newer(c) >= KEPT_ATTEMPTS);
    if let Some(stale) = stale {
        return Some(Step::RemoveContainer { id: stale.id.clone() });
    }
    let old = view
        .seen
        .sandboxes
        .iter()
        .find(|old| old.id != sandbox.id && !view.seen.containers.iter().any(|c| c.sandbox == old.id))?;
    Some(if view.memory.stopped_sandboxes.contains(&old.id) {
        Step::RemoveSandbox { id: old.id.clone() }
    } else {
        Step::StopSandbox { id: old.id.clone() }
    })
}

/// What one container allows.
enum Progress {
    /// It is as it should be.
    Fine,
    Do(Step),
    /// It is not there yet; nothing to do for it before this moment.
    Held(Option<Timestamp>),
}

fn start_containers(view: &View<'_>, spec: &PodSpec, sandbox: &Sandbox) -> Step {
    let in_sandbox = |c: &observed::Container| c.sandbox == sandbox.id;
    let initialized = spec.containers.iter().any(|c| view.seen.latest(&c.name).is_some_and(in_sandbox));
    let mut wake = None;
    for container in rules::ephemeral(spec) {
        match start_ephemeral(view, &container) {
            Progress::Fine => {}
            Progress::Do(step) => return step,
            Progress::Held(until) => wake = sooner(wake, until),
        }
    }
    for container in spec.init_containers.iter().flatten() {
        match start_init(view, spec, container, sandbox, initialized) {
            Progress::Fine => {}
            Progress::Do(step) => return step,
            Progress::Held(until) if initialized => wake = sooner(wake, until),
            Progress::Held(until) => return Step::Wait(sooner(wake, until)),
        }
    }
    // Containers start in their order; only images may be fetched ahead.
    let mut held = false;
    for container in &spec.containers {
        match start_regular(view, spec, container) {
            Progress::Fine => {}
            Progress::Do(step @ Step::FindImage { .. }) => return step,
            Progress::Do(_) if held => {}
            Progress::Do(step) => return step,
            Progress::Held(until) => {
                wake = sooner(wake, until);
                held |= until.is_none();
            }
        }
    }
    Step::Wait(wake)
}

/// An ephemeral container runs once, whatever else the pod does.
fn start_ephemeral(view: &View<'_>, container: &Container) -> Progress {
    let latest = view.seen.latest(&container.name);
    let statuses = view.pod.status.as_ref().and_then(|s| s.ephemeral_container_statuses.as_ref());
    let known = statuses.into_iter().flatten().find(|s| s.name == container.name);
    let ran = known.is_some_and(|s| s.container_id.as_deref().is_some_and(|id| !id.is_empty()));
    match latest {
        None if !ran => start(view, container, None),
        Some(seen) if seen.state == State::Created => start(view, container, Some(seen)),
        _ => Progress::Fine,
    }
}

fn start_init(
    view: &View<'_>,
    spec: &PodSpec,
    container: &Container,
    sandbox: &Sandbox,
    initialized: bool,
) -> Progress {
    let latest = view.seen.latest(&container.name);
    let here = latest.filter(|c| c.sandbox == sandbox.id);
    if rules::sidecar(container) {
        return match here {
            Some(seen) if seen.state == State::Running => {
                let started = view.memory.probed.get(&seen.id).copied().unwrap_or_default().started(container);
                let settled = started && !view.memory.post_start.contains(&seen.id);
                if settled { Progress::Fine } else { Progress::Held(None) }
            }
            _ => start(view, container, latest),
        };
    }
    match here {
        _ if initialized => Progress::Fine,
        Some(seen) if seen.state == State::Exited && seen.exit_code == 0 => Progress::Fine,
        Some(seen) if seen.state == State::Running => Progress::Held(None),
        Some(_) if !rules::should_start(spec, container, here) => Progress::Held(None),
        _ => start(view, container, latest),
    }
}

fn start_regular(view: &View<'_>, spec: &PodSpec, container: &Container) -> Progress {
    let latest = view.seen.latest(&container.name);
    match latest {
        Some(seen) if view.memory.post_start.contains(&seen.id) => Progress::Held(None),
        _ if rules::should_start(spec, container, latest) => start(view, container, latest),
        _ => Progress::Fine,
    }
}

fn start(view: &View<'_>, container: &Container, latest: Option<&observed::Container>) -> Progress {
    let name = &container.name;
    if view.memory.pulling.contains(name) {
        return Progress::Held(None);
    }
    if let Some(failure) = view.memory.failures.get(name).filter(|f| f.retry > view.now) {
        return Progress::Held(Some(failure.retry));
    }
    if let Some(latest) = latest {
        if latest.state == State::Created {
            return Progress::Do(if view.memory.fresh.contains(&latest.id) {
                Step::StartContainer { container: name.clone(), id: latest.id.clone() }
            } else {
                Step::RemoveContainer { id: latest.id.clone() }
            });
        }
        if let Some(until) = rules::crash_until(view.memory, latest, view.now) {
            return Progress::Held(Some(until));
        }
    }
    let attempt = latest.map_or_else(|| first_attempt(view.pod, name), |c| c.attempt + 1);
    Progress::Do(match view.memory.images.get(name) {
        Some((ready, image)) if *ready == attempt => {
            Step::CreateContainer { container: name.clone(), attempt, image: image.clone() }
        }
        _ => Step::FindImage { container: name.clone(), attempt },
    })
}

/// The count goes on when the runtime forgot the containers but the API did not.
fn first_attempt(pod: &Pod, name: &str) -> u32 {
    let Some(status) = &pod.status else { return 0 };
    let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let Some(known) = all.into_iter().find(|c| c.name == name) else { return 0 };
    let ran = known.container_id.as_deref().is_some_and(|id| !id.is_empty());
    u32::try_from(known.restart_count).unwrap_or(0) + u32::from(ran)
}

/// Stops everything, regular containers before sidecars, then takes the pod down.
fn end(view: &View<'_>, spec: &PodSpec, ending: Ending) -> Step {
    let is_sidecar = |name: &str| spec.init_containers.iter().flatten().any(|c| c.name == name && rules::sidecar(c));
    if let Some(step) = stop_alive(view, ending.deadline, &Why::PodEnds, |c| !is_sidecar(&c.name)) {
        return step;
    }
    for sidecar in spec.init_containers.iter().flatten().rev().filter(|c| rules::sidecar(c)) {
        if let Some(step) = stop_alive(view, ending.deadline, &Why::PodEnds, |c| c.name == sidecar.name) {
            return step;
        }
    }
    if view.memory.volumes == Volumes::Preparing {
        return Step::Wait(None);
    }
    let standing = |s: &&Sandbox| !view.memory.stopped_sandboxes.contains(&s.id);
    if let Some(sandbox) = view.seen.sandboxes.iter().find(standing) {
        return Step::StopSandbox { id: sandbox.id.clone() };
    }
    if ending.remove
        && let Some(sandbox) = view.seen.sandboxes.first()
    {
        return Step::RemoveSandbox { id: sandbox.id.clone() };
    }
    match (&view.memory.volumes, ending.remove) {
        (Volumes::TornDown, true) => Step::Gone,
        (Volumes::TornDown, false) => Step::Wait(None),
        _ => Step::TearDown,
    }
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
