//! The indexes that views are looked up by, and the caches that have them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kontiki_api::Api;
use kontiki_cache::{Cached, Informer, Part, PartialObjectMetadata};
use kontiki_model::pod::Placement;
use kontiki_plan::action::Kind;
use kontiki_plan::key::NamespacedName;
use kontiki_plan::lifecycle::gc::Item;
use kontiki_plan::object::{deleting, namespace, uid};
use kontiki_plan::selection::{Selects, label_entries, selector_entries};
use kontiki_plan::storage::protection::claims_of;

/// Pods by node.
const BY_NODE: &str = "node";
/// Pods by claim.
const BY_CLAIM: &str = "claim";
/// Objects by the uid of their manager.
const BY_CONTROLLER: &str = "controller";
/// Objects that nobody manages, by namespace.
const UNMANAGED: &str = "unmanaged";
/// Objects that select others, by namespace and labels.
const BY_SELECTOR: &str = "selector";
/// Objects of any kind by their uid, by the uids of their owners, and by namespace.
const BY_UID: &str = "uid";
const BY_OWNER: &str = "owner";
const BY_NAMESPACE: &str = "namespace";

fn by_controller(object: &PartialObjectMetadata) -> Vec<String> {
    object.controller().map(|owner| owner.uid.clone()).into_iter().collect()
}

fn unmanaged(object: &PartialObjectMetadata) -> Vec<String> {
    if object.controller().is_some() { Vec::new() } else { vec![object.key.namespace.clone().unwrap_or_default()] }
}

/// Objects that others manage: pods, ReplicaSets.
pub(crate) struct Managed<K> {
    pub all: Informer<K>,
}

impl<K> Clone for Managed<K> {
    fn clone(&self) -> Self {
        Self { all: self.all.clone() }
    }
}

impl<K: Cached> Managed<K> {
    pub fn new(api: &Api) -> Self {
        let all: Informer<K> = api.cache().get();
        all.add_index(BY_CONTROLLER, by_controller);
        all.add_index(UNMANAGED, unmanaged);
        Self { all }
    }

    /// Those that the object `uid` manages.
    pub fn of(&self, uid: &str) -> Vec<Arc<K>> {
        self.all.by_index(BY_CONTROLLER, uid)
    }

    /// Those that `set` manages, and those that it may adopt.
    pub fn around<S: Selects>(&self, set: &S) -> Vec<Arc<K>>
    where
        K: Kind,
    {
        let meta = set.metadata();
        let mut all = self.of(uid(meta));
        all.extend(self.unmanaged(namespace(meta)).into_iter().filter(|object| set.selects(object.metadata())));
        all
    }

    /// Those of a namespace that nobody manages.
    pub fn unmanaged(&self, namespace: &str) -> Vec<Arc<K>> {
        self.all.by_index(UNMANAGED, namespace)
    }
}

/// Pods, by node too.
#[derive(Clone)]
pub(crate) struct PodsByNode(pub Informer<Pod>);

impl PodsByNode {
    pub fn new(api: &Api) -> Self {
        let pods: Informer<Pod> = api.cache().get();
        pods.add_index(BY_NODE, |pod: &Part<Placement>| pod.0.node().map(str::to_owned).into_iter().collect());
        Self(pods)
    }

    /// Those bound to a node, be it there or not.
    pub fn on(&self, node: &str) -> Vec<Arc<Pod>> {
        self.0.by_index(BY_NODE, node)
    }
}

/// Pods, by the claims that their volumes name.
#[derive(Clone)]
pub(crate) struct PodsByClaim(pub Informer<Pod>);

impl PodsByClaim {
    pub fn new(api: &Api) -> Self {
        let pods: Informer<Pod> = api.cache().get();
        pods.add_index(BY_CLAIM, |pod: &Pod| claims_of(pod));
        Self(pods)
    }

    /// Those that name a claim, be it there or not.
    pub fn of(&self, claim: &NamespacedName) -> Vec<Arc<Pod>> {
        self.0.by_index(BY_CLAIM, &claim.to_string())
    }
}

/// Objects that select others.
pub(crate) struct Selectors<K> {
    pub all: Informer<K>,
}

impl<K: Cached + Selects> Selectors<K> {
    pub fn new(api: &Api) -> Self {
        let all: Informer<K> = api.cache().get();
        all.add_index(BY_SELECTOR, selector_entries::<K>);
        Self { all }
    }

    /// Those that may select an object, among them all that do.
    pub fn candidates(&self, meta: &ObjectMeta) -> Vec<Arc<K>> {
        label_entries(meta).iter().flat_map(|entry| self.all.by_index(BY_SELECTOR, entry)).collect()
    }
}

/// Objects of all kinds.
pub(crate) struct Objects(pub Informer<PartialObjectMetadata>);

impl Objects {
    pub fn new(api: &Api) -> Self {
        let objects: Informer<PartialObjectMetadata> = api.cache().get();
        objects.add_index(BY_UID, |object: &PartialObjectMetadata| vec![object.uid.clone()]);
        objects.add_index(BY_OWNER, |object: &PartialObjectMetadata| {
            object.owners.iter().map(|owner| owner.uid.clone()).collect()
        });
        objects
            .add_index(BY_NAMESPACE, |object: &PartialObjectMetadata| object.key.namespace.iter().cloned().collect());
        Self(objects)
    }

    pub fn with_uid(&self, uid: &str) -> Vec<Arc<PartialObjectMetadata>> {
        self.0.by_index(BY_UID, uid)
    }

    pub fn owned_by(&self, uid: &str) -> Vec<Arc<PartialObjectMetadata>> {
        self.0.by_index(BY_OWNER, uid)
    }

    pub fn within(&self, namespace: &str) -> Vec<Arc<PartialObjectMetadata>> {
        self.0.by_index(BY_NAMESPACE, namespace)
    }
}

/// An object as collection and namespace deletion look at it.
pub(crate) fn item(object: &PartialObjectMetadata) -> Item<'_> {
    Item {
        key: &object.key,
        uid: &object.uid,
        owners: &object.owners,
        finalizers: &object.finalizers,
        deleting: object.deleting,
        revision: object.revision.0,
    }
}

/// Namespaces.
#[derive(Clone)]
pub(crate) struct Namespaces(pub Informer<Namespace>);

impl Namespaces {
    pub fn new(api: &Api) -> Self {
        Self(api.cache().get())
    }

    pub fn get(&self, name: &str) -> Option<Arc<Namespace>> {
        self.0.get(None, name)
    }

    /// Whether a namespace is on its way out: nothing can be created in it any more. One that is not in the cache
    /// may be too new for it.
    pub fn terminating(&self, name: &str) -> bool {
        self.get(name).is_some_and(|namespace| deleting(&namespace.metadata))
    }
}
