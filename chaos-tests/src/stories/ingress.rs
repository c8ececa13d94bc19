//! Ingresses that the nodes serve.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow, ensure};

use super::{IMAGE, Scratch, has};
use crate::{cluster::Cluster, wait};

const HOST: &str = "shop.story.example";

/// A Deployment whose pods tell their name at `/` and `/api/`, and its Service.
async fn web(s: &Scratch<'_>, name: &str) -> Result<()> {
    let serve = "/bin/busybox mkdir -p /www/api; echo $HOSTNAME > /www/index.html; echo $HOSTNAME > /www/api/index.html; \
                 exec /bin/busybox httpd -f -p 8080 -h /www";
    s.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: 2\n  \
         selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      \
         terminationGracePeriodSeconds: 5\n      containers:\n      - name: web\n        image: {IMAGE}\n        \
         command: [/bin/busybox, sh, -c, '{serve}']\n        ports: [{{name: web, containerPort: 8080}}]\n        \
         readinessProbe: {{httpGet: {{path: /, port: web}}, periodSeconds: 1}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: {name}}}, \
         ports: [{{name: http, port: 80, targetPort: web}}]}}\n"
    ))
    .await?;
    s.kubectl(&format!("rollout status deployment/{name} --timeout=180s")).await.map(drop)
}

/// Status, version of HTTP and text of what curl is answered by a node, whatever the name in the URL.
async fn curl(node: &str, url: &str, more: &[&str]) -> Result<(String, String)> {
    let host = url.split("://").nth(1).and_then(|rest| rest.split('/').next()).context("a URL")?;
    let resolve = ["80", "443"].map(|port| format!("{host}:{port}:{node}"));
    let mut curl = tokio::process::Command::new("curl");
    curl.args(["-sS", "--noproxy", "*", "--max-time", "10", "-w", "\n%{http_code} %{http_version}"]);
    curl.args(resolve.iter().flat_map(|entry| ["--resolve", entry])).args(more).arg(url);
    let ended = curl.output().await.context("curl")?;
    ensure!(ended.status.success(), "{url} at {node}: {}", String::from_utf8_lossy(&ended.stderr));
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    let (body, outcome) = text.rsplit_once('\n').context("what curl writes last")?;
    Ok((outcome.to_owned(), body.to_owned()))
}

/// Waits until each node answers so.
async fn answers(nodes: &[String], url: &str, more: &[&str], outcome: &str, part: &str) -> Result<()> {
    for node in nodes {
        wait::until(&format!("{url} at {node}"), wait::PATIENCE, async || {
            let (got, body) = curl(node, url, more).await?;
            ensure!(got == outcome && body.contains(part), "{got}: {body}");
            anyhow::Ok(())
        })
        .await?;
    }
    Ok(())
}

/// A certificate for the host in a Secret; where it lies for curl.
async fn certificate(c: &Cluster, s: &Scratch<'_>) -> Result<String> {
    let file = |name: &str| c.dir().join(format!("story-ingress.{name}")).display().to_string();
    let (certificate, key) = (file("crt"), file("key"));
    let mut openssl = tokio::process::Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    openssl.args(["-subj", &format!("/CN={HOST}"), "-addext", &format!("subjectAltName=DNS:{HOST}")]);
    let made = openssl.args(["-keyout", &key, "-out", &certificate]).output().await.context("openssl")?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    s.kubectl_args(&["create", "secret", "tls", "shop", "--cert", &certificate, "--key", &key]).await?;
    Ok(certificate)
}

/// Rolls `one` out while requests for it go on at every node; none may fail.
async fn rolled_out_unnoticed(s: &Scratch<'_>, nodes: &[String]) -> Result<()> {
    let done = AtomicBool::new(false);
    let rollout = async {
        s.kubectl("rollout restart deployment/one").await?;
        let rolled = s.kubectl("rollout status deployment/one --timeout=180s").await;
        // The pods of before end a moment later.
        let gone = wait::until("two pods", wait::PATIENCE, async || {
            let names = s.kubectl("get pods -l app=one -o name").await?;
            if names.lines().count() == 2 { Ok(()) } else { Err(anyhow!(names)) }
        })
        .await;
        done.store(true, Ordering::Relaxed);
        rolled.map(drop).and(gone)
    };
    let load = async {
        let (mut good, mut bad) = (0, Vec::new());
        let url = format!("http://{HOST}/");
        while !done.load(Ordering::Relaxed) {
            for node in nodes {
                match curl(node, &url, &[]).await {
                    Ok((outcome, body)) if outcome.starts_with("200") && body.starts_with("one-") => good += 1,
                    other => bad.push(format!("{other:?}")),
                }
            }
        }
        (good, bad)
    };
    let (rolled, (good, bad)) = tokio::join!(rollout, load);
    rolled?;
    println!("      {good} requests during a rollout, {} failed", bad.len());
    ensure!(bad.is_empty() && good > 0, "of {} requests failed: {bad:#?}", good + bad.len());
    Ok(())
}

pub async fn an_ingress_is_served_by_every_node(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-ingress").await?;
    let class = c.kubectl("get ingressclass kontiki -o jsonpath={.spec.controller}").await?;
    ensure!(class == "kontiki.dev/ingress", "{class:?}");
    let path = "jsonpath={.items[*].status.addresses[?(@.type==\"InternalIP\")].address}";
    let nodes = c.try_kubectl(&["get", "nodes", "-o", path], None).await?.out;
    let mut nodes: Vec<String> = nodes.split_whitespace().map(str::to_owned).collect();
    nodes.sort();
    ensure!(nodes.len() >= 2, "{nodes:?}");
    ensure!(curl(&nodes[0], &format!("http://{HOST}/"), &[]).await.is_err(), "a port is open that nobody needs");
    web(&s, "one").await?;
    web(&s, "two").await?;
    let trusted = certificate(c, &s).await?;
    s.apply(&format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: shop}}\nspec:\n  ingressClassName: kontiki\n  \
         tls: [{{hosts: [{HOST}], secretName: shop}}]\n  rules:\n  - host: {HOST}\n    http:\n      paths:\n      \
         - {{path: /, pathType: Prefix, backend: {{service: {{name: one, port: {{number: 80}}}}}}}}\n      \
         - {{path: /api, pathType: Prefix, backend: {{service: {{name: two, port: {{name: http}}}}}}}}\n  \
         - host: '*.wild.story.example'\n    http:\n      paths:\n      \
         - {{path: /, pathType: Prefix, backend: {{service: {{name: two, port: {{number: 80}}}}}}}}\n"
    ))
    .await?;
    wait::until("the nodes' addresses", wait::PATIENCE, async || {
        let shown = s.kubectl("get ingress shop -o jsonpath={.status.loadBalancer.ingress[*].ip}").await?;
        let mut shown: Vec<&str> = shown.split_whitespace().collect();
        shown.sort_unstable();
        if shown == nodes { Ok(()) } else { Err(anyhow!("{shown:?}")) }
    })
    .await?;
    let trust = ["--cacert", trusted.as_str()];
    answers(&nodes, &format!("http://{HOST}/"), &[], "200 1.1", "one-").await?;
    answers(&nodes, &format!("http://{HOST}/api/"), &[], "200 1.1", "two-").await?;
    answers(&nodes, "http://x.wild.story.example/", &[], "200 1.1", "two-").await?;
    answers(&nodes, "http://wild.story.example/", &[], "404 1.1", "nothing is served here").await?;
    answers(&nodes, &format!("https://{HOST}/"), &trust, "200 2", "one-").await?;
    answers(&nodes, &format!("https://{HOST}/api/"), &[&trust[..], &["--http1.1"]].concat(), "200 1.1", "two-").await?;
    ensure!(curl(&nodes[0], "https://other.story.example/", &trust).await.is_err(), "there is no certificate for it");

    rolled_out_unnoticed(&s, &nodes).await?;

    s.kubectl("scale deployment/two --replicas=0").await?;
    answers(&nodes, &format!("http://{HOST}/api/"), &[], "503 1.1", "no endpoint is ready").await?;
    s.kubectl("annotate ingress shop kontiki.dev/redirect-https=true").await?;
    answers(&nodes, &format!("http://{HOST}/a?b"), &["-D", "-"], "308 1.1", &format!("https://{HOST}/a?b")).await?;
    s.kubectl_args(&["patch", "ingress", "shop", "-p", "{\"spec\": {\"ingressClassName\": \"others\"}}"]).await?;
    for node in &nodes {
        wait::until(&format!("{node} to close its ports"), wait::PATIENCE, async || {
            match curl(node, &format!("http://{HOST}/"), &[]).await {
                Ok(answer) => Err(anyhow!("{answer:?}")),
                Err(error) => has(&format!("{error:#}"), "connect"),
            }
        })
        .await?;
    }
    s.done().await
}
