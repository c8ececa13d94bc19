//! Load balancers whose addresses the nodes announce.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;

use super::{IMAGE, Scratch, holders, shows};
use crate::{cluster::Cluster, wait};

const AGENTS: [&str; 2] = ["a1", "a2"];
/// What docs/load-balancers.md says at most: printed if it took longer, for this machine may be busy.
const GAP: Duration = Duration::from_secs(13);

async fn field(s: &Scratch<'_>, object: &str, path: &str) -> Result<String> {
    s.kubectl(&format!("get {object} -o jsonpath={{{path}}}")).await
}

async fn announcer(s: &Scratch<'_>) -> Result<String> {
    field(s, "service/web", ".metadata.annotations.kontiki\\.dev/announced-by").await
}

/// What this machine, a neighbour of the nodes, is answered.
async fn fetch(address: &str) -> Result<String> {
    let url = format!("http://{address}/");
    let mut wget = tokio::process::Command::new("busybox");
    let ended = wget.args(["timeout", "2", "busybox", "wget", "-qO-", &url]).output().await?;
    ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
}

/// Waits until one node has the address, is named for it, and is who this machine, their neighbour, takes for the holder.
async fn held(c: &Cluster, s: &Scratch<'_>, address: &str, holder: &str) -> Result<()> {
    wait::until(&format!("{holder} holds it"), wait::PATIENCE, async || {
        let (named, has_it) = (announcer(s).await?, holders(c, &AGENTS, address).await?);
        ensure!(named == holder && has_it == [holder], "{named:?} is named, {has_it:?} have it");
        // Asked here, so that the kernel asks the link if it does not know.
        fetch(address).await?;
        let known = tokio::process::Command::new("ip").args(["neigh", "show", address]).output().await?;
        let known = String::from_utf8_lossy(&known.stdout).into_owned();
        let mac = known.split_whitespace().skip_while(|word| *word != "lladdr").nth(1);
        let mac = mac.with_context(|| known.clone())?;
        ensure!(c.inside(holder, &["ip", "-o", "link"]).await?.contains(mac), "{known}");
        Ok(())
    })
    .await
}

/// Hurts the holder until another answers. Never are there two.
async fn taken_over(c: &Cluster, s: &Scratch<'_>, address: &str, fault: &str) -> Result<()> {
    let before = announcer(s).await?;
    held(c, s, address, &before).await?;
    let other = AGENTS.into_iter().find(|agent| *agent != before).context("another agent")?;
    let began = Instant::now();
    match fault {
        "killed" => c.signal("agents", &before, Signal::SIGKILL)?,
        "frozen" => c.signal("agents", &before, Signal::SIGSTOP)?,
        _ => c.link(&before, false).await?,
    }
    let (mut answered, mut gap) = (began, Duration::ZERO);
    let outcome = loop {
        let now = holders(c, &AGENTS, address).await?;
        if now.len() > 1 {
            break Err(anyhow!("{now:?} have it {:?} after {fault}", began.elapsed()));
        }
        if fetch(address).await.is_ok() {
            gap = gap.max(answered.elapsed());
            answered = Instant::now();
            if now == [other] {
                break Ok(());
            }
        }
        if began.elapsed() > wait::PATIENCE {
            break Err(anyhow!("nobody took it over; {now:?} have it, {} is named", announcer(s).await?));
        }
    };
    let total = began.elapsed();
    match fault {
        "killed" => c.up(&["--no-demo"]).await.map(drop)?,
        "frozen" => c.signal("agents", &before, Signal::SIGCONT)?,
        _ => c.link(&before, true).await?,
    }
    outcome?;
    println!(
        "      agent {fault}: {other} took over after {:.1} s, {:.1} s without an answer{}",
        total.as_secs_f32(),
        gap.as_secs_f32(),
        if gap <= GAP { "" } else { ": LONGER than promised" }
    );
    held(c, s, address, other).await?;
    c.kubectl(&format!("wait --for=condition=Ready node/{before} --timeout=180s")).await?;
    held(c, s, address, other).await.context("it stays where it is")
}

pub async fn a_load_balancers_address_moves_when_its_node_is_lost(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-balancer").await?;
    let (_, mirror) = c.mirror();
    let network = mirror.rsplit_once('.').context("an address")?.0;
    let (first, last) = (format!("{network}.230"), format!("{network}.231"));
    wait::until("the kind", wait::PATIENCE, async || {
        c.apply(&format!(
            "apiVersion: kontiki.dev/v1\nkind: AddressPool\nmetadata: {{name: story}}\nspec: {{addresses: [{first}-{last}]}}\n"
        ))
        .await
    })
    .await?;
    let serve =
        "/bin/busybox mkdir -p /www; echo $HOSTNAME > /www/index.html; exec /bin/busybox httpd -f -p 8080 -h /www";
    s.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  replicas: 2\n  selector: {{matchLabels: {{app: web}}}}\n  \
         template:\n    metadata: {{labels: {{app: web}}}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      \
         topologySpreadConstraints:\n      - {{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, \
         labelSelector: {{matchLabels: {{app: web}}}}}}\n      containers:\n      - name: web\n        image: {IMAGE}\n        \
         command: [/bin/busybox, sh, -c, '{serve}']\n"
    ))
    .await?;
    s.kubectl("rollout status deployment/web --timeout=180s").await?;
    s.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: LoadBalancer, allocateLoadBalancerNodePorts: false, \
         selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}\n",
    )
    .await?;
    let address = wait::until("an address", wait::PATIENCE, async || {
        let ip = field(&s, "service/web", ".status.loadBalancer.ingress[0].ip").await?;
        if ip == first { Ok(ip) } else { Err(anyhow!("{ip:?}")) }
    })
    .await?;
    ensure!(field(&s, "service/web", ".spec.ports[0].nodePort").await?.is_empty(), "it has no node port");
    wait::until("an answer", wait::PATIENCE, async || fetch(&address).await).await?;
    wait::until("a node is named", wait::PATIENCE, async || {
        let named = announcer(&s).await?;
        ensure!(AGENTS.contains(&named.as_str()), "{named:?}");
        held(c, &s, &address, &named).await
    })
    .await?;
    let inside = format!("/bin/busybox timeout 3 /bin/busybox wget -qO- http://{address}/");
    let args = ["exec", "deployment/web", "--", "/bin/busybox", "sh", "-c", &inside];
    shows("an answer within", "web-", async || s.kubectl_args(&args).await).await?;

    for fault in ["killed", "frozen", "cut off"] {
        taken_over(c, &s, &address, fault).await?;
    }

    let patch = async |spec: &str| s.kubectl_args(&["patch", "service", "web", "-p", spec]).await;
    patch("{\"spec\": {\"loadBalancerSourceRanges\": [\"192.0.2.0/24\"]}}").await?;
    wait::until("others to be kept out", wait::PATIENCE, async || match fetch(&address).await {
        Ok(answer) => Err(anyhow!(answer)),
        Err(_) => Ok(()),
    })
    .await?;
    patch("{\"spec\": {\"loadBalancerSourceRanges\": null, \"externalTrafficPolicy\": \"Local\"}}").await?;
    s.kubectl("scale deployment/web --replicas=1").await?;
    wait::until("only the endpoint's node to announce it", wait::PATIENCE, async || {
        let nodes = field(&s, "pods", ".items[*].spec.nodeName").await?;
        let by = announcer(&s).await?;
        if nodes == by { fetch(&address).await } else { Err(anyhow!("pods on {nodes:?}, announced by {by:?}")) }
    })
    .await?;
    s.kubectl("delete service web --timeout=180s").await?;
    wait::until("nobody to have the address", wait::PATIENCE, async || {
        let left = holders(c, &AGENTS, &address).await?;
        if left.is_empty() { Ok(()) } else { Err(anyhow!("{left:?}")) }
    })
    .await?;
    c.kubectl("delete addresspool story").await?;
    s.done().await
}
