use super::*;
use crate::{observed::FailedStart, probe::Probed, start_failure::StartFailure, testing::pod};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000 + second).expect("in range")
}

/// `s0` sandbox, `s0!` a dead one; `a0:run`, `a0:exit1`, `a0:new` containers (name, attempt) in it.
fn observed(text: &str) -> Observed {
    let mut seen = Observed::default();
    let mut sandbox = String::new();
    for word in text.split_whitespace() {
        if let Some(attempt) = word.strip_prefix("s") {
            let dead = attempt.ends_with('!');
            sandbox = word.trim_end_matches('!').to_owned();
            let attempt = attempt.trim_end_matches('!').parse().expect("an attempt");
            seen.sandboxes.push(Sandbox { id: sandbox.clone(), attempt, ready: !dead, created: at(0), ips: vec![] });
            continue;
        }
        let (id, state) = word.split_once(':').expect("name:state");
        let (name, attempt) = id.split_at(1);
        let exit = state.strip_prefix("exit");
        seen.containers.push(observed::Container {
            id: id.to_owned(),
            sandbox: sandbox.clone(),
            name: name.to_owned(),
            attempt: attempt.parse().expect("an attempt"),
            state: match state {
                "run" => State::Running,
                "new" => State::Created,
                _ => State::Exited,
            },
            created: at(0),
            started: Some(at(0)),
            finished: exit.map(|_| at(5)),
            exit_code: exit.map_or(0, |code| code.parse().expect("a code")),
            reason: String::new(),
            message: String::new(),
            image: String::new(),
            image_id: String::new(),
            definition: String::new(),
        });
    }
    seen
}

fn show(step: &Step) -> String {
    match step {
        Step::Wait(None) => "wait".to_owned(),
        Step::Wait(Some(until)) => format!("wait {}", until.as_second() - 1_000),
        Step::PrepareVolumes => "volumes".to_owned(),
        Step::CreateSandbox { attempt } => format!("sandbox {attempt}"),
        Step::StopSandbox { id } => format!("stop {id}"),
        Step::RemoveSandbox { id } | Step::RemoveContainer { id } => format!("remove {id}"),
        Step::FindImage { container, attempt } => format!("image {container}{attempt}"),
        Step::CreateContainer { container, attempt, .. } => format!("create {container}{attempt}"),
        Step::StartContainer { id, .. } => format!("start {id}"),
        Step::StopContainers(stops) => {
            let ids: Vec<_> = stops.iter().map(|s| format!("{}@{}", s.id, s.deadline.as_second() - 1_000)).collect();
            format!("stop {}", ids.join(","))
        }
        Step::UpdateResources { id, .. } => format!("update {id}"),
        Step::TearDown => "release".to_owned(),
        Step::Gone => "gone".to_owned(),
    }
}

const TWO: &str = "containers: [{name: a}, {name: b}]";
const INIT: &str = "initContainers: [{name: i}, {name: j}], containers: [{name: a}]";
const SIDE: &str = "initContainers: [{name: i, restartPolicy: Always}], containers: [{name: a}]";
const NEVER: &str = "restartPolicy: Never, containers: [{name: a}]";
const ON_FAILURE: &str = "restartPolicy: OnFailure, containers: [{name: a}]";

fn ready() -> Memory {
    Memory { volumes: Volumes::Ready, ..Memory::default() }
}

fn decide(spec: &str, seen: &str, memory: &Memory, ending: Option<Ending>) -> String {
    let pod = pod(spec);
    let seen = observed(seen);
    show(&next_step(&View { pod: &pod, seen: &seen, memory, ending, now: at(10) }))
}

#[test]
fn containers_start_in_order() {
    for (name, spec, seen, expect) in [
        ("sandbox first", TWO, "", "sandbox 0"),
        ("then the first image", TWO, "s0", "image a0"),
        ("then the next", TWO, "s0 a0:run", "image b0"),
        ("all is well", TWO, "s0 a0:run b0:run", "wait"),
        ("a crash restarts at once the first time", TWO, "s0 a0:exit1 b0:run", "image a1"),
        ("success restarts too under Always", TWO, "s0 a0:exit0 b0:run", "image a1"),
        ("init containers come first", INIT, "s0", "image i0"),
        ("one at a time", INIT, "s0 i0:run", "wait"),
        ("the second after the first", INIT, "s0 i0:exit0", "image j0"),
        ("a failed one again", INIT, "s0 i0:exit3", "image i1"),
        ("regular ones at last", INIT, "s0 i0:exit0 j0:exit0", "image a0"),
        ("init containers do not come back", INIT, "s0 a0:run", "wait"),
        ("a sidecar only has to run", SIDE, "s0 i0:run", "image a0"),
        ("a sidecar comes back beside the others", SIDE, "s0 i0:exit1 a0:run", "image i1"),
        ("a half-made container is made again", TWO, "s0 a0:new", "remove a0"),
        ("a lost sandbox takes its containers along", TWO, "s0! a0:run", "stop a0@40"),
        ("its network goes before the next comes", TWO, "s0! a0:exit137", "stop s0"),
        ("old attempts go", TWO, "s0 a0:exit1 a1:exit1 a2:run b0:run", "remove a0"),
        ("done is done", NEVER, "s0 a0:exit1", "stop s0"),
        ("success is done", ON_FAILURE, "s0 a0:exit0", "stop s0"),
        ("failure is not", ON_FAILURE, "s0 a0:exit2", "image a1"),
    ] {
        assert_eq!(decide(spec, seen, &ready(), None), expect, "{name}");
    }
}

#[test]
fn memory_holds_back() {
    let (soon, later) = (at(9), at(20));
    let failure = |retry| FailedStart { why: StartFailure::ErrImagePull, message: String::new(), retry };
    let restarts = |delay| crate::backoff::Backoff { delay: SignedDuration::from_secs(delay), updated: at(0) };
    let named = |value: &str| value.to_owned();
    let unhealthy = Probed { liveness: Some(false), ..Probed::default() };
    let probe = "containers: [{name: a, livenessProbe: {exec: {command: [x]}}}]";
    for (name, spec, seen, memory, expect) in [
        ("volumes come first", TWO, "", Memory::default(), "volumes"),
        (
            "volumes that failed wait",
            TWO,
            "",
            Memory { volumes: Volumes::Failed { retry: later }, ..ready() },
            "wait 20",
        ),
        ("a sandbox that failed waits", TWO, "", Memory { sandbox_retry: Some(later), ..ready() }, "wait 20"),
        ("an image that is being pulled", NEVER, "s0", Memory { pulling: [named("a")].into(), ..ready() }, "wait"),
        ("images are fetched ahead", TWO, "s0", Memory { pulling: [named("a")].into(), ..ready() }, "image b0"),
        (
            "but starts keep their order",
            TWO,
            "s0",
            Memory { pulling: [named("a")].into(), images: [(named("b"), (0, named("x")))].into(), ..ready() },
            "wait",
        ),
        (
            "a failed pull waits, others go on",
            TWO,
            "s0",
            Memory { failures: [(named("a"), failure(later))].into(), ..ready() },
            "image b0",
        ),
        (
            "and is tried again",
            TWO,
            "s0",
            Memory { failures: [(named("a"), failure(soon))].into(), ..ready() },
            "image a0",
        ),
        (
            "an image found is used",
            TWO,
            "s0",
            Memory { images: [(named("a"), (0, named("x")))].into(), ..ready() },
            "create a0",
        ),
        (
            "an image of an older attempt is not",
            TWO,
            "s0 a0:exit1 b0:run",
            Memory { images: [(named("a"), (0, named("x")))].into(), ..ready() },
            "image a1",
        ),
        (
            "a fresh container is started",
            TWO,
            "s0 a0:new",
            Memory { fresh: [named("a0")].into(), ..ready() },
            "start a0",
        ),
        (
            "crashes wait out their delay",
            TWO,
            "s0 a0:exit1 b0:run",
            Memory { restarts: [(named("a"), restarts(20))].into(), ..ready() },
            "wait 25",
        ),
        (
            "no longer than that",
            TWO,
            "s0 a0:exit1 b0:run",
            Memory { restarts: [(named("a"), restarts(4))].into(), ..ready() },
            "image a1",
        ),
        (
            "the unhealthy are stopped",
            probe,
            "s0 a0:run",
            Memory { probed: [(named("a0"), unhealthy)].into(), ..ready() },
            "stop a0@40",
        ),
        (
            "once",
            probe,
            "s0 a0:run",
            Memory { probed: [(named("a0"), unhealthy)].into(), stopping: [(named("a0"), at(40))].into(), ..ready() },
            "wait",
        ),
    ] {
        assert_eq!(decide(spec, seen, &memory, None), expect, "{name}");
    }
}

#[test]
fn the_end_is_orderly() {
    let stopped = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
    let keep = Ending { deadline: at(40), remove: false };
    let remove = Ending { deadline: at(40), remove: true };
    let stopping = |deadline| [("a0".to_owned(), deadline)].into();
    for (name, seen, memory, ending, expect) in [
        ("containers first", "s0 i0:run a0:run", ready(), remove, "stop a0@40"),
        ("not twice", "s0 i0:run a0:run", Memory { stopping: stopping(at(40)), ..ready() }, remove, "wait 45"),
        ("sooner if asked", "s0 i0:run a0:run", Memory { stopping: stopping(at(70)), ..ready() }, remove, "stop a0@40"),
        ("then sidecars", "s0 i0:run a0:exit0", ready(), remove, "stop i0@40"),
        ("then the sandbox", "s0 i0:exit0 a0:exit0", ready(), remove, "stop s0"),
        ("which goes", "s0", Memory { stopped_sandboxes: stopped(&["s0"]), ..ready() }, remove, "remove s0"),
        ("unless it is kept", "s0", Memory { stopped_sandboxes: stopped(&["s0"]), ..ready() }, keep, "release"),
        ("volumes last", "", ready(), remove, "release"),
        ("and all is gone", "", Memory { volumes: Volumes::TornDown, ..ready() }, remove, "gone"),
        (
            "or rests",
            "s0",
            Memory { volumes: Volumes::TornDown, stopped_sandboxes: stopped(&["s0"]), ..ready() },
            keep,
            "wait",
        ),
    ] {
        assert_eq!(decide(SIDE, seen, &memory, Some(ending)), expect, "{name}");
    }
}

#[test]
fn sandboxes_wait_for_the_nodes_network() {
    for (name, spec, ready, expect) in [
        ("ready", TWO, true, None),
        ("not ready", TWO, false, Some(200)),
        ("the host's network is there", "hostNetwork: true, containers: [{name: a}]", false, None),
    ] {
        let until = sandbox_waits(&pod(spec), ready, at(0));
        assert_eq!(until.map(|until| until.duration_since(at(0)).as_millis()), expect, "{name}");
    }
}

#[test]
fn granted_resources_reach_running_containers() {
    let anew = "resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}],";
    let retry = |second| Some(("refused".to_owned(), at(second)));
    for (name, policy, applied, failed, seen, expect) in [
        ("as granted", "", "100m", None, "s0 a0:run", "wait"),
        ("more CPU", "", "50m", None, "s0 a0:run", "update a0"),
        ("refused a moment ago", "", "50m", retry(15), "s0 a0:run", "wait 15"),
        ("refused earlier", "", "50m", retry(9), "s0 a0:run", "update a0"),
        ("memory only anew, but this is CPU", anew, "50m", None, "s0 a0:run", "update a0"),
    ] {
        let spec = format!("containers: [{{name: a, {policy} resources: {{requests: {{cpu: 100m}}}}}}]");
        let mut memory = ready();
        let applied = format!("{{requests: {{cpu: {applied}}}}}");
        memory.resizing.applied.insert("a0".into(), serde_yaml_ng::from_str(&applied).expect("resources"));
        memory.resizing.failed = failed;
        assert_eq!(decide(&spec, seen, &memory, None), expect, "{name}");
    }
    let spec = format!("containers: [{{name: a, {anew} resources: {{limits: {{memory: 2Gi}}}}}}]");
    let mut memory = ready();
    memory.resizing.applied.insert("a0".into(), serde_yaml_ng::from_str("{limits: {memory: 1Gi}}").expect("resources"));
    assert_eq!(decide(&spec, "s0 a0:run", &memory, None), "stop a0@40");
}

#[test]
fn an_ephemeral_container_runs_once() {
    let debugged = |more: &str| format!("{more}, ephemeralContainers: [{{name: d, image: x, targetContainerName: a}}]");
    for (name, spec, seen, expect) in [
        ("beside the others", TWO, "s0 a0:run b0:run", "image d0"),
        ("before init containers are done", INIT, "s0 i0:run", "image d0"),
        ("it runs", TWO, "s0 a0:run b0:run d0:run", "wait"),
        ("it failed", TWO, "s0 a0:run b0:run d0:exit1", "wait"),
        ("its end is not the pod's", NEVER, "s0 a0:run d0:exit1", "wait"),
        ("the pod's end is its own", NEVER, "s0 a0:exit0 d0:run", "stop d0@40"),
    ] {
        assert_eq!(decide(&debugged(spec), seen, &ready(), None), expect, "{name}");
    }
}
