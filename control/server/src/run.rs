//! A server from start to end: take the directory, know the cluster, open the store, serve, stop.
//!
//! Invariants
//! - Ports are taken before anything is written, so a second server by mistake leaves no trace.
//! - Whatever fails before serving is one error for a person, and overwrites nothing.
//! - Stopping goes from the outside in: sessions and the API first, the store last, each with a
//!   deadline.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use jiff::Timestamp;
use kontiki_api::{Aggregation, Api, Outbound, User, Writer, Writes, leader};
use kontiki_cache::Backend;
use kontiki_etcd::Admit;
use kontiki_gate::{Gate, Limits as Places};
use kontiki_kinds::{api_services::ApiServices, rows::service::Ranges};
use kontiki_machinery::outcall::Caller;
use kontiki_model::metrics::{Kind, single};
use kontiki_plan::lifecycle::system_objects::Given;
use kontiki_proto::node::AdmitRequest;
use kontiki_store::{PeerTls, Store};
use nix::sys::resource::{Resource, getrlimit};
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use crate::{
    availability,
    basics::{self, Basics},
    config::{ClusterSettings, Config, Origin, Settings},
    datadir::{self, DataDir, State},
    flowcontrol,
    gateway::{self, cache::Caches, joining::Joining, leases, session::Context as SessionContext, sessions::Sessions},
    join, lifecycle, logging,
    pki::{self, Pki, Subject},
    revoked,
    rotation::{self, Rotation},
    sealing, servers, status,
    tls::{self, FrontProxy, ServerCertificate},
    trust::{self, Followed},
    vip, watchdog,
};

/// Pods of a node that is lost are replaced after its grace and this.
const TOLERATION_SECONDS: i64 = 10;
const NODE_GRACE: Duration = Duration::from_secs(10);
const EVENT_TTL: Duration = Duration::from_secs(3600);
/// How long open requests may take to end when the server stops.
const DRAIN: Duration = Duration::from_secs(3);
/// How long a new cluster's API waits for the cluster's own objects.
const BASICS: Duration = Duration::from_secs(10);
const STORE_STOP: Duration = Duration::from_secs(10);

/// Runs a server until SIGTERM or SIGINT.
///
/// # Errors
/// Why it could not start or had to stop; prints as one line (`{:#}`).
pub async fn run(config: Config) -> anyhow::Result<()> {
    let settings = config.validate()?;
    logging::init(&config.log_level, config.log_file.as_deref())?;
    let stop = CancellationToken::new();
    watch_signals(&stop)?;
    tokio::select! {
        outcome = start_and_serve(&settings, &stop) => outcome,
        // Before serving there is nothing to wind down; while serving, the other branch does it.
        () = impatient(&stop) => bail!("stopped before it was ready"),
    }
}

/// Waits until a stop is asked for and the whole wind-down is overdue.
async fn impatient(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(DRAIN * 2 + STORE_STOP).await;
}

fn watch_signals(stop: &CancellationToken) -> anyhow::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = stop.clone();
    tokio::spawn(async move {
        // Cancel-safe: an unseen signal stays pending.
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        info!("stopping");
        stop.cancel();
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        warn!("stopping at once");
        std::process::exit(130);
    });
    Ok(())
}

/// What starting up found or made.
struct Started {
    dir: DataDir,
    state: State,
    pki: Arc<Pki>,
    certificate: Arc<ServerCertificate>,
    store: Store,
    api_listener: TcpListener,
    node_listener: TcpListener,
    etcd_listener: Option<kontiki_etcd::Listener>,
    gate: Gate,
    backend: Backend,
    rotation: Arc<Rotation>,
}

async fn start_and_serve(settings: &Settings, stop: &CancellationToken) -> anyhow::Result<()> {
    let started = tokio::select! {
        started = start(settings) => started?,
        // Nothing is half done: every file is whole, and starting again goes on from there.
        () = stop.cancelled() => return Ok(()),
    };
    serve(settings, started, stop).await
}

async fn start(settings: &Settings) -> anyhow::Result<Started> {
    let (dir, state) = DataDir::open(&settings.data_dir, &settings.name)?;
    let api_listener = listen("api_port", settings.api_listen)?;
    let node_listener = listen("node_port", settings.node_listen)?;
    // The store takes this one itself; asking now spares a half-made cluster.
    drop(listen("peer_port", settings.peer_listen)?);
    let peer_address = host_port(settings.advertise, settings.peer_listen.port());
    let (pki, mut state) = know_cluster(settings, &dir, state, &peer_address).await?;
    settings.cluster.agree_with(&state.cluster)?;
    let pki = Arc::new(pki);
    let addresses = addresses(settings, &state.cluster);
    let certificate = ServerCertificate::open(
        pki.clone(),
        &dir.join("pki"),
        &settings.name,
        addresses.clone(),
        &state.cluster.cluster_domain,
    )?;
    let gate = Gate::new(places()?);
    let etcd_listener = settings.etcd_listen.map(|address| etcd_listener(address, &certificate, &gate)).transpose()?;
    let peer = peer_tls(&pki, settings, &state, &addresses)?;
    let shown = rotation::validity(&peer.cert_pem)?;
    let store = open_store(settings, &dir, peer, &state, peer_address.clone()).await?;
    enter(&store, &state, &certificate, peer_address).await?;
    // Before the first handshake, and before the administrator gets a new certificate.
    revoked::enforce(&store, &gate, &pki);
    let backend = settings.encryption.backend(&store, &dir.join("pki"))?;
    if !state.admitted {
        state.admitted = true;
        dir.save(&state)?;
    }
    let server = state.cluster.vip.map_or(settings.advertise, |vip| vip.addr());
    let address = format!("https://{}", host_port(server, settings.api_listen.port()));
    let kubeconfig = dir.join("admin.kubeconfig");
    datadir::write(&kubeconfig, pki.admin_kubeconfig(&address, Timestamp::now())?.as_bytes())?;
    let rotation = Rotation {
        pki: pki.clone(),
        store: store.clone(),
        certificate: certificate.clone(),
        peer: shown.into(),
        kubeconfig,
        address,
    };
    let rotation = Arc::new(rotation);
    Ok(Started {
        dir,
        state,
        pki,
        certificate,
        store,
        api_listener,
        node_listener,
        etcd_listener,
        gate,
        backend,
        rotation,
    })
}

/// Who may read and write all state by the etcd API: the masters themselves, and administrators.
const ETCD_CLIENTS: Admit = Admit::Organizations(&[PeerTls::SERVERS, pki::MASTERS]);

fn etcd_listener(
    address: SocketAddr,
    certificate: &Arc<ServerCertificate>,
    gate: &Gate,
) -> anyhow::Result<kontiki_etcd::Listener> {
    let tls = tls::serving(certificate, &[b"h2", b"http/1.1"])?;
    let listener = kontiki_etcd::Listener::bind(address, tls, ETCD_CLIENTS)
        .with_context(|| format!("etcd_listen: cannot listen on {address}"))?;
    Ok(listener.behind(gate.clone()))
}

/// Connections on all ports together leave file descriptors to the store and its peers: half of those that there are.
fn places() -> anyhow::Result<Places> {
    let (most, _) = getrlimit(Resource::RLIMIT_NOFILE).context("the limit on open files")?;
    let places = Places::default();
    let total = places.total.min(usize::try_from(most / 2).unwrap_or(usize::MAX));
    Ok(Places { total, per_address: places.per_address.min(total) })
}

pub(crate) fn host_port(ip: IpAddr, port: u16) -> String {
    SocketAddr::new(ip, port).to_string()
}

fn listen(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| format!("{key}: cannot listen on {address}"))?;
    socket.listen(1024).with_context(|| format!("{key}: cannot listen on {address}"))
}

/// The first address of the service range is the API's own.
fn service_ip(cluster: &ClusterSettings) -> IpAddr {
    cluster.service_cidr.hosts().next().unwrap_or_else(|| cluster.service_cidr.addr())
}

/// The tenth is the nodes' name servers', as kubeadm has it.
fn dns_ip(cluster: &ClusterSettings) -> Option<IpAddr> {
    cluster.service_cidr.hosts().nth(9)
}

fn addresses(settings: &Settings, cluster: &ClusterSettings) -> Vec<IpAddr> {
    let mut out = vec![settings.advertise, IpAddr::from([127, 0, 0, 1]), service_ip(cluster)];
    out.extend(cluster.vip.map(|vip| vip.addr()));
    out
}

/// The cluster's certificates and this server's place in it: remembered, made, or asked for.
async fn know_cluster(
    settings: &Settings,
    dir: &DataDir,
    state: Option<State>,
    peer_address: &str,
) -> anyhow::Result<(Pki, State)> {
    let pki_dir = dir.join("pki");
    if let Some(state) = state {
        return Ok((Pki::open(&pki_dir)?, state));
    }
    match &settings.origin {
        Origin::Restart => bail!(
            "data_dir: {} is empty, and neither bootstrap nor join says how to begin",
            settings.data_dir.display()
        ),
        Origin::Bootstrap => {
            let pki = Pki::open_or_create(&pki_dir)?;
            let state = State::new(&settings.name, 1, true, settings.cluster.settle()?, Vec::new());
            dir.save(&state)?;
            info!(ca_hash = %pki.ca_hash(), "a new cluster begins");
            Ok((pki, state))
        }
        Origin::Join(wanted) => {
            if pki_dir.join("ca.crt").exists() && Pki::open(&pki_dir)?.ca_hash() != wanted.ca_hash {
                bail!("{} holds another cluster's certificates; nothing was overwritten", pki_dir.display());
            }
            let answer = join::ask(wanted, &settings.name, peer_address).await?;
            let cluster: ClusterSettings =
                serde_json::from_str(&answer.config_json).context("the cluster's settings")?;
            settings.cluster.agree_with(&cluster)?;
            if !pki_dir.join("ca.crt").exists() {
                let files: Vec<_> = answer.files.into_iter().collect();
                Pki::install(&pki_dir, &files)?;
            }
            let pki = Pki::open(&pki_dir)?;
            if pki.ca_hash() != wanted.ca_hash {
                bail!("join.ca_hash: the servers gave out a CA with {}", pki.ca_hash());
            }
            let mut known = answer.servers;
            known.extend(wanted.servers.iter().cloned());
            known.dedup();
            let mut state = State::new(&settings.name, answer.member_id, false, cluster, known);
            let tls = peer_tls(&pki, settings, &state, &[settings.advertise])?;
            state.generation = join::generation(&tls, &answer.peers).await?;
            dir.save(&state)?;
            info!(member_id = answer.member_id, "joined the cluster");
            Ok((pki, state))
        }
    }
}

async fn open_store(
    settings: &Settings,
    dir: &DataDir,
    tls: PeerTls,
    state: &State,
    advertise: String,
) -> anyhow::Result<Store> {
    kontiki_store::adopt_generation(&dir.join("raft"), state.generation).context("data_dir")?;
    let config = kontiki_store::Config {
        id: state.member_id,
        name: settings.name.clone(),
        dir: dir.join("raft"),
        listen: settings.peer_listen,
        advertise,
        tls,
        heartbeat: kontiki_store::Config::HEARTBEAT,
        election: kontiki_store::Config::ELECTION,
        max_feature_level: settings.max_feature_level,
        past: settings.past,
    };
    Ok(Store::open(config).await?)
}

fn peer_tls(pki: &Pki, settings: &Settings, state: &State, addresses: &[IpAddr]) -> anyhow::Result<PeerTls> {
    // Peers keep their connections for long: this one outlives a leaf.
    let subject = Subject::Server { name: &settings.name, addresses, domain: &state.cluster.cluster_domain };
    let leaf = pki.issue(&subject, pki::LONG_LIFE, Timestamp::now())?;
    Ok(PeerTls {
        ca_pem: pki.ca_pem.clone(),
        cert_pem: leaf.cert_pem,
        key_pem: leaf.key_pem,
        organization: Some(PeerTls::SERVERS.to_owned()),
        names: Vec::new(),
    })
}

/// Makes sure that this server belongs to the group.
async fn enter(
    store: &Store,
    state: &State,
    certificate: &Arc<ServerCertificate>,
    peer_address: String,
) -> anyhow::Result<()> {
    match (state.admitted, store.initialized()) {
        (true, true) => return Ok(()),
        (true, false) => bail!(
            "the store's data is gone although this server was a member; remove the member, empty data_dir and join again"
        ),
        (false, true) if state.bootstrapped => return Ok(()),
        (false, false) if state.bootstrapped => return store.bootstrap().await.context("starting the store"),
        // Perhaps a learner already: asking again is safe, and makes it a voter.
        (false, _) => {}
    }
    let request = AdmitRequest { member_id: state.member_id, name: state.name.clone(), peer_address };
    join::admit(store, request, &state.servers, tls::between_servers(certificate)?).await
}

async fn serve(settings: &Settings, started: Started, stop: &CancellationToken) -> anyhow::Result<()> {
    let Started {
        dir,
        state,
        pki,
        certificate,
        store,
        api_listener,
        node_listener,
        etcd_listener,
        gate,
        backend,
        rotation,
    } = started;
    let cluster = state.cluster;
    let sessions = Sessions::new(&settings.name, store.clone(), tls::between_servers(&certificate)?);
    let writes = Writes::default();
    let (config, followed) = api_config(&cluster, &pki, &backend, sessions.clone(), &writes, settings)?;
    let api = Api::new(backend.clone(), config).context("the ServiceAccount key")?;
    if let Some(audit) = &settings.audit {
        let (policy, log) = audit.open()?;
        let written = log.clone();
        api.add_metrics("audit", Arc::new(move |out| written.write(out)));
        api.audit(policy, log);
    }
    for file in &followed {
        api.add_metrics(file.name(), file.metrics());
    }
    // Followers keep the leader's caches too: taking over is starting tasks.
    kontiki_controllers::warm(&api);
    kontiki_scheduler::warm(&api);
    let masters = api.client(User::new("system:kontiki-server", &[pki::MASTERS, "system:authenticated"]));
    let masters = masters.counted_for(Writer::Server);
    let context = Arc::new(SessionContext {
        api: api.clone(),
        store: store.clone(),
        caches: Arc::new(Caches::new(api.cache(), settings.ingress)),
        sessions: sessions.clone(),
    });
    let joining = Joining { pki: pki.clone(), client: masters.clone(), store: store.clone(), cluster: cluster.clone() };

    // Leader's work and the address outlive the API by a moment: they end when leadership is handed on.
    let (front, back) = (CancellationToken::new(), CancellationToken::new());
    let tasks = TaskTracker::new();
    let failed = CancellationToken::new();
    let proxies = trust::proxy_authorities(&settings.api, &pki)?;
    let api_tls = tls::serving_also(&certificate, &[b"h2", b"http/1.1"], &proxies)?;
    let node_tls = tls::serving(&certificate, &[b"h2"])?;
    let serving = {
        let (api, front, store, gate) = (api.clone(), front.clone(), store.clone(), gate.clone());
        async move {
            basics_are_there(&store, &front).await;
            Ok(api.serve(api_listener, api_tls, gate, front).await?)
        }
    };
    tasks.spawn(essential("the API", serving, front.clone(), failed.clone()));
    let serving = gateway::serve(context, joining, node_listener, node_tls, gate.clone(), front.clone());
    tasks.spawn(essential("the gateway", serving, front.clone(), failed.clone()));
    if let Some(listener) = etcd_listener {
        tasks.spawn(listener.run(store.clone(), front.clone()));
    }
    tasks.spawn(essential("the store", store_stops(store.clone()), front.clone(), failed.clone()));
    tasks.spawn(flowcontrol::follow(api.clone(), front.clone()));
    for file in followed {
        tasks.spawn(file.follow(api.clone(), front.clone()));
    }
    let expiry = rotation.clone();
    api.add_metrics("certificates", Arc::new(move |out| expiry.write(out)));
    tasks.spawn(rotation.run(front.clone()));
    tasks.spawn(sealing::keep(backend, front.clone()));
    tasks.spawn(revoked::follow(store.clone(), gate.clone(), pki.clone(), front.clone()));
    api.add_metrics("gate", Arc::new(move |out| gate_metrics(&gate, out)));
    tasks.spawn(availability::follow(api.clone(), front.clone()));
    tasks.spawn(certificate.rotate(front.clone()));
    tasks.spawn(sessions.clone().watch_over(front.clone()));
    let leases = leases::Leases { store: store.clone(), client: masters.counted_for(Writer::NodeGateway), writes };
    tasks.spawn(leases.keep(sessions, front.clone()));
    tasks.spawn(publish(store.clone(), record(settings, state.member_id), front.clone()));
    let leader_settings = Arc::new(leader_settings(&cluster, &pki, settings));
    let basics = Basics {
        service_ip: service_ip(&cluster),
        dns_ip: settings.dns.then(|| dns_ip(&cluster)).flatten(),
        given: given(&api, cluster.service_cidr, settings),
        ca_pem: pki.ca_pem.clone(),
        front_proxy: pki::FRONT_PROXY.to_owned(),
    };
    tasks.spawn(lifecycle::run(api, store.clone(), leader_settings, pki.clone(), basics, back.clone()));
    if let Some(vip) = cluster.vip {
        let keeper = vip::Keeper {
            vip: vip.addr(),
            port: settings.api_listen.port(),
            advertise: settings.advertise,
            election: kontiki_store::Config::ELECTION.0,
        };
        tasks.spawn(keeper.run(store.clone(), back.clone()));
    }
    tasks.spawn(watchdog::run(store.clone(), front.clone()));
    tasks.close();
    info!(name = settings.name, api = %settings.api_listen, "serving");

    tokio::select! {
        () = stop.cancelled() => {}
        () = failed.cancelled() => {}
    }
    wind_down(&store, &front, &back, &tasks).await;
    drop(dir);
    if failed.is_cancelled() { bail!("a part of the server failed; see the log") } else { Ok(()) }
}

fn gate_metrics(gate: &Gate, out: &mut String) {
    let figures = gate.figures();
    let open = u64::try_from(figures.open).unwrap_or(u64::MAX);
    single(out, "kontiki_connections_open", Kind::Gauge, "Connections of clients and nodes.", open);
    let (name, help) = ("kontiki_connections_turned_away_total", "Connections that found no place.");
    single(out, name, Kind::Counter, help, figures.turned_away);
    let (name, help) = ("kontiki_connections_expelled_total", "Connections whose certificate was revoked.");
    single(out, name, Kind::Counter, help, figures.expelled);
}

/// Runs a part without which the server is none: if it ends before `stop`, the server stops.
async fn essential(
    what: &'static str,
    part: impl Future<Output = anyhow::Result<()>>,
    stop: CancellationToken,
    failed: CancellationToken,
) {
    let outcome = part.await;
    if stop.is_cancelled() {
        return;
    }
    let reason = outcome.err().map_or_else(|| "it ended".to_owned(), |error| format!("{error:#}"));
    error!(reason, "{what} stopped serving");
    failed.cancel();
}

/// Ends when the store does, which it does not by itself unless something is wrong.
async fn store_stops(store: Store) -> anyhow::Result<()> {
    store.stopped().await;
    bail!(store.halted().unwrap_or("its storage failed").to_owned())
}

/// A new cluster is not shown to clients before its namespaces, roles and bindings exist; any other has them at once.
async fn basics_are_there(store: &Store, stop: &CancellationToken) {
    let appear = async {
        while !basics::complete(&store.snapshot()) {
            // Events are all that is waited for; what they say is read from the snapshot.
            let Ok(mut watch) = store.watch(Bytes::new(), Some(store.snapshot().revision())) else { return };
            if !basics::complete(&store.snapshot()) {
                watch.next().await;
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        // Cancel-safe: only reads.
        _ = timeout(BASICS, appear) => {}
    }
}

async fn publish(store: Store, record: servers::Record, stop: CancellationToken) {
    servers::publish(&store, &record, &stop).await;
}

async fn wind_down(store: &Store, front: &CancellationToken, back: &CancellationToken, tasks: &TaskTracker) {
    // Another leader first: nobody should wait for an election because of a planned stop.
    if store.status().borrow().is_leader
        && let Ok(Err(error)) = timeout(DRAIN, store.transfer_leadership(None)).await
    {
        info!(%error, "leadership was not handed on");
    }
    front.cancel();
    back.cancel();
    if timeout(DRAIN, tasks.wait()).await.is_err() {
        warn!("some requests did not end in time and are dropped");
    }
    if timeout(STORE_STOP, store.shutdown()).await.is_err() {
        warn!("the store did not stop in time; it recovers from its log");
    }
    info!("stopped");
}

fn record(settings: &Settings, id: u64) -> servers::Record {
    servers::Record {
        name: settings.name.clone(),
        id,
        api: host_port(settings.advertise, settings.api_listen.port()),
        node: host_port(settings.advertise, settings.node_listen.port()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn api_config(
    cluster: &ClusterSettings,
    pki: &Arc<Pki>,
    backend: &Backend,
    sessions: Arc<Sessions>,
    writes: &Writes,
    settings: &Settings,
) -> anyhow::Result<(kontiki_api::Config, Vec<Followed>)> {
    let options = &settings.api;
    let admission = options.admission(TOLERATION_SECONDS).map_err(anyhow::Error::msg)?;
    let registry = kontiki_kinds::registry(&kontiki_kinds::Settings {
        services: Ranges { addresses: cluster.service_cidr, node_ports: 30000..=32767 },
    });
    let (resolver, chance) = (Arc::new(kontiki_kinds::backends::Services), Arc::new(kontiki_api::clock::System));
    let identity = FrontProxy::open(Arc::clone(pki))?;
    let outbound = Outbound::new(backend.clone(), sessions.clone(), resolver, chance, Some(identity));
    let caller: Arc<dyn Caller> = outbound.clone();
    // Upstream's order: what changes objects by policies comes before webhooks.
    let policies = [kontiki_kinds::policies::mutating(&registry), kontiki_kinds::policies::member(&registry)];
    let webhooks = kontiki_kinds::webhooks::members(&registry, &caller);
    let added = policies.into_iter().chain(webhooks);
    let issuer = format!("https://kubernetes.default.svc.{}", cluster.cluster_domain);
    let trust = trust::open(options, &issuer, &settings.name, &caller)?;
    let config = kontiki_api::Config {
        registry,
        admission: kontiki_kinds::admission::chain(&admission).into_iter().chain(added).collect(),
        authorizers: trust.authorizers,
        tokens: trust.tokens,
        anonymous: trust.anonymous,
        clock: Arc::new(kontiki_api::clock::System),
        entropy: Arc::new(kontiki_api::clock::System),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        service_account_key_pem: pki.sa_key_pem.clone(),
        issuer,
        front_proxy: Some(User::new(pki::FRONT_PROXY, &[PeerTls::SERVERS])),
        proxies: trust::proxies(options, pki)?,
        node_proxy: sessions,
        caller: Some(caller),
        aggregation: Some(Aggregation { delegates: Arc::new(ApiServices::default()), outbound }),
        limits: options.limits(),
        writes: writes.clone(),
        flags: settings.flags.clone(),
        extra_routes: status::routes(backend.clone(), writes.clone()),
    };
    Ok((config, trust.followed))
}

/// The objects that the rows begin with.
fn given(api: &Api, service_cidr: ipnet::IpNet, settings: &Settings) -> Vec<Given> {
    let table = api.registry().table();
    let range = kontiki_kinds::bootstrap::service_cidr(&service_cidr.to_string());
    let objects = kontiki_kinds::bootstrap::objects(&table).into_iter().chain([range]);
    let objects = objects.chain(settings.lb.then(kontiki_kinds::bootstrap::address_pools));
    let objects = objects.chain(settings.ingress.then(kontiki_kinds::bootstrap::ingress_class));
    objects.map(|given| Given { group: given.group, resource: given.plural, object: given.object }).collect()
}

fn leader_settings(cluster: &ClusterSettings, pki: &Pki, settings: &Settings) -> leader::Settings {
    leader::Settings {
        pod_cidr: cluster.pod_cidr,
        node_cidr_bits: if cluster.pod_cidr.addr().is_ipv4() { 24 } else { 64 },
        virtual_address: cluster.vip.map(|vip| vip.addr()),
        node_grace: NODE_GRACE,
        ca_pem: pki.ca_pem.clone(),
        cluster_domain: cluster.cluster_domain.clone(),
        event_ttl: EVENT_TTL,
        load_balancers: settings.lb,
        ingresses: settings.ingress,
    }
}
