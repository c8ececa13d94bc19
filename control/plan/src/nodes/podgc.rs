//! Pod garbage collection: removes pods that no agent will ever remove.
//!
//! Invariants
//! - A pod is removed without its agent's word only if its node is gone, has been declared out of
//!   service, or has been unreachable until well after the pod had to be gone.
//! - An identity that must not run twice (StatefulSet) is never removed on a mere suspicion.
//! - A pod that only its finalizers hold is not deleted once more: that is up to whoever set them.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};

use super::node_lifecycle::{UNREACHABLE, state};
use crate::action::{DeleteHow, Plan, delete};
use crate::clock::FirstSeen;
use crate::key::{Name, NamespacedName};
use crate::object::{after_seconds, controller, deleting, only_held};
use crate::pod;

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// A node that was deleted may come straight back under its name; its pods wait this long.
const QUARANTINE_SECONDS: i64 = 10;
/// How long after its deletion was due a pod of an unreachable node is given up.
const OVERDUE_SECONDS: i64 = 5;

/// Pods that may have to be removed together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Those bound to a node, be it there or not.
    Node(Name),
    /// One that is not bound.
    Unbound(NamespacedName),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node {node}"),
            Self::Unbound(pod) => write!(f, "unbound pod {pod}"),
        }
    }
}

/// What a pod's change concerns: only one that is being deleted, or whose node is not there, may be unattended.
pub fn by_pod(new: Option<&Pod>, node: impl FnOnce(&str) -> Option<Arc<Node>>) -> Option<Key> {
    let pod = new?;
    let Some(name) = pod::node(pod) else {
        return deleting(&pod.metadata).then(|| Key::Unbound(NamespacedName::of(&pod.metadata)));
    };
    (deleting(&pod.metadata) || node(name).is_none()).then(|| Key::Node(name.into()))
}

/// Since when a node that has pods is known not to be there.
pub fn absent_since(
    seen: &mut FirstSeen<Name>,
    key: &Name,
    node: Option<&Node>,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> Option<Timestamp> {
    if node.is_some() || pods.is_empty() {
        seen.forget(key);
        return None;
    }
    Some(seen.since(key, now))
}

/// What a plan is made from.
pub struct View {
    /// The node; `None` if there is no such node, or the pods are not bound.
    pub node: Option<Arc<Node>>,
    /// Since when the node is known to be gone; `None` for pods that are not bound.
    pub absent_since: Option<Timestamp>,
    /// The pods bound to it.
    pub pods: Vec<Arc<Pod>>,
}

/// Decides who is removed now, and when to look again.
#[must_use]
pub fn plan(view: &View, now: Timestamp) -> Plan {
    let mut plan = Plan::rest("its agents remove their pods");
    for pod in &view.pods {
        match fate(view, pod) {
            Some((at, _)) if at > now => plan.wake_at(at),
            Some((_, why)) => plan.extend(remove(pod, why, now)),
            None => {}
        }
    }
    if plan.actions.is_empty() && plan.wake.is_some() {
        plan.why = "an agent may still remove the pods";
    }
    plan
}

fn remove(pod: &Pod, why: Option<&str>, now: Timestamp) -> Plan {
    let mut plan = Plan::rest("no agent will remove the pods");
    if let Some(why) = why.filter(|_| !pod::finished(pod)) {
        plan.actions.extend(pod::disrupt(pod, "DeletionByPodGC", why, now));
    }
    if !only_held(&pod.metadata) {
        plan.actions.push(delete(pod, DeleteHow::FORCE, None));
    }
    plan
}

/// When the pod is to be removed, and what its status says about it.
fn fate(view: &View, pod: &Pod) -> Option<(Timestamp, Option<&'static str>)> {
    let Some(node) = view.node.as_deref() else {
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
    use proptest::prelude::*;

    use super::*;
    use crate::object::time;
    use crate::testing::{Cluster, NOW, meta, pods, show};

    fn node(ready: &str, taint: &str) -> Node {
        let condition = NodeCondition { type_: "Ready".into(), status: ready.into(), ..NodeCondition::default() };
        let taint = Taint { key: taint.into(), effect: "NoExecute".into(), ..Taint::default() };
        Node {
            metadata: meta("n1"),
            spec: Some(NodeSpec { taints: Some(vec![taint]), ..NodeSpec::default() }),
            status: Some(NodeStatus { conditions: Some(vec![condition]), ..NodeStatus::default() }),
        }
    }

    fn ago(seconds: Option<i64>) -> Option<Timestamp> {
        seconds.map(|seconds| after_seconds(NOW, -seconds))
    }

    /// The pod's deletion was due `overdue` seconds ago.
    #[test]
    fn removes_only_what_no_agent_will() {
        let (lost, out) = (|| Some(node("Unknown", UNREACHABLE)), || Some(node("Unknown", OUT_OF_SERVICE)));
        let (never, later, attended) =
            ("no agent will remove the pods", "an agent may still remove the pods", "its agents remove their pods");
        for (name, node, gone_for, overdue, expect, why) in [
            ("a node that is gone", None, Some(10), None, "status a -a", never),
            ("a node that just went", None, Some(9), None, "", later),
            ("an unbound pod on its way out", None, None, Some(0), "-a", never),
            ("an unbound pod", None, None, None, "", attended),
            ("a lost node's live pod", lost(), None, None, "", attended),
            ("a lost node's pod, not yet due", lost(), None, Some(4), "", later),
            ("a lost node's pod, overdue", lost(), None, Some(5), "-a", never),
            ("a node out of service", out(), None, Some(-30), "-a", never),
            ("a node that is back cleans up itself", Some(node("True", UNREACHABLE)), None, Some(60), "", attended),
        ] {
            let mut pod = pods("web", "a")[0].as_ref().clone();
            pod.metadata.deletion_timestamp = ago(overdue).map(time);
            let view = View { node: node.map(Arc::new), absent_since: ago(gone_for), pods: vec![Arc::new(pod)] };
            let plan = plan(&view, NOW);
            assert_eq!((show(&plan.actions).as_str(), plan.why), (expect, why), "{name}");
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
            let view = View { node: None, absent_since: ago(gone_for), pods: vec![Arc::new(pod)] };
            assert_eq!(show(&plan(&view, NOW).actions), expect, "{name}");
        }
    }

    #[test]
    fn a_pod_concerns_its_node_or_itself_if_nobody_may_attend_to_it() {
        for (name, bound_to, leaves, there, expect) in [
            ("in use", "n1", false, true, ""),
            ("on its way out", "n1", true, true, "node n1"),
            ("its node is gone", "n1", false, false, "node n1"),
            ("unbound", "", false, false, ""),
            ("unbound, on its way out", "", true, false, "unbound pod ns/a"),
        ] {
            let mut pod = pods("web", if leaves { "a~" } else { "a" })[0].as_ref().clone();
            pod.spec.as_mut().unwrap().node_name = Some(bound_to.into());
            let key = by_pod(Some(&pod), |_| there.then(|| Arc::new(node("True", ""))));
            assert_eq!(key.map(|key| key.to_string()).unwrap_or_default(), expect, "{name}");
        }
        assert_eq!(by_pod(None, |_| None), None);
    }

    #[test]
    fn a_node_is_absent_while_pods_name_it_and_it_is_not_there() {
        let (mut seen, key) = (FirstSeen::default(), Name::from("n1"));
        let there = node("True", "");
        for (name, node, have, now, expect) in [
            ("there", Some(&there), "a", 0, None),
            ("gone", None, "a", 5, Some(5)),
            ("still gone", None, "a b", 9, Some(5)),
            ("nobody names it any more", None, "", 12, None),
            ("named again", None, "a", 20, Some(20)),
            ("back", Some(&there), "a", 22, None),
            ("gone again", None, "a", 30, Some(30)),
        ] {
            let at = |seconds| after_seconds(NOW, seconds);
            let since = absent_since(&mut seen, &key, node, &pods("web", have), at(now));
            assert_eq!(since, expect.map(at), "{name}");
        }
    }

    proptest! {
        /// On a node that answers, or may still, nothing is removed; whatever is removed, the rest is left alone.
        #[test]
        fn rests_and_spares_what_an_agent_attends_to(
            ready in prop::sample::select(vec!["True", "False", "Unknown"]),
            taint in prop::sample::select(vec![UNREACHABLE, OUT_OF_SERVICE, "example.com/own"]),
            due in prop::collection::vec(prop::option::of(-60i64..60), 0..6),
        ) {
            let mut cluster = Cluster::default();
            for (number, due) in due.iter().enumerate() {
                let mut pod = pods("web", &format!("p{number}"))[0].as_ref().clone();
                pod.metadata.deletion_timestamp = ago(*due).map(time);
                cluster.add(&pod);
            }
            let rested = cluster.settle(3, |cluster| {
                let node = Some(Arc::new(node(ready, taint)));
                plan(&View { node, absent_since: None, pods: cluster.list::<Pod>() }, NOW).actions
            });
            prop_assert!(rested, "{}", cluster.trace());
            let spared = |due: &&Option<i64>| match taint {
                _ if ready == "True" => true,
                OUT_OF_SERVICE => due.is_none(),
                UNREACHABLE => due.is_none_or(|seconds| seconds < OVERDUE_SECONDS),
                _ => true,
            };
            prop_assert_eq!(cluster.list::<Pod>().len(), due.iter().filter(spared).count());
        }
    }
}
