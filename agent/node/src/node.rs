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
use kontiki_ingress::{State, Wanted, read};
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
    /// How it goes with serving Ingresses.
    pub(crate) ingress: watch::Sender<State>,
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
            ingress: watch::Sender::new(State::Idle),
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
        let Self { config, host, cri, objects, ingress, .. } = self;
        NodeStatus { config, host, cri, objects, ingress }
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
        let (services, slices, zone) = (self.objects.services(), self.objects.slices(), self.zone());
        let here = services::Here { node: &self.config.name, zone: zone.as_deref() };
        services::derive(services.iter().map(Arc::as_ref), slices.iter().map(Arc::as_ref), here)
    }

    fn zone(&self) -> Option<String> {
        self.objects.node(&self.config.name)?.metadata.labels.as_ref()?.get(ZONE).cloned()
    }

    /// What the Ingresses of the cluster mean here.
    pub(crate) fn ingresses(&self) -> Wanted {
        let ingresses = self.objects.ingresses();
        if ingresses.is_empty() {
            return Wanted::default();
        }
        let (services, slices, zone) = (self.objects.services(), self.objects.slices(), self.zone());
        let here = services::Here { node: &self.config.name, zone: zone.as_deref() };
        let (services, slices) = (services.iter().map(Arc::as_ref), slices.iter().map(Arc::as_ref));
        let ports = services::behind(services, slices, here, &read::services(&ingresses));
        Wanted {
            table: read::table(&ingresses, &ports),
            certificates: read::certificates(&ingresses),
            secrets: self.objects.certificates(),
        }
    }

    /// Services without their endpoints: all that environments need.
    pub(crate) fn service_addresses(&self) -> Vec<services::ServicePort> {
        let services = self.objects.services();
        services::derive(services.iter().map(Arc::as_ref), [], services::Here::default())
    }
}
