//! What every part of the agent shares.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use kontiki_agent_plan::{field::Place, services};
use tokio::sync::watch;

use crate::{
    config::Config,
    host::{facts::Host, identity::Cluster},
    runtime::{cri::Cri, settings::Settings, usage::Usage, watchers::Watchers},
    session::{node_status::NodeStatus, objects::Objects, outbox::Outbox, recorder::Recorder},
};

/// Which zone a node is in.
const ZONE: &str = "topology.kubernetes.io/zone";

/// The agent's shared state.
pub struct Node {
    pub config: Config,
    pub(crate) cluster: Cluster,
    pub cri: Cri,
    pub(crate) host: Host,
    pub objects: Objects,
    pub outbox: Outbox,
    pub(crate) recorder: Recorder,
    /// Whether a session is up and synced.
    pub online: AtomicBool,
    /// Set when the runtime and its network answer.
    pub(crate) ready: AtomicBool,
    /// When the heartbeat was sent after which a master last renewed this node's Lease.
    pub(crate) renewed: watch::Sender<Option<Instant>>,
    pub(crate) watchers: Watchers,
    pub(crate) usage: Usage,
}

impl Node {
    #[must_use]
    pub fn new(config: Config, cluster: Cluster, cri: Cri, host: Host) -> Arc<Self> {
        Arc::new(Self {
            recorder: Recorder::new(&config.name),
            config,
            cluster,
            cri,
            host,
            objects: Objects::default(),
            outbox: Outbox::default(),
            online: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            renewed: watch::Sender::new(None),
            watchers: Watchers::default(),
            usage: Usage::default(),
        })
    }

    /// Whether a master is connected now.
    pub(crate) fn is_online(&self) -> bool {
        self.online.load(Ordering::SeqCst)
    }

    /// Whether the runtime and its network answer.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst)
    }

    /// What the Node object is made from.
    pub(crate) fn status(&self) -> NodeStatus<'_> {
        NodeStatus { config: &self.config, host: &self.host, cri: &self.cri, objects: &self.objects }
    }

    /// What goes into the configuration of pods.
    pub(crate) fn settings(&self) -> Settings<'_> {
        Settings { config: &self.config, cluster: &self.cluster }
    }

    /// Addresses of this node.
    pub(crate) fn host_ips(&self) -> Vec<IpAddr> {
        vec![self.config.node_ip]
    }

    /// What a pod may ask about its place.
    pub(crate) fn place(&self, pod_ips: Vec<IpAddr>) -> Place {
        Place {
            pod_ips,
            host_ips: self.host_ips(),
            cpu_milli: i64::try_from(self.host.cpus).unwrap_or(1) * 1000,
            memory_bytes: i64::try_from(self.host.memory).unwrap_or(i64::MAX),
        }
    }

    /// Every service port of the cluster, as the proxy and environments see it.
    pub(crate) fn service_ports(&self) -> Vec<services::ServicePort> {
        let (services, slices) = (self.objects.services(), self.objects.slices());
        let own = self.objects.node(&self.config.name);
        let zone = own.as_ref().and_then(|node| Some(node.metadata.labels.as_ref()?.get(ZONE)?.as_str()));
        let here = services::Here { node: &self.config.name, zone };
        services::derive(services.iter().map(Arc::as_ref), slices.iter().map(Arc::as_ref), here)
    }

    /// Services without their endpoints: all that environments need.
    pub(crate) fn service_addresses(&self) -> Vec<services::ServicePort> {
        let services = self.objects.services();
        services::derive(services.iter().map(Arc::as_ref), [], services::Here::default())
    }
}
