//! One day of a workload, from `kubectl create` to `kubectl delete namespace`, against real
//! controllers, scheduler, API and store.

use std::collections::BTreeMap;

use crate::support::{Master, resource};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Event, Namespace, Node};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kontiki_api::recorder::Recorder;
use kontiki_api::{DeleteOptions, PatchKind, Propagation, Target, Writer};
use kontiki_controllers::Executor;
use kontiki_plan::lifecycle::system_objects;
use kontiki_plan::network::kubernetes_service::{self, Member};
use kontiki_plan::pod;
use serde_json::{Value, json};

fn web() -> Target<'static> {
    Target { resource: resource("apps", "deployments"), namespace: Some("default"), name: "web", subresource: None }
}

fn deployment(image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 4, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}},
        },
    })
}

async fn rolled_out(master: &Master, image: &str) {
    master
        .until("the rollout", || async {
            let found = master.client.get(web()).await.map_err(|status| status.message)?;
            let status = &found["status"];
            let done =
                ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|field| status[field] == json!(4));
            let pods = master.pods();
            let right = pods.iter().all(|p| p.spec.as_ref().unwrap().containers[0].image.as_deref() == Some(image));
            if done && right && pods.len() == 4 && status["observedGeneration"] == found["metadata"]["generation"] {
                Ok(())
            } else {
                Err(format!("{} pods, {status}", pods.len()))
            }
        })
        .await;
}

fn per_node(master: &Master) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    for pod in master.pods().iter().filter(|pod| pod::active(pod)) {
        *out.entry(pod::node(pod).unwrap_or_default().to_owned()).or_default() += 1;
    }
    out
}

async fn endpoints(master: &Master, expect: usize) {
    master
        .until("the endpoints", || async {
            let slices = master.api.cache().get::<EndpointSlice>().by_namespace("default");
            let ready = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
            let ready = ready.filter(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(true)).count();
            if ready == expect { Ok(()) } else { Err(format!("{ready} ready")) }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_of_a_workload() {
    let master = Master::start(&["n1", "n2"]).await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    master.create("", "services", Some("default"), service).await;
    master.create("apps", "deployments", Some("default"), deployment("one")).await;
    rolled_out(&master, "one").await;
    assert_eq!(per_node(&master), [("n1".to_owned(), 2), ("n2".to_owned(), 2)].into(), "replicas spread");
    endpoints(&master, 4).await;
    let ranges: Vec<_> =
        master.api.cache().get::<Node>().list().iter().map(|n| n.spec.clone().unwrap().pod_cidr).collect();
    assert!(ranges.iter().all(Option::is_some) && ranges[0] != ranges[1], "{ranges:?}");

    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}});
    master.client.patch(web(), PatchKind::Strategic, image).await.unwrap();
    rolled_out(&master, "two").await;
    endpoints(&master, 4).await;
    let sets = master.api.cache().get::<ReplicaSet>().by_namespace("default");
    let revisions: Vec<_> = sets
        .iter()
        .map(|set| kontiki_plan::object::annotation(&set.metadata, "deployment.kubernetes.io/revision"))
        .collect();
    assert!(revisions.contains(&Some("1")) && revisions.contains(&Some("2")), "{revisions:?}");

    let found = master.client.get(web()).await.unwrap();
    assert_eq!(found["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "2");
    assert_eq!(found["metadata"]["generation"], 2, "only what people change counts");

    master.silence("n2");
    master
        .until("the pods of the lost node to be replaced", || async {
            let (nodes, ready) =
                (per_node(&master), master.pods().iter().filter(|p| pod::active(p) && pod::ready(p)).count());
            if ready == 4 && nodes.get("n1") == Some(&4) { Ok(()) } else { Err(format!("{nodes:?}, {ready} ready")) }
        })
        .await;
    endpoints(&master, 4).await;

    master
        .until("the events", || async {
            let events = master.api.cache().get::<Event>().list();
            let reasons: Vec<_> = events.iter().filter_map(|event| event.reason.clone()).collect();
            let wanted = ["Scheduled", "SuccessfulCreate", "ScalingReplicaSet", "NodeNotReady", "TaintManagerEviction"];
            let missing: Vec<_> = wanted.iter().filter(|reason| !reasons.iter().any(|r| r == *reason)).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("no {missing:?}")) }
        })
        .await;

    let foreground = DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
    master.client.delete(web(), foreground).await.unwrap();
    master
        .until("the deployment to go with all it owns", || async {
            let sets = master.api.cache().get::<ReplicaSet>().by_namespace("default").len();
            let alive = master.pods().iter().filter(|pod| pod::node(pod) == Some("n1")).count();
            // Pods of the lost node stay for a while; they are somebody else's story.
            if alive == 0 && sets <= 1 { Ok(()) } else { Err(format!("{sets} sets, {alive} pods")) }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_furnished_and_emptied() {
    let master = Master::start(&["n1"]).await;
    master
        .create("", "namespaces", None, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}))
        .await;
    let there = |group: &'static str, plural: &'static str, name: &'static str| {
        let client = master.client.clone();
        move || {
            let client = client.clone();
            async move {
                let target =
                    Target { resource: resource(group, plural), namespace: Some("shop"), name, subresource: None };
                client.get(target).await.map_err(|status| status.message)
            }
        }
    };
    master.until("the account", there("", "serviceaccounts", "default")).await;
    let map = master.until("the CA", there("", "configmaps", "kube-root-ca.crt")).await;
    assert_eq!(map["data"]["ca.crt"], "PEM");
    master.create("apps", "deployments", Some("shop"), deployment("one")).await;
    master
        .until("pods", || async {
            let pods = master.api.cache().get::<k8s_openapi::api::core::v1::Pod>().by_namespace("shop");
            if pods.len() == 4 { Ok(()) } else { Err(format!("{}", pods.len())) }
        })
        .await;
    let shop = Target { resource: resource("", "namespaces"), namespace: None, name: "shop", subresource: None };
    master.client.delete(shop, DeleteOptions::default()).await.unwrap();
    master
        .until("the namespace to go", || async {
            match master.client.get(shop).await {
                Err(status) if status.is_not_found() => Ok(()),
                Err(status) => Err(status.message),
                Ok(left) => Err(left["status"].to_string()),
            }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_says_why_and_runs_once_it_fits() {
    let master = Master::start(&["n1"]).await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "big"},
        "spec": {"containers": [{"name": "c", "image": "i"}], "nodeSelector": {"disk": "ssd"}},
    });
    master
        .until("the account", || async {
            let accounts = resource("", "serviceaccounts");
            let target = Target { resource: accounts, namespace: Some("default"), name: "default", subresource: None };
            master.client.get(target).await.map_err(|status| status.message)
        })
        .await;
    master.create("", "pods", Some("default"), pod).await;
    let big = Target { resource: resource("", "pods"), namespace: Some("default"), name: "big", subresource: None };
    master
        .until("the reason", || async {
            let pod = master.client.get(big).await.map_err(|status| status.message)?;
            let message = pod["status"]["conditions"][0]["message"].as_str().unwrap_or_default();
            let expect = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
            if message.starts_with(expect) { Ok(()) } else { Err(pod["status"].to_string()) }
        })
        .await;
    let node = Target { resource: resource("", "nodes"), namespace: None, name: "n1", subresource: None };
    master.client.patch(node, PatchKind::Merge, json!({"metadata": {"labels": {"disk": "ssd"}}})).await.unwrap();
    master
        .until("the node", || async {
            let pod = master.client.get(big).await.map_err(|status| status.message)?;
            if pod["spec"]["nodeName"] == "n1" && pod["status"]["phase"] == "Running" {
                Ok(())
            } else {
                Err(pod["status"].to_string())
            }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replication_controller_keeps_its_number_and_rests() {
    let master = Master::start(&["n1"]).await;
    let target = |subresource| Target {
        resource: resource("", "replicationcontrollers"),
        namespace: Some("default"),
        name: "old",
        subresource,
    };
    let object = json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "old"},
        "spec": {"replicas": 2, "template": {
            "metadata": {"labels": {"app": "old"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        }},
    });
    let rests_at = async |replicas: usize| {
        master
            .until("the number", || async {
                let found = master.client.get(target(None)).await.map_err(|status| status.message)?;
                let (status, pods) = (&found["status"], master.pods());
                let right = ["replicas", "readyReplicas", "availableReplicas", "fullyLabeledReplicas"]
                    .iter()
                    .all(|field| status[field] == json!(replicas));
                let seen = status["observedGeneration"] == found["metadata"]["generation"];
                if right && seen && pods.len() == replicas { Ok(()) } else { Err(format!("{} {status}", pods.len())) }
            })
            .await;
    };
    master.create("", "replicationcontrollers", Some("default"), object).await;
    rests_at(2).await;
    let doomed = master.pods()[0].clone();
    let name = doomed.metadata.name.as_deref().unwrap();
    let pod = Target { resource: resource("", "pods"), namespace: Some("default"), name, subresource: None };
    master.client.delete(pod, DeleteOptions::default()).await.unwrap();
    master
        .until("another pod in its place", || async {
            let gone = master.pods().iter().all(|pod| pod.metadata.uid != doomed.metadata.uid);
            if gone { Ok(()) } else { Err("it is still there".to_owned()) }
        })
        .await;
    rests_at(2).await;
    let three = json!({"spec": {"replicas": 3}});
    master.client.patch(target(Some("scale")), PatchKind::Merge, three).await.unwrap();
    rests_at(3).await;
    master.still(std::time::Duration::from_secs(2)).await;
    let background = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
    master.client.delete(target(None), background).await.unwrap();
    master
        .until("its pods to go", || async {
            let left = master.pods().len();
            if left == 0 { Ok(()) } else { Err(format!("{left} left")) }
        })
        .await;
}

/// What `kontiki-server` keeps, over the real API: it comes to rest, whatever defaults the API adds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clusters_own_objects_follow_the_servers_and_rest() {
    let master = Master::start(&[]).await;
    let cache = master.api.cache();
    let (recorder, _recording) = Recorder::new(master.client.clone(), Writer::Server, master.context.stop.clone());
    let executor = Executor::new(&master.context, &recorder, "system-objects", Writer::Server);
    let (namespaces, classes) = (cache.get::<Namespace>(), cache.get::<PriorityClass>());
    let (services, endpoints, slices) = (cache.get(), cache.get(), cache.get::<EndpointSlice>());
    let own = (Some(kubernetes_service::NAMESPACE), kubernetes_service::NAME);
    for addresses in [&["10.0.0.1:6443", "10.0.0.2:6443"][..], &["10.0.0.2:6443", "10.0.0.3:6443"], &["10.0.0.3:6443"]]
    {
        let members = || addresses.iter().map(|api| Member { reachable: true, api: api.parse().unwrap() }).collect();
        let mut actions = Vec::new();
        for turn in 0.. {
            assert!(turn < 4, "{actions:?}");
            let mut plan = system_objects::plan(
                |name| namespaces.get(None, name).is_some(),
                |name| classes.get(None, name).is_some(),
            );
            if plan.actions.is_empty() {
                plan = kubernetes_service::plan(&kubernetes_service::View {
                    service: services.get(own.0, own.1),
                    endpoints: endpoints.get(own.0, own.1),
                    slice: slices.get(own.0, own.1),
                    service_ip: "10.96.0.1".parse().unwrap(),
                    members: members(),
                });
            }
            if plan.actions.is_empty() {
                break;
            }
            actions.clone_from(&plan.actions);
            let applied = executor.apply(plan.actions).await;
            assert!(!applied.failed && applied.effect, "{:?} of {actions:?}", applied.refusals);
            cache.wait_for(applied.floor).await;
        }
        let slice = slices.get(own.0, own.1).unwrap();
        let listed: Vec<_> = slice.endpoints.iter().flatten().flat_map(|endpoint| endpoint.addresses.clone()).collect();
        let expect: Vec<_> = addresses.iter().map(|address| address.trim_end_matches(":6443")).collect();
        assert_eq!(listed, expect);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_finds_its_volume_and_both_stay_while_they_are_used() {
    let master = Master::start(&["n1"]).await;
    let claims = resource("", "persistentvolumeclaims");
    let claim = Target { resource: claims, namespace: Some("default"), name: "data", subresource: None };
    let volume = Target { resource: resource("", "persistentvolumes"), namespace: None, name: "v", subresource: None };
    let state = async |target: Target<'_>| match master.client.get(target).await {
        Ok(object) => format!("{} {}", object["status"]["phase"], object["metadata"]["deletionTimestamp"].is_string()),
        Err(status) => status.reason,
    };
    let reaches = async |what: &str, target: Target<'_>, expect: &str| {
        master
            .until(what, || async {
                let found = state(target).await;
                if found == expect { Ok(()) } else { Err(found) }
            })
            .await;
    };
    let needs = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}}});
    let object =
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": needs});
    master.create("", "persistentvolumeclaims", Some("default"), object).await;
    let object = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}, "hostPath": {"path": "/data"}}});
    master.create("", "persistentvolumes", None, object).await;
    reaches("the claim to be bound", claim, "\"Bound\" false").await;
    reaches("the volume to be bound", volume, "\"Bound\" false").await;
    let bound = master.client.get(claim).await.unwrap();
    let have = (&bound["spec"]["volumeName"], &bound["status"]["capacity"]["storage"]);
    assert_eq!(have, (&json!("v"), &json!("2Gi")), "{bound}");

    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "user"}, "spec": {
        "nodeName": "n1", "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]}});
    master
        .until("the account", || async {
            let accounts = resource("", "serviceaccounts");
            let target = Target { resource: accounts, namespace: Some("default"), name: "default", subresource: None };
            master.client.get(target).await.map_err(|status| status.message)
        })
        .await;
    master.create("", "pods", Some("default"), pod).await;
    master.still(std::time::Duration::from_secs(1)).await;
    for target in [claim, volume] {
        master.client.delete(target, DeleteOptions::default()).await.unwrap();
    }
    master.still(std::time::Duration::from_secs(1)).await;
    assert_eq!((state(claim).await.as_str(), state(volume).await.as_str()), ("\"Bound\" true", "\"Bound\" true"));
    let user = Target { resource: resource("", "pods"), namespace: Some("default"), name: "user", subresource: None };
    master.client.delete(user, DeleteOptions::default()).await.unwrap();
    reaches("the claim to go", claim, "NotFound").await;
    reaches("the volume to go", volume, "NotFound").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_people_keep_are_mirrored() {
    let master = Master::start(&[]).await;
    let slices = || async {
        let all = master.api.cache().get::<EndpointSlice>().by_namespace("default");
        let endpoints = all.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        endpoints.flat_map(|endpoint| endpoint.addresses.clone()).collect::<Vec<_>>().join(" ")
    };
    let shows = async |expect: &str| {
        master
            .until("the slices", || async {
                let found = slices().await;
                if found == expect { Ok(()) } else { Err(found) }
            })
            .await;
    };
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "out"}, "spec": {"ports": [{"port": 80}]}});
    master.create("", "services", Some("default"), service).await;
    let subsets = |ip: &str| json!([{"addresses": [{"ip": ip}], "ports": [{"port": 80}]}]);
    let endpoints =
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "out"}, "subsets": subsets("10.1.2.3")});
    master.create("", "endpoints", Some("default"), endpoints).await;
    shows("10.1.2.3").await;
    let own =
        Target { resource: resource("", "endpoints"), namespace: Some("default"), name: "out", subresource: None };
    master.client.patch(own, PatchKind::Merge, json!({"subsets": subsets("10.1.2.4")})).await.unwrap();
    shows("10.1.2.4").await;
    master.still(std::time::Duration::from_secs(1)).await;
    master.client.delete(own, DeleteOptions::default()).await.unwrap();
    shows("").await;
}
