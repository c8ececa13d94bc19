use k8s_openapi::api::apps::v1::{DeploymentStrategy, ReplicaSetStatus, RollingUpdateDeployment};
use proptest::prelude::*;

use super::*;
use crate::testing::{Cluster, NOW, map, meta, replica_set, selector, show, template};
use crate::workloads::replicas;

fn number(text: &str) -> IntOrString {
    text.parse().map_or_else(|_| IntOrString::String(text.into()), IntOrString::Int)
}

/// A deployment `web` of image `<image>`; `limits` is `surge,unavailable` or `recreate`.
pub(super) fn deployment(replicas: i32, limits: &str, image: &str) -> Deployment {
    let rolling_update = limits.split_once(',').map(|(surge, unavailable)| RollingUpdateDeployment {
        max_surge: Some(number(surge)),
        max_unavailable: Some(number(unavailable)),
    });
    let kind = if rolling_update.is_some() { "RollingUpdate" } else { "Recreate" };
    let mut template = template("web");
    template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
    let spec = DeploymentSpec {
        replicas: Some(replicas),
        selector: selector("web"),
        strategy: Some(DeploymentStrategy { type_: Some(kind.into()), rolling_update }),
        template,
        progress_deadline_seconds: Some(600),
        revision_history_limit: Some(2),
        ..DeploymentSpec::default()
    };
    let annotations = Some(map(&[(set::REVISION, "1")]));
    Deployment {
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta { annotations, ..meta("web") },
        spec,
        status: None,
    }
}

pub(super) fn view(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> View {
    let wanted = set_name(deployment);
    View {
        deployment: Arc::new(deployment.clone()),
        sets: sets.to_vec(),
        namesake: sets.iter().find(|set| name(&set.metadata) == wanted).cloned(),
        pods: Vec::new(),
        namespace_terminating: false,
        sample: None,
    }
}

/// `name:size/available`, oldest first; the set of image `name`.
pub(super) fn sets(deployment: &Deployment, text: &str) -> Vec<Arc<ReplicaSet>> {
    let want = replicas(&deployment.spec);
    let max = want + limits(&deployment.spec).surge;
    let one = |(at, word): (usize, &str)| {
        let (image, counts) = word.split_once(':').unwrap();
        let (size, available) = counts.split_once('/').unwrap();
        let (size, available): (i32, i32) = (size.parse().unwrap(), available.parse().unwrap());
        let mut set = replica_set(image, size);
        let (revision, want, max) = ((at + 1).to_string(), want.to_string(), max.to_string());
        set.metadata.annotations = Some(map(&[
            (set::REVISION, &revision),
            ("deployment.kubernetes.io/desired-replicas", &want),
            ("deployment.kubernetes.io/max-replicas", &max),
        ]));
        let created = NOW.as_second() - 1000 + i64::try_from(at).unwrap();
        set.metadata.creation_timestamp = Some(object::time(Timestamp::new(created, 0).unwrap()));
        set.metadata.labels = Some(map(&[("app", "web")]));
        set.metadata.owner_references = Some(vec![object::controller_reference(deployment)]);
        let spec = &mut set.spec;
        spec.selector = selector("web");
        let mut template = template("web");
        template.metadata.as_mut().unwrap().labels.as_mut().unwrap().insert(set::HASH_LABEL.into(), image.into());
        template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
        spec.template = Some(template);
        set.status = Some(ReplicaSetStatus {
            replicas: size,
            available_replicas: Some(available),
            ready_replicas: Some(available),
            observed_generation: Some(1),
            ..ReplicaSetStatus::default()
        });
        Arc::new(set)
    };
    text.split_whitespace().enumerate().map(one).collect()
}

/// The sizes that a plan gives: `old=2 new=3`, `+name` for a new set, `-name` for a dropped one.
pub(super) fn sizes(plan: &Plan) -> String {
    let word = |action: &Action| match action {
        Action::Patch(patch) if patch.key.resource == "replicasets" => {
            let size = patch.body["spec"]["replicas"].as_i64()?;
            Some(format!("{}={size}", patch.key.name))
        }
        Action::Create { object, .. } => Some(format!("+{}", object["spec"]["replicas"])),
        Action::Delete { key, .. } => Some(format!("-{}", key.name)),
        _ => None,
    };
    plan.actions.iter().filter_map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn sizes_follow_the_limits() {
    for (name, want, limits, have, expect, why) in [
        ("the first set starts at full size", 3, "25%,25%", "", "+3", "its template has no ReplicaSet yet"),
        ("a new template starts with the surge", 4, "1,0", "a:4/4", "+1", "its template has no ReplicaSet yet"),
        ("without room the new set starts empty", 4, "0,1", "a:4/4", "+0", "its template has no ReplicaSet yet"),
        ("room for unavailability is used", 4, "0,1", "a:4/4 z:0/0", "a=3", "old ReplicaSets shrink"),
        ("a ready new pod lets an old one go", 4, "1,0", "a:4/4 z:1/1", "a=3", "old ReplicaSets shrink"),
        ("a pod that is not ready holds the rollout", 4, "1,0", "a:4/4 z:1/0", "", "its rollout waits for pods"),
        ("the new set takes the place of the old", 4, "1,0", "a:3/3 z:1/1", "z=2", "the new ReplicaSet is resized"),
        ("broken old pods go at once", 4, "1,0", "a:4/2 z:1/1", "a=3", "old ReplicaSets shrink"),
        ("the oldest goes first", 4, "1,1", "a:2/2 b:2/2 z:1/1", "a=0", "old ReplicaSets shrink"),
        ("a rollback uses the set that is there", 2, "1,0", "z:0/0 a:2/2", "z=1", "the new ReplicaSet is resized"),
        ("recreation drops everything first", 3, "recreate", "a:3/3", "a=0", "old pods end first"),
        ("recreation starts once nothing is left", 3, "recreate", "a:0/0", "+3", "its template has no ReplicaSet yet"),
        ("the history is trimmed", 2, "1,0", "a:0/0 b:0/0 c:0/0 z:2/2", "-a", "its rollout is complete"),
    ] {
        let mut deployment = deployment(want, limits, "z");
        if name.starts_with("the history") {
            let status = deployment.status.get_or_insert_default();
            status.observed_generation = Some(1);
            (status.replicas, status.updated_replicas, status.available_replicas) = (Some(2), Some(2), Some(2));
        }
        let sets = sets(&deployment, have);
        let plan = plan(&view(&deployment, &sets), NOW);
        assert_eq!((sizes(&plan).as_str(), plan.why), (expect, why), "{name}");
    }
}

#[test]
fn a_namespace_on_its_way_out_gets_no_new_set() {
    let deployment = deployment(3, "1,0", "z");
    for (namespace_terminating, have, expect) in
        [(false, "", "+3"), (true, "", ""), (true, "a:3/3", ""), (true, "z:2/2", "z=3")]
    {
        let sets = sets(&deployment, have);
        let plan = plan(&View { namespace_terminating, ..view(&deployment, &sets) }, NOW);
        assert_eq!(sizes(&plan), expect, "{have}");
        assert!(!format!("{plan:?}").contains("NewReplicaSetCreated") || !namespace_terminating, "nothing is claimed");
    }
}

#[test]
fn a_change_of_size_keeps_proportions() {
    for (name, from, to, limits, have, expect) in [
        ("one set just follows", 4, 6, "1,0", "z:4/4", "z=6"),
        ("growing in the middle", 10, 20, "3,2", "a:8/8 z:5/2", "a=14 z=9"),
        ("shrinking in the middle", 10, 5, "3,2", "a:8/8 z:5/2", "a=5 z=3"),
        ("to nothing", 4, 0, "1,0", "a:3/3 z:2/2", "a=0 z=0"),
    ] {
        let before = deployment(from, limits, "z");
        let sets = sets(&before, have);
        let after = deployment(to, limits, "z");
        let plan = plan(&view(&after, &sets), NOW);
        assert_eq!((sizes(&plan).as_str(), plan.why), (expect, "its size changed"), "{name}");
    }
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut deployment = deployment(4, "1,0", "z");
    deployment.spec.paused = Some(true);
    let sets = sets(&deployment, "a:4/4");
    let plan = plan(&view(&deployment, &sets), NOW);
    assert_eq!((sizes(&plan).as_str(), plan.why), ("", "it is paused"));
    assert!(format!("{plan:?}").contains("DeploymentPaused"));
}

#[test]
fn a_stuck_rollout_is_reported_after_its_deadline() {
    let mut deployment = deployment(1, "1,0", "z");
    let sets = sets(&deployment, "z:1/0");
    let first = plan(&view(&deployment, &sets), NOW);
    let Some(Action::Patch(patch)) =
        first.actions.iter().find(|a| matches!(a, Action::Patch(p) if p.subresource.is_some()))
    else {
        panic!("no status in {}", show(&first.actions))
    };
    deployment.status = serde_json::from_value(patch.body["status"].clone()).unwrap();
    let view = view(&deployment, &sets);
    let waiting = plan(&view, NOW);
    assert_eq!(show(&waiting.actions), "");
    assert_eq!(waiting.wake, Some(object::after_seconds(NOW, 601)));
    let late = format!("{:?}", plan(&view, object::after_seconds(NOW, 601)));
    assert!(late.contains("ProgressDeadlineExceeded"), "{late}");
}

#[test]
fn a_namesake_of_another_template_is_counted_as_a_collision() {
    let deployment = deployment(1, "1,0", "z");
    let hash = crate::hash::pod_template_hash(&deployment.spec.template, None);
    let mut other = replica_set(&format!("web-{hash}"), 1);
    other.metadata.labels = Some(map(&[("app", "other")]));
    let sets = [Arc::new(other)];
    let plan = plan(&view(&deployment, &sets), NOW);
    assert_eq!(sizes(&plan), "");
    assert!(format!("{plan:?}").contains("collisionCount"));
}

/// One turn of both controllers over the cluster.
fn turn(cluster: &Cluster) -> Vec<Action> {
    let deployment: Deployment = cluster.only();
    let (sets, pods) = (cluster.list::<ReplicaSet>(), cluster.list::<Pod>());
    let mut actions = plan(&View { pods: pods.clone(), ..view(&deployment, &sets) }, NOW).actions;
    for set in sets {
        let view = replicas::View {
            set,
            pods: pods.clone(),
            related_per_node: std::collections::HashMap::new(),
            failure: None,
            namespace_terminating: false,
        };
        actions.extend(replicas::plan(&view, NOW).actions);
    }
    actions
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    /// Any rollout, whatever its limits, ends with the right pods.
    #[test]
    fn every_rollout_comes_to_rest(
        want in 0i32..7, resized in 0i32..7,
        limits in prop::sample::select(vec!["1,0", "0,1", "25%,25%", "100%,0", "0,100%", "2,1", "0%,10%", "recreate"]),
    ) {
        let mut cluster = Cluster::default();
        cluster.add(&deployment(want, limits, "a"));
        prop_assert!(cluster.settle(40, turn), "start {}", cluster.trace());
        for (image, replicas) in [("b", want), ("b", resized), ("a", resized)] {
            let mut next: Deployment = cluster.only();
            let changed = deployment(replicas, limits, image);
            next.metadata.generation = next.metadata.generation.map(|generation| generation + 1);
            next.spec = changed.spec;
            cluster.add(&next);
            prop_assert!(cluster.settle(80, turn), "{image} {}", cluster.trace());
            let pods = cluster.list::<Pod>();
            prop_assert_eq!(pods.len(), usize::try_from(replicas).unwrap());
            let images = |pod: &Arc<Pod>| pod.spec.as_ref().unwrap().containers[0].image.clone();
            prop_assert!(pods.iter().all(|pod| images(pod).as_deref() == Some(image)), "{}", cluster.trace());
        }
        let status = cluster.only::<Deployment>().status.unwrap();
        prop_assert_eq!(status.available_replicas.unwrap_or(0), resized);
        let done = status.conditions.unwrap().into_iter().find(|c| c.type_.as_deref() == Some("Progressing")).unwrap();
        prop_assert_eq!(done.reason.as_deref(), Some("NewReplicaSetAvailable"));
    }
}
