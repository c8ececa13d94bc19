//! Two nodes with pods, for real: namespaces, a switch, and the kernel's own forwarding.
//!
//! Every namespace belongs to one thread and ends with it, so nothing is left behind even when a
//! test panics. Needs root.

#![allow(clippy::unwrap_used)] // a test may panic

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    path::PathBuf,
    sync::mpsc,
    time::{Duration, Instant},
};

use kontiki_agent_plan::policy::{Allowed, Policies, PolicyKey, Ports, Way};
use kontiki_net::{
    Endpoint, NetConfig, Network, Peer, Protocol, ServicePort,
    link::Links,
    load_balancer::{Addresses, announce, other_holder},
};

type Job = Box<dyn FnOnce(&tokio::runtime::Runtime) + Send>;

/// A network namespace and the thread that lives in it.
struct Space {
    jobs: mpsc::Sender<Job>,
    file: File,
}

impl Space {
    fn new() -> Self {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may make namespaces");
            let file = File::open("/proc/thread-self/ns/net").expect("own namespace");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            tell.send(file).expect("the maker waits");
            for job in todo {
                job(&runtime);
            }
        });
        Self { jobs, file: told.recv().expect("namespace thread") }
    }

    /// Runs something in the namespace and waits for its result.
    fn run<T: Send + 'static>(&self, job: impl FnOnce(&tokio::runtime::Runtime) -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        let job = move |runtime: &tokio::runtime::Runtime| {
            let _ = tell.send(job(runtime));
        };
        self.jobs.send(Box::new(job)).expect("namespace thread lives");
        told.recv().expect("the job did not panic")
    }

    /// An interface `name` here, its other end a port of `bridge` in `other`.
    fn plug_into(
        &self,
        other: &Space,
        bridge: &'static str,
        port: &'static str,
        name: &'static str,
        address: &'static str,
    ) {
        let target = self.file.try_clone().expect("fd");
        other.run(move |runtime| {
            runtime.block_on(async {
                let links = Links::new().expect("netlink");
                let index = links.ensure_veth(port, "peer").await.expect("veth");
                let peer = links.index("peer").await.expect("peer").expect("peer");
                let bridge = links.ensure_bridge(bridge, None).await.expect("bridge");
                links.attach(index, bridge).await.expect("attach");
                let hairpin = rtnetlink::LinkBridgePort::new(index).hairpin(true).build();
                links.handle().link().set_port(hairpin).execute().await.expect("hairpin");
                links.up(bridge).await.expect("up");
                links.up(index).await.expect("up");
                links.move_to(peer, &target, name).await.expect("move");
            });
        });
        self.run(move |runtime| {
            runtime.block_on(async {
                let links = Links::new().expect("netlink");
                for link in ["lo", name] {
                    let index = links.index(link).await.expect("link").expect("link");
                    links.up(index).await.expect("up");
                }
                let index = links.index(name).await.expect("link").expect("link");
                links.ensure_address(index, address.parse().expect("address")).await.expect("address");
            });
        });
    }

    fn default_via(&self, gateway: &str) {
        let gateway: Ipv4Addr = gateway.parse().expect("ip");
        self.run(move |runtime| {
            runtime.block_on(async { Links::new().expect("netlink").default_route(gateway).await.expect("route") });
        });
    }

    /// Answers every TCP connection with `says` and the caller's address.
    fn serve(&self, says: &'static str) {
        let listener = self.run(|_| TcpListener::bind("0.0.0.0:8080").expect("bind"));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let from = stream.peer_addr().map(|a| a.ip().to_string()).unwrap_or_default();
                let _ = write!(stream, "{says} {from}");
            }
        });
    }

    /// Echoes UDP with `says`.
    fn serve_udp(&self, says: &'static str) {
        let socket = self.run(|_| UdpSocket::bind("0.0.0.0:8080").expect("bind"));
        std::thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(says.as_bytes(), from);
            }
        });
    }

    /// What a server says, or why there is no answer.
    fn ask(&self, to: &str) -> String {
        let to: SocketAddr = to.parse().expect("address");
        self.run(move |_| {
            let mut stream = match TcpStream::connect_timeout(&to, Duration::from_secs(3)) {
                Ok(stream) => stream,
                Err(error) => return error.kind().to_string(),
            };
            let _ = stream.set_read_timeout(Some(Duration::from_secs(3)));
            let mut text = String::new();
            stream.read_to_string(&mut text).map_or_else(|e| e.kind().to_string(), |_| text)
        })
    }
}

struct Node {
    space: Space,
    network: std::sync::Arc<Network>,
    dir: PathBuf,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

const NODES: [(&str, &str, &str); 2] = [("n1", "10.99.0.1", "10.244.1.0/24"), ("n2", "10.99.0.2", "10.244.2.0/24")];

fn node(space: Space, number: usize, egress: bool) -> Node {
    let (name, ip, pods) = NODES[number];
    let dir =
        std::env::temp_dir().join(format!("kontiki-net-{}-{name}-{:?}", std::process::id(), space.file.as_raw_fd()));
    let config = NetConfig {
        node_name: name.into(),
        node_ip: ip.parse().expect("ip"),
        pod_cidr: "10.244.0.0/16".parse().expect("range"),
        service_cidr: "10.96.0.0/16".parse().expect("range"),
        egress,
        dns: None,
        cni_conf_dir: dir.join("cni"),
        cni_bin_dir: "/usr/lib/cni".into(),
        ipam_dir: dir.join("ipam"),
        mtu: None,
    };
    let network = space.run(move |runtime| {
        runtime.block_on(async {
            let network = Network::start(config).await.expect("start");
            network.set_node(pods.parse().expect("range")).await.expect("set_node");
            let peers = NODES.iter().map(|(name, ip, pods)| Peer {
                name: (*name).into(),
                node_ip: ip.parse().expect("ip"),
                pod_cidr: pods.parse().expect("range"),
            });
            let peers: Vec<Peer> = peers.collect();
            network.set_peers(peers.clone()).await.expect("set_peers");
            network.set_peers(peers).await.expect("set_peers again");
            std::sync::Arc::new(network)
        })
    });
    Node { space, network, dir }
}

impl Node {
    fn services(&self, services: Vec<ServicePort>) {
        self.set(services, Policies::default());
    }

    fn set(&self, services: Vec<ServicePort>, policies: Policies) {
        let network = self.network.clone();
        self.space
            .run(move |runtime| runtime.block_on(network.set_services(services, policies)).expect("set_services"));
    }
}

fn service(ip: &str, protocol: Protocol, node_port: Option<u16>, endpoints: &[(&str, bool)]) -> ServicePort {
    ServicePort {
        namespace: "default".into(),
        name: "web".into(),
        port_name: String::new(),
        protocol,
        cluster_ips: vec![ip.parse().expect("ip")],
        port: 80,
        node_port,
        external_ips: Vec::new(),
        balancer_ips: Vec::new(),
        announced_ips: Vec::new(),
        source_ranges: None,
        health_check_port: None,
        affinity_seconds: None,
        external_policy_local: false,
        internal_policy_local: false,
        endpoints: endpoints
            .iter()
            .map(|(ip, local)| Endpoint {
                ip: ip.parse::<IpAddr>().expect("ip"),
                port: 8080,
                ready: true,
                serving: true,
                terminating: false,
                local: *local,
                near: true,
            })
            .collect(),
    }
}

/// Switch, two nodes, a pod on each (10.244.1.2, 10.244.2.2), and a client outside (10.99.0.9).
struct Lab {
    _switch: Space,
    outside: Space,
    n1: Node,
    n2: Node,
    p1: Space,
    p2: Space,
}

impl Lab {
    fn new(egress: bool) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root to make network namespaces");
            return None;
        }
        let [switch, outside, s1, s2, p1, p2] = std::array::from_fn(|_| Space::new());
        outside.plug_into(&switch, "sw", "out", "eth0", "10.99.0.9/24");
        s1.plug_into(&switch, "sw", "one", "eth0", "10.99.0.1/24");
        s2.plug_into(&switch, "sw", "two", "eth0", "10.99.0.2/24");
        let (n1, n2) = (node(s1, 0, egress), node(s2, 1, egress));
        p1.plug_into(&n1.space, kontiki_net::BRIDGE, "pod", "eth0", "10.244.1.2/24");
        p2.plug_into(&n2.space, kontiki_net::BRIDGE, "pod", "eth0", "10.244.2.2/24");
        p1.default_via("10.244.1.1");
        p2.default_via("10.244.2.1");
        p1.serve("p1");
        p2.serve("p2");
        Some(Self { _switch: switch, outside, n1, n2, p1, p2 })
    }

    fn everywhere(&self, service: impl Fn(usize) -> ServicePort) {
        self.n1.services(vec![service(0)]);
        self.n2.services(vec![service(1)]);
    }
}

/// A web service whose endpoints are the given pods, seen from a node.
fn web(node: usize, pods: &[usize]) -> ServicePort {
    let all = ["10.244.1.2", "10.244.2.2"];
    let endpoints: Vec<(&str, bool)> = pods.iter().map(|&pod| (all[pod], pod == node)).collect();
    service("10.96.0.80", Protocol::Tcp, Some(30080), &endpoints)
}

#[test]
fn services_reach_their_pods_from_everywhere() {
    let Some(lab) = Lab::new(true) else { return };
    assert_eq!(lab.p1.ask("10.244.2.2:8080"), "p2 10.244.1.2", "pod to pod across nodes keeps its address");
    assert_eq!(lab.n1.space.ask("10.244.2.2:8080"), "p2 10.244.1.0", "node to a pod elsewhere");

    lab.everywhere(|node| web(node, &[1]));
    assert_eq!(lab.p1.ask("10.96.0.80:80"), "p2 10.244.1.2", "ClusterIP from a pod elsewhere");
    assert_eq!(lab.p2.ask("10.96.0.80:80"), "p2 10.244.2.1", "ClusterIP back to the pod itself");
    assert_eq!(lab.n1.space.ask("10.96.0.80:80"), "p2 10.244.1.0", "ClusterIP from a node");
    assert!(lab.n2.space.ask("10.96.0.80:80").starts_with("p2 "), "ClusterIP from the endpoint's node");
    assert!(lab.outside.ask("10.99.0.1:30080").starts_with("p2 "), "NodePort on the other node");
    assert!(lab.outside.ask("10.99.0.2:30080").starts_with("p2 "), "NodePort on the endpoint's node");
    assert!(lab.n1.space.ask("10.99.0.2:30080").starts_with("p2 "), "NodePort from a node");
    assert!(lab.n1.space.ask("10.99.0.1:30080").starts_with("p2 "), "NodePort from the node itself");
    assert!(lab.p1.ask("10.99.0.1:30080").starts_with("p2 "), "NodePort from a pod");

    lab.everywhere(|node| web(node, &[0, 1]));
    let answers: std::collections::BTreeSet<String> =
        (0..40).map(|_| lab.p1.ask("10.96.0.80:80")[..2].to_owned()).collect();
    assert_eq!(answers.len(), 2, "both endpoints are used: {answers:?}");
}

#[test]
fn nothing_to_serve_is_refused_at_once() {
    let Some(lab) = Lab::new(true) else { return };
    lab.everywhere(|node| web(node, &[]));
    for (name, space, to) in [
        ("ClusterIP from a pod", &lab.p1, "10.96.0.80:80"),
        ("ClusterIP from a node", &lab.n1.space, "10.96.0.80:80"),
        ("an address nobody has", &lab.p1, "10.96.7.7:80"),
        ("an address nobody has, from a node", &lab.n1.space, "10.96.7.7:80"),
        ("NodePort from outside", &lab.outside, "10.99.0.1:30080"),
    ] {
        let began = Instant::now();
        assert_eq!(space.ask(to), "connection refused", "{name}");
        assert!(began.elapsed() < Duration::from_millis(500), "{name} took {:?}", began.elapsed());
    }
}

#[test]
fn external_policy_local_keeps_the_client_address() {
    let Some(lab) = Lab::new(true) else { return };
    lab.everywhere(|node| ServicePort { external_policy_local: true, ..web(node, &[1]) });
    assert_eq!(lab.outside.ask("10.99.0.2:30080"), "p2 10.99.0.9");
    assert_eq!(lab.outside.ask("10.99.0.1:30080"), "timed out", "the node without an endpoint does not answer");
    assert!(lab.p1.ask("10.99.0.1:30080").starts_with("p2 "), "pods may use any node");
}

#[test]
fn a_client_sticks_to_its_endpoint() {
    let Some(lab) = Lab::new(true) else { return };
    lab.everywhere(|node| ServicePort { affinity_seconds: Some(60), ..web(node, &[0, 1]) });
    let first = lab.n1.space.ask("10.96.0.80:80");
    for _ in 0..20 {
        assert_eq!(lab.n1.space.ask("10.96.0.80:80"), first);
    }
}

#[test]
fn udp_follows_the_endpoints() {
    let Some(lab) = Lab::new(true) else { return };
    lab.p1.serve_udp("p1");
    lab.p2.serve_udp("p2");
    let udp = |node: usize, pod: usize| {
        let ip = ["10.244.1.2", "10.244.2.2"][pod];
        service("10.96.0.53", Protocol::Udp, None, &[(ip, pod == node)])
    };
    let socket = lab.n1.space.run(|_| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        socket.set_read_timeout(Some(Duration::from_secs(3))).expect("timeout");
        socket
    });
    let ask = || {
        let mut buffer = [0; 16];
        socket.send_to(b"?", "10.96.0.53:80").expect("send");
        let (n, _) = socket.recv_from(&mut buffer).expect("an answer");
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    lab.everywhere(|node| udp(node, 0));
    assert_eq!(ask(), "p1");
    lab.everywhere(|node| udp(node, 1));
    assert_eq!(ask(), "p2", "the same flow goes to the new endpoint");
}

/// What a UDP server says to a packet, or why there is no answer.
fn ask_udp(space: &Space, to: &'static str) -> String {
    space.run(move |_| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        socket.set_read_timeout(Some(Duration::from_secs(3))).expect("timeout");
        socket.connect(to).expect("a route");
        let mut buffer = [0; 16];
        match socket.send(b"?").and_then(|_| socket.recv(&mut buffer)) {
            Ok(n) => String::from_utf8_lossy(&buffer[..n]).into_owned(),
            Err(error) => error.kind().to_string(),
        }
    })
}

#[test]
fn udp_between_nodes_and_pods_is_answered() {
    let Some(lab) = Lab::new(true) else { return };
    lab.p1.serve_udp("p1");
    lab.p2.serve_udp("p2");
    for (name, space, to, expect) in [
        ("node to a pod elsewhere", &lab.n1.space, "10.244.2.2:8080", "p2"),
        ("node to its own pod", &lab.n1.space, "10.244.1.2:8080", "p1"),
        ("pod to a pod elsewhere", &lab.p1, "10.244.2.2:8080", "p2"),
    ] {
        for _ in 0..5 {
            assert_eq!(ask_udp(space, to), expect, "{name}");
        }
    }
}

/// Attaches a pod as containerd does it: by the plugins of the list that the node wrote, with these host ports.
fn attach(node: &Node, pod: &Space, id: &'static str, ports: serde_json::Value) {
    let list: serde_json::Value =
        serde_json::from_slice(&std::fs::read(node.dir.join("cni/10-kontiki.conflist")).expect("a list"))
            .expect("JSON");
    let namespace = format!("/proc/{}/fd/{}", std::process::id(), pod.file.as_raw_fd());
    node.space.run(move |_| {
        let mut result = serde_json::Value::Null;
        for plugin in list["plugins"].as_array().expect("plugins") {
            let mut conf = plugin.clone();
            conf["cniVersion"] = list["cniVersion"].clone();
            conf["name"] = list["name"].clone();
            if conf["ipam"].is_object() {
                // The lab's own pods have the first addresses.
                conf["ipam"]["ranges"][0][0]["rangeStart"] = "10.244.1.10".into();
            }
            if !result.is_null() {
                conf["prevResult"] = result;
                conf["runtimeConfig"] = serde_json::json!({ "portMappings": ports });
            }
            result = add(plugin["type"].as_str().expect("a type"), id, &namespace, &conf);
        }
    });
}

/// One plugin's ADD, in the calling thread's namespace.
fn add(plugin: &str, id: &str, namespace: &str, conf: &serde_json::Value) -> serde_json::Value {
    use std::process::{Command, Stdio};
    let mut child = Command::new(format!("/usr/lib/cni/{plugin}"))
        .envs([("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", id), ("CNI_NETNS", namespace), ("CNI_IFNAME", "eth0")])
        .env("CNI_PATH", "/usr/lib/cni")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a plugin");
    child.stdin.take().expect("stdin").write_all(conf.to_string().as_bytes()).expect("written");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{plugin}: {}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).expect("a result")
}

#[test]
fn one_host_port_is_several_pods_by_address_and_protocol() {
    let Some(lab) = Lab::new(true) else { return };
    let mapped = |ip: &str, protocol: &str| serde_json::json!([{"hostPort": 5432, "containerPort": 8080, "protocol": protocol, "hostIP": ip}]);
    let pods: [Space; 3] = std::array::from_fn(|_| Space::new());
    for (pod, (id, ports)) in pods.iter().zip([
        ("loopback", mapped("127.0.0.1", "tcp")),
        ("node", mapped("10.99.0.1", "tcp")),
        ("datagrams", mapped("10.99.0.1", "udp")),
    ]) {
        attach(&lab.n1, pod, id, ports);
        pod.serve(id);
        pod.serve_udp(id);
    }
    assert!(lab.n1.space.ask("127.0.0.1:5432").starts_with("loopback "));
    for (name, space) in [("its own node", &lab.n1.space), ("another", &lab.n2.space), ("a pod elsewhere", &lab.p2)] {
        assert!(space.ask("10.99.0.1:5432").starts_with("node "), "{name}");
        assert_eq!(ask_udp(space, "10.99.0.1:5432"), "datagrams", "{name}");
    }
}

#[test]
fn neighbours_are_served_whether_or_not_ip_sees_bridged_packets() {
    let Some(lab) = Lab::new(true) else { return };
    let p3 = Space::new();
    p3.plug_into(&lab.n1.space, kontiki_net::BRIDGE, "pod3", "eth0", "10.244.1.3/24");
    p3.default_via("10.244.1.1");
    p3.serve("p3");
    let endpoints = [("10.244.1.3", true)];
    lab.n1.services(vec![service("10.96.0.80", Protocol::Tcp, None, &endpoints)]);
    for on in ["1", "0"] {
        let switch = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        lab.n1.space.run(move |_| std::fs::write(switch, on)).expect("br_netfilter");
        assert_eq!(lab.p1.ask("10.244.1.3:8080"), "p3 10.244.1.2", "directly, bridge-nf-call-iptables={on}");
        assert_eq!(lab.p1.ask("10.96.0.80:80"), "p3 10.244.1.2", "by the Service, bridge-nf-call-iptables={on}");
        assert!(p3.ask("10.96.0.80:80").starts_with("p3 "), "from itself, bridge-nf-call-iptables={on}");
    }
}

#[test]
fn a_peer_that_is_refused_stops_no_other() {
    let Some(lab) = Lab::new(true) else { return };
    let network = lab.n1.network.clone();
    lab.n1.space.run(move |runtime| {
        let peer = |name: &str, ip: &str, pods: &str| Peer {
            name: name.into(),
            node_ip: ip.parse().expect("ip"),
            pod_cidr: pods.parse().expect("range"),
        };
        // A twin of this node's own range, everything, and an address that no tunnel can lead to.
        let peers = vec![
            peer("a", "10.99.0.3", "10.244.1.0/24"),
            peer("b", "10.99.0.4", "0.0.0.0/0"),
            peer("c", "224.0.0.1", "10.244.9.0/24"),
            peer("n2", "10.99.0.2", "10.244.2.0/24"),
        ];
        // Whether the kernel takes the third is its own business.
        let _ = runtime.block_on(network.set_peers(peers));
    });
    assert_eq!(lab.p1.ask("10.244.2.2:8080"), "p2 10.244.1.2");
    assert!(lab.n1.space.ask("10.244.1.2:8080").starts_with("p1 "), "the node keeps its own pods");
}

/// A policy that lets exactly these peers reach this port of the pod, or the pod reach them.
fn only(pod: &str, way: Way, peers: &[&str], port: u16) -> Policies {
    let key = PolicyKey { namespace: "d".into(), name: "p".into(), way };
    let ports = Ports { ranges: [(Protocol::Tcp, port, port)].into(), named: [].into() };
    let peers = Some(peers.iter().map(|peer| peer.parse().expect("range")).collect());
    Policies {
        isolated: [((pod.parse().expect("ip"), way), [key.clone()].into())].into(),
        allowed: [(key, vec![Allowed { peers, ports: Some(ports) }])].into(),
    }
}

#[test]
fn policies_hold_on_one_node_and_across_nodes() {
    let Some(lab) = Lab::new(true) else { return };
    let p3 = Space::new();
    p3.plug_into(&lab.n1.space, kontiki_net::BRIDGE, "pod3", "eth0", "10.244.1.3/24");
    p3.default_via("10.244.1.1");
    p3.serve("p3");
    let services = || vec![service("10.96.0.80", Protocol::Tcp, None, &[("10.244.1.2", true)])];
    for on in ["1", "0"] {
        let switch = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        lab.n1.space.run(move |_| std::fs::write(switch, on)).expect("br_netfilter");
        // (peers of p1 in, port) and who gets an answer: p3, p2, p3 by the Service.
        for (peers, port, expect) in [
            (&["10.244.1.3/32"][..], 8080, [true, false, true]),
            (&["10.244.2.0/24"], 8080, [false, true, false]),
            (&["10.244.0.0/16"], 8080, [true, true, true]),
            (&["10.244.0.0/16"], 81, [false, false, false]),
        ] {
            lab.n1.set(services(), only("10.244.1.2", Way::In, peers, port));
            let asked = [p3.ask("10.244.1.2:8080"), lab.p2.ask("10.244.1.2:8080"), p3.ask("10.96.0.80:80")];
            let got = asked.each_ref().map(|answer| answer.starts_with("p1 "));
            assert_eq!(got, expect, "{peers:?} {port} bridge-nf-call-iptables={on}: {asked:?}");
            assert!(lab.n1.space.ask("10.244.1.2:8080").starts_with("p1 "), "its own node");
            assert!(lab.p1.ask("10.244.2.2:8080").starts_with("p2 "), "what it asks itself is answered");
        }
        lab.n1.set(services(), only("10.244.1.3", Way::Out, &["10.244.1.2/32"], 8080));
        assert!(p3.ask("10.244.1.2:8080").starts_with("p1 "), "out, to a neighbour, {on}");
        assert!(p3.ask("10.96.0.80:80").starts_with("p1 "), "out, by a Service, {on}");
        assert_eq!(p3.ask("10.244.2.2:8080"), "timed out", "out, elsewhere, {on}");
        lab.n1.services(services());
        assert!(p3.ask("10.244.2.2:8080").starts_with("p2 "), "no policy, {on}");
    }
}

#[test]
fn what_is_under_way_ends_when_it_is_no_longer_allowed() {
    let Some(lab) = Lab::new(true) else { return };
    lab.p1.serve_udp("p1");
    let socket = lab.p2.run(|_| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        // A neighbour that did not hear the first question is asked again after a second.
        socket.set_read_timeout(Some(Duration::from_secs(3))).expect("timeout");
        socket.connect("10.244.1.2:8080").expect("a route");
        socket
    });
    let ask = || {
        let mut buffer = [0; 16];
        socket.send(b"?").and_then(|_| socket.recv(&mut buffer)).is_ok()
    };
    assert!(ask());
    lab.n1.set(Vec::new(), only("10.244.1.2", Way::In, &["10.244.9.0/24"], 8080));
    assert!(!ask(), "the same flow is stopped");
    lab.n1.services(Vec::new());
    assert!(ask(), "and goes on");
}

#[test]
fn source_ranges_close_the_balancers_address_to_others() {
    let Some(lab) = Lab::new(true) else { return };
    lab.outside.default_via("10.99.0.1");
    for (range, expect) in [("10.99.0.9/32", true), ("10.98.0.0/16", false)] {
        lab.everywhere(|node| ServicePort {
            balancer_ips: vec!["198.51.100.7".parse().expect("ip")],
            source_ranges: Some(vec![range.parse().expect("range")]),
            ..web(node, &[1])
        });
        let answer = lab.outside.ask("198.51.100.7:80");
        assert_eq!(answer.starts_with("p2 "), expect, "{range}: {answer}");
        assert!(lab.outside.ask("10.99.0.1:30080").starts_with("p2 "), "{range}: the node port is not the balancer's");
    }
}

/// Who else has an address, as a node hears it.
fn heard(node: &Node, ip: [u8; 4], address: [u8; 4]) -> Option<[u8; 6]> {
    node.space.run(move |runtime| {
        runtime.block_on(async {
            let seen = Addresses::new(ip.into()).expect("netlink").look().await.expect("look");
            other_holder(seen.link, address.into(), Duration::from_millis(300)).await.expect("probe")
        })
    })
}

/// A node takes an address for so long; returns what is said if it may not.
fn take(node: &Node, ip: [u8; 4], address: [u8; 4], seconds: u32) -> Result<(), String> {
    node.space.run(move |runtime| {
        runtime.block_on(async {
            let addresses = Addresses::new(ip.into()).expect("netlink");
            let seen = addresses.look().await.expect("look");
            addresses.set(&seen, address.into(), seconds).await.map_err(|error| error.to_string())?;
            announce(seen.link, address.into()).expect("announce");
            let held = addresses.look().await.expect("look").held;
            assert!(held.len() == 1 && held[0].address == IpAddr::from(address), "{held:?}");
            assert!((1..=seconds).contains(&held[0].left), "{held:?}");
            Ok(())
        })
    })
}

#[test]
fn an_announced_address_has_one_holder_and_an_end() {
    let Some(lab) = Lab::new(true) else { return };
    let (one, two, address) = ([10, 99, 0, 1], [10, 99, 0, 2], [10, 99, 0, 77]);
    let ips = vec![IpAddr::from(address)];
    lab.everywhere(|node| ServicePort { balancer_ips: ips.clone(), announced_ips: ips.clone(), ..web(node, &[1]) });
    lab.n1.space.serve("node");
    assert_eq!(heard(&lab.n2, two, address), None);
    assert!(lab.p1.ask("10.99.0.77:80").starts_with("p2 "), "pods need no holder");
    take(&lab.n1, one, address, 30).expect("free");
    assert!(heard(&lab.n2, two, address).is_some());
    assert_eq!(heard(&lab.n1, one, address), None, "not itself");
    assert!(lab.outside.ask("10.99.0.77:80").starts_with("p2 "));
    assert!(lab.outside.ask("10.99.0.1:8080").starts_with("node "));
    assert_eq!(lab.outside.ask("10.99.0.77:8080"), "connection refused", "the node's own server is not the Service's");
    assert_eq!(lab.outside.ask("10.99.0.77:30080"), "connection refused", "nor are node ports");
    take(&lab.n1, one, address, 2).expect("renewed");
    let began = Instant::now();
    while heard(&lab.n2, two, address).is_some() {
        assert!(began.elapsed() < Duration::from_secs(4), "the kernel keeps it");
    }
    take(&lab.n2, two, address, 30).expect("free again");
    assert!(lab.outside.ask("10.99.0.77:80").starts_with("p2 "), "neighbours were told");
    let own = take(&lab.n1, one, one, 30).expect_err("the node's own");
    assert!(own.contains("another purpose"), "{own}");
}

#[test]
fn without_egress_pods_reach_the_cluster_only() {
    let Some(lab) = Lab::new(false) else { return };
    lab.outside.serve("outside");
    assert_eq!(lab.p1.ask("10.99.0.9:8080"), "outside 10.99.0.1", "the nodes' own subnet, under the node's address");
    lab.n1.space.default_via("10.99.0.9");
    assert_eq!(lab.p1.ask("198.51.100.1:80"), "connection refused");
    assert_eq!(lab.p1.ask("10.244.2.2:8080"), "p2 10.244.1.2");
}

#[test]
fn teardown_leaves_nothing() {
    let Some(lab) = Lab::new(true) else { return };
    lab.everywhere(|node| web(node, &[1]));
    let left = lab.n1.space.run(|runtime| {
        runtime.block_on(async {
            let range = |text: &str| text.parse().expect("range");
            kontiki_net::teardown(range("10.244.0.0/16"), range("10.96.0.0/16")).await.expect("teardown");
            kontiki_net::teardown(range("10.244.0.0/16"), range("10.96.0.0/16")).await.expect("teardown again");
        });
        let show = |tool: &str, args: &[&str]| {
            let output = std::process::Command::new(tool).args(args).output().expect("tool");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        (show("nft", &["list", "ruleset"]), show("ip", &["-br", "link"]), show("ip", &["route"]))
    });
    assert_eq!(left.0, "", "rules");
    assert!(!left.1.contains("cni0") && !left.1.contains("kontiki"), "links: {}", left.1);
    assert!(!left.2.contains("10.244") && !left.2.contains("10.96"), "routes: {}", left.2);
}
