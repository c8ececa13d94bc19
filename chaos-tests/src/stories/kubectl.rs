//! A person's day with an unmodified kubectl.

use anyhow::{Result, anyhow, ensure};

use super::{IMAGE, Scratch, has, shows, untainted};
use crate::{cluster::Cluster, wait};

pub async fn a_first_look_shows_a_healthy_cluster(c: &Cluster) -> Result<()> {
    let version = c.kubectl("version").await?;
    has(&version, "Server Version: v1.37.0+kontiki")?;
    has(&c.kubectl("cluster-info").await?, "is running at")?;
    let nodes = wait::until("two nodes are Ready", wait::PATIENCE, async || {
        let nodes = c.kubectl("get nodes -o wide").await?;
        let ready = nodes.lines().filter(|line| line.contains(" Ready ")).count();
        if ready == 2 { Ok(nodes) } else { Err(anyhow!(nodes)) }
    })
    .await?;
    for word in ["NAME", "STATUS", "ROLES", "AGE", "VERSION", "INTERNAL-IP", "CONTAINER-RUNTIME", "containerd://"] {
        has(&nodes, word)?;
    }
    let resources = c.kubectl("api-resources").await?;
    for kind in ["configmaps", "deployments", "endpointslices", "leases", "events.k8s.io/v1"] {
        has(&resources, kind)?;
    }
    has(&c.kubectl("explain deployment.spec.strategy").await?, "rollingUpdate")?;
    has(&c.kubectl("describe node a1").await?, "Allocatable:")?;
    has(&c.kubectl("get --raw /readyz").await?, "ok")?;
    has(&c.kubectl("get --raw /metrics").await?, "# TYPE")?;
    shows("the cluster's own Service", "443/TCP", async || c.kubectl("get svc kubernetes").await).await?;
    wait::until("all three masters behind the kubernetes service", wait::PATIENCE, async || {
        let endpoints = c.kubectl("get endpoints kubernetes -o jsonpath={.subsets[0].addresses[*].ip}").await?;
        ensure!(endpoints.split_whitespace().count() == 3, "only {endpoints}");
        Ok::<_, anyhow::Error>(())
    })
    .await
}

pub async fn objects_are_written_read_and_explained(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-objects").await?;
    has(&s.kubectl("create configmap app --from-literal=colour=blue").await?, "configmap/app created")?;
    has(&s.kubectl("label configmap app tier=web").await?, "labeled")?;
    has(&s.kubectl("annotate configmap app note=hello").await?, "annotated")?;
    ensure!(s.kubectl("get configmap -l tier=web -o name").await?.trim() == "configmap/app");
    ensure!(s.kubectl("get configmap app -o jsonpath={.data.colour}").await? == "blue");
    has(&s.kubectl("get configmap app -o yaml").await?, "colour: blue")?;
    has(&s.kubectl("describe configmap app").await?, "colour:")?;
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {a: '1', b: '2'}\n";
    has(&s.apply(manifest).await?, "created")?;
    has(&s.apply(manifest).await?, "unchanged")?;
    let changed = manifest.replace("b: '2'", "c: '3'");
    let diff = c.try_kubectl(&["-n", "story-objects", "diff", "-f", "-"], Some(&changed)).await?;
    has(&diff.out, "-  b: \"2\"")?;
    has(&diff.out, "+  c: \"3\"")?;
    has(&s.apply(&changed).await?, "configured")?;
    ensure!(s.kubectl("get configmap applied -o jsonpath={.data}").await? == r#"{"a":"1","c":"3"}"#);
    let typo = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: typo}\ndatum: {a: '1'}\n";
    let refused = c.try_kubectl(&["-n", "story-objects", "apply", "-f", "-"], Some(typo)).await?;
    ensure!(!refused.ok);
    has(&refused.err, "unknown field \"datum\"")?;
    let dry = s.kubectl("create deployment ghost --image=x --dry-run=server -o name").await?;
    has(&dry, "deployment.apps/ghost")?;
    ensure!(s.kubectl("get deployments -o name").await?.is_empty(), "a dry run stores nothing");
    s.kubectl_args(&["patch", "configmap", "applied", "--type=json", "-p", r#"[{"op":"remove","path":"/data/a"}]"#])
        .await?;
    s.kubectl_args(&["patch", "configmap", "applied", "-p", r#"{"data":{"d":"4"}}"#]).await?;
    ensure!(s.kubectl("get configmap applied -o jsonpath={.data}").await? == r#"{"c":"3","d":"4"}"#);
    let edited = c.try_kubectl(&["-n", "story-objects", "replace", "-f", "-"], Some(&changed)).await?;
    has(&edited.out, "replaced")?;
    let edited = c.edit("-n story-objects configmap app", "sed -i s/blue/green/").await?;
    has(&edited, "configmap/app edited")?;
    ensure!(s.kubectl("get configmap app -o jsonpath={.data.colour}").await? == "green");
    has(&s.kubectl("delete configmap --all").await?, "deleted")?;
    s.done().await
}

pub async fn a_deployment_is_rolled_out_and_back(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-rollout").await?;
    s.kubectl(&format!("create deployment web --image={IMAGE} --replicas=2 --port=8080 -- /bin/busybox sleep 3600"))
        .await?;
    s.kubectl("rollout status deployment/web --timeout=180s").await?;
    s.kubectl("expose deployment web --port=80 --target-port=8080").await?;
    has(&s.kubectl("get deployment web").await?, "2/2")?;
    has(&s.kubectl("get rs").await?, "DESIRED")?;
    s.kubectl("scale deployment web --replicas=3").await?;
    s.kubectl("rollout status deployment/web --timeout=180s").await?;
    s.kubectl("wait --for=condition=Available deployment/web --timeout=180s").await?;
    s.kubectl("set env deployment/web RELEASE=2").await?;
    s.kubectl("rollout status deployment/web --timeout=180s").await?;
    let history = s.kubectl("rollout history deployment/web").await?;
    ensure!(history.lines().filter(|l| l.starts_with(|c: char| c.is_ascii_digit())).count() == 2, "{history}");
    s.kubectl("rollout pause deployment/web").await?;
    s.kubectl("set env deployment/web RELEASE=3").await?;
    let seen = s.kubectl("get deployment web -o jsonpath={.status.updatedReplicas}").await?;
    s.kubectl("rollout resume deployment/web").await?;
    s.kubectl("rollout status deployment/web --timeout=180s").await?;
    ensure!(seen.is_empty() || seen == "0" || seen == "3", "a paused rollout does not move: {seen}");
    s.kubectl("rollout undo deployment/web --to-revision=1").await?;
    s.kubectl("rollout status deployment/web --timeout=180s").await?;
    let env = s.kubectl("get deployment web -o jsonpath={.spec.template.spec.containers[0].env}").await?;
    ensure!(env.is_empty(), "back at the first revision: {env}");
    s.kubectl("rollout restart deployment/web").await?;
    s.kubectl("rollout status deployment/web --timeout=180s").await?;
    s.kubectl("set image deployment/web demo=localhost/no-such-image:1").await?;
    wait::until("the bad image is reported", wait::PATIENCE, async || {
        let pods = s.kubectl("get pods").await?;
        if pods.contains("ImagePull") { Ok(()) } else { Err(anyhow!("{pods}")) }
    })
    .await?;
    shows("why", "Failed to pull image", async || s.kubectl("describe pods").await).await?;
    s.kubectl("rollout undo deployment/web").await?;
    s.kubectl("rollout status deployment/web --timeout=180s").await?;
    shows("what was done", "ScalingReplicaSet", async || s.kubectl("describe deployment web").await).await?;
    let wide = s.kubectl("get pods -o wide").await?;
    for word in ["READY", "RESTARTS", "NOMINATED NODE", "READINESS GATES", "10.244."] {
        has(&wide, word)?;
    }
    s.done().await
}

pub async fn a_node_is_drained_and_comes_back(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-drain").await?;
    s.sleepers("web", 4).await?;
    c.kubectl("cordon a1").await?;
    has(&c.kubectl("get node a1").await?, "SchedulingDisabled")?;
    c.kubectl("drain a1 --ignore-daemonsets --delete-emptydir-data --force --timeout=180s").await?;
    s.kubectl("rollout status deployment/web --timeout=180s").await?;
    let nodes = s.kubectl("get pods -o jsonpath={.items[*].spec.nodeName}").await?;
    ensure!(nodes.split_whitespace().all(|node| node == "a2"), "all moved to a2: {nodes}");
    c.kubectl("uncordon a1").await?;
    untainted(c, "a1").await?;
    s.kubectl("scale deployment web --replicas=6").await?;
    s.kubectl("rollout status deployment/web --timeout=180s").await?;
    let nodes = s.kubectl("get pods -o jsonpath={.items[*].spec.nodeName}").await?;
    ensure!(nodes.contains("a1"), "a1 takes pods again: {nodes}");
    s.done().await
}

pub async fn a_person_can_ask_what_they_may_do(c: &Cluster) -> Result<()> {
    has(&c.kubectl("auth can-i create deployments").await?, "yes")?;
    has(&c.kubectl("auth whoami").await?, "system:masters")?;
    let token = wait::until("an account", wait::PATIENCE, async || c.kubectl("create token default").await).await?;
    let token = token.trim();
    let server = c.kubectl("config view -o jsonpath={.clusters[0].cluster.server}").await?;
    let args = ["--kubeconfig=/dev/null", "--insecure-skip-tls-verify", "--server", &server, "--token", token];
    let mut can = args.to_vec();
    can.extend(["auth", "can-i", "list", "pods"]);
    has(&c.try_kubectl(&can, None).await?.out, "no")?;
    let mut list = args.to_vec();
    list.extend(["get", "pods"]);
    has(&c.try_kubectl(&list, None).await?.err, "system:serviceaccount:default:default")
}
