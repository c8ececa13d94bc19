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

use kontiki_net::{Endpoint, NetConfig, Network, Peer, Protocol, ServicePort, link::Links};

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
        let network = self.network.clone();
        self.space.run(move |runtime| runtime.block_on(network.set_services(services)).expect("set_services"));
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
