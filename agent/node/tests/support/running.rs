//! What changes of a pod while it runs: its resources and ephemeral containers; and a volume that is an image.

use serde_json::{Value, json};

use crate::{
    condition, shell,
    support::{Agent, IMAGE, Runtime, deleted, pod},
    uid, with,
};

const SLEEP: &str = "/bin/busybox sleep 1000";

fn resources(cpu: &str, limit_cpu: &str, memory: &str) -> Value {
    json!({"requests": {"cpu": cpu, "memory": "16Mi"}, "limits": {"cpu": limit_cpu, "memory": memory}})
}

fn changing() -> Value {
    let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let looks = "/bin/busybox test -f /image/bin/busybox && ! /bin/busybox touch /image/new";
    let mount = json!([{"name": "image", "mountPath": "/image"}]);
    let all = resources("100m", "200m", "64Mi");
    pod(
        "changing",
        json!({
            "terminationGracePeriodSeconds": 0,
            "initContainers": [with(shell("look", looks), json!({"volumeMounts": mount}))],
            "containers": [
                with(shell("a", SLEEP), json!({"resources": all})),
                with(shell("b", SLEEP), json!({"resources": all, "resizePolicy": policy})),
            ],
            "volumes": [{"name": "image", "image": {"reference": IMAGE, "pullPolicy": "IfNotPresent"}}],
        }),
    )
}

/// The numbers in these files of a container's cgroup, of whichever version.
fn cgroup(id: &str, files: [&str; 2]) -> Vec<String> {
    let id = id.trim_start_matches("containerd://");
    let found = std::process::Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", id]).output();
    let found = String::from_utf8(found.expect("finds").stdout).expect("text");
    let read =
        |dir: &str| files.iter().filter_map(|file| std::fs::read_to_string(format!("{dir}/{file}")).ok()).collect();
    let all: Vec<String> = found.lines().flat_map(|dir| -> Vec<String> { read(dir) }).collect();
    all.into_iter().map(|text| text.trim().to_owned()).collect()
}

pub async fn check(runtime: &Runtime) {
    let mut agent = Agent::start(runtime.config(), &[]).await;
    let mut changing = changing();
    agent.apply("pods", &changing);
    agent.until("changing", "runs", |s| s["phase"] == "Running" && condition(s, "Ready") == "True").await;
    check_resize(&mut agent, &mut changing).await;
    check_ephemeral(&mut agent, &mut changing).await;
    agent.apply("pods", &deleted(changing.clone(), 0));
    agent.until_gone("changing").await;
    check_eviction(&mut agent).await;
    assert!(!runtime.config().pod_dir(&uid(&changing)).exists());
    agent.stop().await;
}

async fn check_resize(agent: &mut Agent, changing: &mut Value) {
    changing["spec"]["containers"][0]["resources"] = resources("150m", "500m", "48Mi");
    changing["spec"]["containers"][1]["resources"] = resources("100m", "200m", "128Mi");
    changing["metadata"]["generation"] = json!(2);
    agent.apply("pods", changing);
    let memory = |s: &Value, at: usize| s["containerStatuses"][at]["resources"]["limits"]["memory"].clone();
    let done = |s: &Value| {
        memory(s, 0) == "48Mi"
            && memory(s, 1) == "128Mi"
            && condition(s, "PodResizeInProgress").is_empty()
            && condition(s, "Ready") == "True"
    };
    let status = agent.until("changing", "has other resources", done).await;
    let restarts = [0, 1].map(|at| status["containerStatuses"][at]["restartCount"].clone());
    assert_eq!(restarts, [json!(0), json!(1)], "only what needs it starts anew");
    assert_eq!(status["containerStatuses"][0]["allocatedResources"]["cpu"], "150m");
    for (at, limit) in [(0, 48_u64 << 20), (1, 128 << 20)] {
        let id = status["containerStatuses"][at]["containerID"].as_str().expect("an id");
        assert_eq!(cgroup(id, ["memory.limit_in_bytes", "memory.max"]), [limit.to_string()]);
    }
    let id = status["containerStatuses"][0]["containerID"].as_str().expect("an id");
    let quota = cgroup(id, ["cpu.cfs_quota_us", "cpu.max"]);
    assert!(quota.len() == 1 && quota[0].starts_with("50000"), "{quota:?}");

    let granted = changing["spec"]["containers"][0]["resources"].clone();
    changing["spec"]["containers"][0]["resources"] = resources("10000", "10000", "48Mi");
    agent.apply("pods", changing);
    let status = agent.until("changing", "cannot grow", |s| condition(s, "PodResizePending") == "True").await;
    let conditions = status["conditions"].as_array().expect("conditions");
    let pending = conditions.iter().find(|c| c["type"] == "PodResizePending").expect("there");
    assert_eq!(pending["reason"], "Infeasible");
    assert_eq!(status["containerStatuses"][0]["resources"], granted);
    changing["spec"]["containers"][0]["resources"] = granted;
    agent.apply("pods", changing);
    agent.until("changing", "asks no more", |s| condition(s, "PodResizePending").is_empty()).await;
}

async fn check_ephemeral(agent: &mut Agent, changing: &mut Value) {
    // In the target's processes, and so with its root to see.
    let script = "/bin/busybox ps | /bin/busybox grep -q '[s]leep 1000' && echo -n seen > /dev/termination-log";
    changing["spec"]["ephemeralContainers"] =
        json!([with(shell("debug", script), json!({"targetContainerName": "a"}))]);
    agent.apply("pods", changing);
    let ended = |s: &Value| s["ephemeralContainerStatuses"][0]["state"]["terminated"]["exitCode"].is_number();
    let status = agent.until("changing", "was looked at", ended).await;
    let state = &status["ephemeralContainerStatuses"][0]["state"]["terminated"];
    assert_eq!((&state["exitCode"], &state["message"]), (&json!(0), &json!("seen")));
    assert_eq!((&status["phase"], condition(&status, "Ready").as_str()), (&json!("Running"), "True"));
}

async fn check_eviction(agent: &mut Agent) {
    let fills = "/bin/busybox dd if=/dev/zero of=/data/x bs=1M count=3; /bin/busybox sleep 1000";
    let container = with(shell("a", fills), json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]}));
    let volume = json!({"name": "data", "emptyDir": {"sizeLimit": "1Mi"}});
    let greedy = pod("greedy", json!({"containers": [container], "volumes": [volume], "restartPolicy": "Never"}));
    agent.apply("pods", &greedy);
    let status = agent.until("greedy", "is evicted", |s| s["phase"] == "Failed").await;
    let message = "Usage of EmptyDir volume \"data\" exceeds the limit \"1Mi\". ";
    assert_eq!((&status["reason"], &status["message"]), (&json!("Evicted"), &json!(message)));
    agent.apply("pods", &deleted(greedy, 0));
    agent.until_gone("greedy").await;
}
