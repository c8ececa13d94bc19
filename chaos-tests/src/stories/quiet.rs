//! A cluster at rest writes nothing but Leases, whatever lies in it.
//!
//! One of each odd object is left behind: deleted and held by finalizers, without owners, bound to nodes that never
//! were, in namespaces on their way out, never to be scheduled or started. Once all of them have come to where they
//! will stay, a minute is watched: the revision may move for Leases only.
//!
//! What changed is read from the history: after the minute every kind is watched from the revision at its beginning.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    Api, Client, Discovery,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, WatchEvent, WatchParams},
    core::discovery::verbs,
};
use serde_json::{Value, json};

use super::IMAGE;
use crate::{cluster::Cluster, wait};

/// The finalizer that nobody removes until the end.
const KEEP: &str = "example.com/keep";
/// How long nothing may change.
const MINUTE: Duration = Duration::from_secs(60);
/// Image pulls and deadlines take their time to fail often enough.
const SETTLE: Duration = Duration::from_secs(300);
/// How long the history of a kind is waited for, and of how many kinds at a time.
const HISTORY_SECONDS: u32 = 5;
const HISTORIES: usize = 8;
const NAMESPACES: [&str; 4] = ["odd", "odd-dying", "odd-spec", "odd-meta"];

/// Objects in the namespace `odd`, which stays. `IMAGE` is one that every node has, `NONE` is one that no registry has.
const ODD: &str = r#"---
{apiVersion: v1, kind: Pod, metadata: {name: unscheduled, finalizers: [KEEP]}, spec: {nodeSelector: {no: where}, containers: [{name: c, image: IMAGE}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: scheduled, finalizers: [KEEP]}, spec: {terminationGracePeriodSeconds: 1, containers: [SLEEPER]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: lost, finalizers: [KEEP]}, spec: {nodeName: never-was, containers: [{name: c, image: IMAGE}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: lost-and-free}, spec: {nodeName: never-was, containers: [{name: c, image: IMAGE}]}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: held, finalizers: [KEEP]}, spec: {selector: {matchLabels: {app: held}}, template: {metadata: {labels: {app: held}}, spec: {containers: [SLEEPER]}}}}
---
{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: held-set, finalizers: [KEEP]}, spec: {selector: {matchLabels: {app: held-set}}, template: {metadata: {labels: {app: held-set}}, spec: {containers: [SLEEPER]}}}}
---
{apiVersion: v1, kind: Service, metadata: {name: held, finalizers: [KEEP]}, spec: {selector: {app: held}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: held, finalizers: [KEEP]}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: orphan, finalizers: [KEEP], ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: gone, uid: 11111111-1111-1111-1111-111111111111}]}}
---
{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: front}, spec: {selector: {matchLabels: {app: front}}, template: {metadata: {labels: {app: front}, finalizers: [KEEP]}, spec: {terminationGracePeriodSeconds: 1, containers: [SLEEPER]}}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: too-big}, spec: {containers: [{name: c, image: IMAGE, resources: {requests: {cpu: '1000'}}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: no-image}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: NONE}]}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: stuck}, spec: {progressDeadlineSeconds: 5, selector: {matchLabels: {app: stuck}}, template: {metadata: {labels: {app: stuck}}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: NONE}]}}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: refused}, spec: {progressDeadlineSeconds: 5, selector: {matchLabels: {app: refused}}, template: {metadata: {labels: {app: refused}}, spec: {serviceAccountName: nobody, containers: [SLEEPER]}}}}
---
{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: twin-a}, spec: {selector: {matchLabels: {app: twin}}, template: {metadata: {labels: {app: twin}}, spec: {terminationGracePeriodSeconds: 1, containers: [SLEEPER]}}}}
---
{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: twin-b}, spec: {selector: {matchLabels: {app: twin}}, template: {metadata: {labels: {app: twin}}, spec: {terminationGracePeriodSeconds: 1, containers: [SLEEPER]}}}}
---
{apiVersion: v1, kind: Service, metadata: {name: bare}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Endpoints, metadata: {name: bare}, subsets: [{addresses: [{ip: 192.0.2.1}], ports: [{port: 80}]}]}
"#;

/// Objects in a namespace that is deleted and cannot go: a pod of each sort is held, so all the rest waits.
const DYING: &str = r#"---
{apiVersion: v1, kind: Pod, metadata: {name: unscheduled, finalizers: [KEEP]}, spec: {nodeSelector: {no: where}, containers: [{name: c, image: IMAGE}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: lost, finalizers: [KEEP]}, spec: {nodeName: never-was, containers: [{name: c, image: IMAGE}]}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 2, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}, finalizers: [KEEP]}, spec: {terminationGracePeriodSeconds: 1, containers: [SLEEPER]}}}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: held, finalizers: [KEEP]}}
"#;

/// What each odd object has to have come to: kind and name, a JSON path, and what has to stand there.
const FATES: [(&str, &str, &str, &str); 24] = [
    ("odd", "pod/unscheduled", ".metadata.deletionGracePeriodSeconds", "0"),
    ("odd", "pod/scheduled", ".metadata.deletionGracePeriodSeconds", "0"),
    ("odd", "pod/lost", ".metadata.deletionGracePeriodSeconds", "0"),
    ("odd", "pod/lost", ".status.conditions[?(@.type==\"DisruptionTarget\")].reason", "DeletionByPodGC"),
    ("odd", "pod/lost-and-free", ".metadata.name", ""),
    ("odd", "deployment/held", ".metadata.deletionGracePeriodSeconds", "0"),
    ("odd", "replicaset/held-set", ".metadata.deletionGracePeriodSeconds", "0"),
    ("odd", "replicaset/held-set", ".status.readyReplicas", "1"),
    ("odd", "service/held", ".metadata.deletionGracePeriodSeconds", "0"),
    ("odd", "configmap/held", ".metadata.deletionGracePeriodSeconds", "0"),
    ("odd", "configmap/orphan", ".metadata.deletionGracePeriodSeconds", "0"),
    ("odd", "replicaset/front", ".metadata.finalizers[0]", "foregroundDeletion"),
    ("odd", "pod -l app=front", ".items[0].metadata.deletionGracePeriodSeconds", "0"),
    ("odd", "pod/too-big", ".status.conditions[0].reason", "Unschedulable"),
    ("odd", "pod/no-image", ".status.containerStatuses[0].state.waiting.reason", "ImagePullBackOff"),
    ("odd", "deployment/stuck", ".status.conditions[?(@.type==\"Progressing\")].reason", "ProgressDeadlineExceeded"),
    ("odd", "deployment/refused", ".status.conditions[?(@.type==\"Progressing\")].reason", "ProgressDeadlineExceeded"),
    ("odd", "deployment/refused", ".status.conditions[?(@.type==\"ReplicaFailure\")].reason", "FailedCreate"),
    ("odd", "replicaset/twin-a", ".status.readyReplicas", "1"),
    ("odd", "replicaset/twin-b", ".status.readyReplicas", "1"),
    ("odd-dying", "pod -l app=web", ".items[*].metadata.deletionGracePeriodSeconds", "0 0"),
    ("odd-dying", "pod/lost", ".status.conditions[?(@.type==\"DisruptionTarget\")].reason", "DeletionByPodGC"),
    ("odd-dying", "deployment/web", ".status.replicas", ""),
    ("odd-dying", "endpoints", ".items[*].metadata.name", ""),
];

pub async fn odd_objects_leave_the_cluster_at_rest(c: &Cluster) -> Result<()> {
    leave_odd_objects(c).await?;
    come_to_rest(c).await?;
    let outcome = a_quiet_minute(&c.client().await?).await;
    clean_up(c).await?;
    outcome
}

/// What fails on and on is told of anew after five minutes, by design: such a minute is followed by another.
async fn a_quiet_minute(client: &Client) -> Result<()> {
    let mut minute = watch_a_minute(client).await?;
    if minute.only_told() {
        println!("      {}, of Events only; once more", minute.summary());
        minute = watch_a_minute(client).await?;
    }
    println!("      {}", minute.summary());
    ensure!(minute.quiet(), "not at rest:\n{}", minute.details());
    Ok(())
}

fn manifests(text: &str, c: &Cluster) -> String {
    let none = format!("{}/none/none:1", c.mirror().0);
    text.replace("SLEEPER", "{name: c, image: IMAGE, command: [/bin/busybox, sleep, '3600']}")
        .replace("IMAGE", IMAGE)
        .replace("NONE", &none)
        .replace("KEEP", KEEP)
}

async fn leave_odd_objects(c: &Cluster) -> Result<()> {
    let namespace = |name: &str, metadata: Value, spec: Value| {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "finalizers": metadata},
               "spec": {"finalizers": spec}})
        .to_string()
    };
    for (name, metadata, spec) in [
        ("odd", json!([]), json!([])),
        ("odd-dying", json!([]), json!([])),
        ("odd-spec", json!([]), json!([KEEP])),
        ("odd-meta", json!([KEEP]), json!([])),
    ] {
        c.kubectl_in("create -f -", Some(&namespace(name, metadata, spec))).await?;
    }
    for space in ["odd", "odd-dying"] {
        wait::until("the account of a new namespace", wait::PATIENCE, async || {
            c.kubectl(&format!("-n {space} get serviceaccount default")).await
        })
        .await?;
    }
    c.kubectl_in("-n odd create -f -", Some(&manifests(ODD, c))).await?;
    c.kubectl_in("-n odd-dying create -f -", Some(&manifests(DYING, c))).await?;
    c.kubectl("-n odd wait --for=condition=Ready pod/scheduled --timeout=180s").await?;
    c.kubectl("-n odd wait --for=condition=Ready pod -l app=front --timeout=180s").await?;
    c.kubectl("-n odd-dying rollout status deployment/web --timeout=180s").await?;
    let going = "pod/unscheduled pod/scheduled deployment/held replicaset/held-set service/held configmap/held";
    c.kubectl(&format!("-n odd delete --wait=false {going}")).await?;
    c.kubectl("-n odd delete --wait=false --cascade=foreground replicaset/front").await?;
    c.kubectl("delete --wait=false namespace odd-dying odd-spec odd-meta").await?;
    // Whoever looks after them would like to make them anew.
    c.kubectl("-n odd-dying delete endpoints/web").await?;
    c.kubectl("-n odd-dying delete endpointslices -l kubernetes.io/service-name=web").await.map(drop)
}

async fn come_to_rest(c: &Cluster) -> Result<()> {
    for (space, what, path, expect) in FATES {
        wait::until(&format!("{what} in {space} comes to rest"), SETTLE, async || {
            let args = ["-n", space, "get", "--ignore-not-found", "-o"];
            let output = format!("jsonpath={{{path}}}");
            let mut all: Vec<&str> = args.to_vec();
            all.push(&output);
            all.extend(what.split(' '));
            let found = c.try_kubectl(&all, None).await?;
            ensure!(found.ok && found.out == expect, "{path} is {:?}, not {expect:?} {}", found.out, found.err);
            Ok(())
        })
        .await?;
    }
    // What is tried again is told at once a few times, and then rarely.
    wait::until("the pulls have failed often enough to be told of rarely", SETTLE, async || {
        let list = c.kubectl("-n odd get events --field-selector reason=BackOff -o json").await?;
        let list: Value = serde_json::from_str(&list)?;
        let counts: Vec<u64> =
            list["items"].as_array().into_iter().flatten().filter_map(|event| event["count"].as_u64()).collect();
        ensure!(counts.len() == 2 && counts.iter().all(|count| *count >= 3), "{counts:?}");
        Ok(())
    })
    .await
}

/// What was written in a minute.
#[derive(Default)]
struct Minute {
    /// Revisions that passed.
    revisions: u64,
    /// Those of Leases alone.
    leases: BTreeSet<u64>,
    /// Those of everything else.
    others: BTreeSet<u64>,
    /// What changed, and how often; with the fields that the last change was about.
    changes: BTreeMap<String, (u32, BTreeSet<String>)>,
}

async fn watch_a_minute(client: &Client) -> Result<Minute> {
    let from = revision(client).await?;
    tokio::time::sleep(MINUTE).await; // the assertion itself: for so long nothing may happen
    let to = revision(client).await?;
    let mut minute = Minute { revisions: to - from, ..Minute::default() };
    let mut histories = stream::iter(everything(client).await?)
        .map(|resource| {
            let client = client.clone();
            async move { read_history(client, &resource, from, to).await.with_context(|| resource.plural.clone()) }
        })
        .buffer_unordered(HISTORIES);
    while let Some(history) = histories.try_next().await? {
        minute.add(history);
    }
    Ok(minute)
}

/// The revision of the store, as a list shows it.
async fn revision(client: &Client) -> Result<u64> {
    let maps: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(client.clone(), "default");
    let version = maps.list_metadata(&ListParams::default().limit(1)).await?.metadata.resource_version;
    Ok(version.context("a list has a version")?.parse()?)
}

/// Every kind that is stored. The newer API of events shows the same objects once more.
async fn everything(client: &Client) -> Result<Vec<ApiResource>> {
    let discovery = Discovery::new(client.clone()).run().await?;
    let groups = discovery.groups().filter(|group| group.name() != "events.k8s.io");
    let all = groups.flat_map(|group| group.recommended_resources());
    Ok(all.filter(|(_, can)| can.supports_operation(verbs::WATCH)).map(|(resource, _)| resource).collect())
}

async fn read_history(client: Client, resource: &ApiResource, from: u64, to: u64) -> Result<Minute> {
    let api: Api<DynamicObject> = Api::all_with(client, resource);
    let mut minute = Minute::default();
    let mut last: BTreeMap<String, Value> = BTreeMap::new();
    let before =
        api.list(&ListParams::default().at(&from.to_string()).matching(kube::api::VersionMatch::Exact)).await?;
    for object in before.items {
        last.insert(key(resource, &object), serde_json::to_value(&object)?);
    }
    let mut events =
        std::pin::pin!(api.watch(&WatchParams::default().timeout(HISTORY_SECONDS), &from.to_string()).await?);
    while let Some(event) = events.try_next().await? {
        let (object, gone) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
            WatchEvent::Deleted(object) => (object, true),
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(error) => return Err(anyhow!("{error:?}")),
        };
        let version: u64 = object.metadata.resource_version.as_deref().unwrap_or_default().parse()?;
        if version > to {
            continue;
        }
        // Events are forgotten after an hour, once each: not a write that anybody asks for again.
        if resource.kind == "Lease" || (resource.kind == "Event" && gone) {
            minute.leases.insert(version);
            continue;
        }
        minute.others.insert(version);
        let (key, value) = (key(resource, &object), serde_json::to_value(&object)?);
        let (times, fields) = minute.changes.entry(key.clone()).or_default();
        *times += 1;
        fields.extend(differences(last.get(&key).unwrap_or(&Value::Null), &value));
        last.insert(key, value);
    }
    Ok(minute)
}

fn key(resource: &ApiResource, object: &DynamicObject) -> String {
    let meta = &object.metadata;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{} {}/{}", resource.kind, text(&meta.namespace), text(&meta.name))
}

/// The paths of what differs, versions apart.
fn differences(old: &Value, new: &Value) -> Vec<String> {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return if old == new { Vec::new() } else { vec![String::new()] };
    };
    let names: BTreeSet<&String> =
        before.keys().chain(after.keys()).filter(|name| *name != "resourceVersion").collect();
    let below = |name: &String| {
        let pair = [before, after].map(|side| side.get(name).unwrap_or(&Value::Null));
        differences(pair[0], pair[1]).into_iter().map(|path| format!(".{name}{path}")).collect::<Vec<_>>()
    };
    names.into_iter().flat_map(below).collect()
}

impl Minute {
    /// Revisions that no watch showed.
    fn hidden(&self) -> u64 {
        self.revisions - self.leases.union(&self.others).count() as u64
    }

    /// Takes what was seen of a kind; no two kinds share an object.
    fn add(&mut self, other: Self) {
        self.leases.extend(other.leases);
        self.others.extend(other.others);
        self.changes.extend(other.changes);
    }

    /// Whether it would be quiet without what was told in Events.
    fn only_told(&self) -> bool {
        !self.quiet() && self.hidden() == 0 && self.changes.keys().all(|key| key.starts_with("Event "))
    }

    fn quiet(&self) -> bool {
        self.others.is_empty() && self.hidden() == 0
    }

    fn summary(&self) -> String {
        let other = self.others.len() as u64 + self.hidden();
        format!("{} revisions in a minute for Leases, {other} for anything else", self.leases.len())
    }

    fn details(&self) -> String {
        let mut out = String::new();
        for (key, (times, fields)) in &self.changes {
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            let _ = writeln!(out, "{times:6} x {key} {}", fields.join(" "));
        }
        let _ = write!(out, "{:6} x what no kind shows", self.hidden());
        out
    }
}

/// Lets everything go.
async fn clean_up(c: &Cluster) -> Result<()> {
    let client = c.client().await?;
    let resources = everything(&client).await?;
    c.kubectl("delete --wait=false --ignore-not-found namespace odd").await?;
    wait::until("the odd namespaces go", SETTLE, async || {
        for resource in &resources {
            release(&client, resource).await?;
        }
        let spec = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "odd-spec"}, "spec": {"finalizers": []}});
        let path = "replace --raw /api/v1/namespaces/odd-spec/finalize -f -";
        c.try_kubectl(&path.split(' ').collect::<Vec<_>>(), Some(&spec.to_string())).await?; // until it is gone
        let left = c.kubectl(&format!("get namespace --ignore-not-found -o name {}", NAMESPACES.join(" "))).await?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
    .await
}

/// Takes the finalizer off all objects of a kind.
async fn release(client: &Client, resource: &ApiResource) -> Result<()> {
    for object in Api::<DynamicObject>::all_with(client.clone(), resource).list(&ListParams::default()).await? {
        let meta = &object.metadata;
        if !meta.finalizers.iter().flatten().any(|finalizer| finalizer == KEEP) {
            continue;
        }
        let api: Api<DynamicObject> = match meta.namespace.as_deref() {
            Some(space) => Api::namespaced_with(client.clone(), space, resource),
            None => Api::all_with(client.clone(), resource),
        };
        let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        let name = meta.name.as_deref().unwrap_or_default();
        match api.patch(name, &PatchParams::default(), &none).await {
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
            outcome => drop(outcome?),
        }
    }
    Ok(())
}
