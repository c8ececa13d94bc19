use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::*;
use crate::{
    observed::{Container as Seen, EndedByNode, Memory, Observed, Sandbox, Volumes},
    step::Ending,
    testing::pod,
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000 + second).expect("in range")
}

fn seen(name: &str, attempt: u32, state: State, exit_code: i32) -> Seen {
    Seen {
        id: format!("{name}{attempt}"),
        sandbox: "s".into(),
        name: name.into(),
        attempt,
        state,
        created: at(0),
        started: Some(at(1)),
        finished: (state == State::Exited).then(|| at(2)),
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: "img:1".into(),
        image_id: "sha256:1".into(),
        definition: String::new(),
    }
}

fn state(state: Option<&ContainerState>) -> String {
    let Some(state) = state else { return "-".into() };
    match (&state.waiting, &state.running, &state.terminated) {
        (Some(w), _, _) => w.reason.clone().unwrap_or_default(),
        (_, Some(_), _) => "running".into(),
        (_, _, Some(t)) => format!("{}={}", t.reason.clone().unwrap_or_default(), t.exit_code),
        _ => "-".into(),
    }
}

/// `phase | name state last ready restarts, … | true conditions`
fn show(spec: &str, containers: Vec<Seen>, memory: Memory, ending: Option<Ending>) -> String {
    show_pod(&pod(spec), containers, memory, ending)
}

fn show_pod(pod: &Pod, containers: Vec<Seen>, memory: Memory, ending: Option<Ending>) -> String {
    let sandbox = Sandbox { id: "s".into(), attempt: 0, ready: true, created: at(0), ips: vec![] };
    let seen = Observed { sandboxes: vec![sandbox], containers };
    let view = View { pod, seen: &seen, memory: &memory, ending, now: at(10) };
    let status = status(&view, &[]);
    let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let containers: Vec<_> = all
        .map(|s| {
            let ready = if s.ready { "+" } else { "-" };
            format!(
                "{}{ready} {} {} {}",
                s.name,
                state(s.state.as_ref()),
                state(s.last_state.as_ref()),
                s.restart_count
            )
        })
        .collect();
    let conditions: Vec<_> =
        status.conditions.iter().flatten().filter(|c| c.status == "True").map(|c| c.type_.as_str()).collect();
    format!("{} | {} | {}", status.phase.unwrap_or_default(), containers.join(", "), conditions.join(" "))
}

const READY: &str = "PodReadyToStartContainers Initialized Ready ContainersReady PodScheduled";
const UNREADY: &str = "PodReadyToStartContainers Initialized PodScheduled";

#[test]
fn statuses_read_as_kubelets() {
    use State::{Exited, Running};
    let one = "containers: [{name: a}]";
    let never = "restartPolicy: Never, containers: [{name: a}]";
    let init = "initContainers: [{name: i}], containers: [{name: a}]";
    let probed = "containers: [{name: a, readinessProbe: {exec: {command: [x]}}}]";
    let memory = || Memory { volumes: Volumes::Ready, ..Memory::default() };
    let crashed = Memory {
        restarts: [("a".to_owned(), crate::backoff::Backoff { delay: SignedDuration::from_secs(20), updated: at(0) })]
            .into(),
        ..memory()
    };
    for (name, spec, containers, memory, expect) in [
        ("nothing yet", one, vec![], memory(), format!("Pending | a- ContainerCreating - 0 | {UNREADY}")),
        (
            "initializing",
            init,
            vec![seen("i", 0, Running, 0)],
            memory(),
            "Pending | i- running - 0, a- PodInitializing - 0 | PodReadyToStartContainers PodScheduled".to_owned(),
        ),
        (
            "initialized",
            init,
            vec![seen("i", 0, Exited, 0), seen("a", 0, Running, 0)],
            memory(),
            format!("Running | i+ Completed=0 - 0, a+ running - 0 | {READY}"),
        ),
        ("running", one, vec![seen("a", 0, Running, 0)], memory(), format!("Running | a+ running - 0 | {READY}")),
        (
            "not ready before its probe",
            probed,
            vec![seen("a", 0, Running, 0)],
            memory(),
            format!("Running | a- running - 0 | {UNREADY}"),
        ),
        (
            "restarted",
            one,
            vec![seen("a", 0, Exited, 1), seen("a", 1, Running, 0)],
            memory(),
            format!("Running | a+ running Error=1 1 | {READY}"),
        ),
        (
            "crash loop",
            one,
            vec![seen("a", 0, Exited, 1)],
            crashed,
            format!("Running | a- CrashLoopBackOff Error=1 0 | {UNREADY}"),
        ),
        ("failed", never, vec![seen("a", 0, Exited, 1)], memory(), format!("Failed | a- Error=1 - 0 | {UNREADY}")),
        (
            "succeeded",
            never,
            vec![seen("a", 0, Exited, 0)],
            memory(),
            format!("Succeeded | a- Completed=0 - 0 | {UNREADY}"),
        ),
    ] {
        assert_eq!(show(spec, containers, memory, None), expect, "{name}");
    }
    let ending = Some(Ending { deadline: at(9), remove: true });
    let killed = vec![seen("a", 0, Exited, 137)];
    assert_eq!(show(one, killed, memory(), ending), format!("Failed | a- Error=137 - 0 | {UNREADY}"), "deleted");
}

#[test]
fn a_run_that_the_runtime_forgot_stays_in_the_status() {
    let memory = || Memory { volumes: Volumes::Ready, ..Memory::default() };
    let mut one = pod("containers: [{name: a}]");
    let before = |one: &Pod, seen: Vec<Seen>| {
        let seen = Observed { sandboxes: vec![], containers: seen };
        status(&View { pod: one, seen: &seen, memory: &memory(), ending: None, now: at(10) }, &[])
    };
    one.status = Some(before(&one, vec![seen("a", 0, State::Running, 0)]));
    let again = vec![seen("a", 1, State::Running, 0)];
    let expect = format!("Running | a+ running ContainerStatusUnknown=137 1 | {READY}");
    assert_eq!(show_pod(&one, again.clone(), memory(), None), expect, "it ran");
    one.status = Some(before(&one, again.clone()));
    assert_eq!(show_pod(&one, again.clone(), memory(), None), expect, "and is still known a turn later");
    one.status = None;
    one.status = Some(before(&one, vec![seen("a", 0, State::Exited, 3)]));
    assert_eq!(
        show_pod(&one, again, memory(), None),
        format!("Running | a+ running Error=3 1 | {READY}"),
        "it had ended"
    );
}

#[test]
fn a_pod_that_took_too_much_has_failed() {
    let memory = Memory {
        ended_by_node: Some(EndedByNode { reason: EndedByNode::EVICTED, message: "too much".into() }),
        volumes: Volumes::Ready,
        ..Memory::default()
    };
    let pod = pod("containers: [{name: a}]");
    let seen = Observed { sandboxes: vec![], containers: vec![seen("a", 0, State::Running, 0)] };
    let ending = Some(Ending { deadline: at(11), remove: false });
    let status = status(&View { pod: &pod, seen: &seen, memory: &memory, ending, now: at(10) }, &[]);
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    assert_eq!(
        [text(&status.phase), text(&status.reason), text(&status.message)],
        ["Failed", "Evicted", "too much"].map(str::to_owned)
    );
    let target = status.conditions.iter().flatten().find(|c| c.type_ == "DisruptionTarget");
    assert_eq!(target.and_then(|c| c.reason.as_deref()), Some("TerminationByKubelet"));
}
