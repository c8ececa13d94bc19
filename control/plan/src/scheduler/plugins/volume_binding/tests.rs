//! Pods that mount volumes: where they may go, and what is asked for before they are bound.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::scheduler::Scheduler;
use crate::scheduler::testing::{info, parts, scheduler};

fn words(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split_whitespace().map(|word| word.split_once('=').unwrap_or((word, "")))
}

fn object<K: serde::de::DeserializeOwned>(object: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(object).unwrap())
}

/// `name`, then any of `class=`, `volume=` (it is bound to that), `alone`, `lost`, `going`, `of=uid`, `node=`.
fn add_claim(scheduler: &mut Scheduler, text: &str) {
    let mut all = words(text);
    let name = all.next().unwrap().0;
    let mut claim = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "annotations": {}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}, "status": {},
    });
    for (key, value) in all {
        match key {
            "class" => claim["spec"]["storageClassName"] = value.into(),
            "alone" => claim["spec"]["accessModes"] = json!(["ReadWriteOncePod"]),
            "lost" => claim["status"]["phase"] = "Lost".into(),
            "going" => claim["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into(),
            "node" => claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"] = value.into(),
            "of" => {
                claim["metadata"]["ownerReferences"] =
                    json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": value, "controller": true}]);
            }
            _ => {
                claim["spec"]["volumeName"] = value.into();
                claim["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"] = "yes".into();
            }
        }
    }
    let key = ("ns".to_owned(), name.to_owned());
    scheduler.change_volumes(|volumes| volumes.set_claim(key, Some(object(claim))));
}

/// `name`, then any of `class=`, `size=`, `on=node`, `zone=`, `csi=driver`.
fn add_volume(scheduler: &mut Scheduler, text: &str) {
    let mut all = words(text);
    let name = all.next().unwrap().0;
    let mut volume = json!({
        "metadata": {"name": name, "labels": {}},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}, "status": {"phase": "Available"},
    });
    for (key, value) in all {
        match key {
            "class" => volume["spec"]["storageClassName"] = value.into(),
            "size" => volume["spec"]["capacity"]["storage"] = value.into(),
            "zone" => volume["metadata"]["labels"]["topology.kubernetes.io/zone"] = value.into(),
            "csi" => volume["spec"]["csi"] = json!({"driver": value, "volumeHandle": name}),
            _ => {
                volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"] = json!([{"matchExpressions":
                    [{"key": "kubernetes.io/hostname", "operator": "In", "values": [value]}]}]);
            }
        }
    }
    scheduler.change_volumes(|volumes| volumes.set_volume(name, Some(object(volume))));
}

/// Nodes `a` and `b`, in zones `x` and `y`; claims and volumes by comma.
fn with(claims: &str, volumes: &str, there: &str) -> Scheduler {
    let mut scheduler =
        scheduler("a label=topology.kubernetes.io/zone:x, b label=topology.kubernetes.io/zone:y", there);
    for (name, mode, provisioner, zone) in [
        ("now", "Immediate", "example.com", None),
        ("late", "WaitForFirstConsumer", "kubernetes.io/no-provisioner", None),
        ("made", "WaitForFirstConsumer", "example.com", None),
        ("made-y", "WaitForFirstConsumer", "example.com", Some("y")),
    ] {
        let zones = zone
            .map(|zone| json!([{"matchLabelExpressions": [{"key": "topology.kubernetes.io/zone", "values": [zone]}]}]));
        let class = json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode,
            "allowedTopologies": zones});
        scheduler.change_volumes(|volumes| volumes.set_class(name, Some(object(class))));
    }
    parts(claims).for_each(|text| add_claim(&mut scheduler, text));
    parts(volumes).for_each(|text| add_volume(&mut scheduler, text));
    scheduler
}

/// The nodes that would do, or why there are none.
fn answer(scheduler: &mut Scheduler, pod: &str) -> String {
    let fits = |scheduler: &mut Scheduler, node: &str| {
        let only = info("new", &format!("{pod} field=metadata.name:In:{node}"));
        scheduler.explain(&only).feasible() > 0
    };
    let nodes: Vec<&str> = ["a", "b"].into_iter().filter(|node| fits(scheduler, node)).collect();
    if !nodes.is_empty() {
        return nodes.join("");
    }
    let text = scheduler.explain(&info("new", pod)).to_string();
    text.strip_prefix("0/2 nodes are available: 2 ").unwrap_or(&text).to_owned()
}

#[test]
fn volumes_decide_where_a_pod_may_go() {
    for (name, claims, volumes, pod, expect) in [
        ("none", "", "", "", "ab"),
        ("no such claim", "", "", "mount=c", "persistentvolumeclaim \"c\" not found."),
        (
            "its volume is lost",
            "c volume=v lost",
            "",
            "mount=c",
            "persistentvolumeclaim \"c\" bound to non-existent persistentvolume \"v\".",
        ),
        ("it is going", "c volume=v going", "", "mount=c", "persistentvolumeclaim \"c\" is being deleted."),
        (
            "not made yet",
            "",
            "",
            "own=v",
            "waiting for ephemeral volume controller to create the persistentvolumeclaim \"new-v\".",
        ),
        (
            "somebody else's",
            "new-v volume=v of=other",
            "v",
            "own=v",
            "PVC ns/new-v was not created for pod ns/new (pod is not owner).",
        ),
        ("its own", "new-v volume=v of=uid-new", "v", "own=v", "ab"),
        ("bound", "c volume=v", "v", "mount=c", "ab"),
        (
            "bound, but the volume is away",
            "c volume=v",
            "",
            "mount=c",
            "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s).",
        ),
        ("bound to a node", "c volume=v", "v on=b", "mount=c", "b"),
        (
            "bound elsewhere",
            "c volume=v",
            "v on=z",
            "mount=c",
            "node(s) didn't match PersistentVolume's node affinity.",
        ),
        ("in a zone", "c volume=v", "v zone=x", "mount=c", "a"),
        ("in one of two zones", "c volume=v", "v zone=x__y", "mount=c", "ab"),
        ("in no zone of ours", "c volume=v", "v zone=z", "mount=c", "node(s) had no available volume zone."),
        (
            "still to be bound",
            "c class=now",
            "v class=now",
            "mount=c",
            "pod has unbound immediate PersistentVolumeClaims.",
        ),
        (
            "of no class that is there",
            "c class=gone",
            "",
            "mount=c",
            "pod has unbound immediate PersistentVolumeClaims.",
        ),
        ("one that is there", "c class=late", "v class=late on=b", "mount=c", "b"),
        (
            "one of another class",
            "c class=late",
            "v class=now",
            "mount=c",
            "node(s) didn't find available persistent volumes to bind.",
        ),
        (
            "one too small",
            "c class=late",
            "v class=late size=1Mi",
            "mount=c",
            "node(s) didn't find available persistent volumes to bind.",
        ),
        (
            "two claims, one volume",
            "c class=late, d class=late",
            "v class=late",
            "mount=c mount=d",
            "node(s) didn't find available persistent volumes to bind.",
        ),
        ("two of each", "c class=late, d class=late", "v class=late on=a, w class=late", "mount=c mount=d", "a"),
        ("one is made", "c class=made", "", "mount=c", "ab"),
        ("one is made in a zone", "c class=made-y", "", "mount=c", "b"),
        ("one is being made", "c class=made node=a", "", "mount=c", "a"),
    ] {
        assert_eq!(answer(&mut with(claims, volumes, ""), pod), expect, "{name}");
    }
}

#[test]
fn what_was_chosen_is_asked_for_before_the_binding() {
    let mut scheduler = with("c class=late, d class=late, m class=made", "v class=late on=a, w class=late on=b", "");
    let one = scheduler.decide(&info("one", "mount=c")).unwrap();
    let chosen = if &*one.node == "a" { ("v", "b", "w") } else { ("w", "a", "v") };
    assert_eq!(one.patches[0].key.name, chosen.0);
    assert_eq!(one.patches[0].body["spec"]["claimRef"]["uid"], "uid-c");
    assert_eq!(one.awaited, [("ns".to_owned(), "c".to_owned())]);
    let two = scheduler.decide(&info("two", "mount=d")).unwrap();
    assert_eq!((&*two.node, two.patches[0].key.name.as_str()), (chosen.1, chosen.2), "the other one is taken");
    scheduler.remove_pod("uid-one");
    assert_eq!(answer(&mut scheduler, "mount=c"), &*one.node, "given back");

    let made = scheduler.decide(&info("three", "mount=m")).unwrap();
    assert_eq!(made.patches[0].key.name, "m");
    assert_eq!(made.patches[0].body["metadata"]["annotations"]["volume.kubernetes.io/selected-node"], &*made.node);
    let none = scheduler.decide(&info("four", "")).unwrap();
    assert!(none.patches.is_empty() && none.awaited.is_empty());
}

#[test]
fn a_claim_for_one_pod_alone_is_mounted_by_one() {
    let taken = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode.";
    let mut scheduler = with("c volume=v alone, d volume=v", "v", "a: mount=c, a: mount=d");
    assert_eq!(answer(&mut scheduler, "mount=c"), taken);
    assert_eq!(answer(&mut scheduler, "mount=d"), "ab");
    let why = scheduler.decide(&info("new", "mount=c")).unwrap_err();
    let event = scheduler.remove_pod("uid-there0").unwrap();
    assert!(scheduler.queueing_hint(&info("new", "mount=c"), why.rejectors, &[event]));
    assert_eq!(answer(&mut scheduler, "mount=c"), "ab");
}

#[test]
fn a_node_mounts_so_many_volumes_of_a_driver() {
    let mut scheduler = with("c volume=v, d volume=w, e volume=x", "v csi=x, w csi=x, x csi=y", "a: mount=c");
    for (node, driver, count) in [("a", "x", 1), ("b", "x", 0)] {
        let csi = json!({"metadata": {"name": node},
            "spec": {"drivers": [{"name": driver, "nodeID": node, "allocatable": {"count": count}}]}});
        let csi = object::<k8s_openapi::api::storage::v1::CSINode>(csi);
        scheduler.change_volumes(|volumes| volumes.set_limits(node, Some(&csi)));
    }
    assert_eq!(answer(&mut scheduler, "mount=c"), "a", "it is mounted there already");
    assert_eq!(answer(&mut scheduler, "mount=d"), "node(s) exceed max volume count.");
    assert_eq!(answer(&mut scheduler, "mount=e"), "ab", "another driver");
    assert_eq!(answer(&mut scheduler, "inline=x"), "node(s) exceed max volume count.");
}
