//! `kontiki up`: from nothing, or from whatever an earlier run left, to a cluster that works.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::fchown,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use kontiki_files::{Draft, Readers};
use kontiki_net::link::Links;
use kontiki_server::token::Purpose;
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use super::{
    POD_CIDR, SERVICE_CIDR, UpArgs, containerd, demo, network,
    plan::{Member, Role, Saved},
    preflight,
    process::Daemon,
    progress::{Seen, Step, note, wait},
    settings::{Beginning, settle},
};
use crate::{
    client::Client,
    status,
    token::{self, Admission},
};

/// A debug build makes keys and elects in a few seconds, on a small machine that is busy in some more.
const SERVERS: Duration = Duration::from_secs(120);
const NODES: Duration = Duration::from_secs(120);

pub async fn up(args: UpArgs) -> Result<ExitCode> {
    preflight::root("up")?;
    preflight::programs()?;
    // Made first, so that its path can be freed of links: processes are found by it.
    fs::create_dir_all(&args.dir).with_context(|| format!("making {}", args.dir.display()))?;
    let (before, mut saved) = match agree(&args).await {
        Ok(agreed) => agreed,
        Err(error) => {
            // Nothing was begun; an empty directory goes, any other stays.
            let _ = fs::remove_dir(&args.dir);
            return Err(error);
        }
    };
    let _lock = lock(&saved)?;
    // Before what is wanted now is remembered: it tells what somebody has changed in the files.
    settle_all(&before, &saved, Beginning::Kept)?;
    saved.save()?;
    let step = Step::begin("network");
    network::ensure(&saved).await?;
    step.done(&format!("{} on {}, virtual address {}", saved.subnet, saved.bridge(), saved.vip()));
    let logs = |folder: &str| format!("starting the {folder} (logs in {}/{folder}/*/log)", saved.dir.display());
    let client = servers(&saved).await.with_context(|| logs("servers"))?;
    agents(&saved, &client).await.with_context(|| logs("agents"))?;
    settle_all(&saved, &saved, Beginning::Wanted)?;
    let port = if saved.demo_shown || saved.agents == 0 {
        None
    } else {
        let port = demo::show(&saved, &client).await?;
        saved.demo_shown = true;
        saved.save()?;
        Some(port)
    };
    print_summary(&saved, port);
    Ok(ExitCode::SUCCESS)
}

/// What was asked for before, or is now if nothing was; and what is asked for, checked against what is there.
async fn agree(args: &UpArgs) -> Result<(Saved, Saved)> {
    let dir = absolute(&args.dir)?;
    let before = Saved::load(&dir)?;
    let saved = Saved::wanted(args, before.clone(), dir)?;
    namesake(&saved)?;
    preflight::subnet(&saved, &Links::new()?).await?;
    Ok((before.unwrap_or_else(|| saved.clone()), saved))
}

/// Brings the files of all members that have one to what is wanted now; `unbegun`: who says of those that have not begun
/// how they are to.
fn settle_all(before: &Saved, saved: &Saved, unbegun: Beginning) -> Result<()> {
    let beginning = |member: &Member| if member.has_data() { Beginning::Wanted } else { unbegun };
    for (old, new) in pairs(before.servers(), saved.servers()) {
        let wanted = server_config(saved, &new, None);
        settle(&new.config(), &server_config(before, &old, None), &wanted, beginning(&new))?;
    }
    for (old, new) in pairs(before.agents(), saved.agents()) {
        let wanted = agent_config(saved, &new, None)?;
        settle(&new.config(), &agent_config(before, &old, None)?, &wanted, beginning(&new))?;
    }
    Ok(())
}

/// Each member as it was before and as it is to be. One that is new was as it is to be.
fn pairs(before: Vec<Member>, now: Vec<Member>) -> Vec<(Member, Member)> {
    let old = |new: &Member| before.iter().find(|old| old.name == new.name).unwrap_or(new).clone();
    now.into_iter().map(|new| (old(&new), new)).collect()
}

/// `path` from the root on, without links as far as it exists.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path)
        .map(|path| path.canonicalize().unwrap_or(path))
        .with_context(|| format!("finding {}", path.display()))
}

/// One `up` or `down` at a time.
pub fn lock(saved: &Saved) -> Result<Flock<File>> {
    fs::create_dir_all("/run/kontiki")?;
    let path = lock_path(saved);
    let file = File::create(&path).with_context(|| format!("opening {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        anyhow::anyhow!(
            "another `kontiki up` or `down` of the cluster {} is at work; try again when it is done",
            saved.name
        )
    })
}

/// Beside the cluster's directory, which `down` removes while it holds the lock.
pub fn lock_path(saved: &Saved) -> PathBuf {
    PathBuf::from(format!("/run/kontiki/.{}.lock", saved.name))
}

/// Refuses to run two clusters of one name, whose namespaces would be the same.
fn namesake(saved: &Saved) -> Result<()> {
    if let Some(other) = Saved::by_name(&saved.name)?
        && other.dir != saved.dir
    {
        bail!(
            "a cluster named {} runs already, in {}; choose another --name and --subnet, or stop it: kontiki down --name {}",
            saved.name,
            other.dir.display(),
            saved.name
        );
    }
    Ok(())
}

/// The process of a server or an agent.
pub fn daemon(_saved: &Saved, member: &Member) -> Daemon {
    let config = member.config().display().to_string();
    let command = match member.role {
        Role::Server => "server",
        Role::Agent => "agent",
    };
    Daemon {
        program: std::env::current_exe().unwrap_or_else(|_| "kontiki".into()),
        args: vec![command.into(), "--config".into(), config.clone()],
        pid_file: member.pid_file(),
        log: member.log(),
        mark: config,
        space: member.space_path(),
        what: member.name.clone(),
    }
}

/// Starts the servers and waits until all are members; returns a client that asks all of them.
async fn servers(saved: &Saved) -> Result<Client> {
    let members = saved.servers();
    let step = Step::begin("servers");
    // Those that were members need each other for a quorum, so all of them start at once.
    let (mut started, mut newcomers): (Vec<Member>, Vec<Member>) = members.iter().cloned().partition(Member::has_data);
    if started.is_empty() {
        started.push(newcomers.remove(0));
    }
    for server in &started {
        start_server(saved, server, None).await?;
    }
    let client = admin_client(saved, &members, &started).await?;
    // At once, so that a person can look into what goes wrong from here on.
    publish_kubeconfig(saved, &members)?;
    wait("a leader", SERVERS, async || ready(saved, &client, &started).await).await?;
    for server in newcomers {
        // A token admits one server.
        let admission = token::create(&client, Purpose::Server, SignedDuration::from_mins(30), "kontiki up").await?;
        start_server(saved, &server, Some(&admission)).await?;
        started.push(server.clone());
        let what = format!("{} joining", server.name);
        wait(&what, SERVERS, async || joined(saved, &client, &started, &server).await).await?;
    }
    let leader = wait("the servers", SERVERS, async || all_there(saved, &client, &members).await).await?;
    let names: Vec<&str> = members.iter().map(|m| m.name.as_str()).collect();
    step.done(&format!("{} ({leader} leads)", names.join(" ")));
    Ok(client)
}

async fn start_server(saved: &Saved, server: &Member, admission: Option<&Admission>) -> Result<()> {
    let daemon = daemon(saved, server);
    if daemon.pid().is_some() {
        return Ok(());
    }
    daemon.buried().await?;
    fs::create_dir_all(&server.dir).with_context(|| format!("making {}", server.dir.display()))?;
    let wanted = server_config(saved, server, admission);
    settle(&server.config(), &wanted, &wanted, Beginning::Wanted)?;
    daemon.ensure()?;
    Ok(())
}

fn server_config(saved: &Saved, server: &Member, admission: Option<&Admission>) -> kontiki_server::Config {
    let others = saved.servers().into_iter().filter(|other| other.name != server.name);
    kontiki_server::Config {
        name: server.name.clone(),
        data_dir: server.data(),
        advertise_address: Some(server.ip.into()),
        // Only the very first start of the very first server makes a cluster. Later, a server that
        // lost its data must not found a second one.
        bootstrap: admission.is_none() && !server.has_data(),
        join: admission.map(|admission| kontiki_server::Join {
            servers: others.map(|other| format!("{}:6444", other.ip)).collect(),
            token: admission.token.clone(),
            ca_hash: admission.ca_hash.clone(),
        }),
        pod_cidr: Some(IpNet::V4(POD_CIDR)),
        service_cidr: Some(IpNet::V4(SERVICE_CIDR)),
        vip: ipnet::Ipv4Net::new(saved.vip(), saved.subnet.prefix_len()).ok().map(IpNet::V4),
        ..kontiki_server::Config::default()
    }
}

/// The administrator's credentials, as soon as a server has made them.
async fn admin_client(saved: &Saved, members: &[Member], started: &[Member]) -> Result<Client> {
    let path = wait("the first server", SERVERS, async || {
        check(saved, started)?;
        let made = started.iter().map(|m| m.data().join("admin.kubeconfig")).find(|path| path.exists());
        Ok(made.map_or_else(|| Seen::NotYet("it has not made its certificates".to_owned()), Seen::Yes))
    })
    .await?;
    let addresses = members.iter().map(|m| format!("{}:6443", m.ip)).collect();
    Ok(Client::from_kubeconfig(&path)?.with_servers(addresses).with_patience(Duration::from_secs(5)))
}

/// Fails as soon as a process that should run does not.
fn check(saved: &Saved, members: &[Member]) -> Result<()> {
    members.iter().map(|member| daemon(saved, member)).try_for_each(|daemon| daemon.check())
}

async fn ready(saved: &Saved, client: &Client, started: &[Member]) -> Result<Seen<()>> {
    check(saved, started)?;
    // The leader makes it in its first moments; tokens are kept there.
    Ok(match client.get("/api/v1/namespaces/kube-system").await {
        Ok(_) => Seen::Yes(()),
        Err(error) => Seen::NotYet(format!("{error:#}")),
    })
}

async fn document(client: &Client, saved: &Saved) -> Value {
    status::survey(client, &saved.known_servers()).await.0
}

async fn joined(saved: &Saved, client: &Client, started: &[Member], newcomer: &Member) -> Result<Seen<()>> {
    check(saved, started)?;
    let document = document(client, saved).await;
    let entry = document["members"].as_array().into_iter().flatten().find(|m| m["name"] == newcomer.name.as_str());
    Ok(match entry.and_then(|entry| entry["role"].as_str()) {
        Some("leader" | "follower") => Seen::Yes(()),
        Some(role) => Seen::NotYet(format!("it is a {role}")),
        None => Seen::NotYet("it is not a member".to_owned()),
    })
}

async fn all_there(saved: &Saved, client: &Client, members: &[Member]) -> Result<Seen<String>> {
    check(saved, members)?;
    let document = document(client, saved).await;
    let list = || document["members"].as_array().into_iter().flatten();
    let leader = list().find(|m| m["role"] == "leader").and_then(|m| m["name"].as_str()).map(str::to_owned);
    let missing: Vec<&str> = members
        .iter()
        .filter(|member| !list().any(|m| m["name"] == member.name.as_str() && m["reachable"] == true))
        .map(|member| member.name.as_str())
        .collect();
    Ok(match leader {
        Some(leader) if missing.is_empty() => Seen::Yes(leader),
        Some(_) => Seen::NotYet(format!("not reachable: {}", missing.join(", "))),
        None => Seen::NotYet("there is no leader".to_owned()),
    })
}

/// `DIR/kubeconfig`, for whoever ran this (by sudo, perhaps).
fn publish_kubeconfig(saved: &Saved, members: &[Member]) -> Result<()> {
    let from = members
        .iter()
        .map(|m| m.data().join("admin.kubeconfig"))
        .find(|path| path.exists())
        .context("no server made a kubeconfig")?;
    let text = fs::read(&from).with_context(|| format!("reading {}", from.display()))?;
    let to = saved.kubeconfig();
    if fs::read(&to).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let write = || {
        let mut draft = Draft::create(&to, Readers::Owner)?;
        draft.write_all(&text)?;
        if let Some(uid) = number("SUDO_UID") {
            fchown(draft.file(), Some(uid), number("SUDO_GID"))?;
        }
        draft.publish()
    };
    write().with_context(|| format!("writing {}", to.display()))
}

async fn agents(saved: &Saved, client: &Client) -> Result<()> {
    let members = saved.agents();
    if members.is_empty() {
        return Ok(());
    }
    let step = Step::begin("agents");
    let admission = match members.iter().any(|agent| daemon(saved, agent).pid().is_none() && !agent.has_data()) {
        true => Some(
            token::create(client, kontiki_server::token::Purpose::Agent, SignedDuration::from_mins(30), "kontiki up")
                .await?,
        ),
        false => None,
    };
    let began = Timestamp::now();
    let mut fresh = Vec::new();
    for agent in &members {
        containerd::ensure(agent).await?;
        containerd::import_images(agent)?;
        if start_agent(saved, agent, admission.as_ref()).await? {
            fresh.push(agent.name.as_str());
        }
    }
    wait("the nodes", NODES, async || {
        // A node that was up a moment ago still counts as Ready: those started now must be heard of.
        match silent(client, &fresh, began).await {
            waiting if waiting.is_empty() => nodes_ready(saved, client, &members).await,
            waiting => {
                check(saved, &members)?;
                Ok(Seen::NotYet(format!("no sign of {}", waiting.join(", "))))
            }
        }
    })
    .await?;
    let names: Vec<&str> = members.iter().map(|m| m.name.as_str()).collect();
    step.done(&format!("{} Ready", names.join(" ")));
    Ok(())
}

/// The agents among `fresh` whose lease was not renewed since `began`.
async fn silent(client: &Client, fresh: &[&str], began: Timestamp) -> Vec<String> {
    let mut silent = Vec::new();
    for name in fresh {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}");
        let lease = client.get(&path).await.unwrap_or_default();
        let renewed = lease["spec"]["renewTime"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
        if renewed.is_none_or(|time| time < began) {
            silent.push((*name).to_owned());
        }
    }
    silent
}

/// Whether it was started now.
async fn start_agent(saved: &Saved, agent: &Member, admission: Option<&Admission>) -> Result<bool> {
    let daemon = daemon(saved, agent);
    if daemon.pid().is_some() {
        return Ok(false);
    }
    daemon.buried().await?;
    let fresh = !agent.has_data();
    network::share(&agent.data())?;
    let wanted = agent_config(saved, agent, admission.filter(|_| fresh))?;
    settle(&agent.config(), &wanted, &wanted, Beginning::Wanted)?;
    daemon.ensure()
}

fn agent_config(saved: &Saved, agent: &Member, admission: Option<&Admission>) -> Result<kontiki_agent::Config> {
    let servers: Vec<String> = saved.servers().iter().map(|server| format!("{}:6444", server.ip)).collect();
    let mirrors: serde_json::Map<String, Value> =
        saved.mirrors.iter().map(|(host, urls)| (host.clone(), serde_json::json!({"endpoint": urls}))).collect();
    // Through the type's own deserialization, which fills the defaults in.
    let mut document = serde_json::json!({
        "name": agent.name,
        "data_dir": agent.data(),
        "node_ip": agent.ip,
        "servers": servers,
        "containerd_socket": agent.containerd_socket(),
        "cni_bin_dir": preflight::PLUGIN_DIR,
        "cni_conf_dir": agent.cni_dir(),
        "certs_dir": agent.certs_dir(),
        "egress": saved.egress,
        "registries": {"mirrors": mirrors},
    });
    if let Some(admission) = admission {
        document["token"] = admission.token.clone().into();
        document["ca_hash"] = admission.ca_hash.clone().into();
    }
    serde_json::from_value(document).context("the agent's configuration")
}

async fn nodes_ready(saved: &Saved, client: &Client, agents: &[Member]) -> Result<Seen<()>> {
    check(saved, agents)?;
    for agent in agents {
        containerd::daemon(agent).check()?;
    }
    let nodes = match client.get("/api/v1/nodes").await {
        Ok(nodes) => nodes,
        Err(error) => return Ok(Seen::NotYet(format!("{error:#}"))),
    };
    let waiting: Vec<String> = agents.iter().filter_map(|agent| not_ready(&nodes, &agent.name)).collect();
    Ok(if waiting.is_empty() { Seen::Yes(()) } else { Seen::NotYet(waiting.join("; ")) })
}

/// Why a node is not Ready, or nothing if it is.
fn not_ready(nodes: &Value, name: &str) -> Option<String> {
    let node = nodes["items"].as_array().into_iter().flatten().find(|node| node["metadata"]["name"] == name);
    let Some(node) = node else { return Some(format!("{name} is not registered")) };
    let conditions = node["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    match ready {
        Some(ready) if ready["status"] == "True" => None,
        Some(ready) => Some(format!("{name}: {}", ready["message"].as_str().unwrap_or("not Ready"))),
        None => Some(format!("{name} has not reported")),
    }
}

fn print_summary(saved: &Saved, demo: Option<u16>) {
    let kubeconfig = saved.kubeconfig();
    note("ready", &format!("API at https://{}:6443, files in {}", saved.vip(), saved.dir.display()));
    println!("\nNext:\n  export KUBECONFIG={}", kubeconfig.display());
    println!("  kubectl get pods -A -o wide");
    match (demo, saved.agents().first()) {
        (Some(port), Some(agent)) => println!("  curl http://{}:{port}", agent.ip),
        _ => println!("  kontiki status --dir {}", saved.dir.display()),
    }
}
