//! The agent: runs the pods that the masters assign to this machine.
//!
//! How the parts hang together:
//! - [`session`] keeps one stream to a master. What arrives goes to [`objects`]; what must be told
//!   waits in [`outbox`].
//! - [`manager`] gives each pod a [`worker`], which asks kontiki-agent-plan for one step at a time
//!   and performs it through [`cri`], [`volumes`] and [`images`].
//! - [`network`] keeps the node's network equal to the cluster's Services and Nodes.
//! - [`tunnels`] carries logs, exec, attach, port-forward and statistics inside the session.
//!
//! The agent listens on loopback only ([`health`]), and works in the network namespace it was
//! started in.

pub mod archive;
pub mod cgroups;
pub mod check;
pub mod config;
pub mod cri;
pub mod events;
pub mod health;
pub mod host;
pub mod identity;
pub mod images;
pub mod log_rotation;
pub mod logs;
pub mod manager;
pub mod network;
pub mod node;
pub mod node_status;
pub mod objects;
pub mod outbox;
pub mod pause;
pub mod runtime_config;
pub mod runtime_events;
pub mod sandbox_image;
pub mod session;
pub mod stats;
pub mod streams;
pub mod tunnels;
pub mod volumes;
pub mod worker;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
pub use config::Config;
use k8s_cri::v1::VersionRequest;
use kontiki_net::{NetConfig, Network};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    cri::Cri,
    host::Host,
    identity::{Current, Identity},
    node::Node,
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
    let identity = tokio::select! {
        identity = Identity::load_or_join(&config) => identity?,
        () = stop.cancelled() => return Ok(()),
    };
    let network = Network::start(net_config(&config, &identity)?).await.context("setting up the node's network")?;
    let servers = config.servers.clone();
    let current = Arc::new(Current::new(&config, identity.clone()));
    let node = Node::new(config, identity.cluster, cri, host);
    let mut tasks = JoinSet::new();
    tasks.spawn(named("network", network::run(node.clone(), network, stop.clone())));
    tasks.spawn(named("session", session::run(node.clone(), current.clone(), stop.clone())));
    let token = stop.clone();
    tasks.spawn(named("certificate", async move { current.keep_fresh(&servers, token).await }));
    spawn_local(&mut tasks, &node, &stop);
    supervise(tasks, stop).await
}

/// The parts that need no master: pods, events of the runtime, node status, health.
pub fn spawn_local(tasks: &mut JoinSet<&'static str>, node: &Arc<Node>, stop: &CancellationToken) {
    tasks.spawn(named("manager", manager::run(node.clone(), stop.clone())));
    tasks.spawn(named("runtime events", runtime_events::run(node.clone(), stop.clone())));
    tasks.spawn(named("node status", node_status::run(node.clone(), stop.clone())));
    tasks.spawn(named("log rotation", log_rotation::run(node.clone(), stop.clone())));
    tasks.spawn(named("health", health::run(node.clone(), stop.clone())));
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
    images::write_hosts(&config.certs_dir, &config.registries)
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

fn net_config(config: &Config, identity: &Identity) -> anyhow::Result<NetConfig> {
    let cluster = &identity.cluster;
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
        cni_conf_dir: config.cni_conf_dir.clone(),
        cni_bin_dir: config.cni_bin_dir.clone(),
        ipam_dir: config.data_dir.join("ipam"),
        mtu: None,
    })
}
