//! The conditions that the node owns, in kubelet's words.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerStatus, PodCondition, PodSpec, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    observed::{EndedByNode, Volumes},
    rules,
    step::View,
    time::whole_seconds,
};

struct Verdict {
    holds: bool,
    reason: &'static str,
    message: String,
}

const OK: Verdict = Verdict { holds: true, reason: "", message: String::new() };

fn no(reason: &'static str, message: String) -> Verdict {
    Verdict { holds: false, reason, message }
}

/// All conditions of the new status; those of others are copied from the old one.
pub fn conditions(view: &View<'_>, spec: &PodSpec, new: &PodStatus, old: &PodStatus) -> Vec<PodCondition> {
    let phase = new.phase.as_deref().unwrap_or_default();
    let containers_ready = containers_ready(spec, new, phase);
    let ready = ready(spec, old, &containers_ready);
    let own = [
        ("PodReadyToStartContainers", sandbox_ready(view)),
        ("Initialized", initialized(spec, new, phase)),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", OK),
    ];
    let mut out = Vec::new();
    let generation = view.pod.metadata.generation;
    for (type_, verdict) in own {
        let before = old.conditions.iter().flatten().find(|c| c.type_ == type_);
        out.push(condition(type_, verdict, before, generation, view.now));
    }
    let more = [(PENDING, pending(view)), (IN_PROGRESS, in_progress(view, spec)), ("DisruptionTarget", evicted(view))];
    for (type_, verdict) in more {
        let before = old.conditions.iter().flatten().find(|c| c.type_ == type_);
        out.extend(verdict.map(|verdict| condition(type_, verdict, before, generation, view.now)));
    }
    let ours = |type_: &str| [PENDING, IN_PROGRESS].contains(&type_) || out.iter().any(|o| o.type_ == type_);
    let foreign = old.conditions.iter().flatten().filter(|c| !ours(&c.type_));
    let foreign: Vec<_> = foreign.cloned().collect();
    out.extend(foreign);
    out
}

/// Whether resources are asked for that are not granted.
const PENDING: &str = "PodResizePending";
/// Whether resources are granted that a container does not have yet.
const IN_PROGRESS: &str = "PodResizeInProgress";

fn evicted(view: &View<'_>) -> Option<Verdict> {
    let why = view.memory.ended_by_node.as_ref().filter(|why| why.reason == EndedByNode::EVICTED)?;
    Some(Verdict { holds: true, reason: "TerminationByKubelet", message: why.message.clone() })
}

fn pending(view: &View<'_>) -> Option<Verdict> {
    let pending = view.memory.resizing.pending.as_ref()?;
    Some(Verdict { holds: true, reason: pending.reason(), message: pending.message.clone() })
}

fn in_progress(view: &View<'_>, spec: &PodSpec) -> Option<Verdict> {
    let resizing = &view.memory.resizing;
    if !resizing.in_progress(spec, view.seen) {
        return None;
    }
    let failed = resizing.failed.as_ref();
    let (reason, message) = failed.map_or(("", String::new()), |(message, _)| ("Error", message.clone()));
    Some(Verdict { holds: true, reason, message })
}

fn condition(
    type_: &str,
    verdict: Verdict,
    before: Option<&PodCondition>,
    generation: Option<i64>,
    now: Timestamp,
) -> PodCondition {
    let status = if verdict.holds { "True" } else { "False" };
    let since = before.filter(|b| b.status == status).and_then(|b| b.last_transition_time.clone());
    PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: (!verdict.reason.is_empty()).then(|| verdict.reason.to_owned()),
        message: (!verdict.message.is_empty()).then_some(verdict.message),
        last_transition_time: Some(since.unwrap_or(Time(whole_seconds(now)))),
        last_probe_time: None,
        observed_generation: generation,
    }
}

fn sandbox_ready(view: &View<'_>) -> Verdict {
    let up = view.seen.sandbox().is_some_and(|s| s.ready && !view.memory.stopped_sandboxes.contains(&s.id));
    Verdict { holds: up && view.memory.volumes != Volumes::TornDown, ..OK }
}

fn initialized(spec: &PodSpec, new: &PodStatus, phase: &str) -> Verdict {
    let statuses = new.init_container_statuses.as_deref().unwrap_or_default();
    let mut incomplete = Vec::new();
    for container in spec.init_containers.iter().flatten() {
        let status = statuses.iter().find(|s| s.name == container.name);
        let done = status.is_some_and(|s| if rules::sidecar(container) { s.started == Some(true) } else { s.ready });
        if !done {
            incomplete.push(container.name.as_str());
        }
    }
    if phase == "Succeeded" && !incomplete.is_empty() {
        return Verdict { holds: true, reason: "PodCompleted", message: String::new() };
    }
    // Once a regular container ran, initialization is over, whatever became of its containers.
    let ran =
        new.container_statuses.iter().flatten().any(|s| s.container_id.as_deref().is_some_and(|id| !id.is_empty()));
    if incomplete.is_empty() || ran {
        return if phase == "Succeeded" { Verdict { reason: "PodCompleted", ..OK } } else { OK };
    }
    no("ContainersNotInitialized", format!("containers with incomplete status: [{}]", incomplete.join(" ")))
}

fn containers_ready(spec: &PodSpec, new: &PodStatus, phase: &str) -> Verdict {
    match phase {
        "Succeeded" => return no("PodCompleted", String::new()),
        "Failed" => return no("PodFailed", String::new()),
        _ => {}
    }
    let ready = |statuses: &Option<Vec<ContainerStatus>>, name: &str| {
        statuses.iter().flatten().any(|s| s.name == name && s.ready)
    };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| rules::sidecar(c));
    let unready: Vec<&str> = sidecars
        .filter(|c| !ready(&new.init_container_statuses, &c.name))
        .chain(spec.containers.iter().filter(|c| !ready(&new.container_statuses, &c.name)))
        .map(|c| c.name.as_str())
        .collect();
    if unready.is_empty() {
        return OK;
    }
    no("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
}

fn ready(spec: &PodSpec, old: &PodStatus, containers: &Verdict) -> Verdict {
    if !containers.holds {
        return no(containers.reason, containers.message.clone());
    }
    let mut problems = Vec::new();
    for gate in spec.readiness_gates.iter().flatten() {
        let name = &gate.condition_type;
        match old.conditions.iter().flatten().find(|c| &c.type_ == name) {
            None => problems.push(format!("corresponding condition of pod readiness gate \"{name}\" does not exist.")),
            Some(c) if c.status != "True" => {
                problems.push(format!("the status of pod readiness gate \"{name}\" is not \"True\", but {}", c.status))
            }
            Some(_) => {}
        }
    }
    if problems.is_empty() { OK } else { no("ReadinessGatesNotReady", problems.join(", ")) }
}
