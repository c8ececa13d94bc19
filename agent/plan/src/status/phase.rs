//! The phase of a pod, from the states of its containers.

use k8s_openapi::api::core::v1::{ContainerStatus, PodSpec};

use crate::rules::{self, Policy};

#[derive(Default)]
struct Tally {
    running: usize,
    waiting: usize,
    stopped: usize,
    succeeded: usize,
}

/// `terminal`: nothing runs and nothing will be started again.
pub fn phase(spec: &PodSpec, init: &[ContainerStatus], regular: &[ContainerStatus], terminal: bool) -> &'static str {
    let (pending, failed) = init_tally(spec, init);
    if failed && (terminal || rules::pod_policy(spec) == Policy::Never) {
        return "Failed";
    }
    let tally = tally(regular);
    if tally.waiting > 0 && terminal && tally.running == 0 {
        return "Failed"; // it ends without having begun
    }
    if tally.waiting > 0 || (pending && tally.running == 0 && tally.stopped == 0) {
        return "Pending";
    }
    if tally.running > 0 {
        return "Running";
    }
    if tally.stopped == 0 {
        return "Pending";
    }
    let all_succeeded = tally.stopped == tally.succeeded;
    if terminal {
        return if all_succeeded { "Succeeded" } else { "Failed" };
    }
    let over = spec.containers.iter().zip(regular).all(|(c, status)| match rules::policy(spec, c) {
        Policy::Always => false,
        Policy::Never => true,
        Policy::OnFailure => exit_code(status) == Some(0),
    });
    match (over, all_succeeded) {
        (false, _) => "Running",
        (true, true) => "Succeeded",
        (true, false) => "Failed",
    }
}

/// Whether some init container has yet to do its part, and whether one failed.
fn init_tally(spec: &PodSpec, init: &[ContainerStatus]) -> (bool, bool) {
    let (mut pending, mut failed) = (false, false);
    for (container, status) in spec.init_containers.iter().flatten().zip(init) {
        if rules::sidecar(container) {
            pending |= status.started != Some(true);
            continue;
        }
        match exit_code(status) {
            Some(0) => {}
            Some(_) => failed = true,
            None => pending = true,
        }
    }
    (pending, failed)
}

/// How it ended, now or the last time.
fn exit_code(status: &ContainerStatus) -> Option<i32> {
    let state = status.state.as_ref()?;
    if state.running.is_some() {
        return None;
    }
    let ended = state.terminated.as_ref().or_else(|| status.last_state.as_ref()?.terminated.as_ref());
    ended.map(|t| t.exit_code)
}

fn tally(regular: &[ContainerStatus]) -> Tally {
    let mut tally = Tally::default();
    for status in regular {
        let state = status.state.clone().unwrap_or_default();
        if state.running.is_some() {
            tally.running += 1;
        } else if let Some(terminated) = &state.terminated {
            tally.stopped += 1;
            tally.succeeded += usize::from(terminated.exit_code == 0);
        } else if status.last_state.as_ref().is_some_and(|s| s.terminated.is_some()) {
            tally.stopped += 1;
        } else {
            tally.waiting += 1;
        }
    }
    tally
}
