//! What every part of the agent shares.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use kontiki_agent_plan::{field::Place, services};
use serde_json::Value;
use tokio::sync::Notify;

use crate::{
    config::Config, cri::Cri, events::Recorder, host::Host, identity::Cluster, objects::Objects, outbox::Outbox,
};

/// The agent's shared state.
pub struct Node {
    pub config: Config,
    pub cluster: Cluster,
    pub cri: Cri,
    pub host: Host,
    pub objects: Objects,
    pub outbox: Outbox,
    pub recorder: Recorder,
    /// Whether a session is up and synced.
    pub online: AtomicBool,
    /// Set when the runtime and its network answer.
    pub ready: AtomicBool,
    pub watchers: Watchers,
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
            watchers: Watchers::default(),
        })
    }

    /// The Node object to register, status included.
    pub async fn registration(&self) -> Value {
        crate::node_status::registration(self).await
    }

    /// Whether a master is connected now.
    pub fn is_online(&self) -> bool {
        self.online.load(Ordering::SeqCst)
    }

    /// Addresses of this node.
    #[must_use]
    pub fn host_ips(&self) -> Vec<IpAddr> {
        vec![self.config.node_ip]
    }

    /// What a pod may ask about its place.
    #[must_use]
    pub fn place(&self, pod_ips: Vec<IpAddr>) -> Place {
        Place {
            pod_ips,
            host_ips: self.host_ips(),
            cpu_milli: i64::try_from(self.host.cpus).unwrap_or(1) * 1000,
            memory_bytes: i64::try_from(self.host.memory).unwrap_or(i64::MAX),
        }
    }

    /// Every service port of the cluster, as the proxy and environments see it.
    #[must_use]
    pub fn service_ports(&self) -> Vec<services::ServicePort> {
        let (services, slices) = (self.objects.services(), self.objects.slices());
        services::derive(services.iter().map(Arc::as_ref), slices.iter().map(Arc::as_ref), &self.config.name)
    }

    /// Services without their endpoints: all that environments need.
    #[must_use]
    pub fn service_addresses(&self) -> Vec<services::ServicePort> {
        let services = self.objects.services();
        services::derive(services.iter().map(Arc::as_ref), [], &self.config.name)
    }
}

/// Who wants to know when a container or sandbox changes in the runtime.
#[derive(Default)]
pub struct Watchers {
    by_id: Mutex<BTreeMap<String, Arc<Notify>>>,
}

impl Watchers {
    /// Wakes `worker` when the runtime reports on `id`.
    pub fn watch(&self, id: &str, worker: &Arc<Notify>) {
        self.by_id.lock().expect("no holder panics").insert(id.to_owned(), worker.clone());
    }

    /// Forgets everything that wakes `worker`.
    pub fn forget(&self, worker: &Arc<Notify>) {
        self.by_id.lock().expect("no holder panics").retain(|_, known| !Arc::ptr_eq(known, worker));
    }

    /// The runtime reported on `id`.
    pub fn wake(&self, id: &str) {
        let known = self.by_id.lock().expect("no holder panics").get(id).cloned();
        if let Some(worker) = known {
            worker.notify_one();
        }
    }

    /// Reports may have been lost: everyone looks again.
    pub fn wake_all(&self) {
        for worker in self.by_id.lock().expect("no holder panics").values() {
            worker.notify_one();
        }
    }
}
