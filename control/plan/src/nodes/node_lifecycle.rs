//! Node lifecycle: a silent node's conditions become Unknown, its pods stop being ready, and its
//! taints say so to the scheduler and to the eviction.
//!
//! Invariants
//! - Silence is measured by the leader's own clock from what it saw, never by comparing clocks of
//!   different machines.
//! - Only a node that is silent *now* is written for; one that speaks writes its own status.
//! - When no node at all is ready, it is rather we who are cut off: nobody is evicted then.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, PodCondition, Taint};
use serde_json::{Value, json};

use crate::action::{Action, EventRecord, Patch, Plan, patch, patch_to, reference, to_value};
use crate::key::Name;
use crate::object::{deleting, name, time};
use crate::pod;

const COMPONENT: &str = "node-controller";
/// Taint of a node that says it is not ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of a node that says nothing.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// What a kubelet reports, and what becomes unknown with it.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Conditions that, when true, keep new pods away.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// What a plan is made from.
pub struct View {
    /// The node.
    pub node: Arc<Node>,
    /// How long it has been since the leader saw a sign of life.
    pub silent: Duration,
    /// Silence that is forgiven.
    pub grace: Duration,
    /// The pods bound to it.
    pub pods: Vec<Arc<Pod>>,
    /// Whether any node of the cluster is ready.
    pub any_ready: bool,
}

/// Decides the next writes for one node.
#[must_use]
pub fn plan(view: &View, now: Timestamp) -> Plan {
    if deleting(&view.node.metadata) {
        return Plan::rest("it is being deleted");
    }
    let lost = view.silent >= view.grace;
    let mut plan = Plan::rest(if lost { "it is silent" } else { "it gives signs of life" });
    if !lost {
        let left = SignedDuration::try_from(view.grace - view.silent).unwrap_or(SignedDuration::MAX);
        plan.wake_at(now.checked_add(left).unwrap_or(Timestamp::MAX));
    } else if let Some(status) = mark_unknown(&view.node, now) {
        plan.actions.push(status);
    }
    if lost {
        plan.actions.extend(view.pods.iter().filter_map(|pod| mark_pod(pod, now)));
    }
    // The taints follow from the conditions as stored, in the plan that the status patch causes.
    if !plan.actions.iter().any(|action| matches!(action, Action::Patch(p) if p.key.resource == "nodes")) {
        plan.extend(Plan::new("its taints do not fit its conditions", retaint(view, now).into_iter().collect()));
    }
    plan
}

/// One condition of a node.
#[must_use]
pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// The status of one condition: `True`, `False`, `Unknown`, or nothing.
#[must_use]
pub fn state<'a>(node: &'a Node, kind: &str) -> Option<&'a str> {
    condition(node, kind).map(|condition| condition.status.as_str())
}

/// Whether a node says that it is ready.
#[must_use]
pub fn ready(node: &Node) -> bool {
    state(node, "Ready") == Some("True")
}

/// The node that a pod's change concerns: a pod that serves on a node that is lost does not any more.
pub fn by_pod(pod: &Pod, node: impl FnOnce(&str) -> Option<Arc<Node>>) -> Option<Name> {
    let name = pod::node(pod).filter(|_| pod::ready(pod))?;
    node(name).is_some_and(|node| state(&node, "Ready") == Some("Unknown")).then(|| name.into())
}

/// The nodes that are ready.
#[derive(Debug, Default)]
pub struct ReadyNodes(HashSet<Name>);

impl ReadyNodes {
    /// Whether there is one.
    #[must_use]
    pub fn any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Takes note of a node as it is, or that it is gone. True if [`Self::any`] changed, which concerns every node.
    pub fn see(&mut self, key: &Name, node: Option<&Node>) -> bool {
        let before = self.any();
        if node.is_some_and(ready) {
            self.0.insert(key.clone());
        } else {
            self.0.remove(key);
        }
        before != self.any()
    }
}

fn mark_unknown(node: &Node, now: Timestamp) -> Option<Action> {
    let mut next = node.clone();
    let conditions = next.status.get_or_insert_default().conditions.get_or_insert_default();
    for kind in REPORTED {
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            Some(condition) if condition.status != "Unknown" => {
                condition.status = "Unknown".into();
                condition.reason = Some("NodeStatusUnknown".into());
                condition.message = Some("Kubelet stopped posting node status.".into());
                condition.last_transition_time = Some(time(now));
            }
            Some(_) => {}
            None => conditions.push(NodeCondition {
                type_: kind.into(),
                status: "Unknown".into(),
                reason: Some("NodeStatusNeverUpdated".into()),
                message: Some("Kubelet never posted node status.".into()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(time(now)),
            }),
        }
    }
    let was_ready = state(node, "Ready") != Some("Unknown");
    let message = format!("Node {} status is now: NodeNotReady", name(&node.metadata));
    let event = EventRecord::normal(reference(node), COMPONENT, "NodeNotReady", message);
    match patch_to(node, &next, Some("status"))? {
        Action::Patch(patch) => Some(Action::Patch(Patch { announce: was_ready.then_some(event), ..patch })),
        other => Some(other),
    }
}

/// Takes a lost node's pod out of service.
fn mark_pod(pod: &Pod, now: Timestamp) -> Option<Action> {
    let ready = pod::condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    let down = PodCondition { status: "False".into(), last_transition_time: Some(time(now)), ..ready.clone() };
    let conditions = to_value(&pod::with_condition(pod, down));
    let event = EventRecord::warning(reference(pod), COMPONENT, "NodeNotReady", "Node is not ready".into());
    match patch(pod, Some("status"), json!({"status": {"conditions": conditions}})) {
        Action::Patch(patch) => Some(Action::Patch(Patch { announce: Some(event), ..patch })),
        other => Some(other),
    }
}

/// Which `(key, effect)` the node should carry, of those that are ours to set.
fn wanted_taints(view: &View) -> Vec<(&'static str, &'static str)> {
    let node = view.node.as_ref();
    let mut wanted = Vec::new();
    let readiness = match state(node, "Ready") {
        Some("False") => Some(NOT_READY),
        Some("Unknown") => Some(UNREACHABLE),
        _ => None,
    };
    if let Some(key) = readiness {
        wanted.push((key, "NoSchedule"));
        if view.any_ready {
            wanted.push((key, "NoExecute"));
        }
    }
    wanted.extend(
        PRESSURES.iter().filter(|(kind, _)| state(node, kind) == Some("True")).map(|(_, key)| (*key, "NoSchedule")),
    );
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

fn ours(node: &Node, taint: &Taint) -> bool {
    match taint.key.as_str() {
        // A node that has not said anything yet keeps what it was registered with.
        NOT_READY | UNREACHABLE => {
            state(node, "Ready").is_some() && matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
        }
        UNSCHEDULABLE => taint.effect == "NoSchedule",
        key => taint.effect == "NoSchedule" && PRESSURES.iter().any(|(_, pressure)| *pressure == key),
    }
}

fn retaint(view: &View, now: Timestamp) -> Option<Action> {
    let old = view.node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let wanted = wanted_taints(view);
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut taints: Vec<Taint> =
        old.iter().filter(|taint| !ours(&view.node, taint) || is_wanted(taint)).cloned().collect();
    for (key, effect) in &wanted {
        if !taints.iter().any(|taint| taint.key == *key && taint.effect == *effect) {
            taints.push(Taint {
                key: (*key).into(),
                effect: (*effect).into(),
                time_added: Some(time(now)),
                value: None,
            });
        }
    }
    if taints == old {
        return None;
    }
    let taints = if taints.is_empty() { Value::Null } else { to_value(&taints) };
    Some(patch(view.node.as_ref(), None, json!({"spec": {"taints": taints}})))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeSpec, NodeStatus};

    use super::*;
    use crate::testing::{Cluster, NOW, meta, pods, show};

    const GRACE: Duration = Duration::from_secs(10);

    pub fn node(ready: &str, unschedulable: bool) -> Node {
        let condition = NodeCondition { type_: "Ready".into(), status: ready.into(), ..NodeCondition::default() };
        let conditions = (!ready.is_empty()).then(|| vec![condition]);
        Node {
            metadata: meta("n1"),
            spec: Some(NodeSpec { unschedulable: Some(unschedulable), ..NodeSpec::default() }),
            status: Some(NodeStatus { conditions, ..NodeStatus::default() }),
        }
    }

    /// Settles the cluster and shows the node: its readiness and its taints.
    fn outcome(node: &Node, silent: u64, any_ready: bool) -> String {
        let mut cluster = Cluster::default();
        cluster.add(node);
        pods("web", "a b!").iter().for_each(|pod| cluster.add(pod.as_ref()));
        let rested = cluster.settle(5, |cluster| {
            let (node, pods) = (cluster.only::<Node>(), cluster.list::<Pod>());
            let silent = Duration::from_secs(silent);
            plan(&View { node: Arc::new(node), silent, grace: GRACE, pods, any_ready }, NOW).actions
        });
        assert!(rested, "{}", cluster.trace());
        let (node, pods) = (cluster.only::<Node>(), cluster.list::<Pod>());
        let ready = pods.iter().filter(|pod| pod::ready(pod)).count();
        let mut out = format!("{} {ready}", state(&node, "Ready").unwrap_or("-"));
        for taint in node.spec.unwrap().taints.unwrap_or_default() {
            out += &format!(" {}:{}", taint.key.rsplit('/').next().unwrap(), taint.effect);
        }
        out
    }

    #[test]
    fn silence_becomes_unknown_and_tainted() {
        for (name, ready, cordoned, silent, any_ready, expect) in [
            ("a node that speaks", "True", false, 9, true, "True 1"),
            (
                "a node that is silent",
                "True",
                false,
                10,
                true,
                "Unknown 0 unreachable:NoSchedule unreachable:NoExecute",
            ),
            ("nobody is evicted when all are silent", "True", false, 10, false, "Unknown 0 unreachable:NoSchedule"),
            ("a node that is not ready", "False", false, 0, true, "False 1 not-ready:NoSchedule not-ready:NoExecute"),
            ("a cordoned node", "True", true, 0, true, "True 1 unschedulable:NoSchedule"),
            ("a node that never spoke", "", false, 10, true, "Unknown 0 unreachable:NoSchedule unreachable:NoExecute"),
            ("a node that has not spoken yet", "", false, 3, true, "- 1"),
        ] {
            assert_eq!(outcome(&node(ready, cordoned), silent, any_ready), expect, "{name}");
        }
    }

    #[test]
    fn taints_of_others_stay_and_ours_go_when_the_node_is_back() {
        let mut node = node("True", false);
        let taint = |key: &str| Taint { key: key.into(), effect: "NoExecute".into(), ..Taint::default() };
        node.spec.as_mut().unwrap().taints = Some(vec![taint("example.com/own"), taint(UNREACHABLE)]);
        assert_eq!(outcome(&node, 0, true), "True 1 own:NoExecute");
    }

    #[test]
    fn wakes_when_the_grace_is_over() {
        let view = |node, silent| {
            let silent = Duration::from_secs(silent);
            View { node: Arc::new(node), silent, grace: GRACE, pods: Vec::new(), any_ready: true }
        };
        let plan_of = |node, silent| plan(&view(node, silent), NOW);
        assert_eq!(plan_of(node("True", false), 4).wake, Some(crate::object::after_seconds(NOW, 6)));
        let mut going = node("True", false);
        going.metadata.deletion_timestamp = Some(time(NOW));
        for (node, silent, expect, why) in [
            (node("True", false), 4, "", "it gives signs of life"),
            (node("True", false), 10, "status n1", "it is silent"),
            (node("False", false), 4, "patch n1", "its taints do not fit its conditions"),
            (going, 10, "", "it is being deleted"),
        ] {
            let plan = plan_of(node, silent);
            assert_eq!((show(&plan.actions).as_str(), plan.why), (expect, why));
        }
    }

    #[test]
    fn only_the_first_and_the_last_ready_node_concern_all() {
        let mut ready = ReadyNodes::default();
        for (name, is_ready, flips) in
            [("a", true, true), ("b", true, false), ("a", true, false), ("a", false, false), ("b", false, true)]
        {
            assert_eq!(ready.see(&name.into(), is_ready.then(|| node("True", false)).as_ref()), flips, "{name}");
            assert_eq!(ready.any(), name != "b" || is_ready);
        }
    }

    #[test]
    fn a_pod_that_serves_on_a_lost_node_concerns_the_node() {
        for (name, pod, readiness, expect) in [
            ("it serves", "a", "Unknown", true),
            ("it does not", "a!", "Unknown", false),
            ("the node speaks", "a", "True", false),
            ("there is no such node", "a", "", false),
        ] {
            let there = (!readiness.is_empty()).then(|| Arc::new(node(readiness, false)));
            assert_eq!(by_pod(&pods("web", pod)[0], |_| there).is_some(), expect, "{name}");
        }
    }
}
