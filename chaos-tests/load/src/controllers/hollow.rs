//! Nodes without anything on them: they say of each Pod of a namespace what a kubelet would.
//!
//! Pods that end (`restartPolicy: Never`) have succeeded as soon as they are seen, all others run and are ready. None is
//! bound to a node: nothing has to renew nodes' leases, and a Pod is gone as soon as it is deleted. Both servers take
//! the status of such a Pod.

use std::{future::Future, sync::Arc};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
};

use super::follow::{Following, State};
use crate::{
    peer::{Peer, Servers},
    wire::{Connection, Request, STRATEGIC},
};

/// Requests at the same time.
const WRITERS: usize = 16;
/// As many Pods as any case has: the watch is read on, however slowly statuses are written.
const QUEUE: usize = 20_000;

/// Ends with its value.
pub struct Hollow {
    pods: Following,
    _writers: JoinSet<()>,
}

impl Hollow {
    /// # Errors
    /// The server refuses.
    pub async fn start(peer: &Peer, namespace: &str) -> Result<Self> {
        let collection = format!("/api/v1/namespaces/{namespace}/pods");
        let (added_tx, added_rx) = mpsc::channel(QUEUE);
        let pods = Following::start(peer, &collection, |_| false, Some(added_tx)).await?;
        let (added_rx, mut writers) = (Arc::new(Mutex::new(added_rx)), JoinSet::new());
        for number in 0..WRITERS {
            let mut writer = Writer { servers: peer.servers(), number, open: None };
            let (seen, collection, added_rx) = (pods.seen(), collection.clone(), added_rx.clone());
            writers.spawn(async move {
                if let Err(error) = writer.run(&added_rx, &collection).await {
                    State::fail(&seen, format!("writing statuses: {error:#}"));
                }
            });
        }
        Ok(Self { pods, _writers: writers })
    }

    pub fn pods(&self) -> &Following {
        &self.pods
    }

    /// Does something for as long as nothing goes wrong here.
    ///
    /// # Errors
    /// It fails, or a status is refused.
    pub async fn beside<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            // Cancel-safe: what has gone wrong ends the whole run.
            done = work => done,
            reason = self.pods.broken() => bail!("{reason}"),
        }
    }
}

/// A client whose connection may be closed while it is idle.
struct Writer {
    servers: Servers,
    number: usize,
    open: Option<Connection>,
}

impl Writer {
    async fn run(&mut self, added_rx: &Mutex<mpsc::Receiver<Value>>, collection: &str) -> Result<()> {
        loop {
            let next = added_rx.lock().await.recv().await;
            let Some(pod) = next else { return Ok(()) };
            let (Some(name), Some(status)) = (pod["metadata"]["name"].as_str(), status(&pod)) else { continue };
            let (path, body) = (format!("{collection}/{name}/status"), status.to_string());
            let body = Some((STRATEGIC, body.as_bytes()));
            let (status, text) = self.send(&Request { method: "PATCH", body, ..Request::get(&path) }).await?;
            // Sets delete Pods at any time.
            ensure!(status == 200 || status == 404, "{path}: {status}: {text}");
        }
    }

    /// A status, and what a refusal says.
    async fn send(&mut self, request: &Request<'_>) -> Result<(u16, String)> {
        let mut answered = None;
        if let Some(mut open) = self.open.take() {
            answered = open.skim(request).await.ok().map(|answer| (open, answer));
        }
        let (open, answer) = match answered {
            Some(answered) => answered,
            None => {
                let mut open = self.servers.connect(self.number).await?;
                let answer = open.skim(request).await?;
                (open, answer)
            }
        };
        let text = String::from_utf8_lossy(open.body()).into_owned();
        self.open = Some(open);
        Ok((answer.status, text))
    }
}

/// What is to be written of a Pod: nothing, if it is on its way out or has a status.
fn status(pod: &Value) -> Option<Value> {
    let new = pod["status"]["phase"].as_str().is_none_or(|phase| phase == "Pending");
    if !new || !pod["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    let (phase, ready) = match pod["spec"]["restartPolicy"].as_str() {
        Some("Never") => ("Succeeded", "False"),
        _ => ("Running", "True"),
    };
    let conditions: Vec<Value> = [("Initialized", "True"), ("ContainersReady", ready), ("Ready", ready)]
        .map(|(name, status)| json!({ "type": name, "status": status }))
        .into();
    Some(json!({ "status": { "phase": phase, "conditions": conditions } }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_gets_the_status_that_it_would_have_on_a_node() {
        let pod = |policy: &str, phase: Value, deleted: Value| {
            json!({
                "metadata": { "deletionTimestamp": deleted },
                "spec": { "restartPolicy": policy },
                "status": { "phase": phase },
            })
        };
        let gone = json!("2026-01-01T00:00:00Z");
        let cases = [
            ("runs", pod("Always", json!("Pending"), Value::Null), Some(("Running", "True"))),
            ("without a phase", pod("Always", Value::Null, Value::Null), Some(("Running", "True"))),
            ("ends", pod("Never", json!("Pending"), Value::Null), Some(("Succeeded", "False"))),
            ("ran before", pod("Always", json!("Running"), Value::Null), None),
            ("ended before", pod("Never", json!("Succeeded"), Value::Null), None),
            ("goes away", pod("Always", json!("Pending"), gone), None),
        ];
        for (name, pod, expected) in cases {
            let status = status(&pod);
            let ready = |status: &Value| {
                let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
                conditions.into_iter().find(|one| one["type"] == "Ready").unwrap_or_default()["status"].clone()
            };
            let got = status.map(|status| (status["status"]["phase"].clone(), ready(&status["status"])));
            assert_eq!(got, expected.map(|(phase, ready)| (json!(phase), json!(ready))), "{name}");
        }
    }
}
