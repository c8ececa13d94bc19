//! The agent: runs the pods that the masters assign to this machine.
//!
//! Each folder uses only those before it in this list:
//! - [`host`]: the machine: facts, cgroups, who this node is.
//! - [`runtime`]: containerd through CRI, and what is kept in its words.
//! - [`session`]: the stream to a master, what came through it and what waits for it.
//! - [`node`] is what the rest shares; [`network`] keeps the node's network equal to the cluster's Services and Nodes,
//!   [`load_balancer`] the addresses that the node announces for Services equal to what it is told to.
//! - [`volumes`]: a pod's volumes, one plugin for each kind.
//! - [`serve`]: logs, exec, attach, port-forward and statistics, for the session's tunnels; health on loopback.
//! - [`pod`]: one worker for each pod, which asks kontiki-agent-plan for one step at a time and performs it.
//!
//! The agent listens on loopback, and where it serves DNS and Ingresses; it works in the network namespace it was started in.

mod config;
mod host;
mod load_balancer;
mod network;
pub mod node;
mod pod;
mod runtime;
mod serve;
mod session;
pub mod volumes;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
pub use config::Config;
pub use host::{cgroups, identity};
use k8s_cri::v1::VersionRequest;
use kontiki_net::{NetConfig, Network};
pub use runtime::{archive, cri, pause};
pub use serve::Server;
pub use session::tunnels;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    host::{
        facts::Host,
        identity::{Credentials, Current},
    },
    node::Node,
    runtime::{cri::Cri, sandbox_image},
    session::stream,
};

const RUNTIME_RETRY: Duration = Duration::from_millis(250);

/// Runs the agent until `stop` is cancelled. Pods go on running afterwards.
///
/// # Errors
/// One clear reason why the agent cannot start at all, or a part of it that died.
pub async fn run(config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    config.validate()?;
    prepare(&config)?;
    let cri = Cri::new(&config.containerd_socket).context("containerd_socket")?;
    let host = tokio::select! {
        host = known_host(&cri, &config) => host,
        () = stop.cancelled() => return Ok(()),
    };
    if let Err(error) = sandbox_image::ensure(&cri, &config).await {
        // Perhaps a registry has it.
        tracing::warn!(error = format!("{error:#}"), "the sandbox image is not there and cannot be imported");
    }
    let credentials = tokio::select! {
        credentials = Credentials::load_or_join(&config) => credentials?,
        () = stop.cancelled() => return Ok(()),
    };
    let network = Network::start(net_config(&config, &credentials)?).await.context("setting up the node's network")?;
    let dns = network::name_server(&config, &credentials.cluster)?;
    let parts = network::Parts { dns: dns.clone(), proxy: network::proxy(&config)? };
    let servers = config.servers.clone();
    let current = Arc::new(Current::new(&config, credentials.clone()));
    let node = Node::new(config, credentials.cluster, cri, host);
    let mut tasks = JoinSet::new();
    tasks.spawn(named("network", network::run(node.clone(), network, parts.clone(), stop.clone())));
    if let Some(proxy) = parts.proxy {
        let token = stop.clone();
        tasks.spawn(named("Ingress", async move { proxy.run(token).await }));
    }
    if let Some(dns) = dns {
        tasks.spawn(named("DNS", network::serve_dns(dns, stop.clone())));
    }
    tasks.spawn(named("load balancer", load_balancer::run(node.clone(), stop.clone())));
    tasks.spawn(named("session", keep_session(node.clone(), current.clone(), stop.clone())));
    let token = stop.clone();
    tasks.spawn(named("certificate", async move { current.keep_fresh(&servers, token).await }));
    spawn_local(&mut tasks, &node, &stop);
    supervise(tasks, stop).await
}

async fn keep_session(node: Arc<Node>, credentials: Arc<Current>, stop: CancellationToken) {
    let parts = stream::Parts {
        objects: &node.objects,
        outbox: &node.outbox,
        online: &node.online,
        renewed: &node.renewed,
        node: node.status(),
        tunnels: Arc::new(Server(node.clone())),
    };
    stream::run(parts, &credentials, stop).await;
}

/// The parts that need no master: pods, events of the runtime, node status, health.
pub fn spawn_local(tasks: &mut JoinSet<&'static str>, node: &Arc<Node>, stop: &CancellationToken) {
    tasks.spawn(named("pods", pod::workers::run(node.clone(), stop.clone())));
    tasks.spawn(named("health", serve::health::run(node.clone(), stop.clone())));
    let (of, token) = (node.clone(), stop.clone());
    tasks.spawn(named("runtime events", async move { runtime::events::run(&of.cri, &of.watchers, token).await }));
    let (of, token) = (node.clone(), stop.clone());
    tasks.spawn(named("log rotation", async move { runtime::log_rotation::run(&of.config, &of.cri, token).await }));
    let (of, token) = (node.clone(), stop.clone());
    let status = async move { session::node_status::run(of.status(), &of.outbox, &of.online, &of.ready, token).await };
    tasks.spawn(named("node status", status));
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

/// Waits for the stop; a part that ends before it takes the agent down, to be started again.
async fn supervise(mut tasks: JoinSet<&'static str>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut result = Ok(());
    while let Some(ended) = tasks.join_next().await {
        if stop.is_cancelled() {
            continue;
        }
        result = match ended {
            Ok(name) => Err(anyhow::anyhow!("the {name} part ended unexpectedly")),
            Err(error) => Err(anyhow::Error::new(error).context("a part of the agent failed")),
        };
        stop.cancel();
    }
    result
}

/// Directories, the shared mount, and the registries' files.
///
/// # Errors
/// What cannot be written, and why.
pub fn prepare(config: &Config) -> anyhow::Result<()> {
    for dir in [config.data_dir.join("pods"), config.logs(), config.data_dir.join("ipam")] {
        std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    let pods = config.data_dir.join("pods");
    volumes::share(&pods).with_context(|| format!("sharing the mounts below {}", pods.display()))?;
    runtime::images::write_hosts(&config.certs_dir, &config.registries)
}

/// The host's facts, once containerd answers.
pub async fn known_host(cri: &Cri, config: &Config) -> Host {
    let mut host = Host::probe();
    let mut reported = false;
    loop {
        match cri.version(VersionRequest::default()).await {
            Ok(version) => {
                host.runtime = format!("{}://{}", version.runtime_name, version.runtime_version);
                return host;
            }
            Err(error) if !reported => {
                tracing::warn!(socket = %config.containerd_socket.display(), %error, "waiting for containerd");
                reported = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(RUNTIME_RETRY).await;
    }
}

fn net_config(config: &Config, credentials: &Credentials) -> anyhow::Result<NetConfig> {
    let cluster = &credentials.cluster;
    Ok(NetConfig {
        node_name: config.name.clone(),
        node_ip: config.node_ip,
        pod_cidr: cluster
            .pod_cidr
            .parse()
            .with_context(|| format!("pod range {:?} of the cluster", cluster.pod_cidr))?,
        service_cidr: cluster
            .service_cidr
            .parse()
            .with_context(|| format!("service range {:?} of the cluster", cluster.service_cidr))?,
        egress: config.egress,
        dns: network::dns_address(config, cluster),
        cni_conf_dir: config.cni_conf_dir.clone(),
        cni_bin_dir: config.cni_bin_dir.clone(),
        ipam_dir: config.data_dir.join("ipam"),
        mtu: None,
    })
}
