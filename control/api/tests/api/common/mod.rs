//! A single-member store with its API, in one process and a temporary directory.

#![allow(dead_code, reason = "each test file uses its own part of it")]

pub mod groups;
pub mod served;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::body::Body;
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use kontiki_api::{Api, Config, NodeProxy, NodeProxyError, NodeStream, User};
use kontiki_kinds::ResourceDef;
use kontiki_kinds::rows::service::Ranges;
use kontiki_model::GroupResource;
use kontiki_proto::node::Open;
use kontiki_store::{Past, PeerTls, Store, Tuning};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// The other ends of the streams that the API opened to nodes.
pub struct Opened {
    pub open: Open,
    pub from_api: mpsc::Receiver<bytes::Bytes>,
    pub to_api: mpsc::Sender<Result<bytes::Bytes, NodeProxyError>>,
}

struct Nodes(mpsc::Sender<Opened>);

impl NodeProxy for Nodes {
    fn open(&self, open: Open) -> BoxFuture<'_, Result<NodeStream, NodeProxyError>> {
        async move {
            let ((tx, from_api), (to_api, rx)) = (mpsc::channel(16), mpsc::channel(16));
            let gone = |_| NodeProxyError { code: 503, message: "no session".into() };
            self.0.send(Opened { open, from_api, to_api }).await.map_err(gone)?;
            Ok(NodeStream { tx, rx })
        }
        .boxed()
    }
}

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("CA"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn issue(&self, name: &str, organization: &str) -> (String, String) {
        self.issue_for(name, organization, vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))])
    }

    pub fn issue_for(&self, name: &str, organization: &str, names: Vec<SanType>) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = names;
        let key = KeyPair::generate().expect("key");
        (params.signed_by(&key, &self.0).expect("certificate").pem(), key.serialize_pem())
    }
}

/// The least that a valid object of this row says.
pub fn least(def: &ResourceDef) -> Value {
    let spec = json!({"containers": [{"name": "c", "image": "i"}]});
    let mut object = match (def.group.as_ref(), def.plural.as_ref()) {
        ("", "pods") => json!({ "spec": spec }),
        ("", "services") => json!({"spec": {"ports": [{"port": 80}]}}),
        ("", "podtemplates") => json!({ "template": {"spec": spec} }),
        ("", "replicationcontrollers") => {
            json!({"spec": {"template": {"metadata": {"labels": {"a": "b"}}, "spec": spec}}})
        }
        ("node.k8s.io", _) => json!({"handler": "h"}),
        ("apps", "controllerrevisions") => json!({"data": {"a": 1}, "revision": 1}),
        ("apps", _) => {
            json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": spec}}})
        }
        ("", "events") => json!({"involvedObject": {"namespace": "a", "name": "x"}}),
        ("events.k8s.io", _) => {
            json!({"regarding": {"namespace": "a"}, "eventTime": "2001-01-01T00:00:00.000000Z", "reportingController": "x.y/z",
                                       "reportingInstance": "i", "action": "A", "reason": "R", "type": "Normal"})
        }
        ("", "persistentvolumeclaims") => {
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
        }
        ("", "persistentvolumes") => json!({"spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"}}}),
        ("networking.k8s.io", "ingressclasses") => json!({"spec": {"controller": "a.b/c"}}),
        ("networking.k8s.io", "ingresses") => {
            json!({"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}})
        }
        ("networking.k8s.io", "ipaddresses") => json!({"spec": {"parentRef": {"resource": "services", "name": "s"}}}),
        ("networking.k8s.io", "servicecidrs") => json!({"spec": {"cidrs": ["10.0.0.0/24"]}}),
        ("storage.k8s.io", "csistoragecapacities") => json!({"storageClassName": "c"}),
        ("storage.k8s.io", "storageclasses") => json!({"provisioner": "p"}),
        ("storage.k8s.io", "volumeattachments") => {
            json!({"spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "v"}}})
        }
        ("storage.k8s.io", "volumeattributesclasses") => json!({"driverName": "d", "parameters": {"a": "b"}}),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}})
        }
        ("batch", plural) => {
            let never = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]});
            let job = json!({"template": {"spec": never}});
            match plural {
                "jobs" => json!({ "spec": job }),
                _ => json!({"spec": {"schedule": "@hourly", "jobTemplate": {"spec": job}}}),
            }
        }
        ("autoscaling", _) => {
            let target = json!({"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"});
            match def.version.as_ref() {
                // Defaults of what is stored would show up later, as upstream's do.
                "v1" => json!({"spec": {
                    "maxReplicas": 3, "scaleTargetRef": target, "targetCPUUtilizationPercentage": 50}}),
                _ => json!({"spec": {"maxReplicas": 3, "scaleTargetRef": target}}),
            }
        }
        ("discovery.k8s.io", _) => json!({"addressType": "IPv4", "endpoints": []}),
        _ => groups::least(def),
    };
    object["metadata"] = json!({"name": groups::name(def)});
    object
}

pub fn collection(def: &ResourceDef) -> String {
    let root = if def.group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{}/{}", def.group, def.version) };
    let place = if def.namespaced() { "/namespaces/a" } else { "" };
    format!("{root}{place}/{}", def.plural)
}

fn config(nodes: mpsc::Sender<Opened>) -> Config {
    Config {
        registry: kontiki_kinds::registry(&kontiki_kinds::Settings {
            services: Ranges { addresses: "10.96.0.0/28".parse().expect("range"), node_ports: 30000..=30003 },
        }),
        admission: kontiki_kinds::admission::chain(&kontiki_kinds::admission::Settings {
            default_toleration_seconds: 10,
            ..kontiki_kinds::admission::Settings::default()
        }),
        authorizers: kontiki_kinds::authorize::chain(),
        tokens: Vec::new(),
        anonymous: Default::default(),
        clock: Arc::new(kontiki_api::clock::System),
        entropy: Arc::new(kontiki_api::clock::System),
        version: "0".into(),
        service_account_key_pem: KeyPair::generate().expect("key").serialize_pem(),
        issuer: "https://kubernetes.default.svc".into(),
        front_proxy: Some(User::new("front-proxy", &["kontiki:servers"])),
        proxies: None,
        node_proxy: Arc::new(Nodes(nodes)),
        caller: None,
        aggregation: None,
        limits: kontiki_api::fairness::Limits::default(),
        writes: kontiki_api::Writes::default(),
        flags: Default::default(),
        extra_routes: axum::Router::new(),
    }
}

/// The roles and bindings that a master makes.
const DEFAULT_ROLES: &str = include_str!("../../../../plan/data/bootstrap-rbac.json");

/// One request to `api` as `user`: code and body.
pub async fn ask_of(
    api: &Api,
    user: Option<User>,
    (method, path, media): (&str, &str, &str),
    body: String,
) -> (u16, Value) {
    let request = http::Request::builder().method(method).uri(path).header("content-type", media);
    let response = api.answer(user, request.body(Body::from(body)).expect("request")).await;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.expect("body").to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into()))
}

pub struct World {
    pub api: Api,
    pub authority: Authority,
    pub nodes: mpsc::Receiver<Opened>,
    pub store: Store,
    _dir: tempfile::TempDir,
}

/// RocksDB's threads must be gone before the process is: they use what the exit takes down.
impl Drop for World {
    fn drop(&mut self) {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.store.shutdown()));
    }
}

pub fn admin() -> User {
    User::new("admin", &["system:masters", "system:authenticated"])
}

impl World {
    pub async fn new() -> Self {
        Self::with(Tuning::default()).await
    }

    pub async fn with(tuning: Tuning) -> Self {
        Self::keeping(tuning, Past::NONE).await
    }

    /// One that keeps the past of objects.
    pub async fn keeping(tuning: Tuning, past: Past) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().expect("temporary directory");
        let authority = Authority::new();
        let store = open(dir.path(), &authority, tuning, past).await;
        let (tx, nodes) = mpsc::channel(4);
        let api = Api::new(store.clone(), config(tx)).expect("a good key");
        let world = Self { api, authority, nodes, store, _dir: dir };
        world.post("/api/v1/namespaces", json!({"metadata": {"name": "a"}})).await;
        world.post("/api/v1/namespaces/a/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
        world
    }

    /// One that has the roles and bindings that every cluster has.
    pub async fn with_permissions() -> Self {
        let world = Self::new().await;
        for namespace in ["kube-system", "kube-public"] {
            world.post("/api/v1/namespaces", json!({"metadata": {"name": namespace}})).await;
        }
        let defaults: Value = serde_json::from_str(DEFAULT_ROLES).expect("JSON");
        let client = world.api.client(admin());
        let kinds = ["clusterRoles", "roles", "clusterRoleBindings", "roleBindings"];
        let made =
            kinds.iter().flat_map(|kind| defaults[kind].as_array().expect("a list").iter().map(move |o| (kind, o)));
        let made = made.map(|(kind, object)| {
            let (client, resource) = (client.clone(), kind.to_ascii_lowercase());
            async move {
                let resource = GroupResource { group: "rbac.authorization.k8s.io", resource: &resource };
                client.create(resource, object["metadata"]["namespace"].as_str(), object.clone()).await
            }
        });
        let made = futures::future::join_all(made).await;
        made.into_iter().for_each(|made| drop(made.expect("a default is accepted")));
        world
    }

    /// Another API over the same store, assembled as `change` wants it.
    pub fn beside(&self, change: impl FnOnce(&mut Config)) -> Api {
        let mut config = config(mpsc::channel(4).0);
        change(&mut config);
        Api::new(self.store.clone(), config).expect("a good key")
    }

    /// An API over another view of the store.
    pub fn over(&self, backend: kontiki_cache::Backend) -> Api {
        Api::new(backend, config(mpsc::channel(4).0)).expect("a good key")
    }

    /// Where everything lies.
    pub fn dir(&self) -> &std::path::Path {
        self._dir.path()
    }

    /// One JSON request of somebody called `name`, who is authenticated: code and body.
    pub async fn ask_by(&self, name: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
        let user = User::new(name, &["system:authenticated"]);
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.ask_as(Some(user), method, path, media, body).await
    }

    /// One request as `user`: code and body.
    pub async fn ask_as(
        &self,
        user: Option<User>,
        method: &str,
        path: &str,
        media: &str,
        body: String,
    ) -> (u16, Value) {
        ask_of(&self.api, user, (method, path, media), body).await
    }

    pub async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.ask_as(Some(admin()), method, path, "application/json", body).await
    }

    pub async fn merge(&self, path: &str, body: Value) -> (u16, Value) {
        self.ask_as(Some(admin()), "PATCH", path, "application/merge-patch+json", body.to_string()).await
    }

    /// The first event of a watch.
    pub async fn first_event(&self, path: &str) -> Value {
        let request = http::Request::get(path).body(Body::empty()).expect("request");
        let mut stream = self.api.answer(Some(admin()), request).await.into_body().into_data_stream();
        let line = futures::StreamExt::next(&mut stream).await.expect("the stream goes on").expect("no error");
        serde_json::from_slice(&line).expect("one event")
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.ask("GET", path, Value::Null).await
    }

    /// A POST that must succeed.
    pub async fn post(&self, path: &str, body: Value) -> Value {
        let (code, answer) = self.ask("POST", path, body).await;
        assert_eq!(code, 201, "POST {path}: {answer}");
        answer
    }
}

async fn open(dir: &std::path::Path, authority: &Authority, tuning: Tuning, past: Past) -> Store {
    let (cert_pem, key_pem) = authority.issue("system:kontiki:server:test", "kontiki:servers");
    let listen = kontiki_test_ports::one();
    let config = kontiki_store::Config {
        id: 1,
        name: "test".into(),
        dir: dir.join("raft"),
        listen,
        advertise: listen.to_string(),
        tls: PeerTls {
            ca_pem: authority.pem(),
            cert_pem,
            key_pem,
            organization: Some(PeerTls::SERVERS.to_owned()),
            names: Vec::new(),
        },
        heartbeat: kontiki_store::Config::HEARTBEAT,
        election: kontiki_store::Config::ELECTION,
        max_feature_level: None,
        past,
    };
    let store = Store::open_with(config, tuning).await.expect("the store opens");
    store.bootstrap().await.expect("bootstrap");
    store.status().wait_for(|s| s.is_leader).await.expect("a leader");
    store
}
