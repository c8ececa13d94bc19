//! The objects that every cluster has: its namespaces, and the `kubernetes` Service with the addresses
//! of the servers.
//!
//! Invariants
//! - Missing ones are made and the endpoints follow the members; what people changed elsewhere in
//!   these objects stays.
//! - A server that does not answer is left out of the endpoints as long as another one does.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use kontiki_api::{Client, Status as ApiStatus, Target, leader::LeaderContext};
use kontiki_model::{GroupResource, ObjectKey, key};
use kontiki_store::{Snapshot, Status, Store, Txn};
use serde_json::{Value, json};
use tracing::warn;

use crate::servers::{self, Record};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
const SERVICE: &str = "kubernetes";
/// How often the members are compared with the endpoints.
const EVERY: Duration = Duration::from_secs(2);
/// Pause after a failed attempt.
const RETRY: Duration = Duration::from_millis(500);

const fn core(resource: &'static str) -> GroupResource<'static> {
    GroupResource { group: "", resource }
}
const SLICES: GroupResource<'static> = GroupResource { group: "discovery.k8s.io", resource: "endpointslices" };

/// Where the namespaces lie in the store.
#[must_use]
pub fn prefix() -> String {
    key::prefix(core("namespaces"), None)
}

/// Whether the namespaces are there, as far as this member knows.
#[must_use]
pub fn complete(snapshot: &Snapshot) -> bool {
    NAMESPACES.iter().all(|name| snapshot.get(&ObjectKey::new(core("namespaces"), None, name).encode()).is_some())
}

/// What the objects are made from.
pub struct Basics {
    /// The first address of the service range.
    pub service_ip: IpAddr,
}

impl Basics {
    /// Keeps the objects as they should be while the term lasts.
    pub async fn run(self: Arc<Self>, context: LeaderContext, store: Store) {
        let mut made = false;
        loop {
            let mut wait = EVERY;
            let turn = async {
                if !made {
                    self.make(&context.client).await?;
                    made = true;
                }
                self.follow_members(&context.client, &store).await
            };
            if let Err(status) = turn.await {
                warn!(reason = status.message, "the cluster's own objects are not complete yet");
                wait = RETRY;
            }
            tokio::select! {
                () = context.stop.cancelled() => return,
                // A dropped timer loses nothing: each turn looks at everything.
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn make(&self, client: &Client) -> Result<(), ApiStatus> {
        for name in NAMESPACES {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            ensure(client, core("namespaces"), None, name, namespace).await?;
        }
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": SERVICE, "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {
                "type": "ClusterIP", "clusterIP": self.service_ip.to_string(), "sessionAffinity": "None",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
            },
        });
        ensure(client, core("services"), Some("default"), SERVICE, service).await
    }

    async fn follow_members(&self, client: &Client, store: &Store) -> Result<(), ApiStatus> {
        let status = store.status().borrow().clone();
        let records = servers::list(&store.snapshot());
        for gone in records.iter().filter(|record| !status.members.iter().any(|m| m.id == record.id)) {
            // Again next time if it fails.
            let _ = store.txn(Txn::write(vec![servers::removal(&gone.name)]).fenced(Some(status.term))).await;
        }
        let addresses = api_addresses(&status, &records);
        let Some(port) = addresses.first().map(SocketAddr::port) else { return Ok(()) };
        let ips: BTreeSet<String> = addresses.iter().map(|a| a.ip().to_string()).collect();
        let ipv6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
        let listed: Vec<Value> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
        let endpoints = json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": SERVICE, "namespace": "default",
                         "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{"addresses": listed, "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
        });
        replace(client, core("endpoints"), endpoints, &["subsets"]).await?;
        let listed: Vec<Value> =
            ips.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": SERVICE, "namespace": "default", "labels": {"kubernetes.io/service-name": SERVICE}},
            "addressType": if ipv6 { "IPv6" } else { "IPv4" },
            "endpoints": listed, "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        });
        replace(client, SLICES, slice, &["endpoints", "ports"]).await
    }
}

/// Where clients reach the API: every reachable member, or every member if none is.
fn api_addresses(status: &Status, records: &[Record]) -> Vec<SocketAddr> {
    let of = |reachable: bool| -> Vec<SocketAddr> {
        let members = status.members.iter().filter(|m| !reachable || m.reachable || m.id == status.id);
        let parsed = members.filter_map(|m| records.iter().find(|r| r.id == m.id)?.api.parse::<SocketAddr>().ok());
        // A server tried out on the loopback interface is not to be reached by others; the API refuses it.
        parsed.filter(|address| !address.ip().is_loopback()).collect()
    };
    let answering = of(true);
    if answering.is_empty() { of(false) } else { answering }
}

async fn ensure(
    client: &Client,
    resource: GroupResource<'_>,
    namespace: Option<&str>,
    name: &str,
    object: Value,
) -> Result<(), ApiStatus> {
    match client.get(Target { resource, namespace, name, subresource: None }).await {
        Err(status) if status.is_not_found() => {}
        read => return read.map(drop),
    }
    match client.create(resource, namespace, object).await {
        Err(status) if status.is_already_exists() => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Creates `object` in "default", or sets its `fields` and missing labels there.
async fn replace(
    client: &Client,
    resource: GroupResource<'_>,
    object: Value,
    fields: &[&str],
) -> Result<(), ApiStatus> {
    let namespace = Some("default");
    let mut stored = match client.get(Target { resource, namespace, name: SERVICE, subresource: None }).await {
        Ok(stored) => stored,
        Err(status) if status.is_not_found() => return client.create(resource, namespace, object).await.map(drop),
        Err(status) => return Err(status),
    };
    if fields.iter().all(|field| same(&object[*field], &stored[*field])) {
        return Ok(());
    }
    for field in fields {
        stored[*field] = object[*field].clone();
    }
    client.update(Target { resource, namespace, name: SERVICE, subresource: None }, stored).await.map(drop)
}

/// Whether `stored` says what `wanted` does; defaults that the API added do not count.
fn same(wanted: &Value, stored: &Value) -> bool {
    match (wanted, stored) {
        (Value::Object(wanted), Value::Object(stored)) => {
            wanted.iter().all(|(k, v)| stored.get(k).is_some_and(|s| same(v, s)))
        }
        (Value::Array(wanted), Value::Array(stored)) => {
            wanted.len() == stored.len() && wanted.iter().zip(stored).all(|(w, s)| same(w, s))
        }
        (wanted, stored) => wanted == stored,
    }
}

#[cfg(test)]
mod tests {
    use kontiki_store::{Member, Role, Term};

    use super::*;

    #[test]
    fn endpoints_are_the_members_that_answer() {
        let record = |id: u64| Record {
            name: format!("s{id}"),
            id,
            api: format!("10.0.0.{id}:6443"),
            node: String::new(),
            version: String::new(),
        };
        let member = |id: u64, reachable| Member {
            id,
            name: format!("s{id}"),
            address: String::new(),
            client_urls: Vec::new(),
            role: Role::Follower,
            reachable,
            matched: None,
            lag: None,
            term: Term(1),
        };
        let status = |members: Vec<Member>| Status {
            id: 1,
            name: "s1".into(),
            leader: Some(1),
            term: Term(1),
            is_leader: true,
            last_quorum_ack: None,
            applied: 0,
            last_log: 0,
            members,
        };
        let records = [record(1), record(2), record(9)];
        for (name, members, expect) in [
            ("all answer", vec![member(1, true), member(2, true)], "10.0.0.1 10.0.0.2"),
            ("one is silent", vec![member(1, true), member(2, false)], "10.0.0.1"),
            ("the leader counts itself", vec![member(1, false), member(2, false)], "10.0.0.1"),
            ("no record yet", vec![member(1, true), member(3, true)], "10.0.0.1"),
        ] {
            let got: Vec<String> =
                api_addresses(&status(members), &records).iter().map(|a| a.ip().to_string()).collect();
            assert_eq!(got.join(" "), expect, "{name}");
        }
    }

    #[test]
    fn added_defaults_do_not_count_as_a_difference() {
        for (wanted, stored, expect) in [
            (json!([{"port": 1}]), json!([{"port": 1, "protocol": "TCP"}]), true),
            (json!([{"port": 1}]), json!([{"port": 2}]), false),
            (json!([{"port": 1}]), json!([{"port": 1}, {"port": 2}]), false),
            (json!([{"port": 1}]), Value::Null, false),
        ] {
            assert_eq!(same(&wanted, &stored), expect, "{wanted} {stored}");
        }
    }
}
