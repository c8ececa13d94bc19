//! The phase of a pod, from the states of its containers.

use k8s_openapi::api::core::v1::{ContainerStatus, PodSpec};

use crate::rules;

#[derive(Default)]
struct Tally {
    running: usize,
    waiting: usize,
    stopped: usize,
    succeeded: usize,
}

/// `terminal`: nothing runs and nothing will be started again.
pub fn phase(spec: &PodSpec, init: &[ContainerStatus], regular: &[ContainerStatus], terminal: bool) -> &'static str {
    let Init { pending, failed, fatal } = init_tally(spec, init);
    if fatal || (failed && terminal) {
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
    let over =
        spec.containers.iter().zip(regular).all(|(container, status)| {
            exit_code(status).is_some_and(|code| !rules::starts_again(spec, container, code))
        });
    match (over, all_succeeded) {
        (false, _) => "Running",
        (true, true) => "Succeeded",
        (true, false) => "Failed",
    }
}

#[derive(Default)]
struct Init {
    /// Some have yet to do their part.
    pending: bool,
    /// One failed.
    failed: bool,
    /// And is not started again.
    fatal: bool,
}

fn init_tally(spec: &PodSpec, init: &[ContainerStatus]) -> Init {
    let mut out = Init::default();
    for (container, status) in spec.init_containers.iter().flatten().zip(init) {
        if rules::sidecar(container) {
            out.pending |= status.started != Some(true);
            continue;
        }
        match exit_code(status) {
            Some(0) => {}
            Some(code) => {
                out.failed = true;
                out.fatal |= !rules::starts_again(spec, container, code);
            }
            None => out.pending = true,
        }
    }
    out
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
