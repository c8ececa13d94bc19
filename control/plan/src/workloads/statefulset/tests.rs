use k8s_openapi::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSetOrdinals, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;

use super::*;
use crate::action::Action;
use crate::object::{self, after_seconds, controller_reference, name};
use crate::testing::{Cluster, NOW, map, meta, pod_condition, selector, show};
use crate::workloads::history::tests::{image, revisions_of};

/// A set `web` of `replicas` pods of an image.
pub(super) fn set(replicas: i32, of: &str) -> StatefulSet {
    let rolling = RollingUpdateStatefulSetStrategy { partition: Some(0), max_unavailable: None };
    let strategy = StatefulSetUpdateStrategy { type_: Some("RollingUpdate".into()), rolling_update: Some(rolling) };
    let spec = StatefulSetSpec {
        replicas: Some(replicas),
        selector: selector("web"),
        template: image(of),
        service_name: Some("service".into()),
        revision_history_limit: Some(2),
        pod_management_policy: Some("OrderedReady".into()),
        update_strategy: Some(strategy),
        ..StatefulSetSpec::default()
    };
    StatefulSet { metadata: meta("web"), spec, status: None }
}

/// The same with a claim `data` for each pod.
pub(super) fn with_claims(mut set: StatefulSet) -> StatefulSet {
    let metadata = ObjectMeta { name: Some("data".into()), ..ObjectMeta::default() };
    set.spec.volume_claim_templates =
        Some(vec![PersistentVolumeClaim { metadata, ..PersistentVolumeClaim::default() }]);
    set
}

/// `words` change a set: `parallel`, `ondelete`, `partition=N`, `max=N`, `start=N`, `ready=N`, `deleted` and `scaled` (claims
/// go then).
fn changed(mut set: StatefulSet, words: &str) -> StatefulSet {
    for word in words.split_whitespace() {
        let (word, value) = word.split_once('=').unwrap_or((word, "0"));
        let number = value.parse().unwrap();
        let spec = &mut set.spec;
        let rolling = &mut spec.update_strategy.as_mut().unwrap().rolling_update;
        let retention = spec.persistent_volume_claim_retention_policy.get_or_insert_default();
        match word {
            "parallel" => spec.pod_management_policy = Some("Parallel".into()),
            "partition" => rolling.as_mut().unwrap().partition = Some(number),
            "max" => rolling.as_mut().unwrap().max_unavailable = Some(IntOrString::Int(number)),
            "start" => spec.ordinals = Some(StatefulSetOrdinals { start: Some(number) }),
            "ready" => spec.min_ready_seconds = Some(number),
            "deleted" => retention.when_deleted = Some("Delete".into()),
            "scaled" => retention.when_scaled = Some("Delete".into()),
            "ondelete" => {
                let strategy = StatefulSetUpdateStrategy { type_: Some("OnDelete".into()), rolling_update: None };
                spec.update_strategy = Some(strategy);
            }
            other => panic!("{other}"),
        }
    }
    set
}

/// `0a` the pod 0 of revision `a0`; `!` not ready, `~` going away, `.` failed, `?` nobody's, `_` without its labels.
fn pods(set: &StatefulSet, text: &str) -> Vec<Arc<Pod>> {
    let one = |word: &str| {
        let digits = word.trim_end_matches(|c: char| !c.is_ascii_digit());
        let rest = &word[digits.len()..];
        let of = rest.trim_end_matches(['!', '~', '.', '?', '_']);
        let at = usize::from(of == "b");
        let mut pod =
            identity::make(set, &PodTemplateSpec { ..image(of) }, &format!("{of}{at}"), digits.parse().unwrap());
        let made = crate::testing::pod(name(&pod.metadata), &[]);
        pod.metadata = ObjectMeta {
            labels: pod.metadata.labels,
            owner_references: Some(vec![controller_reference(set)]),
            ..made.metadata
        };
        pod.status = made.status;
        for mark in rest[of.len()..].chars() {
            match mark {
                '!' => pod.status.as_mut().unwrap().conditions = Some(vec![pod_condition("Ready", "False")]),
                '~' => pod.metadata.deletion_timestamp = Some(object::time(NOW)),
                '.' => pod.status.as_mut().unwrap().phase = Some("Failed".into()),
                '?' => pod.metadata.owner_references = None,
                _ => pod.metadata.labels = Some(map(&[("app", "web"), ("controller-revision-hash", "a0")])),
            }
        }
        Arc::new(pod)
    };
    text.split_whitespace().map(one).collect()
}

/// A view of a set whose revisions are those of `images`, where the first is the current one.
fn view(mut set: StatefulSet, images: &str, have: &str) -> View {
    let revisions = revisions_of(&set, REVISION_LABEL, images);
    let current = revisions.first().map(|revision| name(&revision.metadata).to_owned());
    set.status.get_or_insert_default().current_revision = current;
    let pods = pods(&set, have);
    View { set: Arc::new(set), pods, revisions, namesake: None, claims: BTreeMap::new(), namespace_terminating: false }
}

fn is_status(action: &Action) -> bool {
    matches!(action, Action::Patch(patch) if patch.subresource == Some("status"))
}

/// What is done besides the status; created pods with their revision.
fn writes(plan: &Plan) -> String {
    let one = |action: &Action| match action {
        Action::Create { object, resource: "pods", .. } => {
            let meta = &object["metadata"];
            let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
            format!("+{} {}", text(&meta["name"]), text(&meta["labels"]["controller-revision-hash"]))
        }
        other => show(std::slice::from_ref(other)),
    };
    plan.actions.iter().filter(|action| !is_status(action)).map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn pods_come_and_go_in_order() {
    for (name, want, how, images, have, expect) in [
        ("the first", 3, "", "a", "", "+web-0 a0"),
        ("the next", 3, "", "a", "0a", "+web-1 a0"),
        ("not before the last is ready", 3, "", "a", "0a 1a!", ""),
        ("not before the last has gone", 3, "", "a", "0a~ 1a 2a", ""),
        ("a hole is filled", 3, "", "a", "0a 2a", "+web-1 a0"),
        ("a full set rests", 2, "", "a", "0a 1a", ""),
        ("what failed goes first", 2, "", "a", "0a. 1a", "-web-0"),
        ("and is not deleted twice", 2, "", "a", "0a.~ 1a", ""),
        ("the last goes first", 1, "", "a", "0a 1a 2a", "-web-2"),
        ("one at a time", 1, "", "a", "0a 1a 2a~", ""),
        ("also while one before it is broken that goes too", 1, "", "a", "0a 1a! 2a", "-web-2"),
        ("a broken one waits for broken ones before it", 1, "", "a", "0a 1a! 2a!", ""),
        ("but goes itself", 1, "", "a", "0a 1a 2a!", "-web-2"),
        ("none goes while one that stays is broken", 1, "", "a", "0a! 1a", ""),
        ("not before it is available", 2, "ready=3600", "a", "0a", ""),
        ("numbers may begin elsewhere", 2, "start=5", "a", "5a", "+web-6 a0"),
        ("and pods before that go", 2, "start=5", "a", "0a 5a 6a", "-web-0"),
        ("at once, in a parallel set", 3, "parallel", "a", "1a!", "+web-0 a0 +web-2 a0"),
        ("all surplus at once", 1, "parallel", "a", "0a! 1a 2a!", "-web-2 -web-1"),
        ("failures in a parallel set", 2, "parallel", "a", "0a. 1a", "-web-0"),
        ("strangers are adopted", 2, "", "a", "0a 1a?", "patch web-1"),
        ("and labelled", 2, "", "a", "0a 1a_", "patch web-1"),
    ] {
        let plan = plan(&view(changed(set(want, "a"), how), images, have), NOW);
        assert_eq!(writes(&plan), expect, "{name}: {}", plan.why);
    }
}

#[test]
fn updates_go_from_the_last_to_the_first() {
    for (name, want, how, have, expect) in [
        ("the last goes first", 3, "", "0a 1a 2a", "-web-2"),
        ("and comes back new", 3, "", "0a 1a", "+web-2 b1"),
        ("the next waits for it", 3, "", "0a 1a 2b!", ""),
        ("then goes", 3, "", "0a 1a 2b", "-web-1"),
        ("up to the partition", 3, "partition=2", "0a 1a 2b", ""),
        ("a lost pod below the partition comes back as it was", 3, "partition=2", "0a 2b", "+web-1 a0"),
        ("one above comes back new", 3, "partition=2", "0a 1a", "+web-2 b1"),
        ("a partition beyond the end", 3, "partition=9", "0a 1a 2a", ""),
        ("a partition counts from the start", 2, "start=5 partition=1", "5a 6b", ""),
        ("two at a time", 3, "max=2", "0a 1a 2a", "-web-2 -web-1"),
        ("a part of the limit is used up", 3, "max=2 parallel", "0a 1a 2b!", "-web-1"),
        ("broken old ones go at once", 4, "max=1 parallel", "0a! 1a! 2a 3b", "-web-1 -web-0"),
        ("broken old ones do not take the place of others", 3, "max=2 parallel", "0a! 1a 2a", "-web-0 -web-2"),
        ("a broken update is replaced in a parallel set", 3, "parallel", "0a 1a 2a!", "-web-2"),
        ("only by hand", 3, "ondelete", "0a 1a 2a", ""),
        ("what was deleted comes back new", 3, "ondelete", "0a 1a", "+web-2 b1"),
        ("a broken pod holds an ordered set", 3, "", "0a! 1a 2a", ""),
    ] {
        let plan = plan(&view(changed(set(want, "b"), how), "a b", have), NOW);
        assert_eq!(writes(&plan), expect, "{name}: {}", plan.why);
    }
}

#[test]
fn a_revision_comes_before_its_pods() {
    let first = plan(&view(set(1, "a"), "", ""), NOW);
    assert_eq!((writes(&first).starts_with("+web-"), first.actions.len()), (true, 1), "{first:?}");
    let Action::Create { resource, object, .. } = &first.actions[0] else { panic!("{first:?}") };
    assert_eq!((*resource, &object["revision"]), ("controllerrevisions", &serde_json::json!(1)));
    let back = plan(&view(set(1, "a"), "a b", "0b"), NOW);
    assert_eq!(show(&back.actions), "patch a0", "an old revision is used again");
    let taken = View { namesake: revisions_of(&set(1, "x"), "", "x").pop(), ..view(set(1, "a"), "", "") };
    assert_eq!(show(&plan(&taken, NOW).actions), "status web", "a clash is counted");
    let leaving = View { namespace_terminating: true, ..view(set(1, "a"), "", "") };
    assert_eq!(plan(&leaving, NOW).why, "its namespace is terminating");
    let leaving = View { namespace_terminating: true, ..view(set(2, "a"), "a", "0a") };
    assert_eq!(writes(&plan(&leaving, NOW)), "");
    let mut gone = set(3, "a");
    gone.metadata.deletion_timestamp = Some(object::time(NOW));
    assert_eq!(writes(&plan(&view(gone, "a", "0a 1a? 2a."), NOW)), "");
}

#[test]
fn unused_revisions_beyond_the_limit_go() {
    for (name, limit, have, expect) in [
        ("below the limit", 3, "0a", ""),
        ("the oldest that nobody needs", 1, "0a", "-b1 -c2"),
        ("those of pods stay", 0, "0a 1b", "-c2 -d3"),
        ("for ever", -1, "0a", ""),
    ] {
        let mut set = changed(set(1, "e"), "ondelete");
        set.spec.revision_history_limit = Some(limit);
        let plan = plan(&view(set, "a b c d e", have), NOW);
        let gone: Vec<Action> = plan.actions.into_iter().filter(|a| show(std::slice::from_ref(a)).len() == 3).collect();
        assert_eq!(show(&gone), expect, "{name}");
    }
}

#[test]
fn a_status_says_what_there_is() {
    let said = |view: &View| {
        let plan = plan(view, NOW);
        let patch = plan.actions.iter().find(|action| is_status(action)).cloned();
        let Some(Action::Patch(patch)) = patch else { return "nothing".to_owned() };
        let s = &patch.body["status"];
        let n = |field: &str| s[field].as_i64().unwrap_or(0);
        let revision = |field: &str| s[field].as_str().unwrap_or("same").to_owned();
        format!(
            "{} ready {} available {} current {} updated {} {}/{}",
            n("replicas"),
            n("readyReplicas"),
            n("availableReplicas"),
            n("currentReplicas"),
            n("updatedReplicas"),
            revision("currentRevision"),
            revision("updateRevision"),
        )
    };
    for (name, how, have, expect) in [
        ("in the middle", "", "0a 1a! 2b", "3 ready 2 available 2 current 2 updated 1 same/b1"),
        ("done", "", "0b 1b 2b", "3 ready 3 available 3 current 3 updated 3 b1/b1"),
        ("done, not yet available", "ready=3600", "0b 1b 2b", "3 ready 3 available 0 current 3 updated 3 b1/b1"),
        ("by hand", "ondelete", "0b 1b 2b", "3 ready 3 available 3 current 0 updated 3 same/b1"),
        ("one going", "", "0a 1a 2b~", "3 ready 3 available 3 current 2 updated 0 same/b1"),
    ] {
        assert_eq!(said(&view(changed(set(3, "b"), how), "a b", have)), expect, "{name}");
    }
    let view = view(changed(set(1, "a"), "ready=3600"), "a", "0a");
    let ready = crate::pod::ready_since(&view.pods[0]).unwrap();
    assert_eq!(plan(&view, NOW).wake, Some(after_seconds(ready, 3600)));
}

/// A claim of the pod `ordinal`: owned by `set`, by `pod`, by an `old` pod, by an `other` controller.
fn owned_claim(set: &StatefulSet, ordinal: i64, owners: &str) -> (String, Arc<PersistentVolumeClaim>) {
    let mut claim = claims::missing(set, ordinal, |_| false).remove(0);
    let pod = &pods(set, &format!("{ordinal}a"))[0];
    let reference = |word: &str| match word {
        "set" => controller_reference(set),
        "pod" => controller_reference(pod.as_ref()),
        "old" => k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
            uid: "gone".into(),
            ..controller_reference(pod.as_ref())
        },
        _ => controller_reference(&crate::testing::replica_set("other", 1)),
    };
    claim.metadata.owner_references = Some(owners.split_whitespace().map(reference).collect());
    claim.metadata.uid = Some("uid-claim".into());
    (name(&claim.metadata).to_owned(), Arc::new(claim))
}

#[test]
fn claims_come_before_their_pods() {
    let plan_with = |how: &str, have: &str, claims: &[(i64, &str)]| {
        let set = with_claims(changed(set(2, "a"), how));
        let claims = claims.iter().map(|(ordinal, owners)| owned_claim(&set, *ordinal, owners)).collect();
        plan(&View { claims, ..view(set, "a", have) }, NOW)
    };
    for (name, how, have, claims, expect) in [
        ("the claim", "", "", &[][..], "+data-web-0"),
        ("the pod", "", "", &[(0, "")], "+web-0 a0"),
        ("pods whose claims are there do not wait for others", "parallel", "", &[(1, "")], "+web-1 a0 +data-web-0"),
        ("a claim that goes with an earlier pod", "scaled", "", &[(0, "old")], ""),
        ("which does not matter if claims stay", "", "", &[(0, "old")], "+web-0 a0"),
        ("a running pod's claim is not made again", "", "0a 1a", &[(0, "")], ""),
    ] {
        assert_eq!(writes(&plan_with(how, have, claims)), expect, "{name}");
    }
    let mut set = with_claims(set(1, "a"));
    set.spec.selector.match_labels = Some(map(&[("app", "web"), ("tier", "db")]));
    let claim = claims::missing(&changed(set, "deleted"), 0, |_| false).remove(0);
    assert_eq!(object::labels(&claim.metadata), map(&[("app", "web"), ("tier", "db")]));
    assert!(object::controlled_by(&claim.metadata, "uid-web"));
}

#[test]
fn owners_let_claims_go_when_they_should() {
    for (how, surplus, owners, expect) in [
        ("", false, "", "right"),
        ("", false, "set", "nobody"),
        ("", true, "pod", "nobody"),
        ("deleted", false, "", "StatefulSet"),
        ("deleted", false, "set", "right"),
        ("deleted", true, "set", "right"),
        ("scaled", false, "", "right"),
        ("scaled", true, "", "Pod"),
        ("scaled", true, "pod", "right"),
        ("scaled", false, "pod", "nobody"),
        ("deleted scaled", false, "", "StatefulSet"),
        ("deleted scaled", true, "set", "Pod"),
        ("deleted scaled", false, "pod", "StatefulSet"),
        ("deleted", false, "old", "right"),
        ("deleted", false, "other", "right"),
        ("deleted", false, "other set", "ReplicaSet"),
    ] {
        let set = with_claims(changed(set(1, "a"), how));
        let (_, claim) = owned_claim(&set, 0, owners);
        let found = match claims::settle(&set, &pods(&set, "0a")[0], &claim, surplus) {
            None => "right".to_owned(),
            Some(Action::Patch(patch)) => {
                let owners = patch.body["metadata"]["ownerReferences"].as_array().unwrap().clone();
                let kinds: Vec<&str> = owners.iter().map(|owner| owner["kind"].as_str().unwrap()).collect();
                if kinds.is_empty() { "nobody".to_owned() } else { kinds.join(" ") }
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(found, expect, "{how}, surplus {surplus}, owned by {owners}");
    }
    let set = with_claims(changed(set(1, "a"), "scaled"));
    let claims = [owned_claim(&set, 1, "")].into();
    let plan = plan(&View { claims, ..view(set, "a", "0a 1a") }, NOW);
    assert_eq!(writes(&plan), "patch data-web-1 -web-1", "owners come before the end of the pod");
}

/// One turn over a cluster.
fn turn(cluster: &Cluster) -> Vec<Action> {
    let set: StatefulSet = cluster.only();
    let claims = cluster.list::<PersistentVolumeClaim>();
    let revisions = cluster.list::<ControllerRevision>();
    let wanted = revision_name(&set);
    let view = View {
        namesake: revisions.iter().find(|revision| name(&revision.metadata) == wanted).cloned(),
        pods: cluster.list(),
        revisions,
        claims: claims.into_iter().map(|claim| (name(&claim.metadata).to_owned(), claim)).collect(),
        namespace_terminating: false,
        set: Arc::new(set),
    };
    let plan = plan(&view, NOW);
    is_safe(&view, &plan);
    plan.actions
}

/// An ordered set never has more than one pod on its way, up or down.
fn is_safe(view: &View, plan: &Plan) {
    let ordered = view.set.spec.pod_management_policy.as_deref() == Some("OrderedReady");
    let pods = |action: &&Action| match action {
        Action::Create { resource, .. } => *resource == "pods",
        Action::Delete { key, .. } => key.resource == "pods",
        _ => false,
    };
    let moves = plan.actions.iter().filter(pods).count();
    let limit = view.set.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    let one = ordered && limit.is_none_or(|limit| limit.max_unavailable.is_none());
    assert!(!one || moves <= 1, "{}", show(&plan.actions));
    for action in &plan.actions {
        if let Action::Create { resource: "pods", object, .. } = action {
            let made = object["metadata"]["name"].as_str();
            assert!(view.pods.iter().all(|pod| pod.metadata.name.as_deref() != made), "{made:?} is there");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    /// Any change of size or template, in any way, ends with the right pods, and back again.
    #[test]
    fn every_rollout_comes_to_rest(
        want in 0i32..5, resized in 0i32..5,
        how in prop::sample::select(vec!["", "parallel", "max=2", "max=2 parallel", "start=3", "deleted scaled", "scaled parallel"]),
        claims: bool,
    ) {
        let made = |replicas, image| {
            let set = changed(set(replicas, image), how);
            if claims { with_claims(set) } else { set }
        };
        let mut cluster = Cluster::default();
        cluster.add(&made(want, "a"));
        prop_assert!(cluster.settle(60, turn), "start {}", cluster.trace());
        let first = cluster.only::<StatefulSet>().status.unwrap().update_revision;
        for (image, replicas) in [("b", want), ("b", resized), ("a", resized)] {
            let mut next: StatefulSet = cluster.only();
            next.metadata.generation = next.metadata.generation.map(|generation| generation + 1);
            next.spec = made(replicas, image).spec;
            cluster.add(&next);
            prop_assert!(cluster.settle(80, turn), "{image} {}", cluster.trace());
            let pods = cluster.list::<Pod>();
            prop_assert_eq!(pods.len(), usize::try_from(replicas).unwrap(), "{}", cluster.trace());
            let images = |pod: &Arc<Pod>| pod.spec.as_ref().unwrap().containers[0].image.clone();
            prop_assert!(pods.iter().all(|pod| images(pod).as_deref() == Some(image)), "{}", cluster.trace());
        }
        let status = cluster.only::<StatefulSet>().status.unwrap();
        prop_assert_eq!(&status.update_revision, &first, "a rollback finds its revision");
        prop_assert_eq!(status.current_revision, status.update_revision);
        prop_assert_eq!(cluster.list::<ControllerRevision>().len(), 2);
    }
}
