//! A master in this process: store, API, controllers, scheduler; and nodes that only pretend.

#![allow(dead_code, reason = "each test file uses its own part of it")]

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kontiki_api::leader::{LeaderContext, Settings};
use kontiki_api::{Api, Client, DeleteOptions, NodeProxy, NodeProxyError, NodeStream, PatchKind, Target, User};
use kontiki_kinds::rows::service::Ranges;
use kontiki_model::GroupResource;
use kontiki_plan::object::{deleting, name, namespace};
use kontiki_plan::pod;
use kontiki_store::{Config, PeerTls, Store, WatchItem};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Longest any single expectation may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(2);

pub const fn resource<'a>(group: &'a str, resource: &'a str) -> GroupResource<'a> {
    GroupResource { group, resource }
}

struct NoNodes;

impl NodeProxy for NoNodes {
    fn open(&self, _: kontiki_proto::node::Open) -> BoxFuture<'_, Result<NodeStream, NodeProxyError>> {
        Box::pin(async { Err(NodeProxyError { code: 503, message: "these nodes only pretend".into() }) })
    }
}

fn peer_tls() -> PeerTls {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::OrganizationName, "kontiki:servers");
    let cert = params.signed_by(&key, &ca).unwrap();
    PeerTls {
        ca_pem: ca.pem(),
        cert_pem: cert.pem(),
        key_pem: key.serialize_pem(),
        organization: Some(PeerTls::SERVERS.to_owned()),
        names: Vec::new(),
    }
}

/// The master, and the names of the nodes that are silent.
pub struct Master {
    pub api: Api,
    pub client: Client,
    pub context: LeaderContext,
    silent: Arc<Mutex<HashSet<String>>>,
    store: Store,
    _stop: tokio_util::sync::DropGuard,
    _dir: tempfile::TempDir,
}

/// RocksDB's threads must be gone before the process is: they use what the exit takes down.
impl Drop for Master {
    fn drop(&mut self) {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.store.shutdown()));
    }
}

/// A CA that sees no difference between requests.
struct Echo;

impl kontiki_api::leader::Signer for Echo {
    fn sign(&self, _: &str, _: &[String], _: Duration) -> Result<String, String> {
        let key = rcgen::KeyPair::generate().map_err(|error| error.to_string())?;
        Ok(rcgen::CertificateParams::default().self_signed(&key).map_err(|error| error.to_string())?.pem())
    }
}

impl Master {
    pub async fn start(nodes: &[&str]) -> Self {
        Self::with(nodes, Arc::new(NoNodes)).await
    }

    /// One that asks `proxy` what nodes say.
    pub async fn with(nodes: &[&str], proxy: Arc<dyn NodeProxy>) -> Self {
        let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).try_init();
        let dir = tempfile::tempdir().unwrap();
        let listen = kontiki_test_ports::one();
        let config = Config {
            id: 1,
            name: "s1".into(),
            dir: dir.path().join("s1"),
            listen,
            advertise: listen.to_string(),
            tls: peer_tls(),
            heartbeat: Config::HEARTBEAT,
            election: Config::ELECTION,
            max_feature_level: None,
            past: kontiki_store::Past::NONE,
        };
        let store = Store::open(config).await.unwrap();
        store.bootstrap().await.unwrap();
        let term = store.status().wait_for(|status| status.is_leader).await.unwrap().term;
        let api = Api::new(store.clone(), api_config(proxy)).unwrap();
        let client = api.client(User::new("test", &["system:masters"]));
        let stop = CancellationToken::new();
        let settings = Arc::new(Settings {
            pod_cidr: "10.244.0.0/16".parse().unwrap(),
            node_cidr_bits: 24,
            virtual_address: Some("10.1.2.1".parse().unwrap()),
            node_grace: GRACE,
            ca_pem: "PEM".into(),
            cluster_domain: "cluster.local".into(),
            event_ttl: Duration::from_secs(3600),
            load_balancers: true,
            ingresses: true,
        });
        let context = LeaderContext {
            api: api.clone(),
            client: client.fenced(term),
            term,
            stop: stop.clone(),
            settings,
            signer: Arc::new(Echo),
        };
        let master = Self {
            client: client.clone(),
            context: context.clone(),
            silent: Arc::default(),
            store,
            _stop: stop.clone().drop_guard(),
            _dir: dir,
            api,
        };
        master.populate(nodes).await;
        tokio::spawn(kontiki_controllers::run(context.clone()));
        tokio::spawn(kontiki_scheduler::run(context));
        tokio::spawn(agents(master.api.clone(), client.clone(), master.silent.clone(), stop.clone()));
        for node in nodes {
            tokio::spawn(heartbeat(client.clone(), (*node).to_owned(), master.silent.clone(), stop.clone()));
        }
        master
    }

    async fn populate(&self, nodes: &[&str]) {
        for name in ["default", "kube-system", "kube-node-lease"] {
            self.create(
                "",
                "namespaces",
                None,
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
            )
            .await;
        }
        for name in nodes {
            self.create("", "nodes", None, json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}))
                .await;
            self.create("coordination.k8s.io", "leases", Some("kube-node-lease"), json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": "kube-node-lease"},
                "spec": {"holderIdentity": name},
            })).await;
            let amounts = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
            let status = json!({"status": {
                "capacity": amounts, "allocatable": amounts,
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            }});
            let target = Target { resource: resource("", "nodes"), namespace: None, name, subresource: Some("status") };
            self.client.patch(target, PatchKind::Merge, status).await.unwrap();
        }
    }

    pub async fn create(&self, group: &str, plural: &str, namespace: Option<&str>, object: Value) -> Value {
        self.client.create(resource(group, plural), namespace, object).await.unwrap()
    }

    /// A node stops talking: no renewals, no pod status, no confirmation of deletions.
    pub fn silence(&self, node: &str) {
        self.silent.lock().unwrap().insert(node.to_owned());
    }

    /// Waits until `look` finds what it looks for.
    pub async fn until<T, F: Future<Output = Result<T, String>>>(&self, what: &str, mut look: impl FnMut() -> F) -> T {
        let began = Instant::now();
        let mut change = self.api.store().watch(Default::default(), None).unwrap();
        loop {
            let last = match look().await {
                Ok(found) => return found,
                Err(last) => last,
            };
            assert!(began.elapsed() < PATIENCE, "{what}: {last}");
            // A change, or a while: whichever comes first is a reason to look again.
            let _ = tokio::time::timeout(Duration::from_millis(500), change.next()).await;
        }
    }

    /// Waits until nothing but Leases has changed for `silence`.
    pub async fn still(&self, silence: Duration) {
        let began = Instant::now();
        let mut changes = self.api.store().watch(Default::default(), None).unwrap();
        let (mut last, mut seen) = (Instant::now(), Vec::<String>::new());
        while last.elapsed() < silence {
            assert!(
                began.elapsed() < PATIENCE,
                "{} changes, the last: {:?}",
                seen.len(),
                seen.iter().rev().take(9).collect::<Vec<_>>()
            );
            let left = silence.saturating_sub(last.elapsed());
            let Ok(Some(WatchItem::Events(batch))) = tokio::time::timeout(left, changes.next()).await else { continue };
            let keys = batch.iter().map(|event| String::from_utf8_lossy(&event.entry.key).into_owned());
            let before = seen.len();
            seen.extend(keys.filter(|key| !key.contains("/leases/")));
            if seen.len() > before {
                last = Instant::now();
            }
        }
    }

    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.api.cache().get::<Pod>().by_namespace("default")
    }
}

fn api_config(node_proxy: Arc<dyn NodeProxy>) -> kontiki_api::Config {
    kontiki_api::Config {
        registry: kontiki_kinds::registry(&kontiki_kinds::Settings {
            services: Ranges { addresses: "10.96.0.0/16".parse().unwrap(), node_ports: 30000..=32767 },
        }),
        admission: kontiki_kinds::admission::chain(&kontiki_kinds::admission::Settings {
            default_toleration_seconds: 1,
            ..kontiki_kinds::admission::Settings::default()
        }),
        authorizers: kontiki_kinds::authorize::chain(),
        tokens: Vec::new(),
        anonymous: Default::default(),
        clock: Arc::new(kontiki_api::clock::System),
        entropy: Arc::new(kontiki_api::clock::System),
        version: "0.0.0".into(),
        service_account_key_pem: KeyPair::generate().unwrap().serialize_pem(),
        issuer: "https://kubernetes.default.svc.cluster.local".into(),
        front_proxy: None,
        proxies: None,
        node_proxy,
        caller: None,
        aggregation: None,
        limits: kontiki_api::fairness::Limits::default(),
        writes: kontiki_api::Writes::default(),
        flags: Default::default(),
        extra_routes: axum::Router::new(),
    }
}

async fn heartbeat(client: Client, node: String, silent: Arc<Mutex<HashSet<String>>>, stop: CancellationToken) {
    let lease = resource("coordination.k8s.io", "leases");
    let target = Target { resource: lease, namespace: Some("kube-node-lease"), name: &node, subresource: None };
    while !stop.is_cancelled() {
        if !silent.lock().unwrap().contains(&node) {
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
            let _ = client.patch(target, PatchKind::Merge, json!({"spec": {"renewTime": now}})).await;
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
}

/// An image of which nothing ever becomes ready.
pub const BROKEN: &str = "broken";

pub fn image(pod: &Pod) -> &str {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    containers.first().and_then(|container| container.image.as_deref()).unwrap_or_default()
}

/// Every node's agent: starts what is bound to it at once, and ends what is to be deleted.
async fn agents(api: Api, client: Client, silent: Arc<Mutex<HashSet<String>>>, stop: CancellationToken) {
    let pods = api.cache().get::<Pod>();
    let mut changes = pods.subscribe();
    let mut next = 0;
    while !stop.is_cancelled() {
        for key in changes.next().await {
            let Some(pod) = pods.get_key(&key) else { continue };
            let Some(node) = pod::node(&pod).filter(|node| !silent.lock().unwrap().contains(*node)) else { continue };
            let node = node.to_owned();
            let (space, name) = (namespace(&pod.metadata), name(&pod.metadata));
            let at = |subresource| Target { resource: resource("", "pods"), namespace: Some(space), name, subresource };
            if deleting(&pod.metadata) {
                let force = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
                let _ = client.delete(at(None), force).await;
            } else if !pod::ready(&pod) && !pod::finished(&pod) && image(&pod) != BROKEN {
                next += 1;
                let ip = format!("10.244.{}.{}", next / 250, next % 250 + 1);
                let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": now});
                let status = json!({"status": {
                    "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": node,
                    "conditions": [ready, {"type": "PodScheduled", "status": "True", "lastTransitionTime": now}],
                }});
                let _ = client.patch(at(Some("status")), PatchKind::Merge, status).await;
            }
        }
    }
}
