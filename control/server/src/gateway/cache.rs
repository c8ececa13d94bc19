//! The objects that agents are told about, as they lie in the store, with what routing needs of them.
//!
//! Invariants
//! - Agents get the stored bytes, not a typed copy; the text that they get is made once for all of them.
//! - A handler runs after the cache shows the change, so whoever is woken by it finds it.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher, RandomState},
    marker::PhantomData,
    sync::{
        Arc, LazyLock, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use k8s_openapi::api::{
    core::v1::Pod,
    networking::v1::{Ingress, IngressClass},
};
use kontiki_cache::{Cache, Cached, Informer, Registration};
use kontiki_model::{GroupResource, ObjectKey, Revision, ingress, key, pod::Placement, typed};
use kontiki_store::Entry;
use parking_lot::RwLock;
use serde_json::Value;
use tokio::sync::watch;

use super::{
    feed::{Inbox, Source, Text as Told, Version},
    needs::{Item, Kind, needs, needs_of_ingress},
    projection::{is_one, project},
};

const BY_NODE: &str = "node";

/// A stored object, and the text that agents get.
pub struct Text {
    value: Bytes,
    revision: Revision,
    whole: OnceLock<Arc<str>>,
    /// For nodes that it is not about.
    part: OnceLock<Part>,
}

/// What nodes get of an object.
enum Part {
    None,
    Whole,
    Some(Told),
}

/// Tells projections apart that have no version.
static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Text {
    fn new(entry: &Entry) -> Self {
        let (value, revision) = (entry.value.clone(), entry.mod_revision);
        Self { value, revision, whole: OnceLock::new(), part: OnceLock::new() }
    }

    /// The object with its resourceVersion, and without who owns what of it: no node asks.
    #[must_use]
    pub fn value(&self) -> Value {
        let mut object: Value = serde_json::from_slice(&typed::without_owners(&self.value)).unwrap_or_default();
        if object["metadata"].is_object() {
            object["metadata"]["resourceVersion"] = Value::String(self.revision.to_string());
        }
        object
    }

    fn whole(&self) -> Told {
        let json = self.whole.get_or_init(|| self.value().to_string().into()).clone();
        Told { version: Version::Revision(self.revision), json }
    }

    /// What all nodes get of an object of this kind.
    fn for_all(&self, kind: Kind) -> Option<Told> {
        let part = self.part.get_or_init(|| {
            let object = self.value();
            if !is_one(kind, &object) {
                return Part::None;
            }
            let Some(part) = project(kind, &object) else { return Part::Whole };
            let json: Arc<str> = part.to_string().into();
            Part::Some(Told { version: Version::Content(HASHES.hash_one(&json)), json })
        });
        match part {
            Part::None => None,
            Part::Whole => Some(self.whole()),
            Part::Some(told) => Some(told.clone()),
        }
    }
}

/// Which kind a cache holds.
pub trait Tag: Send + Sync + 'static {
    /// Its storage.
    const RESOURCE: GroupResource<'static>;
}

macro_rules! tags {
    ($($name:ident $group:literal $resource:literal)*) => {
        $(
            /// Tag of one kind.
            pub struct $name;
            impl Tag for $name {
                const RESOURCE: GroupResource<'static> = GroupResource { group: $group, resource: $resource };
            }
        )*
    };
}
tags! {
    ConfigMaps "" "configmaps"
    Secrets "" "secrets"
    ServiceAccounts "" "serviceaccounts"
    Nodes "" "nodes"
    Services "" "services"
    EndpointSlices "discovery.k8s.io" "endpointslices"
    ClusterTrustBundles "certificates.k8s.io" "clustertrustbundles"
    PodCertificateRequests "certificates.k8s.io" "podcertificaterequests"
    RuntimeClasses "node.k8s.io" "runtimeclasses"
    Namespaces "" "namespaces"
    NetworkPolicies "networking.k8s.io" "networkpolicies"
    Ingresses "networking.k8s.io" "ingresses"
    Certificates "" "secrets"
    PodFacts "" "pods"
}

/// An object of the kind `T`.
pub struct Tagged<T> {
    text: Text,
    tag: PhantomData<fn() -> T>,
}

impl<T: Tag> Cached for Tagged<T> {
    fn prefix(namespace: Option<&str>) -> String {
        key::prefix(T::RESOURCE, namespace)
    }

    fn key(namespace: Option<&str>, name: &str) -> Bytes {
        ObjectKey::new(T::RESOURCE, namespace, name).encode()
    }

    fn read(_: &ObjectKey, entry: &Entry) -> Result<Self, String> {
        Ok(Self { text: Text::new(entry), tag: PhantomData })
    }
}

/// A pod, with what decides who is told of it.
pub struct PodEntry {
    /// The object.
    pub text: Text,
    /// Where it is bound to.
    pub node: Option<String>,
    /// Its incarnation.
    pub uid: String,
    /// Whose token it may have.
    pub service_account: String,
    /// What its node has to know because of it.
    pub needs: BTreeSet<Item>,
}

const PODS: GroupResource<'static> = GroupResource { group: "", resource: "pods" };

impl Cached for PodEntry {
    fn prefix(namespace: Option<&str>) -> String {
        key::prefix(PODS, namespace)
    }

    fn key(namespace: Option<&str>, name: &str) -> Bytes {
        ObjectKey::new(PODS, namespace, name).encode()
    }

    fn read(_: &ObjectKey, entry: &Entry) -> Result<Self, String> {
        let pod: Pod = typed::read(&entry.value).map_err(|error| error.to_string())?;
        let needs = needs(&pod);
        let spec = pod.spec.unwrap_or_default();
        Ok(Self {
            text: Text::new(entry),
            node: spec.node_name.filter(|node| !node.is_empty()),
            uid: pod.metadata.uid.unwrap_or_default(),
            service_account: spec.service_account_name.unwrap_or_default(),
            needs,
        })
    }
}

/// The inboxes of this master's sessions, by node.
#[derive(Default)]
pub struct Router {
    inboxes: RwLock<HashMap<String, Arc<Inbox>>>,
}

impl Router {
    /// From now on `inbox` is told what concerns `node`.
    pub fn insert(&self, node: &str, inbox: Arc<Inbox>) {
        self.inboxes.write().insert(node.to_owned(), inbox);
    }

    /// `inbox` is told no more, unless a newer one took its place already.
    pub fn remove(&self, node: &str, inbox: &Arc<Inbox>) {
        let mut inboxes = self.inboxes.write();
        if inboxes.get(node).is_some_and(|current| Arc::ptr_eq(current, inbox)) {
            inboxes.remove(node);
        }
    }

    fn tell(&self, node: &str, item: &Item) {
        if let Some(inbox) = self.inboxes.read().get(node) {
            inbox.push(item);
        }
    }

    fn tell_all(&self, item: &Item) {
        self.inboxes.read().values().for_each(|inbox| inbox.push(item));
    }
}

/// All caches of the gateway.
pub struct Caches {
    cache: Cache,
    /// Pods.
    pub pods: Informer<PodEntry>,
    config_maps: Informer<Tagged<ConfigMaps>>,
    secrets: Informer<Tagged<Secrets>>,
    service_accounts: Informer<Tagged<ServiceAccounts>>,
    trust_bundles: Informer<Tagged<ClusterTrustBundles>>,
    runtime_classes: Informer<Tagged<RuntimeClasses>>,
    nodes: Informer<Tagged<Nodes>>,
    services: Informer<Tagged<Services>>,
    endpoint_slices: Informer<Tagged<EndpointSlices>>,
    namespaces: Informer<Tagged<Namespaces>>,
    policies: Informer<Tagged<NetworkPolicies>>,
    pod_facts: Informer<Tagged<PodFacts>>,
    /// Whether Ingresses are served, and by which class.
    served: Served,
    ingress_texts: Informer<Tagged<Ingresses>>,
    tls: Informer<Tagged<Certificates>>,
    certificates: Informer<Tagged<PodCertificateRequests>>,
    /// Counts changes of them.
    certificates_changed: Arc<watch::Sender<u64>>,
    /// Who is told.
    pub router: Arc<Router>,
    _registrations: Vec<Registration>,
}

impl Caches {
    /// What agents are told of what is in `cache`; of Ingresses only if `serve_ingresses`. Must be called within a tokio
    /// runtime.
    #[must_use]
    pub fn new(cache: &Cache, serve_ingresses: bool) -> Self {
        let router = Arc::new(Router::default());
        let placements = cache.get::<kontiki_cache::Part<Placement>>();
        placements.add_index(BY_NODE, |pod: &kontiki_cache::Part<Placement>| {
            pod.0.node().map(str::to_owned).into_iter().collect()
        });
        let weak = Arc::downgrade(&router);
        let mut registrations = vec![placements.on_change(move |change| {
            let Some(router) = weak.upgrade() else { return };
            let item = item(Kind::Pod, &change.key);
            change.both().filter_map(|pod| pod.0.node()).for_each(|node| router.tell(node, &item));
        })];
        let certificates: Informer<Tagged<PodCertificateRequests>> = cache.get();
        let certificates_changed = Arc::new(watch::Sender::new(0));
        let changed = certificates_changed.clone();
        registrations.push(certificates.on_change(move |_| changed.send_modify(|count| *count += 1)));
        let mut all = Registrations { cache, router: Arc::downgrade(&router), out: &mut registrations };
        let policies: Informer<Tagged<NetworkPolicies>> = all.get(Kind::NetworkPolicy);
        let pod_facts = all.get_pod_facts(&policies);
        let served = Served { on: serve_ingresses, ingresses: cache.get(), classes: cache.get() };
        all.follow_classes(&served);
        Self {
            pods: cache.get(),
            config_maps: all.get(Kind::ConfigMap),
            secrets: all.get(Kind::Secret),
            service_accounts: all.get(Kind::ServiceAccount),
            trust_bundles: all.get(Kind::ClusterTrustBundle),
            runtime_classes: all.get(Kind::RuntimeClass),
            nodes: all.get(Kind::Node),
            services: all.get(Kind::Service),
            endpoint_slices: all.get(Kind::EndpointSlice),
            namespaces: all.get(Kind::Namespace),
            policies,
            pod_facts,
            served,
            ingress_texts: all.get(Kind::Ingress),
            tls: all.get(Kind::Certificate),
            certificates,
            certificates_changed,
            cache: cache.clone(),
            router,
            _registrations: registrations,
        }
    }

    /// Waits until the caches show `revision`. Cancel-safe.
    pub async fn wait_for(&self, revision: Revision) {
        self.cache.wait_for(revision).await;
    }

    /// The revision that all caches show at least.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.cache.revision()
    }

    /// Everything that concerns every node, and the pods of `node`.
    #[must_use]
    pub fn everything_for(&self, node: &str) -> BTreeSet<Item> {
        let mut out = BTreeSet::new();
        let bound = self.pods.by_index(BY_NODE, node);
        out.extend(bound.iter().map(|pod| meta_item(Kind::Pod, &pod.text)));
        out.extend(self.nodes.list().iter().map(|o| meta_item(Kind::Node, &o.text)));
        out.extend(self.services.list().iter().map(|o| meta_item(Kind::Service, &o.text)));
        out.extend(self.endpoint_slices.list().iter().map(|o| meta_item(Kind::EndpointSlice, &o.text)));
        out.extend(self.namespaces.list().iter().map(|o| meta_item(Kind::Namespace, &o.text)));
        out.extend(self.policies.list().iter().map(|o| meta_item(Kind::NetworkPolicy, &o.text)));
        out.extend(self.served.all());
        if self.any_policy() {
            out.extend(self.pod_facts.list().iter().map(|o| meta_item(Kind::PodFacts, &o.text)));
        }
        out
    }

    /// Without a policy no node needs to know of other nodes' pods.
    fn any_policy(&self) -> bool {
        !self.policies.is_empty()
    }

    /// The node's own object.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<Value> {
        self.nodes.get(None, name).map(|node| node.text.value())
    }

    /// A ServiceAccount.
    #[must_use]
    pub fn service_account(&self, namespace: &str, name: &str) -> Option<Value> {
        self.service_accounts.get(Some(namespace), name).map(|account| account.text.value())
    }

    /// A PodCertificateRequest.
    #[must_use]
    pub fn pod_certificate_request(&self, namespace: &str, name: &str) -> Option<Value> {
        self.certificates.get(Some(namespace), name).map(|request| request.text.value())
    }

    /// Changes whenever a PodCertificateRequest did.
    #[must_use]
    pub fn certificates_changed(&self) -> watch::Receiver<u64> {
        self.certificates_changed.subscribe()
    }
}

impl Source for Caches {
    fn pod(&self, item: &Item) -> Option<Arc<PodEntry>> {
        self.pods.get(Some(&item.namespace), &item.name)
    }

    fn ingress(&self, item: &Item) -> Option<BTreeSet<Item>> {
        self.served.get(item).map(|ingress| needs_of_ingress(&ingress))
    }

    fn all(&self, kind: Kind) -> Vec<Item> {
        match kind {
            Kind::ClusterTrustBundle => self.trust_bundles.list().iter().map(|o| meta_item(kind, &o.text)).collect(),
            // A pod needs single objects of the others.
            _ => Vec::new(),
        }
    }

    fn text(&self, item: &Item, node: &str) -> Option<Told> {
        fn of<T: Tag>(informer: &Informer<Tagged<T>>, item: &Item) -> Option<Told> {
            let namespace = Some(item.namespace.as_str()).filter(|namespace| !namespace.is_empty());
            informer.get(namespace, &item.name).and_then(|object| object.text.for_all(item.kind))
        }
        match item.kind {
            Kind::Pod => self.pods.get(Some(&item.namespace), &item.name).map(|pod| pod.text.whole()),
            Kind::ConfigMap => of(&self.config_maps, item),
            Kind::Secret => of(&self.secrets, item),
            Kind::ServiceAccount => of(&self.service_accounts, item),
            Kind::ClusterTrustBundle => of(&self.trust_bundles, item),
            Kind::RuntimeClass => of(&self.runtime_classes, item),
            Kind::Node if item.name == node => self.nodes.get(None, node).map(|own| own.text.whole()),
            Kind::Node => of(&self.nodes, item),
            Kind::Service => of(&self.services, item),
            Kind::EndpointSlice => of(&self.endpoint_slices, item),
            Kind::Namespace => of(&self.namespaces, item),
            Kind::NetworkPolicy => of(&self.policies, item),
            Kind::Ingress => self.served.get(item).and_then(|_| of(&self.ingress_texts, item)),
            Kind::Certificate => of(&self.tls, item),
            Kind::PodFacts => of(&self.pod_facts, item).filter(|_| self.any_policy()),
        }
    }
}

/// Which Ingresses nodes serve: those of a class with our controller.
struct Served {
    on: bool,
    ingresses: Informer<Ingress>,
    classes: Informer<IngressClass>,
}

impl Served {
    fn is_served(&self, ingress: &Ingress) -> bool {
        let class = ingress::class(ingress).filter(|_| self.on).and_then(|class| self.classes.get(None, class));
        class.is_some_and(|class| ingress::is_served(&class))
    }

    fn get(&self, item: &Item) -> Option<Arc<Ingress>> {
        self.ingresses.get(Some(&item.namespace), &item.name).filter(|ingress| self.is_served(ingress))
    }

    fn all(&self) -> impl Iterator<Item = Item> {
        let all = self.ingresses.list().into_iter().filter(|ingress| self.is_served(ingress));
        all.map(|ingress| ingress_item(&ingress))
    }
}

fn ingress_item(ingress: &Ingress) -> Item {
    let meta = &ingress.metadata;
    Item::new(Kind::Ingress, meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

struct Registrations<'a> {
    cache: &'a Cache,
    router: Weak<Router>,
    out: &'a mut Vec<Registration>,
}

impl Registrations<'_> {
    fn get<T: Tag>(&mut self, kind: Kind) -> Informer<Tagged<T>> {
        let informer = self.cache.get::<Tagged<T>>();
        let router = self.router.clone();
        self.out.push(informer.on_change(move |change| {
            if let Some(router) = router.upgrade() {
                router.tell_all(&item(kind, &change.key));
            }
        }));
        informer
    }

    /// With its class an Ingress becomes every node's business, or ceases to be.
    fn follow_classes(&mut self, served: &Served) {
        if !served.on {
            return;
        }
        let (router, ingresses) = (self.router.clone(), served.ingresses.clone());
        self.out.push(served.classes.on_change(move |change| {
            let is_served = |class: &Option<Arc<IngressClass>>| class.as_deref().is_some_and(ingress::is_served);
            let Some(router) = router.upgrade().filter(|_| is_served(&change.old) != is_served(&change.new)) else {
                return;
            };
            let named = ingresses.list().into_iter().filter(|i| ingress::class(i) == Some(change.key.name.as_str()));
            named.for_each(|ingress| router.tell_all(&ingress_item(&ingress)));
        }));
    }

    /// Pods as policies see them: every node's business while there is a policy.
    fn get_pod_facts(&mut self, policies: &Informer<Tagged<NetworkPolicies>>) -> Informer<Tagged<PodFacts>> {
        let pods = self.cache.get::<Tagged<PodFacts>>();
        let (router, any) = (self.router.clone(), policies.clone());
        self.out.push(pods.on_change(move |change| {
            if let Some(router) = router.upgrade().filter(|_| !any.is_empty()) {
                router.tell_all(&item(Kind::PodFacts, &change.key));
            }
        }));
        let (router, any, all) = (self.router.clone(), policies.clone(), pods.clone());
        let had = AtomicBool::new(false);
        self.out.push(policies.on_change(move |_| {
            let has = !any.is_empty();
            let Some(router) = router.upgrade().filter(|_| had.swap(has, Ordering::Relaxed) != has) else { return };
            all.list().iter().for_each(|pod| router.tell_all(&meta_item(Kind::PodFacts, &pod.text)));
        }));
        pods
    }
}

fn item(kind: Kind, key: &ObjectKey) -> Item {
    Item::new(kind, key.namespace.as_deref().unwrap_or_default(), &key.name)
}

fn meta_item(kind: Kind, text: &Text) -> Item {
    #[derive(serde::Deserialize, Default)]
    struct Meta {
        #[serde(default)]
        namespace: String,
        #[serde(default)]
        name: String,
    }
    #[derive(serde::Deserialize, Default)]
    struct Object {
        metadata: Meta,
    }
    let object: Object = serde_json::from_slice(&text.value).unwrap_or_default();
    Item { kind, namespace: object.metadata.namespace, name: object.metadata.name }
}
