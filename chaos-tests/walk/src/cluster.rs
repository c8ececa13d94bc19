//! A control plane in this thread: store, API, one leader after the other, nodes that only pretend; and what a scenario
//! does to it.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use kontiki_api::clock::{Entropy, System};
use kontiki_api::leader::{LeaderContext, Settings, Signer};
use kontiki_api::{Api, Client, DeleteOptions, PatchKind, Propagation, Status, Target, User, Writer, Written};
use kontiki_kinds::rows::service::Ranges;
use kontiki_model::{GroupResource, ObjectKey};
use kontiki_store::{Config, PeerTls, Store, Term};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::history::{History, follow};
use crate::killer::Killer;
use crate::machine;
use crate::metrics;
use crate::nodes::Nodes;

/// How long the cluster is without a leader.
const ELECTION: Duration = Duration::from_secs(1);
/// How long nothing changes when all is done.
const QUIET: Duration = Duration::from_secs(12);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(1200);

/// The nodes of every cluster.
const NODES: [&str; 2] = ["n1", "n2"];

struct Drawn;

impl Entropy for Drawn {
    fn draw(&self) -> u64 {
        machine::draw()
    }
}

/// Signs everything alike.
struct NoSigner;

impl Signer for NoSigner {
    fn sign(&self, _: &str, _: &[String], _: Duration) -> Result<String, String> {
        static CERTIFICATE: OnceLock<String> = OnceLock::new();
        let make = || {
            let key = rcgen::KeyPair::generate()?;
            Ok::<_, rcgen::Error>(rcgen::CertificateParams::default().self_signed(&key)?.pem())
        };
        Ok(CERTIFICATE.get_or_init(|| make().unwrap_or_default()).clone())
    }
}

fn store_config() -> Config {
    let tls = PeerTls {
        ca_pem: String::new(),
        cert_pem: String::new(),
        key_pem: String::new(),
        organization: None,
        names: Vec::new(),
    };
    Config {
        id: 1,
        name: "s1".to_owned(),
        dir: "/simulated".into(),
        listen: ([127, 0, 0, 1], 0).into(),
        advertise: "s1:2380".to_owned(),
        tls,
        // Nobody else could lead: seldom is often enough.
        heartbeat: Duration::from_secs(2),
        election: (Duration::from_secs(6), Duration::from_secs(12)),
        max_feature_level: None,
        past: kontiki_store::Past::NONE,
    }
}

/// Made once: making it takes longer than a run.
fn account_key() -> String {
    static KEY: OnceLock<String> = OnceLock::new();
    KEY.get_or_init(|| rcgen::KeyPair::generate().map(|key| key.serialize_pem()).unwrap_or_default()).clone()
}

fn api_config() -> kontiki_api::Config {
    let addresses = "10.96.0.0/16".parse().expect("a range");
    kontiki_api::Config {
        registry: kontiki_kinds::registry(&kontiki_kinds::Settings {
            services: Ranges { addresses, node_ports: 30000..=32767 },
        }),
        admission: kontiki_kinds::admission::chain(&kontiki_kinds::admission::Settings::default()),
        authorizers: kontiki_kinds::authorize::chain(),
        tokens: Vec::new(),
        anonymous: Default::default(),
        clock: Arc::new(System),
        entropy: Arc::new(Drawn),
        version: "0.0.0".into(),
        service_account_key_pem: account_key(),
        issuer: "https://kubernetes.default.svc.cluster.local".into(),
        front_proxy: None,
        proxies: None,
        node_proxy: Arc::new(metrics::Nodes),
        caller: None,
        aggregation: None,
        limits: kontiki_api::fairness::Limits::default(),
        writes: kontiki_api::Writes::default(),
        flags: Default::default(),
        extra_routes: axum::Router::new(),
    }
}

fn settings() -> Settings {
    Settings {
        pod_cidr: "10.244.0.0/16".parse().expect("a range"),
        node_cidr_bits: 24,
        virtual_address: None,
        // These nodes do not renew their Leases: none is ever silent for too long.
        node_grace: Duration::from_secs(1_000_000),
        ca_pem: "PEM".into(),
        cluster_domain: "cluster.local".into(),
        event_ttl: Duration::from_secs(3600),
        load_balancers: false,
        ingresses: false,
    }
}

/// See the module.
pub struct Cluster {
    pub client: Client,
    pub history: Arc<Mutex<History>>,
    pub killer: Arc<Killer>,
    /// Since when there is a leader.
    led: Arc<Mutex<Option<Instant>>>,
    tasks: JoinSet<()>,
}

impl Cluster {
    /// One that is set up and at rest.
    pub async fn start() -> Result<Self> {
        let store = Store::open(store_config()).await?;
        store.bootstrap().await?;
        let term = store.status().wait_for(|status| status.is_leader).await?.term;
        let api = Api::new(store.clone(), api_config()).map_err(|error| anyhow!("{error}"))?;
        let client = api.client(User::new("walk", &["system:masters"]));
        let (killer, history) = (Arc::<Killer>::default(), Arc::<Mutex<History>>::default());
        let led = Arc::<Mutex<Option<Instant>>>::default();
        kontiki_controllers::warm(&api);
        kontiki_scheduler::warm(&api);
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(store, history.clone()));
        tasks.spawn(Nodes::new(client.clone()).run(api.clone()));
        tasks.spawn(lead(api, term, killer.clone(), led.clone()));
        let cluster = Self { client, history, killer, led, tasks };
        cluster.set_up().await?;
        cluster.settle().await?;
        Ok(cluster)
    }

    async fn set_up(&self) -> Result<()> {
        for name in ["default", "kube-system", "kube-node-lease"] {
            self.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await?;
        }
        for name in NODES {
            self.add_node(name).await?;
        }
        Ok(())
    }

    /// Adds a node that is ready.
    pub async fn add_node(&self, name: &str) -> Result<()> {
        let labels = json!({"kubernetes.io/hostname": name});
        self.create(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})).await?;
        let amounts = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
        let status = json!({
            "capacity": amounts, "allocatable": amounts,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        });
        self.patch_status(on_cluster("", "nodes", name), json!({ "status": status })).await.map(drop)
    }

    /// Makes an object, in the namespace `default` if it names none and needs one.
    pub async fn create(&self, object: Value) -> Result<Value> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let group = version.rsplit_once('/').map_or("", |(group, _)| group);
        let table = self.client.registry().table();
        let row = table.rows().iter().find(|row| &*row.group == group && &*row.kind == kind.as_str());
        let row = row.with_context(|| format!("{kind} of {group:?} is no kind"))?;
        let space = object["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
        let resource = GroupResource { group, resource: &row.plural };
        let made = self.client.create(resource, row.namespaced().then_some(space.as_str()), object).await;
        made.map_err(|status| told("create", &status))
    }

    /// Changes an object.
    pub async fn patch(&self, target: Target<'_>, body: Value) -> Result<Value> {
        let patched = self.client.patch(target, PatchKind::Merge, body).await;
        patched.and_then(Written::value).map_err(|status| told(target.name, &status))
    }

    /// Changes what an object says of itself.
    pub async fn patch_status(&self, target: Target<'_>, body: Value) -> Result<Value> {
        self.patch(Target { subresource: Some("status"), ..target }, body).await
    }

    /// Deletes an object.
    pub async fn delete(&self, target: Target<'_>, propagation: Option<Propagation>) -> Result<()> {
        let options = DeleteOptions { propagation, ..DeleteOptions::default() };
        self.client.delete(target, options).await.map(drop).map_err(|status| told(target.name, &status))
    }

    /// Waits until all is done.
    pub async fn settle(&self) -> Result<()> {
        self.rest(QUIET).await
    }

    /// Waits until there was a leader for so long, and nothing changed.
    pub async fn rest(&self, quiet: Duration) -> Result<()> {
        let began = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let led = self.led.lock().is_some_and(|since| since.elapsed() >= quiet);
            let changed = self.history.lock().changed.elapsed();
            if led && changed >= quiet {
                return Ok(());
            }
            ensure!(began.elapsed() < PATIENCE, "it does not come to rest; the last change was {changed:?} ago");
        }
    }

    /// Waits until so many seconds have passed since the beginning of time, which is a full minute.
    pub async fn until(&self, seconds: u64) {
        let passed = machine::passed();
        tokio::time::sleep(Duration::from_secs(seconds).saturating_sub(passed)).await;
    }

    /// The objects of a kind, as of now.
    pub fn objects(&self, resource: &str) -> Vec<(ObjectKey, Value)> {
        let history = self.history.lock();
        let of = history.objects.iter().filter(|(key, _)| key.resource == resource);
        of.map(|(key, object)| (key.clone(), object.clone())).collect()
    }

    /// Fails unless so many objects of a kind are as `good` says.
    pub fn expect(&self, resource: &str, wanted: usize, good: impl Fn(&Value) -> bool) -> Result<()> {
        let objects = self.objects(resource);
        let found = objects.iter().filter(|(_, object)| good(object)).count();
        if found != wanted {
            let status = |object: &Value| object["status"].to_string().chars().take(200).collect::<String>();
            let shown: Vec<String> = objects.iter().map(|(key, object)| format!("{key} {}", status(object))).collect();
            bail!("{found} of the {resource} are as expected, {wanted} should be: {}", shown.join(", "));
        }
        Ok(())
    }

    /// Ends it.
    pub async fn end(mut self) {
        self.tasks.shutdown().await;
    }
}

fn told(what: &str, status: &Status) -> anyhow::Error {
    anyhow!("{what}: {} {}", status.code, status.message)
}

/// One leader after the other, until the run ends.
async fn lead(api: Api, term: Term, killer: Arc<Killer>, led: Arc<Mutex<Option<Instant>>>) {
    let settings = Arc::new(settings());
    loop {
        let user = User::new("system:kontiki-leader", &["system:masters", "system:authenticated"]);
        let client = api.client(user).fenced(term).counted_for(Writer::Server).witnessed_by(killer.clone());
        let context = LeaderContext {
            api: api.clone(),
            client,
            term,
            // The dead are not told.
            stop: CancellationToken::new(),
            settings: settings.clone(),
            signer: Arc::new(NoSigner),
        };
        let mut work = JoinSet::new();
        work.spawn(kontiki_controllers::run(context.clone()));
        work.spawn(kontiki_scheduler::run(context));
        *led.lock() = Some(Instant::now());
        killer.due().await;
        *led.lock() = None;
        work.shutdown().await;
        tokio::time::sleep(ELECTION).await;
        killer.killed();
    }
}

/// An object of the namespace `default`.
pub const fn at<'a>(group: &'a str, resource: &'a str, name: &'a str) -> Target<'a> {
    within("default", group, resource, name)
}

/// An object of a namespace.
pub const fn within<'a>(space: &'a str, group: &'a str, resource: &'a str, name: &'a str) -> Target<'a> {
    Target { resource: GroupResource { group, resource }, namespace: Some(space), name, subresource: None }
}

/// An object of none.
pub const fn on_cluster<'a>(group: &'a str, resource: &'a str, name: &'a str) -> Target<'a> {
    Target { resource: GroupResource { group, resource }, namespace: None, name, subresource: None }
}
