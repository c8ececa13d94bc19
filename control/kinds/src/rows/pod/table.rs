//! The pod table.

use serde_json::Value;

use super::super::cells::{self, Cell, or_none};
use super::super::value::{at, get, has, list, num, on, some, text};

/// What the containers tell together.
#[derive(Default)]
struct Summary {
    reason: String,
    ready: usize,
    restarts: i64,
    last_restart: String,
}

impl Summary {
    fn count(&mut self, status: &Value) {
        self.restarts += num(status, "restartCount");
        let ended = text(at(status, &["lastState", "terminated"]), "finishedAt");
        // Times of equal form compare as text.
        if ended > self.last_restart.as_str() {
            ended.clone_into(&mut self.last_restart);
        }
    }
}

fn sidecar(spec: &Value, name: &str) -> bool {
    list(spec, "initContainers").iter().any(|c| text(c, "name") == name && text(c, "restartPolicy") == "Always")
}

/// The cells of a pod.
#[must_use]
pub fn row(pod: &Value) -> Vec<Cell> {
    let (spec, status) = (get(pod, "spec"), get(pod, "status"));
    let total = list(spec, "containers").len()
        + list(spec, "initContainers").iter().filter(|c| text(c, "restartPolicy") == "Always").count();
    let summary = summarize(pod);
    let restarts = match summary.restarts {
        0 => cells::of("0"),
        n if summary.last_restart.is_empty() => cells::of(n.to_string()),
        n => Cell::since(&summary.last_restart).within(&format!("{n} ("), " ago)"),
    };
    vec![
        cells::name(pod),
        cells::of(format!("{}/{total}", summary.ready)),
        cells::of(summary.reason),
        restarts,
        cells::age(pod),
        or_none(text(status, "podIP")),
        or_none(text(spec, "nodeName")),
        or_none(text(status, "nominatedNodeName")),
        gates(spec, status),
    ]
}

fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    list(status, "conditions").iter().find(|condition| text(condition, "type") == kind)
}

fn holds(status: &Value, kind: &str) -> bool {
    condition(status, kind).is_some_and(|condition| text(condition, "status") == "True")
}

fn gates(spec: &Value, status: &Value) -> Cell {
    let gates = list(spec, "readinessGates");
    if gates.is_empty() {
        return cells::of(cells::NONE);
    }
    let open = gates.iter().filter(|gate| holds(status, text(gate, "conditionType"))).count();
    cells::of(format!("{open}/{}", gates.len()))
}

fn summarize(pod: &Value) -> Summary {
    let status = get(pod, "status");
    let mut summary = Summary { reason: text(status, "phase").to_owned(), ..Summary::default() };
    if has(status, "reason") {
        text(status, "reason").clone_into(&mut summary.reason);
    }
    if condition(status, "PodScheduled").is_some_and(|condition| text(condition, "reason") == "SchedulingGated") {
        "SchedulingGated".clone_into(&mut summary.reason);
    }
    let mut sidecars = Summary::default();
    let initializing = initialize(pod, &mut summary, &mut sidecars);
    if !initializing || holds(status, "Initialized") {
        summary.restarts = sidecars.restarts;
        summary.last_restart = sidecars.last_restart;
        run(status, &mut summary);
    }
    let deleting = has(get(pod, "metadata"), "deletionTimestamp");
    let over = ["Failed", "Succeeded"].contains(&text(status, "phase"));
    if deleting && text(status, "reason") == "NodeLost" {
        "Unknown".clone_into(&mut summary.reason);
    } else if deleting && !over {
        "Terminating".clone_into(&mut summary.reason);
    }
    summary
}

/// Goes through the init containers. Answers whether one of them holds the pod up.
fn initialize(pod: &Value, summary: &mut Summary, sidecars: &mut Summary) -> bool {
    let (spec, status) = (get(pod, "spec"), get(pod, "status"));
    for (i, container) in list(status, "initContainerStatuses").iter().enumerate() {
        summary.count(container);
        let is_sidecar = sidecar(spec, text(container, "name"));
        if is_sidecar {
            sidecars.count(container);
        }
        let state = get(container, "state");
        match (some(state, "terminated"), some(state, "waiting")) {
            (Some(ended), _) if num(ended, "exitCode") == 0 => continue,
            _ if is_sidecar && on(container, "started") => {
                summary.ready += usize::from(on(container, "ready"));
                continue;
            }
            (Some(ended), _) => summary.reason = format!("Init:{}", end(ended)),
            (None, Some(waiting)) if !["", "PodInitializing"].contains(&text(waiting, "reason")) => {
                summary.reason = format!("Init:{}", text(waiting, "reason"));
            }
            _ => summary.reason = format!("Init:{i}/{}", list(spec, "initContainers").len()),
        }
        return true;
    }
    false
}

fn end(ended: &Value) -> String {
    match (text(ended, "reason"), num(ended, "signal")) {
        ("", 0) => format!("ExitCode:{}", num(ended, "exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn run(status: &Value, summary: &mut Summary) {
    let mut running = false;
    for container in list(status, "containerStatuses").iter().rev() {
        summary.count(container);
        let state = get(container, "state");
        let waiting = text(get(state, "waiting"), "reason");
        if !waiting.is_empty() {
            waiting.clone_into(&mut summary.reason);
        } else if let Some(ended) = some(state, "terminated") {
            summary.reason = end(ended);
        } else if on(container, "ready") && has(state, "running") {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && running {
        let ready = holds(status, "Ready");
        (if ready { "Running" } else { "NotReady" }).clone_into(&mut summary.reason);
    }
}
