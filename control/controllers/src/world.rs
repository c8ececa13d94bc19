//! What all controllers see: shared caches with their indexes, settings, and what this process has
//! observed itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kontiki_api::informer::{Informer, Informers, Object};
use kontiki_api::leader::Settings;
use kontiki_plan::object::{controller, deleting, namespace};
use kontiki_plan::pod;

use crate::liveness::Liveness;

/// Pods by node; `""` for those without.
pub(crate) const BY_NODE: &str = "node";
/// Pods and ReplicaSets by the uid of their manager.
pub(crate) const BY_CONTROLLER: &str = "controller";
/// Pods without a manager, by namespace.
pub(crate) const LOOSE: &str = "loose";
/// Objects by their uid.
pub(crate) const BY_UID: &str = "uid";
/// Objects by the uids of their owners.
pub(crate) const BY_OWNER: &str = "owner";
/// Objects by namespace.
pub(crate) const BY_NAMESPACE: &str = "namespace";

/// The caches, indexed.
pub(crate) struct Caches {
    pub informers: Informers,
    pub pods: Informer<Pod>,
    pub nodes: Informer<Node>,
    pub leases: Informer<Lease>,
    pub namespaces: Informer<Namespace>,
    pub deployments: Informer<Deployment>,
    pub replica_sets: Informer<ReplicaSet>,
    pub services: Informer<Service>,
    pub slices: Informer<EndpointSlice>,
    pub endpoints: Informer<Endpoints>,
    pub accounts: Informer<ServiceAccount>,
    pub config_maps: Informer<ConfigMap>,
    pub secrets: Informer<Secret>,
    pub objects: Informer<Object>,
}

impl Caches {
    pub fn new(informers: &Informers) -> Self {
        let caches = Self {
            informers: informers.clone(),
            pods: informers.get(),
            nodes: informers.get(),
            leases: informers.get(),
            namespaces: informers.get(),
            deployments: informers.get(),
            replica_sets: informers.get(),
            services: informers.get(),
            slices: informers.get(),
            endpoints: informers.get(),
            accounts: informers.get(),
            config_maps: informers.get(),
            secrets: informers.get(),
            objects: informers.get(),
        };
        caches.index();
        caches
    }

    fn index(&self) {
        self.pods.add_index(BY_NODE, |pod| vec![pod::node(pod).unwrap_or_default().to_owned()]);
        self.pods
            .add_index(BY_CONTROLLER, |pod| controller(&pod.metadata).map(|o| o.uid.clone()).into_iter().collect());
        self.pods.add_index(LOOSE, |pod| match controller(&pod.metadata) {
            Some(_) => Vec::new(),
            None => vec![namespace(&pod.metadata).to_owned()],
        });
        self.replica_sets
            .add_index(BY_CONTROLLER, |set| controller(&set.metadata).map(|o| o.uid.clone()).into_iter().collect());
        self.objects.add_index(BY_UID, |object| vec![object.uid.clone()]);
        self.objects.add_index(BY_OWNER, |object| object.owners.iter().map(|owner| owner.uid.clone()).collect());
        self.objects.add_index(BY_NAMESPACE, |object| object.key.namespace.iter().cloned().collect());
    }
}

/// See the module.
pub(crate) struct World {
    pub caches: Caches,
    pub settings: Arc<Settings>,
    pub liveness: Liveness,
    /// Nodes that pods name and that are not there, with the time that was first noticed.
    pub absent: FirstSeen,
    /// `NoExecute` taints without a time of their own, by node and taint, likewise.
    pub taints: FirstSeen,
}

impl World {
    pub fn new(informers: &Informers, settings: Arc<Settings>) -> Self {
        Self {
            caches: Caches::new(informers),
            settings,
            liveness: Liveness::default(),
            absent: FirstSeen::default(),
            taints: FirstSeen::default(),
        }
    }
}

impl World {
    /// Whether a namespace is on its way out: nothing can be created in it any more. One that is not in the cache
    /// may be too new for it.
    pub fn namespace_going(&self, name: &str) -> bool {
        self.caches.namespaces.get(None, name).is_some_and(|namespace| deleting(&namespace.metadata))
    }
}

/// When something was first noticed.
#[derive(Default)]
pub(crate) struct FirstSeen {
    times: Mutex<HashMap<String, Timestamp>>,
}

impl FirstSeen {
    /// The time at which `what` was first asked about.
    pub fn since(&self, what: &str, now: Timestamp) -> Timestamp {
        let mut times = self.times.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *times.entry(what.to_owned()).or_insert(now)
    }

    /// Forgets everything that begins with `prefix` and is not in `keep`.
    pub fn forget_others(&self, prefix: &str, keep: &[String]) {
        let mut times = self.times.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        times.retain(|what, _| !what.starts_with(prefix) || keep.contains(what));
    }
}
