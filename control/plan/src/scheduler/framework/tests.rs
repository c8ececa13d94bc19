//! The extension points that no plugin of ours fills yet, and what the cache makes of plugins that
//! look beyond one node.

use kontiki_model::{GroupResource, ObjectKey};
use serde_json::json;

use super::*;
use crate::scheduler::testing::{fill, info, node};

/// Every pod may go to a node only while no other node has a pod.
struct Alone;

impl Filter for Alone {
    fn pre_filter(&self, pod: &SchedulingSpec, nodes: &NodeTable, _: &mut CycleState) -> Result<Prepared, Reason> {
        match (nodes.rows().len(), pod.ports.is_empty()) {
            (_, true) => Ok(Prepared::Skip),
            (7, _) => Err(Reason(1)),
            _ => Ok(Prepared::PerCluster),
        }
    }

    fn filter(&self, cx: &Context<'_>, row: Row) -> Result<(), Refusal> {
        let others = cx.nodes.rows().iter().filter(|other| **other != row);
        let busy = others.filter(|other| !cx.nodes.pods[other.index()].is_empty()).count();
        if busy == 0 { Ok(()) } else { Err(Refusal::resolvable(Reason(0))) }
    }

    fn events(&self) -> EventKinds {
        EventKinds::POD_DELETE
    }
}

static ALONE: Plugin = Plugin {
    filter: Some(&Alone),
    describe: |_, reason| if reason == Reason(0) { "other node(s) had pods".into() } else { "seven node(s)".into() },
    ..Plugin::new("Alone")
};

static JUDGING: Plugins = &[&ALONE];

#[test]
fn answers_that_depend_on_other_nodes_are_not_kept() {
    let mut scheduler = fill(Scheduler::with_plugins(JUDGING, Settings::default()), "a, b", "");
    let mut decide = |name: &str, want: &str| match scheduler.decide(&info(name, want)) {
        Ok(assignment) => assignment.node.to_string(),
        Err(why) => why.to_string(),
    };
    let first = decide("one", "port=80");
    assert_eq!(decide("two", "port=80"), first);
    let other = if first == "a" { "b" } else { "a" };
    scheduler.add_pod(info("three", ""), other);
    let why = scheduler.decide(&info("four", "port=80")).unwrap_err();
    assert_eq!(why.to_string(), "0/2 nodes are available: 2 other node(s) had pods.");
    assert!(scheduler.decide(&info("five", "")).is_ok(), "skipped");
    for name in ["c", "d", "e", "f", "g"] {
        scheduler.set_node(&node(name));
    }
    let why = scheduler.decide(&info("six", "port=80")).unwrap_err();
    assert_eq!(why.to_string(), "0/7 nodes are available: 7 seven node(s).");
    assert_eq!((why.unresolvable, why.feasible()), (7, 0));
    scheduler.remove_node("g");
    let why = scheduler.decide(&info("six", "port=80")).unwrap_err();
    assert_eq!(why.to_string(), "0/6 nodes are available: 6 other node(s) had pods.");
}

/// Counts what it holds on a node, and refuses pods of priority 1 after the fact.
struct Hold(&'static str);

static HELD: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());

fn note(what: &str, name: &str, pod: &PodInfo, node: &NodeName) {
    HELD.lock().unwrap().push(format!("{what} {name} {} {node}", pod.name));
}

impl Reserve for Hold {
    fn reserve(&self, _: &mut NodeTable, state: &mut CycleState, pod: &PodInfo, node: &NodeName) -> Result<(), Reason> {
        note("reserve", self.0, pod, node);
        if self.0 == "second" && pod.priority == 1 {
            return Err(Reason(0));
        }
        state.write(format!("by {}", self.0));
        Ok(())
    }

    fn unreserve(&self, _: &mut NodeTable, _: &mut CycleState, pod: &PodInfo, node: &NodeName) {
        note("unreserve", self.0, pod, node);
    }
}

impl PreBind for Hold {
    fn pre_bind(&self, state: &CycleState, pod: &PodInfo, _: &NodeName) -> Vec<Patch> {
        let key = ObjectKey::new(GroupResource { group: "", resource: "pods" }, Some(&pod.namespace), &pod.name);
        let held: &String = state.read();
        vec![Patch { key, subresource: None, body: json!({"held": held}), announce: None }]
    }
}

static FIRST: Plugin = Plugin { reserve: Some(&Hold("first")), ..Plugin::new("First") };
static SECOND: Plugin = Plugin {
    reserve: Some(&Hold("second")),
    pre_bind: Some(&Hold("second")),
    describe: |_, _| "nothing left to hold".into(),
    ..Plugin::new("Second")
};

static RESERVING: Plugins = &[&FIRST, &SECOND];

#[test]
fn reservations_are_made_in_order_and_undone_backwards() {
    let mut scheduler = fill(Scheduler::with_plugins(RESERVING, Settings::default()), "a", "");
    let told = |what: &str, expect: &[&str]| {
        assert_eq!(std::mem::take(&mut *HELD.lock().unwrap()), expect, "{what}");
    };
    let assignment = scheduler.decide(&info("p", "")).unwrap();
    assert_eq!(assignment.patches[0].body, json!({"held": "by second"}));
    told("decided", &["reserve first p a", "reserve second p a"]);
    assert!(scheduler.is_assumed("uid-p"));

    scheduler.add_pod(info("p", ""), "a");
    told("bound as decided", &[]);
    assert!(!scheduler.is_assumed("uid-p"));
    scheduler.remove_pod("uid-p");
    told("gone", &[]);

    scheduler.decide(&info("q", "")).unwrap();
    scheduler.remove_pod("uid-q");
    told("not bound", &["reserve first q a", "reserve second q a", "unreserve second q a", "unreserve first q a"]);

    let why = scheduler.decide(&info("r", "priority=1")).unwrap_err();
    assert_eq!(why.to_string(), "0/1 nodes are available: 1 nothing left to hold.");
    told("refused", &["reserve first r a", "reserve second r a", "unreserve second r a", "unreserve first r a"]);
    assert!(!scheduler.is_assumed("uid-r"));
    assert_eq!(scheduler.nodes().node_of("uid-r"), None, "its room was given back");

    scheduler.decide(&info("s", "")).unwrap();
    scheduler.add_pod(info("s", ""), "elsewhere");
    told(
        "bound by somebody else",
        &["reserve first s a", "reserve second s a", "unreserve second s a", "unreserve first s a"],
    );
}
