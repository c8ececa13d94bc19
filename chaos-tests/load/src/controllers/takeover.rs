//! The leader is killed: how long until controllers act again.
//!
//! Right after the kill one object of each kind is created, and its controller has to make what belongs to it. Time runs
//! from the kill and holds what it takes until a server takes the object, so that of ours is the store's election, too.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use kontiki_etcd_tests::{
    load::{
        figures::Column,
        latency::{quantile, tenths},
    },
    wait::until,
};
use serde_json::Value;
use tokio::time::timeout;

use super::objects;
use crate::{
    objects::{namespace, node},
    peer::Peer,
    wire::Connection,
};

const NAMESPACE: &str = "takeover";
/// A DaemonSet's.
const NODE: &str = "hollow";
/// Nothing healthy takes longer.
const LIMIT: Duration = Duration::from_secs(120);
/// Who waits for a server that is gone asks another.
const ANSWER: Duration = Duration::from_secs(2);

/// What is created, and what a controller makes of it.
struct Action {
    kind: &'static str,
    collection: &'static str,
    object: fn(&str) -> Value,
    /// An object, or a list that is empty until then.
    made: fn(&str) -> String,
}

const ACTIONS: &[Action] = &[
    Action {
        kind: "Pod of a ReplicaSet",
        collection: "/apis/apps/v1/namespaces/takeover/replicasets",
        object: objects::replica_set,
        made: pods,
    },
    Action {
        kind: "Pod of a StatefulSet",
        collection: "/apis/apps/v1/namespaces/takeover/statefulsets",
        object: objects::stateful_set,
        made: pods,
    },
    Action {
        kind: "Pod of a DaemonSet",
        collection: "/apis/apps/v1/namespaces/takeover/daemonsets",
        object: objects::daemon_set,
        made: pods,
    },
    Action {
        kind: "Pod of a Job",
        collection: "/apis/batch/v1/namespaces/takeover/jobs",
        object: |name| objects::job(name, 1),
        made: pods,
    },
    Action {
        kind: "EndpointSlice of a Service",
        collection: "/api/v1/namespaces/takeover/services",
        object: objects::service,
        made: |name| {
            let label = format!("kubernetes.io%2Fservice-name%3D{name}");
            format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices?labelSelector={label}")
        },
    },
    Action {
        kind: "ServiceAccount of a Namespace",
        collection: "/api/v1/namespaces",
        object: namespace,
        made: |name| format!("/api/v1/namespaces/{name}/serviceaccounts/default"),
    },
];

fn pods(name: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/pods?labelSelector={}%3D{name}", objects::APP)
}

impl Action {
    async fn act(&self, peer: &Peer, number: usize, name: &str) -> Result<()> {
        let mut asking = Asking { peer, server: number, connection: None };
        let object = (self.object)(name);
        until("an object is taken", LIMIT, async || {
            let (status, answer) = asking.ask("POST", self.collection, Some(&object)).await?;
            // The answer to the first attempt may be lost.
            ensure!(status == 201 || status == 409, "{answer}");
            anyhow::Ok(())
        })
        .await?;
        let path = (self.made)(name);
        until(self.kind, LIMIT, async || {
            let (status, answer) = asking.ask("GET", &path, None).await?;
            ensure!(made(status, &answer), "{status}: {answer}");
            anyhow::Ok(())
        })
        .await
    }
}

/// Whether an answer tells of an object, or of a list with something in it.
fn made(status: u16, answer: &Value) -> bool {
    status == 200 && answer["items"].as_array().is_none_or(|items| !items.is_empty())
}

/// A client that goes to the next server when one does not answer.
struct Asking<'a> {
    peer: &'a Peer,
    server: usize,
    connection: Option<Connection>,
}

impl Asking<'_> {
    async fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let answer = timeout(ANSWER, async {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => self.peer.connect(self.server).await?,
            };
            let answer = connection.json(method, path, body).await?;
            self.connection = Some(connection);
            anyhow::Ok(answer)
        });
        match answer.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                self.server += 1;
                Err(error)
            }
            Err(late) => {
                self.server += 1;
                Err(late.into())
            }
        }
    }
}

/// # Errors
/// Nobody takes over, or something else ends.
pub async fn measure(peer: &mut Peer, title: &str, kills: usize, column: &mut Column<'_>) -> Result<()> {
    peer.ensure("/api/v1/namespaces", &namespace(NAMESPACE)).await?;
    peer.ensure("/api/v1/nodes", &node(NODE)).await?;
    until("a namespace's service account", LIMIT, async || peer.account(NAMESPACE).await).await?;
    let mut latencies: Vec<Vec<u32>> = vec![Vec::new(); ACTIONS.len()];
    for kill in 0..kills {
        peer.calm().await?;
        let led = peer.leads().await?;
        let killed = peer.kill_controllers().await?;
        let shared: &Peer = peer;
        let acts = ACTIONS.iter().enumerate().map(async |(number, action)| {
            action.act(shared, number, &format!("t{kill}-{number}")).await?;
            anyhow::Ok(killed.at.elapsed())
        });
        let times = try_join_all(acts).await?;
        for (all, time) in latencies.iter_mut().zip(times) {
            all.push(tenths(time));
        }
        peer.mend(&killed).await?;
        let leads = peer.leads().await?;
        ensure!(leads != led, "{leads} leads as before: another was killed");
    }
    let whole = latencies.concat();
    let kinds = ACTIONS.iter().map(|action| action.kind).zip(latencies);
    for (kind, mut times) in kinds.chain([("all kinds", whole)]) {
        times.sort_unstable();
        let title = format!("{title}, {kind}");
        column.add(&title, "made after p50 s", quantile(&times, 0.5) / 1e3);
        column.add(&title, "made after p99 s", quantile(&times, 0.99) / 1e3);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_controller_has_made_is_an_object_or_in_a_list() {
        for (status, answer, expected) in [
            (200, json!({ "kind": "ServiceAccount" }), true),
            (200, json!({ "items": [{}] }), true),
            (200, json!({ "items": [] }), false),
            (404, json!({ "kind": "Status" }), false),
        ] {
            assert_eq!(made(status, &answer), expected, "{status} {answer}");
        }
    }

    #[test]
    fn every_action_creates_an_object_of_its_name() {
        for action in ACTIONS {
            assert_eq!((action.object)("t1")["metadata"]["name"], "t1", "{}", action.kind);
            assert!((action.made)("t1").contains("t1"), "{}", action.kind);
        }
    }
}
