//! Pod garbage collection: removes pods that no agent will ever remove.
//!
//! Invariants
//! - A pod is removed without its agent's word only if its node is gone, has been declared out of
//!   service, or has been unreachable until well after the pod had to be gone.
//! - An identity that must not run twice (StatefulSet) is never removed on a mere suspicion.
//! - A pod that only its finalizers hold is not deleted once more: that is up to whoever set them.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::action::{DeleteHow, Plan, delete};
use crate::node_lifecycle::{UNREACHABLE, state};
use crate::object::{after_seconds, controller, deleting, only_held};
use crate::pod;

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// A node that was deleted may come straight back under its name; its pods wait this long.
const QUARANTINE_SECONDS: i64 = 10;
/// How long after its deletion was due a pod of an unreachable node is given up.
const OVERDUE_SECONDS: i64 = 5;

/// What a plan is made from.
pub struct View<'a> {
    /// The node; `None` if there is no such node, or the pods are not bound.
    pub node: Option<&'a Node>,
    /// Since when the node is known to be gone; `None` for pods that are not bound.
    pub absent_since: Option<Timestamp>,
    /// The pods bound to it.
    pub pods: &'a [Arc<Pod>],
}

/// Decides who is removed now, and when to look again.
#[must_use]
pub fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for pod in view.pods {
        match fate(view, pod) {
            Some((at, _)) if at > now => plan.wake_at(at),
            Some((_, why)) => remove(pod, why, now, &mut plan),
            None => {}
        }
    }
    plan
}

fn remove(pod: &Pod, why: Option<&str>, now: Timestamp, plan: &mut Plan) {
    if let Some(why) = why.filter(|_| !pod::finished(pod)) {
        plan.actions.extend(pod::disrupt(pod, "DeletionByPodGC", why, now));
    }
    if !only_held(&pod.metadata) {
        plan.actions.push(delete(pod, DeleteHow::FORCE, None));
    }
}

/// When the pod is to be removed, and what its status says about it.
fn fate<'a>(view: &View<'a>, pod: &Pod) -> Option<(Timestamp, Option<&'a str>)> {
    let Some(node) = view.node else {
        return match view.absent_since {
            Some(since) => Some((after_seconds(since, QUARANTINE_SECONDS), Some("PodGC: node no longer exists"))),
            None => deleting(&pod.metadata).then_some((Timestamp::MIN, None)),
        };
    };
    let due = pod.metadata.deletion_timestamp.as_ref()?.0;
    if state(node, "Ready") == Some("True") {
        return None;
    }
    if tainted(node, OUT_OF_SERVICE) {
        return Some((Timestamp::MIN, None));
    }
    let keeps_identity = controller(&pod.metadata).is_some_and(|owner| owner.kind == "StatefulSet");
    let given_up = tainted(node, UNREACHABLE) && !keeps_identity;
    given_up.then(|| (after_seconds(due, OVERDUE_SECONDS), None))
}

fn tainted(node: &Node, key: &str) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|taint| taint.key == key && taint.effect == "NoExecute")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeCondition, NodeSpec, NodeStatus, Taint};

    use super::*;
    use crate::object::time;
    use crate::testing::{NOW, meta, pods, show};

    fn node(ready: &str, taint: &str) -> Node {
        let condition = NodeCondition { type_: "Ready".into(), status: ready.into(), ..NodeCondition::default() };
        let taint = Taint { key: taint.into(), effect: "NoExecute".into(), ..Taint::default() };
        Node {
            metadata: meta("n1"),
            spec: Some(NodeSpec { taints: Some(vec![taint]), ..NodeSpec::default() }),
            status: Some(NodeStatus { conditions: Some(vec![condition]), ..NodeStatus::default() }),
        }
    }

    /// The pod's deletion was due `overdue` seconds ago.
    #[test]
    fn removes_only_what_no_agent_will() {
        let (lost, out) = (node("Unknown", UNREACHABLE), node("Unknown", OUT_OF_SERVICE));
        let back = node("True", UNREACHABLE);
        for (name, node, gone_for, pod, overdue, expect) in [
            ("a node that is gone", None, Some(10), "a", None, "status a -a"),
            ("a node that just went", None, Some(9), "a", None, ""),
            ("an unbound pod on its way out", None, None, "a", Some(0), "-a"),
            ("an unbound pod", None, None, "a", None, ""),
            ("a lost node's live pod", Some(&lost), None, "a", None, ""),
            ("a lost node's pod, not yet due", Some(&lost), None, "a", Some(4), ""),
            ("a lost node's pod, overdue", Some(&lost), None, "a", Some(5), "-a"),
            ("a node out of service", Some(&out), None, "a", Some(-30), "-a"),
            ("a node that is back cleans up itself", Some(&back), None, "a", Some(60), ""),
        ] {
            let mut pod = pods("web", pod)[0].as_ref().clone();
            pod.metadata.deletion_timestamp = overdue.map(|seconds: i64| time(after_seconds(NOW, -seconds)));
            let absent_since = gone_for.map(|seconds: i64| after_seconds(NOW, -seconds));
            let view = View { node, absent_since, pods: &[Arc::new(pod)] };
            assert_eq!(show(&plan(&view, NOW).actions), expect, "{name}");
        }
    }

    #[test]
    fn asks_once_for_a_pod_that_finalizers_hold() {
        for (name, bound_to, gone_for, grace, expect) in [
            ("unbound, with grace left", "", None, Some(30), "-a"),
            ("unbound, without", "", None, Some(0), ""),
            ("of a node that is gone, not deleted yet", "n1", Some(10), None, "status a -a"),
            ("of a node that is gone, with grace left", "n1", Some(10), Some(30), "status a -a"),
            ("of a node that is gone, without", "n1", Some(10), Some(0), "status a"),
        ] {
            let mut pod = pods("web", "a")[0].as_ref().clone();
            pod.spec.as_mut().unwrap().node_name = Some(bound_to.into());
            pod.metadata.finalizers = Some(vec!["example.com/keep".into()]);
            pod.metadata.deletion_timestamp = grace.map(|_| time(NOW));
            pod.metadata.deletion_grace_period_seconds = grace;
            let absent_since = gone_for.map(|seconds: i64| after_seconds(NOW, -seconds));
            let view = View { node: None, absent_since, pods: &[Arc::new(pod)] };
            assert_eq!(show(&plan(&view, NOW).actions), expect, "{name}");
        }
    }
}
