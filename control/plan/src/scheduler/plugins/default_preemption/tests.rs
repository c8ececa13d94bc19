//! What upstream's tables of this plugin say (plugins/defaultpreemption).

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::json;

use crate::scheduler::framework::{Budget, Diagnosis};
use crate::scheduler::testing::{info, scheduler};
use crate::scheduler::{ClusterEvent, Scheduler};

/// The node, and who has to go; or what people are told.
fn told(why: &Diagnosis) -> String {
    match &why.preemption {
        Some(preemption) => {
            let victims = preemption.victims.iter().map(|victim| format!(" -{}", victim.name));
            format!("{}:{}", preemption.node, victims.collect::<String>())
        }
        None => why.post_filter.clone().unwrap().replace("no new claims to deallocate, ", ""),
    }
}

fn attempt(scheduler: &mut Scheduler, name: &str, pod: &str) -> String {
    match scheduler.decide(&info(name, pod)) {
        Ok(assignment) => assignment.node.to_string(),
        Err(why) => told(&why),
    }
}

#[test]
fn as_few_as_possible_of_the_least_important_go() {
    let unhelpful = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    let nobody = "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    for (name, nodes, there, pod, expect) in [
        ("room is there", "a", "a: cpu=3", "cpu=1 priority=1", "a"),
        ("one goes", "a", "a: cpu=3", "cpu=2 priority=1", "a: -there0"),
        ("equals stay", "a", "a: cpu=3 priority=1", "cpu=2 priority=1", nobody),
        ("it would not help", "a", "a: cpu=3", "cpu=5 priority=1", unhelpful),
        ("nor where it may not go", "a taint=x:NoSchedule", "a: cpu=3", "cpu=2 priority=1", unhelpful),
        (
            "the rest is too much",
            "a",
            "a: cpu=3 priority=2, a: cpu=500m",
            "cpu=2 priority=1",
            "preemption: 0/1 nodes are available: 1 Insufficient cpu.",
        ),
        (
            "it does not want to",
            "a",
            "a: cpu=3",
            "cpu=2 priority=1 never=1",
            "preemption: not eligible due to preemptionPolicy=Never.",
        ),
        ("one of two is enough", "a", "a: cpu=2, a: cpu=2", "cpu=2 priority=1", "a: -there1"),
        ("the less important one", "a", "a: cpu=2 priority=1, a: cpu=2", "cpu=2 priority=2", "a: -there1"),
        ("the younger one", "a", "a: cpu=2 started=5, a: cpu=2 started=1", "cpu=2 priority=2", "a: -there0"),
        ("a small one can stay", "a", "a: cpu=3, a: cpu=1", "cpu=3 priority=1", "a: -there0"),
        ("both", "a", "a: cpu=2 priority=1, a: cpu=2", "cpu=4 priority=2", "a: -there0 -there1"),
        ("a port", "a", "a: port=80", "port=80 priority=1", "a: -there0"),
        ("who keeps it away", "a label=zone:x", "a: apart=zone/app:web, a: label=app:db", "priority=1", "a: -there0"),
        (
            "whom it does not want near",
            "a label=zone:x",
            "a: , a: label=app:db",
            "apart=zone/app:web priority=1",
            "a: -there0",
        ),
        (
            "who makes the skew",
            "a label=zone:x, b label=zone:y taint=own:NoSchedule",
            "a: , a: label=app:db",
            "spread=zone/1 priority=1",
            "a: -there0",
        ),
        (
            "where the least important goes",
            "a cpu=1, b cpu=1",
            "a: cpu=1 priority=1, b: cpu=1",
            "cpu=1 priority=2",
            "b: -there1",
        ),
        (
            "where the sum is less",
            "a cpu=2, b cpu=2",
            "a: cpu=1 priority=1, a: cpu=1 priority=1, b: cpu=2 priority=1",
            "cpu=2 priority=2",
            "b: -there2",
        ),
        ("where fewer go", "a cpu=2, b cpu=2", "a: cpu=1, a: cpu=1, b: cpu=2", "cpu=2 priority=2", "b: -there2"),
        (
            "where the oldest is younger",
            "a cpu=1, b cpu=1",
            "a: cpu=1 started=1, b: cpu=1 started=2",
            "cpu=1 priority=2",
            "b: -there1",
        ),
        (
            "the first of equals",
            "a cpu=1, b cpu=1",
            "a: cpu=1 started=1, b: cpu=1 started=1",
            "cpu=1 priority=2",
            "a: -there0",
        ),
    ] {
        assert_eq!(attempt(&mut scheduler(nodes, there), "new", pod), expect, "{name}");
    }
}

fn budget(allowed: i32, key: &str) -> Budget {
    let budget: PodDisruptionBudget = serde_json::from_value(json!({
        "metadata": {"namespace": "ns", "name": "b"},
        "spec": {"selector": {"matchLabels": {"app": key}}}, "status": {"disruptionsAllowed": allowed,
            "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0},
    }))
    .unwrap();
    Budget::read(&budget).unwrap()
}

#[test]
fn budgets_are_kept_where_that_is_possible() {
    for (name, allowed, nodes, there, expect) in [
        ("the other one", 0, "a", "a: cpu=2, a: cpu=2 label=app:db", "a: -there1"),
        ("one may go", 1, "a", "a: cpu=2, a: cpu=2 label=app:db started=1", "a: -there0"),
        (
            "the other node",
            0,
            "a cpu=2, b cpu=2",
            "a: cpu=2, b: cpu=1 label=app:db, b: cpu=1 label=app:db",
            "b: -there1 -there2",
        ),
        ("no other way", 0, "a", "a: cpu=4", "a: -there0"),
    ] {
        let mut scheduler = scheduler(nodes, there);
        scheduler.set_budgets(vec![budget(allowed, "web")]);
        assert_eq!(attempt(&mut scheduler, "new", "cpu=2 priority=5"), expect, "{name}");
    }
}

#[test]
fn a_pod_waits_for_its_victims_and_nobody_takes_its_place() {
    let mut scheduler = scheduler("a, b cordon", "a: cpu=2, a: cpu=2");
    assert_eq!(attempt(&mut scheduler, "high", "cpu=3 priority=5"), "a: -there0 -there1");
    let waiting = "preemption: not eligible due to terminating pod on the nominated node.";
    assert_eq!(attempt(&mut scheduler, "high", "cpu=3 priority=5"), waiting);
    scheduler.remove_pod("uid-there0");
    assert_eq!(attempt(&mut scheduler, "high", "cpu=3 priority=5"), waiting);
    let why = scheduler.decide(&info("low", "cpu=2")).unwrap_err();
    assert!(why.to_string().starts_with("0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unsch"), "{why}");
    scheduler.remove_pod("uid-there1");
    assert!(scheduler.decide(&info("low", "cpu=2")).is_err(), "the room is promised");
    assert_eq!(attempt(&mut scheduler, "other", "cpu=1"), "a", "what is left may be taken");
    assert_eq!(attempt(&mut scheduler, "high", "cpu=3 priority=5"), "a");
    assert_eq!(scheduler.nodes().node_of("uid-high").map(|node| &**node), Some("a"));
}

#[test]
fn a_promise_ends_with_the_pod_or_for_a_more_important_one() {
    let mut scheduler = scheduler("a", "a: cpu=4");
    assert_eq!(attempt(&mut scheduler, "high", "cpu=4 priority=5"), "a: -there0");
    scheduler.remove_pod("uid-there0");
    let low = info("low", "cpu=4");
    let why = scheduler.decide(&low).unwrap_err();
    scheduler.take_events();
    scheduler.remove_pod("uid-high");
    let events: Vec<ClusterEvent> = scheduler.take_events();
    assert!(scheduler.queueing_hint(&low, why.rejectors, &events), "its room is free again");
    assert_eq!(attempt(&mut scheduler, "low", "cpu=4"), "a");

    assert_eq!(attempt(&mut scheduler, "high", "cpu=4 priority=5"), "a: -low");
    assert_eq!(attempt(&mut scheduler, "higher", "cpu=4 priority=7"), "a: -low", "nobody of before counts");
    scheduler.remove_pod("uid-low");
    let why = scheduler.decide(&info("high", "cpu=4 priority=5")).unwrap_err();
    assert_eq!((why.nominated, why.preemption), (None, None), "the more important one has the promise");
    assert_eq!(attempt(&mut scheduler, "higher", "cpu=4 priority=7"), "a");
}

#[test]
fn a_nomination_of_before_counts() {
    let mut scheduler = scheduler("a, b", "");
    scheduler.set_waiting(&info("high", "cpu=4 priority=5 nominated=b"));
    for at in 0..4 {
        assert_eq!(attempt(&mut scheduler, &format!("low{at}"), "cpu=1"), "a");
    }
    assert_eq!(attempt(&mut scheduler, "high", "cpu=4 priority=5 nominated=b"), "b");
}
