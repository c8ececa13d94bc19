use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use proptest::prelude::*;

use super::testing::{amounts, fill, info, node, pod, scheduler};
use super::*;
use crate::Action;
use crate::workloads::{daemonset, history};

fn decide(scheduler: &mut Scheduler, name: &str, want: &str) -> String {
    match scheduler.decide(&info(name, want)) {
        Ok(assignment) => assignment.node.to_string(),
        Err(why) => why.to_string(),
    }
}

#[test]
fn finds_the_node_or_says_why_not() {
    for (name, nodes, there, want, expect) in [
        ("the only one", "a", "", "cpu=1", "a"),
        ("the emptier one", "a, b", "a: cpu=2", "cpu=1", "b"),
        ("the one without its kin", "a, b cpu=2", "a: cpu=100m", "cpu=100m", "b"),
        ("the preferred one", "a, b label=disk:ssd", "", "prefer=disk:In:ssd", "b"),
        ("the required one", "a, b label=disk:ssd", "", "require=disk:In:ssd", "b"),
        ("the selected one", "a label=x:y, b", "b: cpu=1", "select=x:y", "a"),
        ("not the softly tainted one", "a taint=busy:PreferNoSchedule, b", "b: cpu=1", "cpu=1", "b"),
        ("a tainted one, tolerated", "a taint=own:NoSchedule", "", "tolerate=own", "a"),
        ("a free port", "a, b", "a: port=80", "port=80", "b"),
        ("no nodes", "", "", "", "no nodes available to schedule pods"),
        (
            "short of one thing each",
            "a cpu=1, b taint=own:NoSchedule",
            "",
            "cpu=2",
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {own: }. \
             no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
        ),
        (
            "full",
            "a pods=1, b cordon",
            "a: cpu=1",
            "cpu=1",
            "0/2 nodes are available: 1 Too many pods, 1 node(s) were unschedulable. no new claims to deallocate, preemption: 0/2 nodes are \
             available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.",
        ),
        (
            "unknown resource",
            "a",
            "",
            "gpu=1",
            "0/1 nodes are available: 1 Insufficient example.com/gpu. no new claims to deallocate, preemption: 0/1 nodes are available: \
             1 Preemption is not helpful for scheduling.",
        ),
        (
            "nowhere selected",
            "a",
            "",
            "select=x:y",
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, preemption: 0/1 nodes are \
             available: 1 Preemption is not helpful for scheduling.",
        ),
        (
            "port taken",
            "a",
            "a: port=80",
            "port=80",
            "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. no new claims to deallocate, preemption: 0/1 \
             nodes are available: 1 No preemption victims found for incoming pod.",
        ),
    ] {
        assert_eq!(decide(&mut scheduler(nodes, there), "new", want), expect, "{name}");
    }
}

/// Pods of DaemonSets name their node, and bear what keeps others away.
#[test]
fn pods_of_daemon_sets_go_where_they_were_made_for() {
    let unschedulable = "cordon taint=node.kubernetes.io/unschedulable:NoSchedule";
    let pressed = "taint=node.kubernetes.io/memory-pressure:NoSchedule";
    let nodes: Vec<String> = vec!["n1".into(), format!("n2 {unschedulable}"), format!("n3 {pressed}"), "n4".into()];
    let set = Arc::new(daemonset::tests::set("1,0", "image"));
    let view = daemonset::View {
        revisions: history::tests::revisions_of(set.as_ref(), history::POD_LABEL, "image"),
        set,
        nodes: nodes.iter().map(|text| Arc::new(node(text))).collect(),
        pods: Vec::new(),
        namesake: None,
        retry_at: HashMap::new(),
        namespace_terminating: false,
    };
    let mut scheduler = scheduler(&nodes.join(", "), "n4: cpu=1, n4: cpu=1");
    let created = daemonset::plan(&view, crate::testing::NOW).actions;
    let pods = created.into_iter().filter_map(|action| match action {
        Action::Create { object, .. } => Some(serde_json::from_value::<Pod>(object).unwrap()),
        _ => None,
    });
    let chosen: Vec<String> = pods
        .enumerate()
        .map(|(at, mut pod)| {
            pod.metadata.name = Some(format!("p{at}"));
            pod.metadata.uid = Some(format!("uid-p{at}"));
            match scheduler.decide(&Arc::new(PodInfo::new(&pod, &[]))) {
                Ok(assignment) => assignment.node.to_string(),
                Err(why) => why.to_string(),
            }
        })
        .collect();
    assert_eq!(chosen, ["n1", "n2", "n3", "n4"]);
}

#[test]
fn an_explanation_counts_every_node_once() {
    let mut scheduler = scheduler("a, b cordon, c cpu=1, d cpu=1 label=x:y, e taint=own:NoSchedule", "");
    let explained = scheduler.explain(&info("p", "cpu=2 memory=9Gi"));
    let shown: Vec<String> = explained
        .refused
        .iter()
        .map(|refused| format!("{} {} {:?}", refused.plugin, refused.nodes, refused.reasons))
        .collect();
    assert_eq!(
        shown,
        [
            r#"NodeUnschedulable 1 {"node(s) were unschedulable": 1}"#,
            r#"TaintToleration 1 {"node(s) had untolerated taint {own: }": 1}"#,
            r#"NodeResourcesFit 3 {"Insufficient cpu": 2, "Insufficient memory": 3}"#,
        ]
    );
    assert_eq!((explained.nodes, explained.feasible(), explained.unresolvable), (5, 0, 5));
    let explained = scheduler.explain(&info("p", "cpu=1"));
    assert_eq!((explained.feasible(), explained.refused.len()), (3, 2), "also of a pod that fits");
}

#[test]
fn replicas_spread_evenly() {
    let mut scheduler = scheduler("a, b, c cpu=3", "");
    let mut counts = BTreeMap::<String, usize>::new();
    for n in 0..9 {
        *counts.entry(decide(&mut scheduler, &format!("p{n}"), "cpu=100m")).or_default() += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [3, 3, 3]);
}

#[test]
fn a_sample_starts_where_the_last_one_ended() {
    let nodes: Vec<String> = (0..300).map(|n| format!("n{n}")).collect();
    let mut scheduler = scheduler(&nodes.join(","), "");
    // 48 % of 300 nodes are enough.
    let window = |name: &str| name[1..].parse::<usize>().unwrap() / 144;
    let windows: Vec<usize> = (0..2).map(|n| window(&decide(&mut scheduler, &format!("p{n}"), "cpu=1"))).collect();
    assert_eq!(windows, [0, 1]);
}

#[test]
fn an_init_container_counts_at_its_peak() {
    let mut pod = pod("p", "cpu=1");
    let init = |cpu: &str, policy: Option<&str>| Container {
        name: "i".into(),
        restart_policy: policy.map(str::to_owned),
        resources: Some(ResourceRequirements { requests: Some(amounts(cpu, "0")), ..ResourceRequirements::default() }),
        ..Default::default()
    };
    for (name, inits, expect) in [
        ("a small one hides behind the containers", vec![init("500m", None)], 1000),
        ("a big one counts", vec![init("3", None)], 3000),
        ("a sidecar adds", vec![init("500m", Some("Always"))], 1500),
        ("a sidecar adds to a later one", vec![init("1", Some("Always")), init("3", None)], 4000),
    ] {
        let spec = pod.spec.as_mut().unwrap();
        spec.init_containers = Some(inits);
        assert_eq!(resources::of_pod(spec).milli_cpu, expect, "{name}");
    }
}

#[test]
fn pods_of_one_workload_have_one_spec() {
    for (name, a, b, equal) in [
        ("the same", "cpu=1 select=x:y", "cpu=1 select=x:y", true),
        ("another amount", "cpu=1", "cpu=2", false),
        ("another selector", "select=x:y", "select=x:z", false),
        ("another operator", "require=x:Exists", "require=x:DoesNotExist", false),
        ("required, not preferred", "require=x:Exists", "prefer=x:Exists", false),
        ("another port", "port=80", "port=81", false),
        ("another toleration", "tolerate=x", "tolerate=y", false),
        ("another priority", "priority=1", "priority=2", true),
    ] {
        let (a, b) = (info("a", a), info("b", b));
        assert_eq!(a.spec == b.spec, equal, "{name}");
        assert_eq!(a.spec.fingerprint() == b.spec.fingerprint(), equal, "{name}");
    }
}

#[test]
fn only_what_may_help_wakes_a_pod() {
    for (name, nodes, there, pod, change, wakes) in [
        ("a pod goes that leaves too little", "a", "a: cpu=1, a: cpu=3", "cpu=2", "-there0", false),
        ("a pod goes that leaves enough", "a", "a: cpu=1, a: cpu=3", "cpu=2", "-there1", true),
        ("room where the pod is not tolerated", "a taint=x:NoSchedule", "a: cpu=1", "cpu=1", "-there0", false),
        ("a taint goes", "a taint=x:NoSchedule", "", "cpu=1", "a", true),
        ("another taint comes", "a taint=x:NoSchedule", "", "cpu=1", "a taint=y:NoSchedule", false),
        ("a label that is not wanted", "a", "", "select=x:y", "a label=x:z", false),
        ("the label that is wanted", "a", "", "select=x:y", "a label=x:y", true),
        ("more processors, but labels are wrong", "a", "", "select=x:y", "a cpu=9", false),
        ("more processors", "a", "", "cpu=5", "a cpu=9", true),
        ("not enough more", "a", "", "cpu=5", "a cpu=4500m", false),
        ("uncordoned", "a cordon", "", "cpu=1", "a", true),
        ("the port is free", "a", "a: port=80", "port=80", "-there0", true),
        ("another port is free", "a", "a: port=80, a: port=81", "port=80", "-there1", false),
        ("a new node that will do", "a", "", "cpu=5", "b cpu=9", true),
        ("a new node that will not", "a", "", "cpu=5", "b", false),
        ("the first node", "", "", "cpu=5", "b", true),
        ("nothing new", "a cordon", "", "cpu=1", "a cordon", false),
    ] {
        let mut scheduler = scheduler(nodes, there);
        let pod = info("new", pod);
        let why = scheduler.decide(&pod).unwrap_err();
        let event = match change.strip_prefix('-') {
            Some(gone) => scheduler.remove_pod(&format!("uid-{gone}")),
            None => scheduler.set_node(&node(change)),
        };
        let events: Vec<ClusterEvent> = event.into_iter().collect();
        assert_eq!(scheduler.queueing_hint(&pod, why.rejectors, &events), wakes, "{name}");
    }
}

const NODES: [&str; 10] = [
    "label=zone:x",
    "label=zone:y cpu=3",
    "",
    "cpu=2 label=x:y",
    "cordon",
    "taint=own:NoSchedule",
    "label=x:z example.com/gpu=2",
    "taint=busy:PreferNoSchedule image=image:500",
    "cpu=1 pods=2",
    "label=x:y label=disk:ssd taint=own=v:NoExecute",
];
const WANTS: [&str; 16] = [
    "spread=zone/1 spread=host/2/soft",
    "apart=host/app:web",
    "near=zone/app:web",
    "likes=3/zone/tier:x dislikes=1/host/app label=tier:x",
    "apart=zone/tier:x/@* ns=other cpu=1",
    "cpu=3 priority=5",
    "cpu=1",
    "cpu=100m memory=3Gi",
    "cpu=2 select=x:y",
    "port=80",
    "gpu=1",
    "prefer=disk:In:ssd tolerate=own",
    "require=x:Exists",
    "require=x:NotIn:y cpu=500m",
    "field=metadata.name:In:n1,n2",
    "tolerate=node.kubernetes.io/unschedulable cpu=3",
];

#[derive(Clone, Debug)]
enum Step {
    SetNode(usize, usize),
    RemoveNode(usize),
    AddPod(usize, usize, usize),
    RemovePod(usize),
    Decide(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..5_usize, 0..NODES.len()).prop_map(|(node, what)| Step::SetNode(node, what)),
        (0..5_usize).prop_map(Step::RemoveNode),
        (0..8_usize, 0..WANTS.len(), 0..5_usize).prop_map(|(pod, what, node)| Step::AddPod(pod, what, node)),
        (0..60_usize).prop_map(Step::RemovePod),
        (0..WANTS.len()).prop_map(Step::Decide),
        (0..WANTS.len()).prop_map(Step::Decide),
    ];
    prop::collection::vec(step, 0..60)
}

/// Does a step; what was decided, and what happened.
fn step(
    scheduler: &mut Scheduler,
    at: usize,
    step: &Step,
) -> (Option<Result<Assignment, Diagnosis>>, Option<ClusterEvent>) {
    match step {
        Step::SetNode(n, what) => (None, scheduler.set_node(&node(&format!("n{n} {}", NODES[*what])))),
        Step::RemoveNode(n) => (None, scheduler.remove_node(&format!("n{n}"))),
        Step::AddPod(p, what, n) => {
            (None, scheduler.add_pod(info(&format!("bound{p}"), WANTS[*what]), &format!("n{n}")))
        }
        // Both those that were bound by others and those that were decided here.
        Step::RemovePod(p) if *p < 8 => (None, scheduler.remove_pod(&format!("uid-bound{p}"))),
        Step::RemovePod(p) => (None, scheduler.remove_pod(&format!("uid-step{}", p - 8))),
        Step::Decide(what) => (Some(scheduler.decide(&info(&format!("step{at}"), WANTS[*what]))), None),
    }
}

proptest! {
    /// With and without the equivalence cache, and with one that has room for a single class, all
    /// decisions and explanations are equal.
    #[test]
    fn the_cache_changes_no_decision(steps in steps(), big in any::<bool>()) {
        let crowd: Vec<String> = (0..if big { 130 } else { 0 }).map(|n| format!("crowd{n} cpu=1")).collect();
        let with = |cached_rows| {
            let settings = Settings { cached_rows, ..Settings::default() };
            fill(Scheduler::with_plugins(plugins::DEFAULT, settings), &crowd.join(","), "")
        };
        let mut schedulers = [with(0), with(1), with(1 << 18)];
        for (at, one) in steps.iter().enumerate() {
            let [without, small, full] = schedulers.each_mut().map(|scheduler| step(scheduler, at, one));
            prop_assert_eq!(&without, &small);
            prop_assert_eq!(&without, &full);
            let [without, small, full] =
                schedulers.each_mut().map(|s| s.explain(&info("explained", WANTS[at % WANTS.len()])));
            prop_assert_eq!(&without, &small);
            prop_assert_eq!(&without, &full);
        }
    }

    /// A pod that nothing has woken since it was refused fits nowhere still.
    #[test]
    fn no_wake_up_is_lost(steps in steps()) {
        let mut scheduler = scheduler("", "");
        let mut parked: Vec<(std::sync::Arc<PodInfo>, PluginSet)> = Vec::new();
        for (at, one) in steps.iter().enumerate() {
            let (decided, event) = step(&mut scheduler, at, one);
            if let (Some(Err(why)), Step::Decide(what)) = (decided, one) {
                parked.push((info(&format!("step{at}"), WANTS[*what]), why.rejectors));
            }
            let mut events: Vec<ClusterEvent> = event.into_iter().collect();
            loop {
                events.extend(scheduler.take_events());
                if events.is_empty() {
                    break;
                }
                let news = ClusterEvent::merge(std::mem::take(&mut events));
                let mut still = Vec::new();
                for (pod, rejectors) in parked {
                    if !scheduler.queueing_hint(&pod, rejectors, &news) {
                        still.push((pod, rejectors));
                    } else if let Err(why) = scheduler.decide(&pod) {
                        still.push((pod, why.rejectors));
                    }
                }
                parked = still;
            }
            for (pod, _) in &parked {
                prop_assert_eq!(scheduler.explain(pod).feasible(), 0, "{} was not woken", pod.name);
            }
        }
    }

    /// No pod is ever placed where it does not fit, whatever there is.
    #[test]
    fn never_overcommits(sizes in prop::collection::vec(1i64..2000, 1..40)) {
        let mut scheduler = scheduler("a cpu=3, b cpu=2", "");
        for (at, milli) in sizes.iter().enumerate() {
            let _ = scheduler.decide(&info(&format!("p{at}"), &format!("cpu={milli}m")));
        }
        let nodes = scheduler.nodes();
        for row in nodes.rows() {
            let at = row.index();
            prop_assert!(nodes.requested.milli_cpu[at] <= nodes.allocatable.milli_cpu[at]);
        }
    }
}
