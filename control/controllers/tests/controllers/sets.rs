//! A life of each set that keeps its pods apart: StatefulSets by name, DaemonSets by node. Against real controllers,
//! scheduler, API and store; each ends in silence.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::{BROKEN, Master, image, resource};
use k8s_openapi::api::apps::v1::ControllerRevision;
use kontiki_api::{DeleteOptions, PatchKind, Target};
use kontiki_plan::object::{label, name, uid};
use kontiki_plan::pod;
use serde_json::{Value, json};

/// Where a pod is before it is somewhere.
const UNBOUND: &str = "nowhere";
/// A controller that asks again and again does so many times in this long.
const SILENCE: Duration = Duration::from_secs(3);

fn at<'a>(plural: &'static str, name: &'a str, subresource: Option<&'static str>) -> Target<'a> {
    let (group, namespace) = match plural {
        "pods" => ("", Some("default")),
        "nodes" => ("", None),
        _ => ("apps", Some("default")),
    };
    Target { resource: resource(group, plural), namespace, name, subresource }
}

async fn create(master: &Master, plural: &'static str, kind: &str, more: Value) {
    let mut object = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}},
    }});
    for (key, value) in more.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    master.create("apps", plural, Some("default"), object).await;
}

async fn merge(master: &Master, target: Target<'_>, body: Value) {
    master.client.patch(target, PatchKind::Merge, body).await.unwrap();
}

fn template(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

/// The pods by `key`, each with image and uid.
fn pods(master: &Master, key: fn(&k8s_openapi::api::core::v1::Pod) -> &str) -> BTreeMap<String, (String, String)> {
    let all = master.pods();
    let one = |pod: &std::sync::Arc<_>| (key(pod).to_owned(), (image(pod).to_owned(), uid(&pod.metadata).to_owned()));
    all.iter().map(one).collect()
}

/// Waits until the pods are those of `expect`, by key and image, all ready, and `done` says that the set is content.
async fn until(
    master: &Master,
    what: &str,
    plural: &'static str,
    key: fn(&k8s_openapi::api::core::v1::Pod) -> &str,
    expect: &[(&str, &str)],
) -> Value {
    let expect: BTreeMap<String, String> =
        expect.iter().map(|(key, image)| ((*key).to_owned(), (*image).to_owned())).collect();
    master
        .until(what, || async {
            let set = master.client.get(at(plural, "web", None)).await.map_err(|status| status.message)?;
            let found = pods(master, key).into_iter().map(|(key, (image, _))| (key, image)).collect::<BTreeMap<_, _>>();
            let ready = master.pods().iter().filter(|pod| pod::active(pod) && pod::ready(pod)).count();
            let seen = set["status"]["observedGeneration"] == set["metadata"]["generation"];
            if found == expect && ready == expect.len() && seen && settled(&set, expect.len()) {
                Ok(set)
            } else {
                Err(format!("{found:?}, {ready} ready, {}", set["status"]))
            }
        })
        .await
}

fn settled(set: &Value, want: usize) -> bool {
    let status = &set["status"];
    let count = |field: &str| status[field].as_u64().unwrap_or(0);
    let want = want as u64;
    let fields: &[&str] = if set["kind"] == "DaemonSet" {
        &["desiredNumberScheduled", "currentNumberScheduled", "updatedNumberScheduled", "numberAvailable"]
    } else {
        &["replicas", "availableReplicas", "updatedReplicas"]
    };
    fields.iter().all(|field| count(field) == want) && status["currentRevision"] == status["updateRevision"]
}

fn revisions(master: &Master) -> Vec<(i64, String)> {
    let all = master.api.cache().get::<ControllerRevision>().by_namespace("default");
    let mut found: Vec<_> = all.iter().map(|r| (r.revision.unwrap_or(0), name(&r.metadata).to_owned())).collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_keeps_names_through_everything() {
    let master = Master::start(&["n1", "n2"]).await;
    let by_name: fn(&k8s_openapi::api::core::v1::Pod) -> &str = |pod| name(&pod.metadata);
    let sets = "statefulsets";
    create(&master, sets, "StatefulSet", json!({"replicas": 3, "serviceName": "web"})).await;
    let one =
        until(&master, "three pods", sets, by_name, &[("web-0", "one"), ("web-1", "one"), ("web-2", "one")]).await;
    let first = one["status"]["currentRevision"].as_str().unwrap().to_owned();
    for found in master.pods() {
        let meta = &found.metadata;
        let index = name(meta).trim_start_matches("web-");
        assert_eq!(label(meta, "apps.kubernetes.io/pod-index"), Some(index));
        assert_eq!(label(meta, "statefulset.kubernetes.io/pod-name"), Some(name(meta)));
        assert_eq!(label(meta, "controller-revision-hash"), Some(first.as_str()));
        let spec = found.spec.as_ref().unwrap();
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some(name(meta)), Some("web")));
    }

    merge(&master, at(sets, "web", Some("scale")), json!({"spec": {"replicas": 2}})).await;
    until(&master, "two pods", sets, by_name, &[("web-0", "one"), ("web-1", "one")]).await;

    let canary = json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 1}}}});
    merge(&master, at(sets, "web", None), canary).await;
    merge(&master, at(sets, "web", None), template("two")).await;
    master
        .until("the canary", || async {
            let found = pods(&master, by_name);
            let images: Vec<&str> = found.values().map(|(image, _)| image.as_str()).collect();
            let ready = master.pods().iter().filter(|pod| pod::ready(pod)).count();
            if images == ["one", "two"] && ready == 2 { Ok(()) } else { Err(format!("{images:?}, {ready} ready")) }
        })
        .await;
    // What is lost below the partition comes back as it was.
    let lost = pods(&master, by_name)["web-0"].clone();
    master.client.delete(at("pods", "web-0", None), DeleteOptions::default()).await.unwrap();
    master
        .until("the lost pod", || async {
            match pods(&master, by_name).get("web-0") {
                Some((image, uid)) if image == "one" && *uid != lost.1 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    merge(&master, at(sets, "web", None), json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}}))
        .await;
    until(&master, "the update", sets, by_name, &[("web-0", "two"), ("web-1", "two")]).await;

    merge(&master, at(sets, "web", None), template("one")).await;
    let back = until(&master, "the rollback", sets, by_name, &[("web-0", "one"), ("web-1", "one")]).await;
    assert_eq!(back["status"]["currentRevision"], json!(first), "an equal revision is recognised");
    let known = revisions(&master);
    assert_eq!((known.len(), &known[1]), (2, &(3, first)), "{known:?}");

    let failed = pods(&master, by_name)["web-0"].clone();
    merge(&master, at("pods", "web-0", Some("status")), json!({"status": {"phase": "Failed"}})).await;
    master
        .until("the failed pod to be replaced", || async {
            match pods(&master, by_name).get("web-0") {
                Some((_, uid)) if *uid != failed.1 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    until(&master, "two pods again", sets, by_name, &[("web-0", "one"), ("web-1", "one")]).await;
    master.still(SILENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_set_keeps_a_pod_on_each_node_that_fits() {
    let master = Master::start(&["n1", "n2"]).await;
    let by_node: fn(&k8s_openapi::api::core::v1::Pod) -> &str = |found| pod::node(found).unwrap_or(UNBOUND);
    let sets = "daemonsets";
    // The scheduler binds each pod to the node that its affinity names.
    create(&master, sets, "DaemonSet", json!({})).await;
    until(&master, "a pod on each node", sets, by_node, &[("n1", "one"), ("n2", "one")]).await;
    let hash = |found: &k8s_openapi::api::core::v1::Pod| {
        label(&found.metadata, "controller-revision-hash").unwrap().to_owned()
    };
    let first = hash(&master.pods()[0]);

    merge(&master, at(sets, "web", None), template("two")).await;
    until(&master, "the update", sets, by_node, &[("n1", "two"), ("n2", "two")]).await;

    let before = pods(&master, by_node);
    merge(&master, at(sets, "web", None), template(BROKEN)).await;
    let broken = master
        .until("one broken pod", || async {
            let found = pods(&master, by_node);
            let broken: Vec<String> =
                found.iter().filter(|(_, (image, _))| image == BROKEN).map(|(node, _)| node.clone()).collect();
            match broken.as_slice() {
                [node] if node != UNBOUND => Ok(node.clone()),
                _ => Err(format!("{found:?}")),
            }
        })
        .await;
    merge(&master, at(sets, "web", None), template("two")).await;
    until(&master, "the rollback", sets, by_node, &[("n1", "two"), ("n2", "two")]).await;
    let after = pods(&master, by_node);
    for (node, pod) in &before {
        assert_eq!(after[node] == *pod, *node != broken, "only the broken pod was replaced: {node}");
    }
    merge(&master, at(sets, "web", None), template("one")).await;
    until(&master, "the first template again", sets, by_node, &[("n1", "one"), ("n2", "one")]).await;
    assert!(master.pods().iter().all(|pod| hash(pod) == first), "an equal revision is recognised");
    let known = revisions(&master);
    assert_eq!(known.last().map(|(number, _)| *number), Some(5), "{known:?}");

    let failed = pods(&master, by_node)["n1"].clone();
    let failing = master.pods().into_iter().find(|pod| uid(&pod.metadata) == failed.1).unwrap();
    let phase = json!({"status": {"phase": "Failed"}});
    merge(&master, at("pods", name(&failing.metadata), Some("status")), phase).await;
    master
        .until("the failed pod to be replaced", || async {
            match pods(&master, by_node).get("n1") {
                Some((_, uid)) if *uid != failed.1 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;

    let chosen = json!({"spec": {"template": {"spec": {"nodeSelector": {"chosen": "yes"}}}}});
    merge(&master, at(sets, "web", None), chosen).await;
    until(&master, "no node to fit", sets, by_node, &[]).await;
    merge(&master, at("nodes", "n2", None), json!({"metadata": {"labels": {"chosen": "yes"}}})).await;
    until(&master, "the chosen node", sets, by_node, &[("n2", "one")]).await;
    let cordoned = json!({"spec": {"taints": [{"key": "own", "effect": "NoExecute"}]}});
    merge(&master, at("nodes", "n2", None), cordoned).await;
    until(&master, "the node to be left", sets, by_node, &[]).await;
    master.still(SILENCE).await;
}
