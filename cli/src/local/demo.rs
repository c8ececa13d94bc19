//! The demo: two web servers behind a node port, from an image that was made on the spot.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    containerd::DEMO,
    plan::Saved,
    progress::{Seen, Step, wait},
};
use crate::client::{Client, Refusal};

const NAME: &str = "hello";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const START: Duration = Duration::from_secs(120);

/// Runs the demo, or finds it running; says where it answers.
pub async fn show(saved: &Saved, client: &Client) -> Result<u16> {
    let step = Step::begin("demo");
    let replicas = saved.agents.clamp(1, 2);
    ensure(client, DEPLOYMENTS, &deployment(replicas)).await.context("creating the demo Deployment")?;
    let service = ensure(client, SERVICES, &service()).await.context("creating the demo Service")?;
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().and_then(|port| u16::try_from(port).ok());
    let port = port.context("the demo Service has no node port")?;
    wait("the demo's pods", START, async || {
        let deployment = match client.get(&format!("{DEPLOYMENTS}/{NAME}")).await {
            Ok(deployment) => deployment,
            Err(error) => return Ok(Seen::NotYet(format!("{error:#}"))),
        };
        let ready = deployment["status"]["readyReplicas"].as_u64().unwrap_or_default();
        if ready >= u64::from(replicas) {
            return Ok(Seen::Yes(()));
        }
        Ok(Seen::NotYet(format!("{ready} of {replicas} ready; {}", why(client).await)))
    })
    .await?;
    let mut pods = BTreeSet::new();
    for agent in saved.agents() {
        let text = wait(&format!("the node port on {}", agent.name), START, async || {
            Ok(match fetch(agent.ip, port).await {
                Ok(text) if text.starts_with("Hello from ") => Seen::Yes(text),
                Ok(text) => Seen::NotYet(format!("it says {text:?}")),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })
        .await?;
        pods.insert(text);
    }
    step.done(&format!("{replicas} pods answer on port {port} of every node"));
    Ok(port)
}

async fn ensure(client: &Client, path: &str, object: &Value) -> Result<Value> {
    match client.post(path, object).await {
        Err(error) if error.downcast_ref::<Refusal>().is_some_and(|r| r.code == http::StatusCode::CONFLICT) => {
            client.get(&format!("{path}/{NAME}")).await
        }
        other => other,
    }
}

fn deployment(replicas: u8) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": NAME, "labels": {"app": NAME}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": NAME}},
            "template": {
                "metadata": {"labels": {"app": NAME}},
                "spec": {
                    "containers": [{
                        "name": "web", "image": DEMO, "imagePullPolicy": "IfNotPresent",
                        "ports": [{"containerPort": 8080}],
                        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
                        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
                    }],
                    "terminationGracePeriodSeconds": 1,
                },
            },
        },
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": NAME, "labels": {"app": NAME}},
        "spec": {"type": "NodePort", "selector": {"app": NAME}, "ports": [{"port": 80, "targetPort": 8080}]},
    })
}

/// What the pods wait for, from their own status or the newest event.
async fn why(client: &Client) -> String {
    let pods =
        client.get(&format!("/api/v1/namespaces/default/pods?labelSelector=app%3D{NAME}")).await.unwrap_or_default();
    let list = || pods["items"].as_array().into_iter().flatten();
    let states: Vec<String> = list()
        .map(|pod| {
            let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
            let phase = waiting.as_str().or(pod["status"]["phase"].as_str()).unwrap_or("Unknown");
            format!("{} {phase}", pod["metadata"]["name"].as_str().unwrap_or("?"))
        })
        .collect();
    let events = client.get("/api/v1/namespaces/default/events").await.unwrap_or_default();
    let warning = events["items"]
        .as_array()
        .into_iter()
        .flatten()
        .rfind(|e| e["type"] == "Warning")
        .and_then(|e| e["message"].as_str().map(str::to_owned));
    match warning {
        Some(text) => format!("{}; {text}", states.join(", ")),
        None => states.join(", "),
    }
}

/// The body that a node port answers a GET with.
async fn fetch(ip: Ipv4Addr, port: u16) -> Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect((ip, port)).await?;
        stream.write_all(format!("GET / HTTP/1.0\r\nHost: {ip}\r\n\r\n").as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text.split_once("\r\n\r\n").map_or(text.clone(), |(_, body)| body.trim().to_owned()))
    };
    timeout(Duration::from_secs(3), exchange).await.map_err(|_| anyhow!("no answer within 3 s"))?
}
