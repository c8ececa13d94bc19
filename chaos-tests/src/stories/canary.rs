//! Rollouts that stop at steps: good ones end, bad ones go back, though the leader dies in between.

use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use nix::sys::signal::Signal;

use super::{IMAGE, Scratch, has, shows};
use crate::{cluster::Cluster, wait};

const STATE: &str = r"jsonpath={.metadata.annotations.rollout\.kontiki\.dev/state}";

/// What a Prometheus server answers.
fn answer(value: &str) -> String {
    format!(
        r#"{{"status":"success","data":{{"resultType":"vector","result":[{{"metric":{{}},"value":[1700000000,"{value}"]}}]}}}}"#
    )
}

/// A pod that answers as Prometheus would, a Service for it, and leave to ask it.
async fn prometheus(s: &Scratch<'_>) -> Result<()> {
    let serve = format!(
        "/bin/busybox mkdir -p /tmp/www/api/v1; echo '{}' >/tmp/www/api/v1/query; exec /bin/busybox httpd -f -p 9090 -h /tmp/www",
        answer("0.01")
    );
    let brief = r#"--overrides={"spec":{"terminationGracePeriodSeconds":1}}"#;
    s.kubectl_args(&["run", "metrics", "--image", IMAGE, brief, "--", "/bin/busybox", "sh", "-c", &serve]).await?;
    s.kubectl("expose pod metrics --port=9090").await?;
    s.kubectl("create role judge --verb=get --resource=services/proxy").await?;
    s.kubectl(&format!("create rolebinding judge --role=judge --group=system:serviceaccounts:{}", s.name)).await?;
    s.kubectl("wait --for=condition=Ready pod/metrics --timeout=180s").await.map(drop)
}

async fn says(s: &Scratch<'_>, value: &str) -> Result<()> {
    let change = format!("echo '{}' >/tmp/www/api/v1/query", answer(value));
    s.kubectl_args(&["exec", "metrics", "--", "/bin/busybox", "sh", "-c", &change]).await.map(drop)
}

fn web(replicas: u32, surge: &str, settings: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n  annotations: {{{settings}}}\nspec:\n  \
         replicas: {replicas}\n  progressDeadlineSeconds: 120\n  \
         strategy: {{rollingUpdate: {{maxSurge: {surge}, maxUnavailable: 0}}}}\n  \
         selector: {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    spec:\n      \
         terminationGracePeriodSeconds: 1\n      containers:\n      - name: demo\n        image: {IMAGE}\n        \
         command: [/bin/busybox, sleep, '3600']\n        env: [{{name: RELEASE, value: '1'}}]\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{selector: {{app: web}}, ports: [{{port: 80}}]}}\n"
    )
}

/// Waits until exactly these releases run.
async fn runs(s: &Scratch<'_>, releases: &str) -> Result<()> {
    wait::until(&format!("releases {releases}"), wait::PATIENCE, async || {
        let path = "get pods -l app=web -o jsonpath={.items[*].spec.containers[0].env[0].value}";
        let mut found: Vec<String> = s.kubectl(path).await?.split_whitespace().map(str::to_owned).collect();
        found.sort();
        let found = found.join(" ");
        if found == releases { Ok(()) } else { Err(anyhow!("{found}")) }
    })
    .await
}

async fn stands(s: &Scratch<'_>, part: &str) -> Result<String> {
    shows("how the rollout stands", part, async || s.kubectl(&format!("get deployment web -o {STATE}")).await).await
}

/// The names of the pods behind the Service, in order.
async fn endpoints(s: &Scratch<'_>) -> Result<Vec<String>> {
    let named = s.kubectl("get endpoints web -o jsonpath={.subsets[*].addresses[*].targetRef.name}").await?;
    let mut named: Vec<String> = named.split_whitespace().map(str::to_owned).collect();
    named.sort();
    Ok(named)
}

/// Waits until so many pods are behind the Service.
async fn behind(s: &Scratch<'_>, wanted: usize) -> Result<Vec<String>> {
    wait::until(&format!("{wanted} endpoints"), wait::PATIENCE, async || {
        let found = endpoints(s).await?;
        if found.len() == wanted { Ok(found) } else { Err(anyhow!("{found:?}")) }
    })
    .await
}

async fn kill_leader(c: &Cluster) -> Result<()> {
    c.signal("servers", &c.leader().await?, Signal::SIGKILL)
}

/// `kubectl rollout status` fails.
async fn fails(s: &Scratch<'_>) -> Result<()> {
    let args = ["-n", s.name, "rollout", "status", "deployment/web", "--timeout=180s"];
    let ended = s.cluster.try_kubectl(&args, None).await?;
    ensure!(!ended.ok, "rollout status: {}{}", ended.out, ended.err);
    has(&ended.err, "exceeded its progress deadline")
}

pub async fn a_canary_ends_or_goes_back_though_its_leader_dies(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-canary").await?;
    prometheus(&s).await?;
    let at = "rollout.kontiki.dev";
    let settings = format!(
        "{at}/steps: '1, 2', {at}/pause: 10s, {at}/prometheus: 'http://metrics:9090', {at}/query: errors, \
         {at}/below: '0.5', {at}/every: 2s, {at}/fail-after: '5'"
    );
    s.apply(&web(4, "1", &settings)).await?;
    s.kubectl("rollout status deployment/web --timeout=180s").await?;
    c.healthy().await?;

    s.kubectl("set env deployment/web RELEASE=2").await?;
    stands(&s, "step 1 of 3, 1 of 4 pods: is judged").await?;
    runs(&s, "1 1 1 2").await?;
    behind(&s, 4).await?;
    kill_leader(c).await?;
    stands(&s, "step 2 of 3, 2 of 4 pods").await?;
    c.up(&["--no-demo"]).await?;
    c.healthy().await?;
    s.kubectl("rollout status deployment/web --timeout=180s").await?;
    stands(&s, "passed").await?;
    runs(&s, "2 2 2 2").await?;

    says(&s, "0.9").await?;
    s.kubectl("set env deployment/web RELEASE=3").await?;
    stands(&s, "bad answers in a row").await?;
    kill_leader(c).await?;
    let state = stands(&s, "refused: at step 1 of 3, 5 answers in a row were not below 0.5; it is 0.9").await?;
    println!("      {state}");
    c.up(&["--no-demo"]).await?;
    c.healthy().await?;
    fails(&s).await?;
    runs(&s, "2 2 2 2").await?;
    shows("why", "RolloutRefused", async || s.kubectl("describe deployment web").await).await?;
    let asked = s.kubectl("get deployment web -o jsonpath={.spec.template.spec.containers[0].env[0].value}").await?;
    ensure!(asked == "3", "the spec is its author's: {asked}");

    // The spec says what runs again, whoever then asks for the same once more.
    s.kubectl("rollout undo deployment/web").await?;
    s.kubectl("rollout status deployment/web --timeout=180s").await?;
    stands(&s, "passed").await?;
    s.kubectl("set env deployment/web RELEASE=3").await?;
    fails(&s).await?;
    runs(&s, "2 2 2 2").await?;

    // What cannot be meant lets nothing through.
    let odd = ["-n", s.name, "annotate", "--overwrite", "deployment", "web", "rollout.kontiki.dev/steps=ten"];
    let warned = c.try_kubectl(&odd, None).await?;
    has(&warned.err, "\"ten\" is neither")?;
    s.kubectl("set env deployment/web RELEASE=4").await?;
    stands(&s, "\"ten\" is neither").await?;
    runs(&s, "2 2 2 2").await?;
    s.done().await
}

pub async fn blue_and_green_change_places_though_the_leader_dies(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-bluegreen").await?;
    let settings = "rollout.kontiki.dev/steps: blue-green, rollout.kontiki.dev/pause: 20s";
    s.apply(&web(2, "100%", settings)).await?;
    s.kubectl("rollout status deployment/web --timeout=180s").await?;
    let blue = behind(&s, 2).await?;
    s.kubectl("set env deployment/web RELEASE=2").await?;
    let (mut seen, mut killed) = (vec![blue.clone()], false);
    let deadline = Instant::now() + wait::PATIENCE;
    // Nobody answers for a moment when the leader dies.
    loop {
        let now = endpoints(&s).await.unwrap_or_default();
        if !now.is_empty() && seen.last() != Some(&now) {
            seen.push(now.clone());
        }
        if now.len() == 2 && now.iter().all(|pod| !blue.contains(pod)) {
            break;
        }
        ensure!(Instant::now() < deadline, "the Service does not change over: {seen:?}");
        if !killed && s.kubectl("get pods -l app=web -o name").await?.lines().count() == 4 {
            killed = true;
            kill_leader(c).await?;
        }
    }
    ensure!(killed, "nobody died");
    ensure!(seen.len() == 2, "there was something between blue and green: {seen:?}");
    runs(&s, "1 1 2 2").await?;
    c.up(&["--no-demo"]).await?;
    c.healthy().await?;
    s.kubectl("rollout status deployment/web --timeout=180s").await?;
    runs(&s, "2 2").await?;
    s.done().await
}
