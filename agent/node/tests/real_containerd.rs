//! The agent against a real containerd, runc and CNI; the masters are played by the test.
//!
//! Needs root, containerd, runc, the CNI plugins and busybox-static: `cargo test -p kontiki-agent
//! --test real_containerd -- --ignored`.

#![allow(clippy::unwrap_used)] // a test may panic

#[path = "support/running.rs"]
mod running;
mod support;

use std::time::{Duration, Instant};

use kontiki_agent::tunnels::Tunnels;
use kontiki_proto::node::{
    Close, FromAgent, Logs, Open, Stream, Tunnel, from_agent::Message, open::What, tunnel::Step,
};
use serde_json::{Value, json};
use support::{Agent, IMAGE, Runtime, deleted, pod};
use tokio::sync::mpsc;

fn shell(name: &str, script: &str) -> Value {
    json!({"name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["/bin/busybox", "sh", "-c", script]})
}

fn with(mut container: Value, more: Value) -> Value {
    let (into, more) = (container.as_object_mut().expect("an object"), more);
    for (key, value) in more.as_object().expect("an object") {
        into.insert(key.clone(), value.clone());
    }
    container
}

fn condition(status: &Value, name: &str) -> String {
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|c| c["type"] == name);
    found.and_then(|c| c["status"].as_str()).unwrap_or_default().to_owned()
}

fn uid(pod: &Value) -> String {
    pod["metadata"]["uid"].as_str().expect("a uid").to_owned()
}

fn web() -> Value {
    let script = "echo started; echo $GREETING $PASSWORD $(/bin/busybox cat /secret/password) $ME > /data/index.html; \
                  trap 'echo bye; exit 0' TERM; /bin/busybox httpd -p 8080 -h /data; while true; do /bin/busybox sleep 1 & wait; done";
    let probe = json!({"httpGet": {"path": "/index.html", "port": "http"}, "periodSeconds": 1});
    pod(
        "web",
        json!({
            "initContainers": [with(shell("init", "echo prepared > /data/init"), json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]}))],
            "containers": [with(shell("main", script), json!({
                "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": probe,
                "resources": {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}},
                "env": [
                    {"name": "GREETING", "valueFrom": {"configMapKeyRef": {"name": "words", "key": "greeting"}}},
                    {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "password"}}},
                    {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                ],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "secret", "mountPath": "/secret", "readOnly": true},
                                 {"name": "words", "mountPath": "/one-word", "subPath": "greeting"}],
            }))],
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "secret", "secret": {"secretName": "keys"}},
                        {"name": "words", "configMap": {"name": "words"}}],
        }),
    )
}

fn objects() -> Vec<(&'static str, Value)> {
    vec![
        ("configmaps", json!({"metadata": {"name": "words", "namespace": "default"}, "data": {"greeting": "hello"}})),
        ("secrets", json!({"metadata": {"name": "keys", "namespace": "default"}, "data": {"password": "c2VzYW1l"}})),
    ]
}

#[test]
#[ignore = "needs root and containerd"]
fn pods_change_while_they_run() {
    let runtime = Runtime::start("change");
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("starts");
    tokio.block_on(running::check(&runtime));
}

#[test]
#[ignore = "needs root and containerd"]
fn pods_live_and_die() {
    let runtime = Runtime::start("life");
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("starts");
    tokio.block_on(async {
        let web_pod = web();
        let mut agent = Agent::start(runtime.config(), &objects()).await;
        agent.apply("pods", &web_pod);
        let status = agent.until("web", "becomes ready", |s| condition(s, "Ready") == "True").await;
        check_ready(&status);
        check_http(&status, "hello sesame sesame").await;
        check_secret_is_in_memory(&runtime, &uid(&web_pod));
        check_tunnels(&agent, &uid(&web_pod)).await;
        check_live_update(&agent, &runtime, &uid(&web_pod)).await;
        check_crashes(&mut agent).await;
        check_liveness(&mut agent).await;
        check_missing(&mut agent).await;

        // The agent comes back: the pod is not touched and never unready.
        let id = status["containerStatuses"][0]["containerID"].clone();
        let (mut shown, mut all) = (web_pod.clone(), objects());
        shown["status"] = agent.status("web");
        agent.stop().await;
        all.push(("pods", shown.clone()));
        let mut agent = Agent::start(runtime.config(), &all).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(agent.status("web"), Value::Null, "nothing new to say");

        // A killed container comes back, with its count.
        let pid = main_pid(&runtime, id.as_str().expect("an id"));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("kills");
        let killed = Instant::now();
        let status = agent
            .until("web", "restarts", |s| {
                s["containerStatuses"][0]["restartCount"] == 1 && condition(s, "Ready") == "True"
            })
            .await;
        println!("killed container ready again after {:?}", killed.elapsed());
        assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 137);

        // It ends within its grace period, and nothing is left.
        let began = Instant::now();
        agent.apply("pods", &deleted(shown, 5));
        agent.until_gone("web").await;
        println!("deleted in {:?}", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(4), "SIGTERM was enough");
        let last = agent.status("web");
        assert_eq!(last["containerStatuses"][0]["state"]["terminated"]["exitCode"], 0, "{last:#}");
        check_nothing_is_left(&agent, &runtime, &uid(&web_pod)).await;
        agent.stop().await;
    });
}

fn check_ready(status: &Value) {
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["qosClass"], "BestEffort", "the API's word stands");
    assert_eq!(status["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    let main = &status["containerStatuses"][0];
    assert_eq!(
        (&main["ready"], &main["started"], &main["restartCount"]),
        (&json!(true), &json!(true), &json!(0)),
        "{main:#}"
    );
    assert!(main["containerID"].as_str().is_some_and(|id| id.starts_with("containerd://")), "{main:#}");
    assert_eq!(main["image"], IMAGE);
    assert!(main["imageID"].as_str().is_some_and(|id| id.contains("sha256:")), "{main:#}");
    for name in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        assert_eq!(condition(status, name), "True", "{name}");
    }
}

async fn check_http(status: &Value, expect: &str) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let ip = status["podIP"].as_str().expect("an address");
    let mut stream = tokio::net::TcpStream::connect((ip, 8080)).await.expect("connects");
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").await.expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("reads");
    assert!(answer.contains(&format!("{expect} {ip}")), "{answer}");
}

fn check_secret_is_in_memory(runtime: &Runtime, uid: &str) {
    let dir = runtime.config().pod_dir(uid).join("volumes/kubernetes.io~secret/secret");
    assert_eq!(std::fs::read_to_string(dir.join("password")).expect("written"), "sesame");
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("reads");
    let line = mounts.lines().find(|l| l.contains(&support::path(&dir))).expect("a mount of its own");
    assert!(line.contains(" tmpfs "), "{line}");
}

/// Opens a tunnel and gathers what comes back until it is closed or `enough`.
async fn tunnel(agent: &Agent, what: What, data: &[u8], enough: impl Fn(&[u8]) -> bool) -> (Vec<u8>, Option<Close>) {
    let (tx, mut rx) = mpsc::channel::<FromAgent>(64);
    let mut tunnels = Tunnels::new(std::sync::Arc::new(kontiki_agent::Server(agent.node.clone())), tx);
    let mut send = |step| tunnels.handle(Tunnel { id: 7, step: Some(step) });
    send(Step::Open(Open { node: String::new(), what: Some(what) }));
    if !data.is_empty() {
        send(Step::Data(data.to_vec()));
    }
    let mut out = Vec::new();
    let gather = async {
        while let Some(message) = rx.recv().await {
            let Some(Message::Tunnel(tunnel)) = message.message else { continue };
            match tunnel.step {
                Some(Step::Data(data)) => {
                    send(Step::Ack(data.len() as u64));
                    out.extend(data);
                    if enough(&out) {
                        return None;
                    }
                }
                Some(Step::Close(close)) => return Some(close),
                _ => {}
            }
        }
        None
    };
    let close = tokio::time::timeout(Duration::from_secs(10), gather).await.expect("an answer");
    (out, close)
}

async fn check_tunnels(agent: &Agent, uid: &str) {
    let logs = Logs {
        namespace: "default".into(),
        pod: "web".into(),
        uid: uid.into(),
        container: "main".into(),
        ..Logs::default()
    };
    let (text, close) = tunnel(agent, What::Logs(logs.clone()), b"", |_| false).await;
    assert_eq!((String::from_utf8_lossy(&text).as_ref(), close), ("started\n", Some(Close::default())));
    let previous = Logs { previous: true, ..logs };
    let (_, close) = tunnel(agent, What::Logs(previous), b"", |_| false).await;
    assert_eq!(close.map(|c| c.code), Some(400));
    let exec = Stream {
        namespace: "default".into(),
        pod: "web".into(),
        uid: uid.into(),
        container: "main".into(),
        verb: "exec".into(),
        command: ["/bin/busybox", "cat", "/one-word", "/etc/hosts", "/etc/resolv.conf"].map(str::to_owned).to_vec(),
        stdout: true,
        ..Stream::default()
    };
    let head = b"GET /api/v1/whatever HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n";
    let done = |out: &[u8]| String::from_utf8_lossy(out).contains("Success");
    let (answer, _) = tunnel(agent, What::Stream(exec), head, done).await;
    let answer = String::from_utf8_lossy(&answer);
    for part in ["HTTP/1.1 101", "hello", "Kubernetes-managed hosts file", "\tweb\n"] {
        assert!(answer.contains(part), "{part:?} in {answer}");
    }
    check_spdy(agent, uid).await;
}

/// The runtime reads streams as masters open them for clients of WebSocket: headers in stored blocks, input that ends.
async fn check_spdy(agent: &Agent, uid: &str) {
    let exec = Stream {
        namespace: "default".into(),
        pod: "web".into(),
        uid: uid.into(),
        container: "main".into(),
        verb: "exec".into(),
        command: ["/bin/busybox", "cat"].map(str::to_owned).to_vec(),
        stdin: true,
        stdout: true,
        ..Stream::default()
    };
    let mut sent = b"POST / HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
                     X-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n"
        .to_vec();
    for (id, kind) in [(1_u8, "error"), (3, "stdin"), (5, "stdout")] {
        let block =
            [&[0, 0, 0, 1, 0, 0, 0, 10][..], b"streamtype", &[0, 0, 0, kind.len() as u8], kind.as_bytes()].concat();
        let length = (block.len() as u16).to_le_bytes();
        let start: &[u8] = if id == 1 { &[0x78, 1] } else { &[] };
        let stored = [start, &[0], &length, &length.map(|byte| !byte), &block, &[0, 0, 0, 0xff, 0xff]].concat();
        let body = [&[0, 0, 0, id, 0, 0, 0, 0, 0, 0][..], &stored].concat();
        sent.extend([&[0x80, 3, 0, 1, 0, 0, 0, body.len() as u8][..], &body].concat());
    }
    sent.extend([&[0, 0, 0, 3, 1, 0, 0, 12][..], b"through SPDY"].concat());
    let done = |out: &[u8]| String::from_utf8_lossy(out).contains("Success");
    let (answer, _) = tunnel(agent, What::Stream(exec), &sent, done).await;
    let answer = String::from_utf8_lossy(&answer);
    for part in ["HTTP/1.1 101", "through SPDY", "Success"] {
        assert!(answer.contains(part), "{part:?} in {answer}");
    }
}

async fn check_live_update(agent: &Agent, runtime: &Runtime, uid: &str) {
    agent.apply(
        "secrets",
        &json!({"metadata": {"name": "keys", "namespace": "default"}, "data": {"password": "bW9vbg=="}}),
    );
    let file = runtime.config().pod_dir(uid).join("volumes/kubernetes.io~secret/secret/password");
    let deadline = Instant::now() + Duration::from_secs(5);
    while std::fs::read_to_string(&file).is_ok_and(|text| text != "moon") {
        assert!(Instant::now() < deadline, "the secret was not updated");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn check_crashes(agent: &mut Agent) {
    let never = pod(
        "once",
        json!({"restartPolicy": "Never", "containers": [shell("a", "echo -n why > /dev/termination-log; exit 3")]}),
    );
    let looping = pod("loop", json!({"containers": [shell("a", "exit 1")]}));
    agent.apply("pods", &never);
    agent.apply("pods", &looping);
    let status = agent.until("once", "fails", |s| s["phase"] == "Failed").await;
    let ended = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["reason"], &ended["message"]), (&json!(3), &json!("Error"), &json!("why")));
    let status = agent
        .until("loop", "backs off", |s| s["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff")
        .await;
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["containerStatuses"][0]["restartCount"], 1);
    for gone in [never, looping] {
        agent.apply("pods", &deleted(gone.clone(), 1));
        let name = gone["metadata"]["name"].as_str().expect("a name");
        agent.until_gone(name).await;
        agent.remove("pods", "default", name);
    }
}

async fn check_liveness(agent: &mut Agent) {
    let probe = json!({"exec": {"command": ["/bin/busybox", "test", "!", "-e", "/tmp-sick"]}, "periodSeconds": 1, "failureThreshold": 1});
    let sick = pod(
        "sick",
        json!({"containers": [with(shell("a", "/bin/busybox sleep 2; /bin/busybox touch /tmp-sick; /bin/busybox sleep 1000"),
        json!({"livenessProbe": probe}))], "terminationGracePeriodSeconds": 0}),
    );
    agent.apply("pods", &sick);
    agent.until("sick", "is restarted", |s| s["containerStatuses"][0]["restartCount"] == 1).await;
    let events = agent.events();
    for expect in ["Unhealthy: Liveness probe failed", "Killing: Container a failed liveness probe, will be restarted"]
    {
        assert!(events.iter().any(|e| e.starts_with(expect)), "{expect} in {events:#?}");
    }
    agent.apply("pods", &deleted(sick, 0));
    agent.until_gone("sick").await;
    agent.remove("pods", "default", "sick");
}

async fn check_missing(agent: &mut Agent) {
    let mut container = shell("a", "true");
    container["image"] = json!("localhost/nowhere:1");
    container["imagePullPolicy"] = json!("Never");
    let stuck = pod("stuck", json!({"containers": [container]}));
    agent.apply("pods", &stuck);
    agent
        .until("stuck", "waits", |s| s["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImageNeverPull")
        .await;
    agent.apply("pods", &deleted(stuck, 30));
    agent.until_gone("stuck").await;
    agent.remove("pods", "default", "stuck");
}

fn main_pid(runtime: &Runtime, id: &str) -> i32 {
    let id = id.trim_start_matches("containerd://");
    let list = std::process::Command::new("ctr")
        .args(["-a", &support::path(&runtime.socket()), "-n", "k8s.io", "tasks", "ls"])
        .output()
        .expect("lists");
    let text = String::from_utf8_lossy(&list.stdout).into_owned();
    let line = text.lines().find(|l| l.starts_with(id)).expect("the task is there");
    line.split_whitespace().nth(1).and_then(|pid| pid.parse().ok()).expect("a pid")
}

async fn check_nothing_is_left(agent: &Agent, runtime: &Runtime, uid: &str) {
    let sandboxes =
        agent.node.cri.list_pod_sandbox(k8s_cri::v1::ListPodSandboxRequest::default()).await.expect("lists").items;
    assert!(sandboxes.is_empty(), "{sandboxes:?}");
    assert!(!runtime.config().pod_dir(uid).exists());
    let logs = std::fs::read_dir(runtime.config().logs()).expect("lists").count();
    assert_eq!(logs, 0, "log directories");
    let find = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-name", &format!("pod{uid}")])
        .output()
        .expect("finds");
    assert_eq!(String::from_utf8_lossy(&find.stdout), "", "cgroups");
}

#[test]
#[ignore = "needs root and containerd; prints figures"]
fn start_time_is_close_to_the_raw_runtime() {
    let runtime = Runtime::start("time");
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("starts");
    tokio.block_on(async {
        let mut agent = Agent::start(runtime.config(), &[]).await;
        let (mut raw, mut ours, mut down) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..12 {
            raw.push(raw_start(&agent, round).await);
            let name = format!("p{round}");
            let spec = json!({"containers": [with(shell("a", "/bin/busybox sleep 1000"),
                json!({"resources": {"limits": {"memory": "64Mi"}}}))], "terminationGracePeriodSeconds": 0});
            let pod = pod(&name, spec);
            let began = Instant::now();
            agent.apply("pods", &pod);
            agent.until(&name, "runs", |s| s["phase"] == "Running").await;
            ours.push(began.elapsed());
            let began = Instant::now();
            agent.apply("pods", &deleted(pod, 0));
            agent.until_gone(&name).await;
            down.push(began.elapsed());
            agent.remove("pods", "default", &name);
        }
        for times in [&mut raw, &mut ours, &mut down] {
            times.sort();
        }
        println!(
            "start: raw CRI {:?}, agent {:?}, ratio {:.2}; end: {:?}",
            raw[6],
            ours[6],
            ours[6].as_secs_f64() / raw[6].as_secs_f64(),
            down[6]
        );
        agent.stop().await;
    });
}

/// The same pod by three bare calls.
async fn raw_start(agent: &Agent, round: usize) -> Duration {
    use k8s_cri::v1 as cri;
    let cri = &agent.node.cri;
    let uid = format!("raw{round}-{}", std::process::id());
    let sandbox = cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: "raw".into(),
            uid: uid.clone(),
            namespace: "default".into(),
            attempt: 0,
        }),
        log_directory: agent.node.config.logs().join(&uid).display().to_string(),
        linux: Some(cri::LinuxPodSandboxConfig { cgroup_parent: format!("/kubepods/pod{uid}"), ..Default::default() }),
        ..Default::default()
    };
    std::fs::create_dir_all(format!("{}/a", sandbox.log_directory)).expect("creates");
    let config = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: "a".into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: ["/bin/busybox", "sleep", "1000"].map(str::to_owned).to_vec(),
        log_path: "a/0.log".into(),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cri::LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let began = Instant::now();
    let request = cri::RunPodSandboxRequest { config: Some(sandbox.clone()), runtime_handler: String::new() };
    let id = cri.run_pod_sandbox(request).await.expect("runs").pod_sandbox_id;
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: id.clone(),
        config: Some(config),
        sandbox_config: Some(sandbox.clone()),
    };
    let container = cri.create_container(request).await.expect("creates").container_id;
    cri.start_container(cri::StartContainerRequest { container_id: container }).await.expect("starts");
    let took = began.elapsed();
    cri.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await.expect("stops");
    cri.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: id }).await.expect("removes");
    std::fs::remove_dir_all(sandbox.log_directory).expect("removes");
    kontiki_agent::cgroups::remove(&uid).expect("removes");
    took
}
