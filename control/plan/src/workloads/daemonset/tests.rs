use k8s_openapi::api::apps::v1::{DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::{NodeSpec, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;

use super::*;
use crate::object::{self, after_seconds, controller_reference, namespace, uid};
use crate::testing::{Cluster, NOW, map, meta, pod_condition, selector, show};
use crate::workloads::history::POD_LABEL;
use crate::workloads::history::tests::{image, revisions_of};

fn number(text: &str) -> IntOrString {
    text.parse().map_or_else(|_| IntOrString::String(text.into()), IntOrString::Int)
}

/// A set `web` of an image; `limits` is `unavailable,surge` or `ondelete`.
pub(crate) fn set(limits: &str, of: &str) -> DaemonSet {
    let rolling_update = limits.split_once(',').map(|(unavailable, surge)| RollingUpdateDaemonSet {
        max_unavailable: Some(number(unavailable)),
        max_surge: Some(number(surge)),
    });
    let kind = if rolling_update.is_some() { "RollingUpdate" } else { "OnDelete" };
    let spec = DaemonSetSpec {
        selector: selector("web"),
        template: image(of),
        revision_history_limit: Some(2),
        update_strategy: Some(DaemonSetUpdateStrategy { type_: Some(kind.into()), rolling_update }),
        min_ready_seconds: None,
    };
    DaemonSet { metadata: meta("web"), spec, status: None }
}

/// Nodes by name; `!` has a taint that keeps pods away, `x` one that drives them out.
fn nodes(text: &str) -> Vec<Arc<Node>> {
    let one = |word: &str| {
        let own = word.trim_end_matches(['!', 'x']);
        let effect = if word.ends_with('!') { "NoSchedule" } else { "NoExecute" };
        let taint = Taint { key: "own".into(), effect: effect.into(), ..Taint::default() };
        let spec = NodeSpec { taints: (own != word).then(|| vec![taint]), ..NodeSpec::default() };
        Arc::new(Node { metadata: ObjectMeta { namespace: None, ..meta(own) }, spec: Some(spec), status: None })
    };
    text.split_whitespace().map(one).collect()
}

/// `n1:a` a pod on `n1` of revision `a0`; `!` not ready, `~` going away, `.` failed, `,` ended well, `^` not bound yet, `?`
/// nobody's.
fn pods(set: &DaemonSet, text: &str) -> Vec<Arc<Pod>> {
    let one = |(at, word): (usize, &str)| {
        let (node, rest) = word.split_once(':').unwrap();
        let of = rest.trim_end_matches(['!', '~', '.', ',', '^', '?']);
        let hash = format!("{of}{}", usize::from(of == "b"));
        let mut pod = nodes::make(set, &hash, node);
        let made = crate::testing::pod(&format!("{node}{of}{at}"), &[]);
        pod.metadata = ObjectMeta {
            labels: pod.metadata.labels,
            owner_references: pod.metadata.owner_references,
            ..made.metadata
        };
        let created = after_seconds(NOW, i64::try_from(at).unwrap() - 1000);
        pod.metadata.creation_timestamp = Some(object::time(created));
        pod.metadata.owner_references = Some(vec![controller_reference(set)]);
        pod.status = made.status;
        pod.spec.as_mut().unwrap().node_name = Some(node.into());
        for mark in rest[of.len()..].chars() {
            let status = pod.status.as_mut().unwrap();
            match mark {
                '!' => status.conditions = Some(vec![pod_condition("Ready", "False")]),
                '~' => pod.metadata.deletion_timestamp = Some(object::time(NOW)),
                '.' => status.phase = Some("Failed".into()),
                ',' => status.phase = Some("Succeeded".into()),
                '^' => pod.spec.as_mut().unwrap().node_name = None,
                _ => pod.metadata.owner_references = None,
            }
        }
        Arc::new(pod)
    };
    text.split_whitespace().enumerate().map(one).collect()
}

fn view(set: DaemonSet, images: &str, on: &str, have: &str) -> View {
    let revisions = revisions_of(&set, POD_LABEL, images);
    let pods = pods(&set, have);
    View {
        set: Arc::new(set),
        nodes: nodes(on),
        pods,
        revisions,
        namesake: None,
        retry_at: HashMap::new(),
        namespace_terminating: false,
    }
}

fn is_status(action: &Action) -> bool {
    matches!(action, Action::Patch(patch) if patch.subresource == Some("status"))
}

/// What is done besides the status; `+n1 a0` a pod made for `n1`.
fn writes(plan: &Plan) -> String {
    let one = |action: &Action| match action {
        Action::Create { object, resource: "pods", .. } => {
            let pod: Pod = serde_json::from_value(object.clone()).unwrap();
            let hash = label(&pod.metadata, POD_LABEL).unwrap();
            format!("+{} {hash}", nodes::target(&pod).unwrap())
        }
        other => show(std::slice::from_ref(other)),
    };
    plan.actions.iter().filter(|action| !is_status(action)).map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn each_node_gets_what_it_needs() {
    for (name, on, have, expect) in [
        ("a pod each", "n1 n2", "", "+n1 a0 +n2 a0"),
        ("what is there stays", "n1 n2", "n1:a", "+n2 a0"),
        ("not on nodes with taints", "n1!", "", ""),
        ("where what is there may stay", "n1!", "n1:a", ""),
        ("but not where it is driven out", "n1x", "n1:a", "-n1a0"),
        ("one that goes is waited for", "n1", "n1:a~", ""),
        ("but for what is over", "n1", "n1:a.~", "+n1 a0"),
        ("a failed pod goes", "n1", "n1:a.", "-n1a0 !FailedDaemonPod"),
        ("one that ended well too", "n1", "n1:a,", "-n1a0 !SucceededDaemonPod"),
        ("of two the younger goes", "n1", "n1:a n1:a", "-n1a1"),
        ("an unbound one before a bound one", "n1", "n1:a^ n1:a", "-n1a0"),
        ("a pod for a node that is gone", "n1", "n1:a n2:a^", "-n2a1"),
        ("one bound to it is somebody else's to end", "n1", "n1:a n2:a", ""),
        ("strangers are adopted", "n1", "n1:a?", "patch n1a0"),
    ] {
        let plan = plan(&view(set("1,0", "a"), "a", on, have), NOW);
        assert_eq!(writes(&plan), expect, "{name}: {}", plan.why);
    }
}

#[test]
fn updates_keep_to_their_limits() {
    for (name, limits, on, have, expect) in [
        ("one at a time", "1,0", "n1 n2", "n1:a n2:a", "-n1a0"),
        ("the next waits for it", "1,0", "n1 n2", "n1:b! n2:a", ""),
        ("then goes", "1,0", "n1 n2", "n1:b n2:a", "-n2a1"),
        ("a gap counts", "1,0", "n1 n2", "n1:b~ n2:a", ""),
        ("broken old ones go at once", "1,0", "n1 n2 n3", "n1:a! n2:a! n3:a", "-n1a0 -n2a1"),
        ("a part, rounded up", "34%,0", "n1 n2 n3", "n1:a n2:a n3:a", "-n1a0 -n2a1"),
        ("nothing would never move", "0,0", "n1", "n1:a", "-n1a0"),
        ("only by hand", "ondelete", "n1", "n1:a", ""),
        ("new ones first", "0,1", "n1 n2", "n1:a n2:a", "+n1 b1"),
        ("which take the place once available", "0,1", "n1 n2", "n1:a n1:b n2:a", "-n1a0"),
        ("and are waited for", "0,1", "n1 n2", "n1:a n1:b! n2:a", ""),
        ("broken old ones get a new one at once", "0,1", "n1 n2 n3", "n1:a n1:b! n2:a! n3:a", "+n2 b1"),
        ("of two broken ones the new one stays", "0,1", "n1", "n1:a! n1:b!", "-n1a0"),
        ("a third goes", "0,1", "n1", "n1:a n1:a n1:b!", "-n1a1"),
        ("an unwanted one stays until enough serve", "0,1", "n1! n2", "n1:a n2:b!", ""),
        ("and goes then", "0,1", "n1! n2", "n1:a n2:b", "-n1a0"),
        ("nothing is old", "1,0", "n1", "n1:b", ""),
    ] {
        let plan = plan(&view(set(limits, "b"), "a b", on, have), NOW);
        assert_eq!(writes(&plan), expect, "{name}: {}", plan.why);
    }
}

#[test]
fn a_rollback_leaves_alone_what_it_meets() {
    let mut view = view(set("1,0", "a"), "a b", "n1 n2", "n1:a n2:b");
    let first = plan(&view, NOW);
    assert_eq!(show(&first.actions), "patch a0", "the old revision is used again");
    let mut again = view.revisions[0].as_ref().clone();
    again.revision = Some(3);
    view.revisions[0] = Arc::new(again);
    assert_eq!(writes(&plan(&view, NOW)), "-n2b1");
}

#[test]
fn failed_pods_are_replaced_later_each_time() {
    let mut view = view(set("1,0", "a"), "a", "n1", "n1:a.");
    let later = after_seconds(NOW, 8);
    view.retry_at.insert(uid(&view.pods[0].metadata).to_owned(), later);
    let waiting = plan(&view, NOW);
    assert_eq!((writes(&waiting).as_str(), waiting.wake), ("", Some(later)));
    assert_eq!(writes(&plan(&view, later)), "-n1a0 !FailedDaemonPod");
}

#[test]
fn revisions_are_kept_in_order() {
    let first = plan(&view(set("1,0", "a"), "", "n1", ""), NOW);
    assert_eq!((writes(&first).starts_with("+web-"), first.actions.len()), (true, 1), "{first:?}");
    let taken = View { namesake: revisions_of(&set("1,0", "x"), "", "x").pop(), ..view(set("1,0", "a"), "", "n1", "") };
    assert_eq!(show(&plan(&taken, NOW).actions), "status web", "a clash is counted");
    let mut doubled = view(set("1,0", "a"), "a a", "n1 n2", "n1:a n2:b");
    let mut second = doubled.revisions[1].as_ref().clone();
    second.metadata.creation_timestamp = Some(object::time(NOW));
    doubled.revisions[1] = Arc::new(second);
    let due = after_seconds(NOW, 5);
    let waiting = plan(&doubled, NOW);
    assert_eq!((writes(&waiting).as_str(), waiting.wake), ("-n2b1", Some(due)), "pods of either are as they should be");
    assert_eq!(show(&plan(&doubled, due).actions), "patch n1a0 -a0", "two revisions of one template become one");
    let mut nameless = view(set("1,0", "a"), "a", "n1", "");
    let mut bare = nameless.revisions[0].as_ref().clone();
    bare.metadata.labels = Some(map(&[("app", "web")]));
    nameless.revisions = vec![Arc::new(bare)];
    assert_eq!(show(&plan(&nameless, NOW).actions), "patch a0", "a revision without its label gets it");
    let mut many = set("1,0", "e");
    many.spec.revision_history_limit = Some(1);
    let plan_of = plan(&view(many, "a b c d e", "n1", "n1:b"), NOW);
    assert!(show(&plan_of.actions).ends_with("-a0 -c2 -d3"), "{}", show(&plan_of.actions));
    let mut gone = set("1,0", "a");
    gone.metadata.deletion_timestamp = Some(object::time(NOW));
    assert_eq!(show(&plan(&view(gone, "a", "n1", "n1:a?"), NOW).actions), "");
    let leaving = View { namespace_terminating: true, ..view(set("1,0", "a"), "a", "n1", "") };
    assert_eq!(writes(&plan(&leaving, NOW)), "");
}

#[test]
fn a_status_says_what_there_is() {
    let mut set = set("ondelete", "b");
    set.spec.min_ready_seconds = Some(3600);
    let view = view(set, "a b", "n1 n2 n3 n4! n5", "n1:a n2:b n3:b! n4:a");
    let plan = plan(&view, NOW);
    let patch = plan.actions.iter().find(|action| is_status(action)).cloned();
    let Some(Action::Patch(patch)) = patch else { panic!("{plan:?}") };
    for (field, expect) in [
        ("desiredNumberScheduled", 4),
        ("currentNumberScheduled", 3),
        ("numberMisscheduled", 1),
        ("numberReady", 2),
        ("updatedNumberScheduled", 2),
        ("numberAvailable", 0),
        ("numberUnavailable", 4),
        ("observedGeneration", 1),
    ] {
        assert_eq!(patch.body["status"][field].as_i64().unwrap_or(0), expect, "{field}");
    }
    let ready = pod::ready_since(&view.pods[0]).unwrap();
    assert_eq!(plan.wake, Some(after_seconds(ready, 3600)));
}

/// One turn over a cluster.
fn turn(cluster: &Cluster) -> Vec<Action> {
    let set: DaemonSet = cluster.only();
    let revisions = cluster.list::<ControllerRevision>();
    let wanted = revision_name(&set);
    let view = View {
        namesake: revisions.iter().find(|revision| name(&revision.metadata) == wanted).cloned(),
        nodes: cluster.list(),
        pods: cluster.list(),
        revisions,
        retry_at: HashMap::new(),
        namespace_terminating: false,
        set: Arc::new(set),
    };
    let plan = plan(&view, NOW);
    is_safe(&view, &plan);
    plan.actions
}

/// No node ever gets a second pod without surge, nor a third with it.
fn is_safe(view: &View, plan: &Plan) {
    let rolling = view.set.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    let surges = rolling.and_then(|limits| limits.max_surge.clone()).is_some_and(|surge| surge != number("0"));
    for action in &plan.actions {
        let Action::Create { resource: "pods", object, .. } = action else { continue };
        let pod: Pod = serde_json::from_value(object.clone()).unwrap();
        let node = nodes::target(&pod).unwrap();
        let there = view.pods.iter().filter(|pod| nodes::target(pod) == Some(node)).count();
        assert!(there <= usize::from(surges), "{node} has {there}: {}", show(&plan.actions));
        assert_eq!(namespace(&pod.metadata), "ns");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    /// Any update ends with one pod of the current template on each node that fits.
    #[test]
    fn every_rollout_comes_to_rest(
        count in 0usize..6, tainted in 0usize..6,
        limits in prop::sample::select(vec!["1,0", "2,0", "50%,0", "0,1", "0,50%", "0,0"]),
    ) {
        let mut cluster = Cluster::default();
        cluster.add(&set(limits, "a"));
        let names: Vec<String> = (0..count).map(|n| format!("n{n}")).collect();
        nodes(&names.join(" ")).iter().for_each(|node| cluster.add(node.as_ref()));
        prop_assert!(cluster.settle(40, turn), "start {}", cluster.trace());
        let hashes = |cluster: &Cluster| -> Vec<String> {
            let pods = cluster.list::<Pod>();
            pods.iter().map(|pod| label(&pod.metadata, POD_LABEL).unwrap().to_owned()).collect()
        };
        let first = hashes(&cluster);
        for image in ["b", "a"] {
            let mut next: DaemonSet = cluster.only();
            next.metadata.generation = next.metadata.generation.map(|generation| generation + 1);
            next.spec = set(limits, image).spec;
            cluster.add(&next);
            prop_assert!(cluster.settle(60, turn), "{image} {}", cluster.trace());
        }
        prop_assert_eq!(hashes(&cluster), first, "a rollback finds its revision");
        let driven = names.get(tainted).map(|name| format!("{name}x")).unwrap_or_default();
        nodes(&driven).iter().for_each(|node| cluster.add(node.as_ref()));
        prop_assert!(cluster.settle(40, turn), "taint {}", cluster.trace());
        let left = if driven.is_empty() { count } else { count - 1 };
        prop_assert_eq!(cluster.list::<Pod>().len(), left, "{}", cluster.trace());
        let status = cluster.only::<DaemonSet>().status.unwrap();
        prop_assert_eq!(status.number_available.unwrap_or(0), i32::try_from(left).unwrap());
    }
}
