//! The objects this node was told about.
//!
//! Invariants
//! - Only the session writes. Readers get shared, immutable objects.
//! - Between the start of a snapshot and its end nothing is dropped; at its end everything that
//!   it did not name is.
//! - Nothing here touches the disk: Secrets live in memory and in tmpfs volumes only. Certificates of Ingresses never leave
//!   memory.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    certificates::v1::ClusterTrustBundle,
    core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service},
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, NetworkPolicy},
    node::v1::RuntimeClass,
};
use kontiki_agent_plan::policy::{self, Policies};
use kontiki_model::typed;
use kontiki_proto::node::Object;
use tokio::sync::watch;

/// Namespace (empty for cluster-scoped objects) and name.
pub(crate) type Key = (String, String);

#[derive(Default)]
struct Tables {
    pods: BTreeMap<Key, Arc<Pod>>,
    secrets: BTreeMap<Key, Arc<Secret>>,
    config_maps: BTreeMap<Key, Arc<ConfigMap>>,
    trust_bundles: BTreeMap<Key, Arc<ClusterTrustBundle>>,
    services: BTreeMap<Key, Arc<Service>>,
    slices: BTreeMap<Key, Arc<EndpointSlice>>,
    nodes: BTreeMap<Key, Arc<Node>>,
    runtime_classes: BTreeMap<Key, Arc<RuntimeClass>>,
    namespaces: BTreeMap<Key, Arc<Namespace>>,
    policies: BTreeMap<Key, Arc<NetworkPolicy>>,
    /// What policies ask of every pod of the cluster.
    pod_facts: BTreeMap<Key, Arc<Pod>>,
    ingresses: BTreeMap<Key, Arc<Ingress>>,
    /// What Ingresses take of Secrets. No pod sees it.
    certificates: BTreeMap<Key, Arc<Secret>>,
    /// What the running snapshot has named so far: (resource, key).
    named: Option<BTreeSet<(String, Key)>>,
    /// How many snapshots were complete.
    snapshots: u64,
    /// When the latest began.
    began: Option<Instant>,
}

/// Counts changes, so that others can wait for one.
struct Changes(watch::Sender<u64>);

impl Default for Changes {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Changes {
    fn count_one(&self) {
        self.0.send_modify(|n| *n += 1);
    }
}

/// The cache.
#[derive(Default)]
pub struct Objects {
    tables: std::sync::RwLock<Tables>,
    pods: Changes,
    data: Changes,
    network: Changes,
}

/// What changed, for whoever waits for changes of its class.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Pods,
    Data,
    Network,
    None,
}

impl Objects {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Tables> {
        self.tables.read().expect("no writer panics")
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Tables> {
        self.tables.write().expect("no writer panics")
    }

    /// A new session begins: the objects that follow, up to `end_snapshot`, are all there are.
    pub fn begin_snapshot(&self) {
        let mut tables = self.write();
        tables.named = Some(BTreeSet::new());
        tables.began = Some(Instant::now());
    }

    /// How long ago the latest snapshot began: what changes soon after may have happened long ago.
    pub(crate) fn snapshot_age(&self) -> Option<Duration> {
        self.read().began.map(|began| began.elapsed())
    }

    /// The session ended before its snapshot did: nothing may be dropped for it.
    pub(crate) fn abandon_snapshot(&self) {
        self.write().named = None;
    }

    /// Takes one object.
    ///
    /// # Errors
    /// If it cannot be read as what it claims to be; the cache is unchanged then.
    pub fn apply(&self, object: &Object) -> Result<(), serde_json::Error> {
        let key = (object.namespace.clone(), object.name.clone());
        let class = {
            let mut tables = self.write();
            if let Some(named) = &mut tables.named {
                named.insert((object.resource.clone(), key.clone()));
            }
            let json = (!object.json.is_empty()).then_some(object.json.as_str());
            match object.resource.as_str() {
                "pods" => put(&mut tables.pods, key, json)?.then_class(Class::Pods),
                "secrets" => put(&mut tables.secrets, key, json)?.then_class(Class::Data),
                "configmaps" => put(&mut tables.config_maps, key, json)?.then_class(Class::Data),
                "clustertrustbundles" => put(&mut tables.trust_bundles, key, json)?.then_class(Class::Data),
                "runtimeclasses" => put(&mut tables.runtime_classes, key, json)?.then_class(Class::Data),
                "services" => put(&mut tables.services, key, json)?.then_class(Class::Network),
                "endpointslices" => put(&mut tables.slices, key, json)?.then_class(Class::Network),
                "nodes" => put(&mut tables.nodes, key, json)?.then_class(Class::Network),
                "namespaces" => put(&mut tables.namespaces, key, json)?.then_class(Class::Network),
                "networkpolicies" => put(&mut tables.policies, key, json)?.then_class(Class::Network),
                "podfacts" => put(&mut tables.pod_facts, key, json)?.then_class(Class::Network),
                "ingresses" => put(&mut tables.ingresses, key, json)?.then_class(Class::Network),
                "certificates" => put(&mut tables.certificates, key, json)?.then_class(Class::Network),
                _ => Class::None, // a newer master may send more
            }
        };
        self.announce(class);
        Ok(())
    }

    /// The snapshot is complete: what it did not name is gone.
    pub fn end_snapshot(&self) {
        {
            let mut tables = self.write();
            if let Some(named) = tables.named.take() {
                let named = &named;
                fn keep<T>(named: &BTreeSet<(String, Key)>, resource: &str, table: &mut BTreeMap<Key, T>) {
                    table.retain(|key, _| named.contains(&(resource.to_owned(), key.clone())));
                }
                keep(named, "pods", &mut tables.pods);
                keep(named, "secrets", &mut tables.secrets);
                keep(named, "configmaps", &mut tables.config_maps);
                keep(named, "clustertrustbundles", &mut tables.trust_bundles);
                keep(named, "runtimeclasses", &mut tables.runtime_classes);
                keep(named, "services", &mut tables.services);
                keep(named, "endpointslices", &mut tables.slices);
                keep(named, "nodes", &mut tables.nodes);
                keep(named, "namespaces", &mut tables.namespaces);
                keep(named, "networkpolicies", &mut tables.policies);
                keep(named, "podfacts", &mut tables.pod_facts);
                keep(named, "ingresses", &mut tables.ingresses);
                keep(named, "certificates", &mut tables.certificates);
                tables.snapshots += 1;
            }
        }
        for class in [Class::Pods, Class::Data, Class::Network] {
            self.announce(class);
        }
    }

    fn announce(&self, class: Class) {
        match class {
            Class::Pods => self.pods.count_one(),
            Class::Data => self.data.count_one(),
            Class::Network => self.network.count_one(),
            Class::None => {}
        }
    }

    /// How many snapshots were complete. Zero: nothing is known yet, so nothing may be stopped.
    pub(crate) fn snapshots(&self) -> u64 {
        self.read().snapshots
    }

    /// Changes whenever a pod changed or a snapshot ended.
    pub(crate) fn pods_changed(&self) -> watch::Receiver<u64> {
        self.pods.0.subscribe()
    }

    /// Changes whenever a Secret, ConfigMap, ClusterTrustBundle or RuntimeClass changed.
    pub(crate) fn data_changed(&self) -> watch::Receiver<u64> {
        self.data.0.subscribe()
    }

    /// Changes whenever a Service, EndpointSlice, Node or Ingress changed, or what one of them needs.
    pub(crate) fn network_changed(&self) -> watch::Receiver<u64> {
        self.network.0.subscribe()
    }

    /// The pods assigned to this node.
    pub(crate) fn pods(&self) -> Vec<Arc<Pod>> {
        self.read().pods.values().cloned().collect()
    }

    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.read().pods.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    pub(crate) fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>> {
        self.read().secrets.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    pub(crate) fn runtime_class(&self, name: &str) -> Option<Arc<RuntimeClass>> {
        self.read().runtime_classes.get(&(String::new(), name.to_owned())).cloned()
    }

    pub(crate) fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.read().nodes.get(&(String::new(), name.to_owned())).cloned()
    }

    pub(crate) fn nodes(&self) -> Vec<Arc<Node>> {
        self.read().nodes.values().cloned().collect()
    }

    pub(crate) fn services(&self) -> Vec<Arc<Service>> {
        self.read().services.values().cloned().collect()
    }

    pub(crate) fn slices(&self) -> Vec<Arc<EndpointSlice>> {
        self.read().slices.values().cloned().collect()
    }

    pub(crate) fn ingresses(&self) -> Vec<Arc<Ingress>> {
        self.read().ingresses.values().cloned().collect()
    }

    /// Secrets with certificates of Ingresses.
    pub(crate) fn certificates(&self) -> HashMap<Key, Arc<Secret>> {
        self.read().certificates.iter().map(|(key, secret)| (key.clone(), secret.clone())).collect()
    }

    /// What the network policies of the cluster mean on `node`.
    pub(crate) fn policies(&self, node: &str) -> Policies {
        let (policies, namespaces, pods) = {
            let tables = self.read();
            if tables.policies.is_empty() {
                return Policies::default();
            }
            let policies: Vec<_> = tables.policies.values().cloned().collect();
            let pods: Vec<_> = tables.pod_facts.values().cloned().collect();
            let namespaces: Vec<_> = tables.namespaces.values().cloned().collect();
            (policies, namespaces, pods)
        };
        let cluster = policy::Cluster {
            policies: policies.iter().map(Arc::as_ref).collect(),
            namespaces: namespaces.iter().map(Arc::as_ref).collect(),
            pods: pods.iter().map(Arc::as_ref).collect(),
        };
        policy::compile(&cluster, node)
    }
}

/// Whether the table changed.
struct Changed(bool);

impl Changed {
    fn then_class(self, class: Class) -> Class {
        if self.0 { class } else { Class::None }
    }
}

fn put<T: serde::de::DeserializeOwned>(
    table: &mut BTreeMap<Key, Arc<T>>,
    key: Key,
    json: Option<&str>,
) -> Result<Changed, serde_json::Error> {
    match json {
        None => Ok(Changed(table.remove(&key).is_some())),
        Some(json) => {
            table.insert(key, Arc::new(typed::read(json.as_bytes())?));
            Ok(Changed(true))
        }
    }
}

/// The objects that one pod's definition may name: in its namespace, or the cluster's.
pub(crate) struct PodSources {
    config_maps: BTreeMap<String, Arc<ConfigMap>>,
    secrets: BTreeMap<String, Arc<Secret>>,
    trust_bundles: BTreeMap<String, Arc<ClusterTrustBundle>>,
}

impl PodSources {
    /// A view of the cache as it is now.
    pub(crate) fn new(objects: &Objects, namespace: &str) -> Self {
        fn of<T>(table: &BTreeMap<Key, Arc<T>>, namespace: &str) -> BTreeMap<String, Arc<T>> {
            let from = (namespace.to_owned(), String::new());
            table
                .range(from..)
                .take_while(|(key, _)| key.0 == namespace)
                .map(|(k, v)| (k.1.clone(), v.clone()))
                .collect()
        }
        let tables = objects.read();
        Self {
            config_maps: of(&tables.config_maps, namespace),
            secrets: of(&tables.secrets, namespace),
            trust_bundles: of(&tables.trust_bundles, ""),
        }
    }
}

impl kontiki_agent_plan::env::Sources for PodSources {
    fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        self.config_maps.get(name).map(Arc::as_ref)
    }

    fn secret(&self, name: &str) -> Option<&Secret> {
        self.secrets.get(name).map(Arc::as_ref)
    }

    fn trust_bundle(&self, name: &str) -> Option<&ClusterTrustBundle> {
        self.trust_bundles.get(name).map(Arc::as_ref)
    }

    fn trust_bundles(&self) -> Vec<&ClusterTrustBundle> {
        self.trust_bundles.values().map(Arc::as_ref).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(resource: &str, name: &str, gone: bool) -> Object {
        let json = if gone {
            String::new()
        } else {
            format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"containers":[]}}}}"#)
        };
        Object { resource: resource.into(), namespace: "d".into(), name: name.into(), json }
    }

    #[test]
    fn a_snapshot_drops_what_it_does_not_name() {
        let objects = Objects::default();
        let names = |objects: &Objects| {
            objects.pods().iter().filter_map(|p| p.metadata.name.clone()).collect::<Vec<_>>().join(" ")
        };
        objects.begin_snapshot();
        objects.apply(&object("pods", "a", false)).expect("reads");
        objects.apply(&object("pods", "b", false)).expect("reads");
        objects.end_snapshot();
        assert_eq!((names(&objects).as_str(), objects.snapshots()), ("a b", 1));
        objects.begin_snapshot();
        objects.apply(&object("pods", "b", false)).expect("reads");
        objects.abandon_snapshot();
        assert_eq!(names(&objects), "a b", "an unfinished snapshot drops nothing");
        objects.begin_snapshot();
        objects.apply(&object("pods", "c", false)).expect("reads");
        objects.end_snapshot();
        assert_eq!(names(&objects), "c");
        objects.apply(&object("pods", "c", true)).expect("reads");
        assert_eq!(names(&objects), "");
        assert!(objects.apply(&Object { json: "{".into(), ..object("pods", "x", false) }).is_err());
    }

    #[test]
    fn a_certificate_of_an_ingress_is_no_pods_secret() {
        let objects = Objects::default();
        objects.begin_snapshot();
        objects.apply(&object("certificates", "c", false)).expect("reads");
        objects.apply(&object("ingresses", "i", false)).expect("reads");
        objects.end_snapshot();
        assert_eq!((objects.certificates().len(), objects.ingresses().len()), (1, 1));
        assert!(objects.secret("d", "c").is_none());
        objects.begin_snapshot();
        objects.end_snapshot();
        assert_eq!((objects.certificates().len(), objects.ingresses().len()), (0, 0));
    }
}
