//! A real containerd in a network namespace of its own, and an agent without masters on top.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use kontiki_agent::{
    Config,
    archive::{Entry, Image},
    cri::Cri,
    identity::Cluster,
    node::Node,
    pause, prepare,
};
use kontiki_proto::node::{Object, from_agent::Message};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub const IMAGE: &str = "localhost/busybox:1";

/// containerd and its directories; everything is taken down when it is dropped.
pub struct Runtime {
    pub base: PathBuf,
    child: Child,
}

impl Runtime {
    /// Moves this thread into a network namespace of its own and starts containerd there. Threads
    /// started afterwards live there too.
    pub fn start(name: &str) -> Self {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("the test runs as root");
        run("ip", &["link", "set", "lo", "up"]);
        // Short: a Unix socket's path has at most 107 bytes.
        let base = PathBuf::from(format!("/tmp/kt-{name}-{}", std::process::id()));
        std::fs::create_dir_all(base.join("cni")).expect("creates");
        std::fs::write(base.join("config.toml"), containerd_config(&base)).expect("writes");
        std::fs::write(base.join("cni/10-test.conflist"), cni_config(&base)).expect("writes");
        let log = std::fs::File::create(base.join("containerd.log")).expect("creates");
        let child = Command::new("containerd")
            .args(["-c", path(&base.join("config.toml")).as_str()])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("containerd is installed");
        let runtime = Self { base, child };
        runtime.import("pause", &pause::archive("localhost/pause:1"));
        let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
        let entries = vec![Entry::Dir("bin"), Entry::Program("bin/busybox", &busybox)];
        let image = Image { reference: IMAGE, entries, entrypoint: &["/bin/busybox"], command: &[], user: "" };
        runtime.import("busybox", &image.archive());
        runtime
    }

    pub fn socket(&self) -> PathBuf {
        self.base.join("c.sock")
    }

    fn import(&self, name: &str, archive: &[u8]) {
        let file = self.base.join(format!("{name}.tar"));
        std::fs::write(&file, archive).expect("writes");
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let result = Command::new("ctr")
                .args(["-a", &path(&self.socket()), "-n", "k8s.io", "images", "import", &path(&file)])
                .output()
                .expect("ctr is installed");
            if result.status.success() {
                return;
            }
            assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&result.stderr));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn config(&self) -> Config {
        let text = format!(
            "name: n1\nnode_ip: 127.0.0.1\nservers: ['127.0.0.1:1']\ndata_dir: {0}/agent\ncontainerd_socket: {0}/c.sock\n\
             certs_dir: {0}/certs.d\ncni_conf_dir: {0}/cni\n",
            self.base.display()
        );
        serde_yaml_ng::from_str(&text).expect("a good configuration")
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut mounts = kontiki_agent::volumes::mounts_below(&self.base).unwrap_or_default();
        mounts.reverse();
        for mount in mounts {
            let _ = nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH);
        }
        if std::env::var_os("KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.base);
        }
    }
}

pub fn path(path: &Path) -> String {
    path.display().to_string()
}

fn run(program: &str, args: &[&str]) {
    assert!(Command::new(program).args(args).status().expect("runs").success(), "{program} {args:?}");
}

fn containerd_config(base: &Path) -> String {
    format!(
        r#"version = 2
root = "{0}/root"
state = "{0}/state"
[grpc]
address = "{0}/c.sock"
[ttrpc]
address = "{0}/c.sock.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:1"
restrict_oom_score_adj = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{0}/cni"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{0}/certs.d"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#,
        base.display()
    )
}

fn cni_config(base: &Path) -> String {
    json!({"cniVersion": "0.4.0", "name": "test", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
         "ipam": {"type": "host-local", "dataDir": base.join("ipam"), "ranges": [[{"subnet": "10.251.7.0/24"}]],
                  "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}}]})
    .to_string()
}

/// An agent whose masters are played by the test.
pub struct Agent {
    pub node: Arc<Node>,
    stop: CancellationToken,
    tasks: JoinSet<&'static str>,
    /// Everything it said, oldest first.
    pub said: Vec<Message>,
}

impl Agent {
    pub async fn start(config: Config, objects: &[(&str, Value)]) -> Self {
        prepare(&config).expect("prepares");
        let cri = Cri::new(&config.containerd_socket).expect("a socket path");
        let host = kontiki_agent::known_host(&cri, &config).await;
        let cluster = Cluster {
            servers: vec![],
            cluster_domain: "cluster.local".into(),
            pod_cidr: "10.251.0.0/16".into(),
            service_cidr: "10.250.0.0/16".into(),
        };
        let node = Node::new(config, cluster, cri, host);
        node.objects.begin_snapshot();
        for (resource, object) in objects {
            apply(&node, resource, object);
        }
        node.objects.end_snapshot();
        node.online.store(true, std::sync::atomic::Ordering::SeqCst);
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        kontiki_agent::spawn_local(&mut tasks, &node, &stop);
        Self { node, stop, tasks, said: Vec::new() }
    }

    pub fn apply(&self, resource: &str, object: &Value) {
        apply(&self.node, resource, object);
    }

    pub fn remove(&self, resource: &str, namespace: &str, name: &str) {
        let object =
            Object { resource: resource.into(), namespace: namespace.into(), name: name.into(), json: String::new() };
        self.node.objects.apply(&object).expect("removes");
    }

    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }

    /// The latest status that was sent of a pod.
    pub fn status(&mut self, pod: &str) -> Value {
        self.listen();
        let of_pod = |message: &&Message| matches!(message, Message::Status(s) if s.kind == "Pod" && s.name == pod);
        match self.said.iter().rev().find(of_pod) {
            Some(Message::Status(status)) => serde_json::from_str(&status.json).expect("JSON"),
            _ => Value::Null,
        }
    }

    pub fn events(&mut self) -> Vec<String> {
        self.listen();
        let text = |message: &Message| match message {
            Message::Event(event) => {
                let event: Value = serde_json::from_str(&event.json).expect("JSON");
                Some(format!("{}: {}", event["reason"].as_str()?, event["message"].as_str()?))
            }
            _ => None,
        };
        self.said.iter().filter_map(text).collect()
    }

    pub fn listen(&mut self) {
        self.said.extend(self.node.outbox.take().into_iter().filter_map(|m| m.message));
    }

    /// Waits until the pod's status fulfils `test`.
    pub async fn until(&mut self, pod: &str, what: &str, test: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(40);
        loop {
            let status = self.status(pod);
            if test(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{pod}: {what}: last status {status:#}\nevents {:#?}", self.events());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until the agent says that nothing is left of the pod.
    pub async fn until_gone(&mut self, pod: &str) {
        let deadline = Instant::now() + Duration::from_secs(40);
        loop {
            self.listen();
            if self.said.iter().any(|m| matches!(m, Message::PodGone(gone) if gone.name == pod)) {
                return;
            }
            assert!(Instant::now() < deadline, "{pod} is not gone; events {:#?}", self.events());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn apply(node: &Node, resource: &str, object: &Value) {
    let meta = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    let message = Object {
        resource: resource.into(),
        namespace: meta("namespace"),
        name: meta("name"),
        json: object.to_string(),
    };
    node.objects.apply(&message).expect("a good object");
}

/// A pod with the given `spec`, as the API would hand it out.
pub fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": format!("00000000-0000-0000-{:04}-{name}", std::process::id() % 10000),
                     "labels": {"app": name}, "generation": 1},
        "spec": spec, "status": {"phase": "Pending", "qosClass": "BestEffort"},
    });
    let spec = pod["spec"].as_object_mut().expect("an object");
    for (key, value) in
        [("nodeName", json!("n1")), ("restartPolicy", json!("Always")), ("terminationGracePeriodSeconds", json!(5))]
    {
        spec.entry(key).or_insert(value);
    }
    pod
}

/// The pod, being deleted.
pub fn deleted(mut pod: Value, grace: i64) -> Value {
    pod["metadata"]["deletionTimestamp"] = json!(jiff::Timestamp::now().to_string());
    pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    pod
}
