//! Tables of the calculator and of limits, as upstream's tests have them; and whole turns.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior,
    HorizontalPodAutoscalerStatus,
};
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};

use super::calculator::{Per, Pods, Proposal, Tolerances, by_average, by_pods, by_value};
use super::limits::Range;
use super::*;
use crate::action::key_of;
use crate::key::NamespacedName;
use crate::object::time;
use crate::testing::{Cluster, NOW, meta, pod, pod_condition, show};

const USUAL: Tolerances = Tolerances { down: 0.1, up: 0.1 };

fn ago(seconds: i64) -> Timestamp {
    after_seconds(NOW, -seconds)
}

/// A pod that asks for a core and has been there for an hour.
fn replica(name: &str) -> Pod {
    let mut pod = pod(name, &[("app", "web")]);
    let requests = Some([("cpu".to_owned(), Quantity("1".into()))].into());
    let container = &mut pod.spec.as_mut().unwrap().containers[0];
    container.resources = Some(ResourceRequirements { requests, ..ResourceRequirements::default() });
    pod.status.as_mut().unwrap().start_time = Some(time(ago(3600)));
    pod
}

/// Pods, each by what it uses (`-`: nobody knows) and what is special about it: `!` was never ready, `^` was just started,
/// `.` has failed, `?` is pending, `~` is on its way out. `+` comes before the numbers of a pod that is not there.
fn world(text: &str) -> (Vec<Arc<Pod>>, Samples) {
    let (mut pods, mut samples) = (Vec::new(), Samples::new());
    for (index, word) in text.split_whitespace().enumerate() {
        let name = format!("p{index}");
        let number = word.trim_start_matches('+').trim_end_matches(['!', '^', '.', '?', '~']);
        if let Ok(value) = number.parse() {
            samples.insert(name.clone(), Sample { value, at: NOW, window: Duration::from_secs(90) });
        }
        let mut pod = replica(&name);
        let status = pod.status.as_mut().unwrap();
        match word.chars().next_back() {
            Some('!') => {
                let mut unready = pod_condition("Ready", "False");
                unready.last_transition_time = None;
                status.conditions = Some(vec![unready]);
            }
            Some('^') => status.start_time = Some(time(ago(65))),
            Some('.') => status.phase = Some("Failed".into()),
            Some('?') => status.phase = Some("Pending".into()),
            Some('~') => pod.metadata.deletion_timestamp = Some(time(NOW)),
            _ => {}
        }
        if !word.starts_with('+') {
            pods.push(Arc::new(pod));
        }
    }
    (pods, samples)
}

fn shown(outcome: Result<Proposal, String>) -> String {
    match outcome {
        Ok(Proposal { replicas, utilization: Some(percent), usage }) => format!("{replicas} {percent}% {usage}"),
        Ok(Proposal { replicas, utilization: None, usage }) => format!("{replicas} {usage}"),
        Err(why) => why,
    }
}

#[test]
fn shares_of_requests_become_replicas() {
    let unknown = "did not receive metrics for targeted pods (pods might be unready)";
    for (what, current, percent, pods, expect) in [
        ("grows", 3, 30, "300 500 700", "5 50% 500"),
        ("an unready pod makes it grow less", 3, 30, "300! 500 700", "4 60% 600"),
        ("so does one that was just started", 3, 30, "300^ 500 700", "4 60% 600"),
        ("unready pods do not make it grow", 3, 30, "400 500! 700!", "3 40% 400"),
        ("failed pods do not count", 2, 30, "500 700 -. -.", "4 60% 600"),
        ("pods on their way out do not count", 2, 30, "500 700 -~ -~", "4 60% 600"),
        ("shrinks", 5, 50, "100 300 500 250 250", "3 28% 280"),
        ("unready pods are left out when it shrinks", 5, 50, "100 300 500 250! 250!", "2 30% 300"),
        ("pending pods are unready", 3, 50, "100 500 -?", "2 30% 300"),
        ("numbers of others do not count", 4, 100, "4000 9500 3000 7000 +3200 +2000", "24 587% 5875"),
        ("missing numbers make it shrink less", 4, 100, "400 95 - -", "3 24% 247"),
        ("equal, and one missing", 2, 100, "1000 -", "2 100% 1000"),
        ("above, and one missing", 2, 100, "1900 -", "2 190% 1900"),
        ("below, and one missing", 2, 100, "600 -", "2 60% 600"),
        ("one unready, one missing", 3, 50, "100! 450 -", "3 45% 450"),
        ("one unready, one missing, far above", 3, 50, "100! 2000 -", "4 200% 2000"),
        ("one unready, one missing, far below", 4, 50, "100! 100 100 -", "3 10% 100"),
        ("one more while it is rolled out", 2, 50, "100 100 -", "2 10% 100"),
        ("a little above", 1, 100, "1090", "1 109% 1090"),
        ("more than a little", 1, 100, "1110", "2 111% 1110"),
        ("a little below", 10, 100, "910", "10 91% 910"),
        ("nothing is used", 2, 50, "0 0", "0 0% 0"),
        ("numbers of other pods only", 1, 100, "- +100", "no metrics returned matched known pods"),
        ("nobody is ready", 1, 100, "100!", unknown),
        ("nobody is known", 2, 100, "- -", unknown),
        ("nobody is there", 1, 100, "", "no pods returned by selector while calculating replica count"),
    ] {
        let (pods, samples) = world(pods);
        let per = Per::Request { percent, resource: "cpu", container: None };
        let outcome = by_pods(&Pods { current, all: &pods }, &samples, &per, true, USUAL, NOW);
        assert_eq!(shown(outcome), expect, "{what}");
    }
}

#[test]
fn only_cpu_is_not_believed_at_the_beginning() {
    let (pods, samples) = world("300^ 500 700");
    let per = Per::Request { percent: 30, resource: "cpu", container: None };
    let outcome = by_pods(&Pods { current: 3, all: &pods }, &samples, &per, false, USUAL, NOW);
    assert_eq!(shown(outcome), "5 50% 500");
}

#[test]
fn requests_are_those_of_the_pod_or_of_its_containers() {
    let one = |change: fn(&mut Pod), resource: &'static str, container: Option<&'static str>| {
        let mut pod = replica("p0");
        change(&mut pod);
        let (pods, samples) = (vec![Arc::new(pod)], world("500").1);
        let per = Per::Request { percent: 100, resource, container };
        shown(by_pods(&Pods { current: 1, all: &pods }, &samples, &per, false, USUAL, NOW))
    };
    let whole: fn(&mut Pod) = |pod| {
        let requests = Some([("cpu".to_owned(), Quantity("2".into()))].into());
        pod.spec.as_mut().unwrap().resources = Some(ResourceRequirements { requests, ..Default::default() });
    };
    let sidecar: fn(&mut Pod) = |pod| {
        let spec = pod.spec.as_mut().unwrap();
        let mut more = spec.containers[0].clone();
        more.name = "more".into();
        more.restart_policy = Some("Always".into());
        spec.init_containers = Some(vec![more]);
    };
    let plain: fn(&mut Pod) = |_| {};
    assert_eq!(one(plain, "cpu", None), "1 50% 500");
    assert_eq!(one(whole, "cpu", None), "1 25% 500");
    assert_eq!(one(whole, "cpu", Some("c")), "1 50% 500");
    assert_eq!(one(sidecar, "cpu", None), "1 25% 500");
    assert_eq!(one(plain, "memory", None), "missing request for memory in container c of Pod p0");
    assert_eq!(one(whole, "memory", None), "missing pod-level request for memory in Pod p0");
    assert_eq!(one(plain, "cpu", Some("x")), "container x not found in Pod p0");
}

#[test]
fn amounts_become_replicas() {
    for (what, current, target, pods, expect) in [
        ("grows", 3, 15_000, "20000 10000 30000", "4 20000"),
        ("shrinks", 5, 20_000, "12000 12000 12000 12000 12000", "3 12000"),
        ("within tolerance", 3, 20_000, "20100 20900 20200", "3 20400"),
        ("readiness does not matter but for CPU", 3, 15_000, "50000! 10000 30000", "6 30000"),
        ("missing numbers count as the target when it shrinks", 4, 100, "10 10 - -", "3 10"),
        ("missing numbers count as nothing when it grows", 3, 100, "250 250 -", "5 250"),
    ] {
        let (pods, samples) = world(pods);
        let outcome = by_pods(&Pods { current, all: &pods }, &samples, &Per::Amount(target), false, USUAL, NOW);
        assert_eq!(shown(outcome), expect, "{what}");
    }
}

#[test]
fn values_become_replicas() {
    for (what, current, pods, value, target, expect) in [
        ("grows", 3, "1 1 1", 20_000, 15_000, "4 20000"),
        ("only those that serve count", 3, "1 1! 1?", 20_000, 15_000, "2 20000"),
        ("shrinks", 5, "1 1 1 1 1", 12_000, 20_000, "3 12000"),
        ("within tolerance", 3, "1 1 1", 20_500, 20_000, "3 20500"),
        ("from nothing", 0, "", 10_000, 1000, "10 10000"),
        ("stays at nothing", 0, "", 0, 1000, "0 0"),
        ("to nothing", 2, "1 1", 0, 1000, "0 0"),
        ("beyond all measure", 2, "1 1", i64::MAX, 1, "2147483647 9223372036854775807"),
    ] {
        let pods = world(pods).0;
        let outcome = by_value(&Pods { current, all: &pods }, value, target, USUAL);
        assert_eq!(shown(outcome), expect, "{what}");
    }
    for (what, present, value, target, expect) in [
        ("grows", 3, 8_600, 2_150, "4 2867"),
        ("shrinks", 5, 2_000, 1_000, "2 400"),
        ("within tolerance", 3, 3_100, 1_000, "3 1034"),
        ("from nothing", 0, 2_500, 1_000, "3 2500"),
        ("stays at nothing", 0, 0, 1_000, "0 0"),
    ] {
        assert_eq!(shown(Ok(by_average(present, value, target, USUAL))), expect, "{what}");
    }
}

fn target(current: i32) -> Target {
    let scale = Scale { wanted: current, present: current, selector: "app=web".into(), ..Scale::default() };
    Target { key: key_of(&deployment(current)), scale }
}

/// What was recommended and done, some seconds ago.
fn history(recommended: &[(i64, i32)], done: &[(i64, i32, i32)]) -> History {
    let mut history = History::default();
    for (seconds, replicas) in recommended {
        let decision = Decision { recommended: Some(*replicas), ..Decision::default() };
        history.note(&decision, None, ago(*seconds));
    }
    for (seconds, from, to) in done {
        history.note(&Decision { done: Some((*from, *to)), ..Decision::default() }, None, ago(*seconds));
    }
    history
}

fn limited(
    (behavior, current): (Option<&HorizontalPodAutoscalerBehavior>, i32),
    wanted: i32,
    history: &History,
) -> String {
    let limited = Range { behavior, least: 2, most: 20, current, history, now: NOW }.limit(wanted);
    format!("{} {} {}={}", limited.replicas, limited.able.0, limited.limited.1.0, limited.limited.0)
}

#[test]
fn without_behaviours_a_target_doubles_and_shrinks_after_five_minutes() {
    type Case = (&'static str, i32, i32, &'static [(i64, i32)], &'static str);
    let calm = &[(299, 5)];
    let cases: [Case; 9] = [
        ("as wished", 5, 6, calm, "6 ReadyForNewScale DesiredWithinRange=false"),
        ("too fast", 5, 12, calm, "10 ReadyForNewScale ScaleUpLimit=true"),
        ("four at least", 2, 9, &[(200, 2)], "4 ReadyForNewScale ScaleUpLimit=true"),
        ("too many", 15, 25, &[(200, 15)], "20 ReadyForNewScale TooManyReplicas=true"),
        ("too soon", 5, 3, calm, "5 ScaleDownStabilized DesiredWithinRange=false"),
        ("not so far", 5, 3, &[(500, 5), (200, 4), (100, 3)], "4 ScaleDownStabilized DesiredWithinRange=false"),
        ("late enough", 5, 3, &[(301, 5)], "3 ReadyForNewScale DesiredWithinRange=false"),
        ("too few", 5, 1, &[(301, 5)], "2 ReadyForNewScale TooFewReplicas=true"),
        ("nothing is known", 5, 3, &[], "5 ScaleDownStabilized DesiredWithinRange=false"),
    ];
    for (what, current, wanted, recommended, expect) in cases {
        assert_eq!(limited((None, current), wanted, &history(recommended, &[])), expect, "{what}");
    }
}

fn rules(window: i32, select: &str, policies: &[(&str, i32, i32)]) -> HPAScalingRules {
    let policy = |(kind, value, period_seconds): &(&str, i32, i32)| HPAScalingPolicy {
        type_: (*kind).to_owned(),
        value: *value,
        period_seconds: *period_seconds,
    };
    HPAScalingRules {
        policies: Some(policies.iter().map(policy).collect()),
        select_policy: Some(select.to_owned()),
        stabilization_window_seconds: Some(window),
        tolerance: None,
    }
}

#[test]
fn behaviours_say_how_fast_a_target_goes() {
    let steps = [("Pods", 2, 60), ("Percent", 50, 60)];
    let of = |select: &str, window: i32| HorizontalPodAutoscalerBehavior {
        scale_up: Some(rules(window, select, &steps)),
        scale_down: Some(rules(window, select, &steps)),
    };
    type Case = (
        &'static str,
        (&'static str, i32),
        (i32, i32),
        &'static [(i64, i32)],
        &'static [(i64, i32, i32)],
        &'static str,
    );
    let cases: [Case; 15] = [
        ("half more", ("Max", 0), (8, 20), &[], &[], "12 ReadyForNewScale ScaleUpLimit=true"),
        ("two more", ("Min", 0), (8, 20), &[], &[], "10 ReadyForNewScale ScaleUpLimit=true"),
        ("not at all", ("Disabled", 0), (8, 20), &[], &[], "8 ReadyForNewScale ScaleUpLimit=true"),
        (
            "what came in the period counts",
            ("Max", 0),
            (8, 20),
            &[],
            &[(30, 6, 8)],
            "9 ReadyForNewScale ScaleUpLimit=true",
        ),
        ("what came before does not", ("Max", 0), (8, 20), &[], &[(61, 6, 8)], "12 ReadyForNewScale ScaleUpLimit=true"),
        ("all came already", ("Min", 0), (8, 20), &[], &[(30, 2, 8)], "8 ReadyForNewScale ScaleUpLimit=true"),
        ("too many", ("Max", 0), (18, 30), &[], &[], "20 ReadyForNewScale TooManyReplicas=true"),
        ("half less", ("Max", 0), (8, 2), &[], &[], "4 ReadyForNewScale ScaleDownLimit=true"),
        ("two less", ("Min", 0), (8, 2), &[], &[], "6 ReadyForNewScale ScaleDownLimit=true"),
        ("no less", ("Disabled", 0), (8, 2), &[], &[], "8 ReadyForNewScale ScaleDownLimit=true"),
        (
            "what went in the period counts",
            ("Min", 0),
            (6, 2),
            &[],
            &[(30, 8, 6)],
            "6 ReadyForNewScale ScaleDownLimit=true",
        ),
        ("too few", ("Max", 0), (3, 1), &[], &[], "2 ReadyForNewScale TooFewReplicas=true"),
        (
            "up only as was recommended all along",
            ("Max", 300),
            (8, 11),
            &[(200, 9)],
            &[],
            "9 ScaleUpStabilized DesiredWithinRange=false",
        ),
        (
            "down only as was recommended all along",
            ("Max", 300),
            (8, 5),
            &[(200, 7)],
            &[],
            "7 ScaleDownStabilized DesiredWithinRange=false",
        ),
        (
            "old recommendations do not count",
            ("Max", 100),
            (8, 5),
            &[(200, 7)],
            &[],
            "5 ReadyForNewScale DesiredWithinRange=false",
        ),
    ];
    for (what, (select, window), (current, wanted), recommended, done, expect) in cases {
        let behavior = of(select, window);
        assert_eq!(limited((Some(&behavior), current), wanted, &history(recommended, done)), expect, "{what}");
    }
}

fn deployment(replicas: i32) -> Deployment {
    let spec = DeploymentSpec { replicas: Some(replicas), ..DeploymentSpec::default() };
    Deployment { metadata: meta("web"), spec, status: None }
}

fn autoscaler(change: Value) -> HorizontalPodAutoscaler {
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    let mut object = json!({"spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "minReplicas": 1, "maxReplicas": 10, "metrics": [cpu]}});
    crate::testing::merge(&mut object, &change);
    let mut made: HorizontalPodAutoscaler = serde_json::from_value(object).unwrap();
    made.metadata = meta("h");
    made
}

/// An autoscaler, a Deployment that makes its pods at once, and a controller.
struct ScaledCluster {
    cluster: Cluster,
    history: History,
    now: Timestamp,
    /// What each pod uses; `None`: it is not known.
    usage: Option<i64>,
    refused: Option<&'static str>,
    rivals: Vec<NamespacedName>,
}

impl ScaledCluster {
    fn new(replicas: i32, change: Value) -> Self {
        let mut cluster = Cluster::default();
        cluster.add(&deployment(replicas));
        cluster.add(&autoscaler(change));
        let (history, now) = (History::default(), NOW);
        Self { cluster, history, now, usage: Some(500), refused: None, rivals: Vec::new() }
    }

    fn target(&self) -> Target {
        let deployment: Deployment = self.cluster.only();
        let mut target = target(deployment.spec.replicas.unwrap());
        target.scale.version = deployment.metadata.resource_version.clone().unwrap();
        target.scale.uid = deployment.metadata.uid.clone().unwrap();
        target
    }

    fn status(&self) -> HorizontalPodAutoscalerStatus {
        self.cluster.only::<HorizontalPodAutoscaler>().status.unwrap_or_default()
    }

    fn conditions(&self) -> String {
        let status = self.status();
        let show = |c: &k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerCondition| {
            format!("{}={} {}", c.type_, c.status, c.reason.as_deref().unwrap_or_default())
        };
        status.conditions.iter().flatten().map(show).collect::<Vec<_>>().join(", ")
    }

    /// One turn; what it did. Time goes on to the next.
    fn turn(&mut self) -> String {
        let target = self.target();
        let names = (0..target.scale.wanted).map(|index| format!("p{index}"));
        let pods: Vec<Arc<Pod>> = names.map(|name| Arc::new(replica(&name))).collect();
        let numbers = self.usage.map(|value| {
            let sample = Sample { value, at: self.now, window: Duration::from_secs(15) };
            Numbers::Pods(pods.iter().map(|pod| (crate::object::name(&pod.metadata).to_owned(), sample)).collect())
        });
        let metrics = vec![numbers.ok_or_else(|| "no metrics returned from resource metrics API".to_owned())];
        let facts = Facts { target: Ok(target.clone()), metrics };
        let autoscaler: Arc<HorizontalPodAutoscaler> = Arc::new(self.cluster.only());
        let inputs = Inputs {
            autoscaler: &autoscaler,
            facts: &facts,
            pods: &pods,
            rivals: &self.rivals,
            refused: self.refused.take(),
        };
        let decision = decide(&inputs, &self.history, self.now);
        self.history.note(&decision, Some(&target), self.now);
        let plan = plan(&View { autoscaler, target: Some(target), decision }, self.now);
        let done = show(&plan.actions);
        plan.actions.into_iter().for_each(|action| self.cluster.apply(action));
        self.now = plan.wake.expect("metrics are looked at again");
        done
    }

    fn turns(&mut self, count: usize) -> String {
        (0..count).map(|_| self.turn()).collect::<Vec<_>>().join(" | ")
    }
}

#[test]
fn a_target_grows_is_told_of_and_rests() {
    let mut world = ScaledCluster::new(2, json!({}));
    world.usage = Some(900);
    assert_eq!(world.turn(), "scale web");
    assert_eq!(world.target().scale.wanted, 4);
    assert_eq!(world.now, NOW, "what was done is looked at at once");
    assert_eq!(world.turn(), "status h");
    let status = world.status();
    assert_eq!((status.current_replicas, status.desired_replicas), (Some(4), 4));
    assert_eq!(status.last_scale_time, Some(time(NOW)));
    assert!(world.conditions().starts_with("AbleToScale=True SucceededRescale"), "{}", world.conditions());
    world.usage = Some(450);
    assert_eq!(world.turns(3), "status h |  | ", "it says that it is ready, once");
    assert_eq!(
        world.conditions(),
        "AbleToScale=True ReadyForNewScale, ScalingActive=True ValidMetricFound, ScalingLimited=False DesiredWithinRange, \
         ScaledToZero=False NotScaledToZero"
    );
    assert_eq!(world.status().last_scale_time, Some(time(NOW)));
}

#[test]
fn metrics_that_move_a_little_are_written_once_a_minute() {
    let mut world = ScaledCluster::new(2, json!({}));
    assert_eq!(world.turns(2), "status h | ");
    world.usage = Some(510);
    // The first write was thirty seconds ago.
    assert_eq!(world.turns(4), " |  | status h | ");
    world.usage = Some(451);
    assert_eq!(world.turn(), "status h", "by more than a tenth");
    let written = world.status().current_metrics.unwrap();
    let current = &written[0].resource.as_ref().unwrap().current;
    assert_eq!((current.average_utilization, current.average_value.clone()), (Some(45), Some(Quantity("451m".into()))));
}

#[test]
fn a_target_shrinks_when_nothing_else_was_recommended_for_five_minutes() {
    let mut world = ScaledCluster::new(4, json!({}));
    world.usage = Some(100);
    let mut turns = 0;
    while world.target().scale.wanted == 4 {
        world.turn();
        turns += 1;
        assert!(turns < 40, "{}", world.conditions());
    }
    assert_eq!(world.target().scale.wanted, 1);
    assert!(world.now >= after_seconds(NOW, 300) && world.now <= after_seconds(NOW, 330), "{}", world.now);
}

#[test]
fn what_cannot_be_measured_changes_nothing_and_is_told_once() {
    let mut world = ScaledCluster::new(2, json!({}));
    world.usage = None;
    let events = "!FailedGetResourceMetric !FailedComputeMetricsReplicas";
    assert_eq!(world.turns(2), format!("{events} status h | {events}"));
    assert_eq!(world.conditions(), "AbleToScale=True SucceededGetScale, ScalingActive=False FailedGetResourceMetric");
    let message = world.status().conditions.unwrap()[1].message.clone().unwrap();
    let expect = "the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for \
                  resource cpu: no metrics returned from resource metrics API";
    assert_eq!(message, expect);
    world.rivals = vec![NamespacedName::new("ns", "h"), NamespacedName::new("ns", "i")];
    assert_eq!(world.turn(), "!AmbiguousSelector !FailedComputeMetricsReplicas status h");
    assert_eq!(world.target().scale.wanted, 2);
}

#[test]
fn bounds_hold_without_metrics() {
    for (replicas, change, expect) in
        [(12, json!({}), 10), (2, json!({"spec": {"minReplicas": 3}}), 3), (0, json!({}), 0)]
    {
        let mut world = ScaledCluster::new(replicas, change);
        world.usage = None;
        world.turns(2);
        assert_eq!(world.target().scale.wanted, expect, "{}", world.conditions());
    }
    let mut stopped = ScaledCluster::new(0, json!({}));
    assert_eq!(stopped.turns(2), "status h | ");
    assert_eq!(stopped.conditions(), "AbleToScale=True SucceededGetScale, ScalingActive=False ScalingDisabled");
}

#[test]
fn a_size_that_is_refused_is_told_of_and_tried_again() {
    let mut world = ScaledCluster::new(2, json!({}));
    world.usage = Some(900);
    let before = world.cluster.only::<Deployment>();
    assert_eq!(world.turn(), "scale web");
    // It was refused: the target is as before.
    world.cluster.add(&before);
    world.refused = Some("no");
    assert_eq!(world.turn(), "!FailedRescale status h");
    assert!(world.conditions().starts_with("AbleToScale=False FailedUpdateScale"), "{}", world.conditions());
    assert_eq!(world.status().last_scale_time, None);
    assert_eq!(world.turns(2), "scale web | status h");
}

#[test]
fn a_new_leader_goes_on_where_the_last_one_died() {
    let mut world = ScaledCluster::new(2, json!({}));
    world.usage = Some(900);
    assert_eq!(world.turn(), "scale web");
    world.history = History::default();
    world.usage = Some(500);
    assert_eq!(world.turns(3), "status h |  | ", "it is not scaled twice, and its status is right");
    assert_eq!((world.status().current_replicas, world.target().scale.wanted), (Some(4), 4));
}

#[test]
fn tolerances_are_those_of_each_direction() {
    let with = |up: &str| json!({"spec": {"behavior": {"scaleUp": {"tolerance": up, "policies": [{"type": "Pods", "value": 9, "periodSeconds": 15}]}}}});
    for (tolerance, expect) in [("0.5", 2), ("50m", 3)] {
        let mut world = ScaledCluster::new(2, with(tolerance));
        world.usage = Some(600);
        world.turn();
        assert_eq!(world.target().scale.wanted, expect, "{tolerance}");
    }
}

#[test]
fn a_target_without_a_scale_is_told_of_once() {
    let autoscaler = autoscaler(json!({}));
    let facts = Facts { target: Err("deployments.apps \"web\" not found".into()), metrics: Vec::new() };
    let inputs = Inputs { autoscaler: &autoscaler, facts: &facts, pods: &[], rivals: &[], refused: None };
    let mut history = History::default();
    let first = decide(&inputs, &history, NOW);
    history.note(&first, None, NOW);
    assert_eq!(first.events[0].reason, "FailedGetScale");
    let told = HorizontalPodAutoscaler { status: first.status, ..autoscaler.clone() };
    let again = decide(&Inputs { autoscaler: &told, ..inputs }, &history, after_seconds(NOW, EVERY));
    assert_eq!(again.status, None);
}

/// Value and quantity of an object, in thousandths.
fn of_object(replicas: i32, least: i32, value: i64) -> (i32, String) {
    let metric = json!({"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"},
        "metric": {"name": "m"}, "target": {"type": "Value", "value": "1"}}});
    let stopped = json!([{"type": "ScaledToZero", "status": "True"}]);
    let mut autoscaler = autoscaler(json!({"spec": {"minReplicas": least, "metrics": [metric]}}));
    if replicas == 0 {
        autoscaler.status = Some(HorizontalPodAutoscalerStatus {
            conditions: serde_json::from_value(stopped).unwrap(),
            ..HorizontalPodAutoscalerStatus::default()
        });
    }
    let pods: Vec<Arc<Pod>> = (0..replicas).map(|index| Arc::new(replica(&format!("p{index}")))).collect();
    let facts = Facts { target: Ok(target(replicas)), metrics: vec![Ok(Numbers::Object(value))] };
    let inputs = Inputs { autoscaler: &autoscaler, facts: &facts, pods: &pods, rivals: &[], refused: None };
    // Nothing else was recommended for long.
    let decision = decide(&inputs, &history(&[(301, 0)], &[]), NOW);
    let asked = decision.rescale.map(|asked| {
        let conditions = asked.status.conditions.unwrap_or_default();
        let zero = conditions.iter().find(|one| one.type_ == "ScaledToZero").map(|one| one.status.clone());
        (asked.to, format!("{} ({})", asked.reason, zero.unwrap_or_default()))
    });
    asked.unwrap_or((replicas, String::new()))
}

#[test]
fn a_target_goes_to_zero_and_comes_back() {
    assert_eq!(of_object(1, 0, 0), (0, "All metrics below target (True)".to_owned()));
    assert_eq!(of_object(0, 0, 3000), (3, "Service metric m above target (False)".to_owned()));
    assert_eq!(of_object(0, 0, 0), (0, String::new()));
    assert_eq!(of_object(0, 2, 0), (2, "Current number of replicas below Spec.MinReplicas (False)".to_owned()));
}
