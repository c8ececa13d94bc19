//! Claims and volumes, and what becomes of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus,
    PersistentVolumeSpec, PersistentVolumeStatus, VolumeResourceRequirements,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;

use super::*;
use crate::action::Action;
use crate::testing::{Cluster, map, meta, selector, show};

fn amount(size: &str) -> Option<BTreeMap<String, Quantity>> {
    Some(BTreeMap::from([("storage".to_owned(), Quantity(size.to_owned()))]))
}

fn claim(name: &str, size: &str, class: &str) -> PersistentVolumeClaim {
    let spec = PersistentVolumeClaimSpec {
        access_modes: Some(vec!["ReadWriteOnce".into()]),
        resources: Some(VolumeResourceRequirements { requests: amount(size), limits: None }),
        storage_class_name: Some(class.into()),
        ..PersistentVolumeClaimSpec::default()
    };
    let status = PersistentVolumeClaimStatus { phase: Some("Pending".into()), ..Default::default() };
    PersistentVolumeClaim { metadata: meta(name), spec: Some(spec), status: Some(status) }
}

fn volume(name: &str, size: &str, class: &str) -> PersistentVolume {
    let spec = PersistentVolumeSpec {
        access_modes: Some(vec!["ReadWriteOnce".into()]),
        capacity: amount(size),
        storage_class_name: Some(class.into()),
        persistent_volume_reclaim_policy: Some("Retain".into()),
        ..PersistentVolumeSpec::default()
    };
    let status = PersistentVolumeStatus { phase: Some("Available".into()), ..Default::default() };
    let metadata = ObjectMeta { namespace: None, ..meta(name) };
    PersistentVolume { metadata, spec: Some(spec), status: Some(status) }
}

fn put_aside(mut volume: PersistentVolume, claim: &str, uid: &str) -> PersistentVolume {
    volume.spec.as_mut().unwrap().claim_ref = Some(ObjectReference {
        namespace: Some("ns".into()),
        name: Some(claim.into()),
        uid: Some(uid.to_owned()).filter(|uid| !uid.is_empty()),
        ..ObjectReference::default()
    });
    volume
}

fn naming(mut claim: PersistentVolumeClaim, volume: &str) -> PersistentVolumeClaim {
    claim.spec.as_mut().unwrap().volume_name = Some(volume.into());
    claim
}

fn bound_before(mut claim: PersistentVolumeClaim) -> PersistentVolumeClaim {
    claim.metadata.annotations = Some(map(&[(BIND_COMPLETED, "yes")]));
    claim
}

fn class(name: &str, mode: &str, provisioner: &str) -> Arc<StorageClass> {
    Arc::new(StorageClass {
        metadata: meta(name),
        volume_binding_mode: Some(mode.into()),
        provisioner: provisioner.into(),
        ..StorageClass::default()
    })
}

fn classes() -> Vec<Arc<StorageClass>> {
    vec![
        class("made", "Immediate", "example.com/p"),
        class("late", "WaitForFirstConsumer", "kubernetes.io/no-provisioner"),
    ]
}

/// What the shell looks up.
fn view_of(cluster: &Cluster, key: &Key) -> View {
    let (claims, volumes) = (cluster.list::<PersistentVolumeClaim>(), cluster.list::<PersistentVolume>());
    match key {
        Key::Claim(key) => {
            let claim = claims.iter().find(|claim| NamespacedName::of(&claim.metadata) == *key).unwrap().clone();
            let named = |volume: &&Arc<PersistentVolume>| volume_of(&claim) == Some(name(&volume.metadata));
            View::Claim(claim::View {
                class: classes().into_iter().find(|class| name(&class.metadata) == class_of_claim(&claim)),
                volume: volumes.iter().find(named).cloned(),
                candidates: volumes,
                consumer: None,
                claim,
            })
        }
        Key::Volume(key) => {
            let volume = volumes.iter().find(|volume| name(&volume.metadata) == key.as_str()).unwrap().clone();
            let wanted = claim_of(&volume);
            let claim = claims.iter().find(|claim| Some(NamespacedName::of(&claim.metadata)) == wanted).cloned();
            View::Volume(volume::View { volume, claim })
        }
    }
}

/// One turn: the first key that has something to write.
fn turn(cluster: &Cluster) -> Vec<Action> {
    let claims = cluster.list::<PersistentVolumeClaim>();
    let volumes = cluster.list::<PersistentVolume>();
    let claims = claims.iter().map(|claim| Key::Claim(NamespacedName::of(&claim.metadata)));
    let volumes = volumes.iter().map(|volume| Key::Volume(Name::from(name(&volume.metadata))));
    let plans = claims.chain(volumes).map(|key| plan(&view_of(cluster, &key)).actions);
    let writes = |actions: &Vec<Action>| actions.iter().any(|action| !matches!(action, Action::Event(_)));
    plans.into_iter().find(writes).unwrap_or_default()
}

fn state(cluster: &Cluster) -> String {
    let claims = cluster.list::<PersistentVolumeClaim>();
    let claims = claims.iter().map(|claim| {
        let phase = claim.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
        format!("{}={} {phase}", name(&claim.metadata), volume_of(claim).unwrap_or_default())
    });
    let volumes = cluster.list::<PersistentVolume>();
    let volumes = volumes.iter().map(|volume| {
        let phase = volume.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
        let claim = claim_of(volume).map(|claim| claim.name).unwrap_or_default();
        format!("{}={claim} {phase}", name(&volume.metadata))
    });
    claims.chain(volumes).collect::<Vec<_>>().join(", ")
}

#[test]
fn claims_and_volumes_find_each_other() {
    let wide = |mut volume: PersistentVolume| {
        volume.spec.as_mut().unwrap().access_modes = Some(vec!["ReadWriteOnce".into(), "ReadOnlyMany".into()]);
        volume
    };
    let policy = |mut volume: PersistentVolume, policy: &str| {
        volume.spec.as_mut().unwrap().persistent_volume_reclaim_policy = Some(policy.into());
        volume
    };
    let block = |mut volume: PersistentVolume| {
        volume.spec.as_mut().unwrap().volume_mode = Some("Block".into());
        volume
    };
    let labelled = |mut volume: PersistentVolume| {
        volume.metadata.labels = Some(map(&[("app", "x")]));
        volume
    };
    let choosy = |mut claim: PersistentVolumeClaim| {
        claim.spec.as_mut().unwrap().selector = Some(selector("x"));
        claim
    };
    let by_controller = |mut volume: PersistentVolume| {
        volume.metadata.annotations = Some(map(&[(BOUND_BY_CONTROLLER, "yes")]));
        volume
    };
    for (what, claims, volumes, expect) in [
        ("nothing there", vec![claim("c", "1", "")], vec![], "c= Pending"),
        ("one that fits", vec![claim("c", "1", "")], vec![volume("v", "2", "")], "c=v Bound, v=c Bound"),
        ("too small", vec![claim("c", "2Gi", "")], vec![volume("v", "1Gi", "")], "c= Pending, v= Available"),
        (
            "the smallest",
            vec![claim("c", "1", "")],
            vec![volume("u", "3", ""), volume("v", "2", "")],
            "c=v Bound, u= Available, v=c Bound",
        ),
        (
            "the plainest",
            vec![claim("c", "1", "")],
            vec![wide(volume("u", "1", "")), volume("v", "2", "")],
            "c=v Bound, u= Available, v=c Bound",
        ),
        ("another class", vec![claim("c", "1", "a")], vec![volume("v", "1", "")], "c= Pending, v= Available"),
        ("another kind", vec![claim("c", "1", "")], vec![block(volume("v", "1", ""))], "c= Pending, v= Available"),
        (
            "by labels",
            vec![choosy(claim("c", "1", ""))],
            vec![volume("u", "1", ""), labelled(volume("v", "2", ""))],
            "c=v Bound, u= Available, v=c Bound",
        ),
        (
            "two claims, one volume",
            vec![claim("a", "1", ""), claim("b", "1", "")],
            vec![volume("v", "1", "")],
            "a=v Bound, b= Pending, v=a Bound",
        ),
        (
            "put aside for it",
            vec![claim("c", "1", "")],
            vec![volume("u", "1", ""), put_aside(volume("v", "2", ""), "c", "")],
            "c=v Bound, u= Available, v=c Bound",
        ),
        (
            "put aside for another",
            vec![claim("c", "1", "")],
            vec![put_aside(volume("v", "1", ""), "d", "")],
            "c= Pending, v=d Available",
        ),
        (
            "named by it",
            vec![naming(claim("c", "1", ""), "v")],
            vec![volume("u", "1", ""), volume("v", "2", "")],
            "c=v Bound, u= Available, v=c Bound",
        ),
        (
            "named, but too small",
            vec![naming(claim("c", "2", ""), "v")],
            vec![volume("v", "1", "")],
            "c=v Pending, v= Available",
        ),
        ("named, but not there", vec![naming(claim("c", "1", ""), "v")], vec![], "c=v Pending"),
        (
            "named, but another's",
            vec![naming(claim("c", "1", ""), "v")],
            vec![put_aside(volume("v", "1", ""), "d", "")],
            "c=v Pending, v=d Available",
        ),
        (
            "it waits for its consumer",
            vec![claim("c", "1", "late")],
            vec![volume("v", "1", "late")],
            "c= Pending, v= Available",
        ),
        (
            "it need not wait",
            vec![claim("c", "1", "late")],
            vec![put_aside(volume("v", "1", "late"), "c", "")],
            "c=v Bound, v=c Bound",
        ),
        ("its volume is gone", vec![bound_before(naming(claim("c", "1", ""), "v"))], vec![], "c=v Lost"),
        (
            "its volume was freed",
            vec![bound_before(naming(claim("c", "1", ""), "v"))],
            vec![volume("v", "1", "")],
            "c=v Bound, v=c Bound",
        ),
        (
            "its volume is another's",
            vec![bound_before(naming(claim("c", "1", ""), "v"))],
            vec![put_aside(volume("v", "1", ""), "c", "other")],
            "c=v Lost, v=c Released",
        ),
        ("its claim is gone: kept", vec![], vec![put_aside(volume("v", "1", ""), "c", "uid-c")], "v=c Released"),
        (
            "its claim is gone: to be deleted by nobody",
            vec![],
            vec![policy(put_aside(volume("v", "1", ""), "c", "uid-c"), "Delete")],
            "v=c Failed",
        ),
        (
            "its claim is gone: to be recycled",
            vec![],
            vec![policy(put_aside(volume("v", "1", ""), "c", "uid-c"), "Recycle")],
            "v=c Failed",
        ),
        (
            "a namesake comes",
            vec![claim("c", "1", "")],
            vec![put_aside(volume("v", "1", ""), "c", "old")],
            "c= Pending, v=c Released",
        ),
        (
            "its claim has another",
            vec![bound_before(naming(claim("c", "1", ""), "u"))],
            vec![volume("u", "1", ""), by_controller(put_aside(volume("v", "1", ""), "c", "uid-c"))],
            "c=u Bound, u=c Bound, v= Available",
        ),
    ] {
        let mut cluster = Cluster::default();
        claims.iter().for_each(|claim| cluster.add(claim));
        volumes.iter().for_each(|volume| cluster.add(volume));
        assert!(cluster.settle(20, turn), "{what}: {}", cluster.trace());
        assert_eq!(state(&cluster), expect, "{what}: {}", cluster.trace());
    }
}

#[test]
fn people_are_told_why_a_claim_waits() {
    let first = |claim: PersistentVolumeClaim, volumes: Vec<PersistentVolume>, consumer: Option<&str>| {
        let class = classes().into_iter().find(|class| name(&class.metadata) == class_of_claim(&claim));
        let volumes: Vec<_> = volumes.into_iter().map(Arc::new).collect();
        let volume = volumes.iter().find(|volume| volume_of(&claim) == Some(name(&volume.metadata))).cloned();
        let consumer = consumer.map(str::to_owned);
        plan(&View::Claim(claim::View { claim: Arc::new(claim), class, volume, candidates: volumes, consumer }))
    };
    let lost = |mut claim: PersistentVolumeClaim| {
        claim.status.as_mut().unwrap().phase = Some("Lost".into());
        claim
    };
    for (what, plan, expect) in [
        ("no class", first(claim("c", "1", ""), vec![], None), "!FailedBinding"),
        ("no such class", first(claim("c", "1", "none"), vec![], None), "!ProvisioningFailed"),
        ("a provisioner", first(claim("c", "1", "made"), vec![], None), "patch c !ExternalProvisioning"),
        ("no consumer", first(claim("c", "1", "late"), vec![], None), "!WaitForFirstConsumer"),
        ("a consumer", first(claim("c", "1", "late"), vec![], Some("p")), "!WaitForPodScheduled"),
        (
            "it does not fit",
            first(naming(claim("c", "2", ""), "v"), vec![volume("v", "1", "")], None),
            "!VolumeMismatch",
        ),
        ("it is lost already", first(lost(bound_before(claim("c", "1", ""))), vec![], None), ""),
    ] {
        assert_eq!(show(&plan.actions), expect, "{what}: {}", plan.why);
    }
}

#[test]
fn what_a_claim_has_is_written_once() {
    let mut cluster = Cluster::default();
    cluster.add(&claim("c", "1", ""));
    cluster.add(&volume("v", "2", ""));
    assert!(cluster.settle(9, turn), "{}", cluster.trace());
    let mut bound = cluster.only::<PersistentVolumeClaim>();
    assert_eq!(bound.status.as_ref().unwrap().capacity, amount("2"));
    bound.status.as_mut().unwrap().capacity = amount("1");
    cluster.add(&bound);
    assert!(cluster.settle(1, turn), "a difference may be meant: {}", cluster.trace());
}

proptest! {
    #[test]
    fn whatever_is_there_comes_to_rest(
        claims in prop::collection::vec((1u8..4, 0usize..3, prop::option::of(0u8..4), any::<bool>()), 0..4),
        volumes in prop::collection::vec((1u8..4, 0usize..3, prop::option::of((0u8..4, any::<bool>())), any::<bool>()), 0..4),
    ) {
        const CLASSES: [&str; 3] = ["", "made", "late"];
        let mut cluster = Cluster::default();
        for (i, (size, class, names, before)) in claims.into_iter().enumerate() {
            let mut claim = claim(&format!("c{i}"), &size.to_string(), CLASSES[class]);
            if let Some(volume) = names {
                claim = naming(claim, &format!("v{volume}"));
            }
            cluster.add(&if before { bound_before(claim) } else { claim });
        }
        for (i, (size, class, names, ours)) in volumes.into_iter().enumerate() {
            let mut volume = volume(&format!("v{i}"), &size.to_string(), CLASSES[class]);
            if let Some((claim, with_uid)) = names {
                let uid = if with_uid { format!("uid-c{claim}") } else { String::new() };
                volume = put_aside(volume, &format!("c{claim}"), &uid);
            }
            if ours {
                volume.metadata.annotations = Some(map(&[(BOUND_BY_CONTROLLER, "yes")]));
            }
            cluster.add(&volume);
        }
        prop_assert!(cluster.settle(60, turn), "{}", cluster.trace());
        // No volume has two claims, and each bound claim has one that says so.
        for claim in cluster.list::<PersistentVolumeClaim>() {
            if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound") {
                let volumes = cluster.list::<PersistentVolume>();
                let own = volumes.iter().find(|volume| volume_of(&claim) == Some(name(&volume.metadata)));
                let wanted = own.and_then(|volume| volume.spec.as_ref()?.claim_ref.as_ref()?.uid.clone());
                prop_assert_eq!(wanted.as_deref(), Some(uid(&claim.metadata)), "{}", cluster.trace());
            }
        }
    }
}
