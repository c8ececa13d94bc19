//! A single-member store and its API in one process, for trying requests without a cluster.
//!
//! `cargo run -p kontiki-api --example devserver -- --dir /tmp/x --port 16443` makes a CA, serves
//! HTTPS on loopback and writes `<dir>/kubeconfig` for an administrator.

#![allow(clippy::unwrap_used)] // a test may panic

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use base64::Engine;
use clap::Parser;
use futures::FutureExt;
use futures::future::BoxFuture;
use kontiki_api::{Api, Config, NodeProxy, NodeProxyError, NodeStream, User};
use kontiki_gate::Gate;
use kontiki_kinds::rows::service::Ranges;
use kontiki_model::GroupResource;
use kontiki_proto::node::Open;
use kontiki_store::{PeerTls, Store};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
struct Args {
    /// Where the store and the kubeconfig go.
    #[arg(long)]
    dir: PathBuf,
    #[arg(long, default_value_t = 16443)]
    port: u16,
    /// Port of the store's (only) member.
    #[arg(long, default_value_t = 12380)]
    peer_port: u16,
    /// As upstream's default.
    #[arg(long, default_value_t = 300)]
    toleration_seconds: i64,
    /// Make `default` ServiceAccounts, which a controller does in a cluster.
    #[arg(long)]
    accounts: bool,
}

/// There are no nodes.
struct NoNodes;

impl NodeProxy for NoNodes {
    fn open(&self, open: Open) -> BoxFuture<'_, Result<NodeStream, NodeProxyError>> {
        async move { Err(NodeProxyError { code: 503, message: format!("node {} has no session", open.node) }) }.boxed()
    }
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "devserver");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// Certificate and key, both PEM.
    fn issue(&self, name: &str, organization: &str) -> Result<(String, String)> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names =
            vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)), SanType::DnsName("localhost".try_into()?)];
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &self.0)?.pem(), key.serialize_pem()))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let _ = rustls::crypto::ring::default_provider().install_default(); // somebody else may have
    let args = Args::parse();
    std::fs::create_dir_all(&args.dir)?;
    let authority = Authority::new()?;
    let store = open_store(&args, &authority).await?;
    let api = Api::new(store.clone(), config(&args)?)?;
    prepare(&api).await?;
    write_kubeconfig(&args.dir.join("kubeconfig"), args.port, &authority)?;
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, args.port))).await?;
    println!("serving on https://127.0.0.1:{}; kubeconfig in {}", args.port, args.dir.display());
    let stop = CancellationToken::new();
    let on_signal = stop.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await; // either way: stop
        on_signal.cancel();
    });
    if args.accounts {
        tokio::spawn(make_accounts(api.clone(), stop.clone()));
    }
    api.serve(listener, tls(&authority)?, Gate::default(), stop).await?;
    store.shutdown().await;
    Ok(())
}

async fn open_store(args: &Args, authority: &Authority) -> Result<Store> {
    let (cert_pem, key_pem) = authority.issue("system:kontiki:server:dev", "kontiki:servers")?;
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, args.peer_port));
    let store = Store::open(kontiki_store::Config {
        id: 1,
        name: "dev".into(),
        dir: args.dir.join("raft"),
        listen,
        advertise: listen.to_string(),
        tls: PeerTls {
            ca_pem: authority.0.pem(),
            cert_pem,
            key_pem,
            organization: Some(PeerTls::SERVERS.to_owned()),
            names: Vec::new(),
        },
        heartbeat: kontiki_store::Config::HEARTBEAT,
        election: kontiki_store::Config::ELECTION,
        max_feature_level: None,
        past: kontiki_store::Past::NONE,
    })
    .await
    .context("opening the store")?;
    if !store.initialized() {
        store.bootstrap().await.context("bootstrapping the store")?;
    }
    let mut status = store.status();
    status.wait_for(|s| s.is_leader).await?;
    Ok(store)
}

fn config(args: &Args) -> Result<Config> {
    Ok(Config {
        registry: kontiki_kinds::registry(&kontiki_kinds::Settings {
            services: Ranges { addresses: "10.96.0.0/16".parse()?, node_ports: 30000..=32767 },
        }),
        admission: kontiki_kinds::admission::chain(&kontiki_kinds::admission::Settings {
            default_toleration_seconds: args.toleration_seconds,
            ..kontiki_kinds::admission::Settings::default()
        }),
        authorizers: kontiki_kinds::authorize::chain(),
        tokens: Vec::new(),
        anonymous: Default::default(),
        clock: Arc::new(kontiki_api::clock::System),
        entropy: Arc::new(kontiki_api::clock::System),
        version: env!("CARGO_PKG_VERSION").into(),
        service_account_key_pem: KeyPair::generate()?.serialize_pem(),
        issuer: "https://kubernetes.default.svc".into(),
        front_proxy: None,
        proxies: None,
        node_proxy: Arc::new(NoNodes),
        caller: None,
        aggregation: None,
        limits: kontiki_api::fairness::Limits::default(),
        writes: kontiki_api::Writes::default(),
        flags: Default::default(),
        extra_routes: axum::Router::new(),
    })
}

/// The namespaces that a cluster has from the start.
async fn prepare(api: &Api) -> Result<()> {
    let client = api.client(User::new("devserver", &["system:masters"]));
    let resource = GroupResource { group: "", resource: "namespaces" };
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        match client.create(resource, None, json!({"metadata": {"name": name}})).await {
            Ok(_) => {}
            Err(status) if status.is_already_exists() => {}
            Err(status) => return Err(status.into()),
        }
    }
    Ok(())
}

/// Stands in for the controller that gives each namespace its account.
async fn make_accounts(api: Api, stop: CancellationToken) {
    let client = api.client(User::new("devserver", &["system:masters"]));
    let prefix = kontiki_model::key::prefix(GroupResource { group: "", resource: "namespaces" }, None);
    let Ok(mut watch) = api.store().watch(prefix.clone().into(), None) else { return };
    let existing = api.store().snapshot();
    let names = existing.range(prefix.as_bytes()).map(|e| String::from_utf8_lossy(&e.key[prefix.len()..]).into_owned());
    let mut names: Vec<String> = names.collect();
    loop {
        for name in names.drain(..) {
            let account = json!({"metadata": {"name": "default"}});
            let _ = client.create(GroupResource { group: "", resource: "serviceaccounts" }, Some(&name), account).await; // may exist
        }
        let item = tokio::select! {
            () = stop.cancelled() => return,
            item = watch.next() => item,
        };
        match item {
            Some(kontiki_store::WatchItem::Events(events)) => {
                names.extend(events.iter().map(|e| String::from_utf8_lossy(&e.entry.key[prefix.len()..]).into_owned()));
            }
            Some(kontiki_store::WatchItem::Progress(_)) => {}
            Some(kontiki_store::WatchItem::Lagged) | None => return,
        }
    }
}

fn tls(authority: &Authority) -> Result<Arc<rustls::ServerConfig>> {
    let (cert, key) = authority.issue("devserver", "kontiki:servers")?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.0.pem().as_bytes())?)?;
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build()?;
    let mut config = rustls::ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(
        vec![CertificateDer::from_pem_slice(cert.as_bytes())?],
        PrivateKeyDer::from_pem_slice(key.as_bytes())?,
    )?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn write_kubeconfig(path: &Path, port: u16, authority: &Authority) -> Result<()> {
    let (cert, key) = authority.issue("kubernetes-admin", "system:masters")?;
    let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let document = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "dev",
        "clusters": [{"name": "dev", "cluster": {"server": format!("https://127.0.0.1:{port}"), "certificate-authority-data": base64(&authority.0.pem())}}],
        "users": [{"name": "admin", "user": {"client-certificate-data": base64(&cert), "client-key-data": base64(&key)}}],
        "contexts": [{"name": "dev", "context": {"cluster": "dev", "user": "admin"}}],
    });
    std::fs::write(path, serde_json::to_string_pretty(&document)?)
        .with_context(|| format!("writing {}", path.display()))
}
