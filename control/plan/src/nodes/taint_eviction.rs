//! Taint eviction: deletes the pods that do not tolerate a `NoExecute` taint of their node, at once
//! or when their patience ends. A taint that goes in time changes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};

use crate::action::{Action, DeleteHow, EventRecord, Plan, delete, reference};
use crate::key::Name;
use crate::object::{after_seconds, deleting, name, namespace};
use crate::pod;

const COMPONENT: &str = "taint-eviction-controller";

/// What a plan is made from.
pub struct View {
    /// The `NoExecute` taints of one node, each with the time from which patience is counted.
    pub taints: Vec<(Taint, Timestamp)>,
    /// The pods bound to the node.
    pub pods: Vec<Arc<Pod>>,
}

/// Decides who goes now, and when to look again.
#[must_use]
pub fn plan(view: &View, now: Timestamp) -> Plan {
    if view.taints.is_empty() {
        return Plan::rest("its node has no such taint");
    }
    let mut plan = Plan::rest("every pod tolerates the taints of its node");
    for pod in view.pods.iter().filter(|pod| !deleting(&pod.metadata)) {
        match deadline(pod, &view.taints) {
            Some(at) if at <= now => plan.extend(evict(pod, now)),
            Some(at) => plan.wake_at(at),
            None => {}
        }
    }
    if plan.actions.is_empty() && plan.wake.is_some() {
        plan.why = "pods tolerate the taints of their node for a while";
    }
    plan
}

fn evict(pod: &Pod, now: Timestamp) -> Plan {
    let message = format!("Marking for deletion Pod {}/{}", namespace(&pod.metadata), name(&pod.metadata));
    let event = EventRecord::normal(reference(pod), COMPONENT, "TaintManagerEviction", message);
    let mut actions = vec![Action::Event(event)];
    let why = "Taint manager: deleting due to NoExecute taint";
    actions.extend(pod::disrupt(pod, "DeletionByTaintManager", why, now));
    actions.push(delete(pod, DeleteHow::default(), None));
    Plan::new("pods do not tolerate the taints of their node", actions)
}

/// Since when the `NoExecute` taints of each node count: each by its own time, or by when it was first noticed.
#[derive(Default)]
pub struct TaintTimes {
    /// By node: key and value of those without a time.
    noticed: HashMap<Name, HashMap<TaintId, Timestamp>>,
}

/// Key and value.
type TaintId = (String, Option<String>);

impl TaintTimes {
    /// The `NoExecute` taints of a node (none, if it is gone), each with the time from which it counts.
    pub fn see(&mut self, key: &Name, node: Option<&Node>, now: Timestamp) -> Vec<(Taint, Timestamp)> {
        let before = self.noticed.remove(key).unwrap_or_default();
        let mut noticed = HashMap::new();
        let mut since = |taint: &Taint| {
            if let Some(time) = &taint.time_added {
                return time.0;
            }
            let id = (taint.key.clone(), taint.value.clone());
            let at = before.get(&id).copied().unwrap_or(now);
            noticed.insert(id, at);
            at
        };
        let taints = node.into_iter().flat_map(no_execute).map(|taint| (taint.clone(), since(taint))).collect();
        if !noticed.is_empty() {
            self.noticed.insert(key.clone(), noticed);
        }
        taints
    }
}

fn no_execute(node: &Node) -> impl Iterator<Item = &Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.into_iter().flatten().filter(|taint| taint.effect == "NoExecute")
}

/// Whether pods may have to leave the node.
#[must_use]
pub fn evicts(node: &Node) -> bool {
    no_execute(node).next().is_some()
}

/// The node that a pod's change concerns: one whose taints it may not tolerate.
pub fn by_pod(new: Option<&Pod>, node: impl FnOnce(&str) -> Option<Arc<Node>>) -> Option<Name> {
    let name = pod::node(new?)?;
    node(name).is_some_and(|node| evicts(&node)).then(|| name.into())
}

/// When the pod has to go; `None` if it may stay.
fn deadline(pod: &Pod, taints: &[(Taint, Timestamp)]) -> Option<Timestamp> {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let patience = |(taint, since): &(Taint, Timestamp)| {
        let matching: Vec<&Toleration> = tolerations.iter().filter(|t| tolerates(t, taint)).collect();
        if matching.is_empty() {
            return Some(*since);
        }
        let seconds = matching.iter().filter_map(|toleration| toleration.toleration_seconds).min()?;
        Some(after_seconds(*since, seconds.max(0)))
    };
    taints.iter().filter_map(patience).min()
}

/// Whether `toleration` puts up with `taint`.
#[must_use]
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    let (ours, theirs) = (text(&toleration.value), text(&taint.value));
    let numbers = || Some((ours.parse::<i64>().ok()?, theirs.parse::<i64>().ok()?));
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        Some("Gt") => numbers().is_some_and(|(ours, theirs)| theirs > ours),
        Some("Lt") => numbers().is_some_and(|(ours, theirs)| theirs < ours),
        _ => !key.is_empty() && ours == theirs,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::NodeSpec;
    use proptest::prelude::*;

    use super::*;
    use crate::object::time;
    use crate::testing::{Cluster, NOW, meta, pod, show};

    fn taint(text: &str) -> Taint {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        let value = (!value.is_empty()).then(|| value.to_owned());
        Taint { key: key.into(), effect: "NoExecute".into(), value, time_added: None }
    }

    /// `key`, `key=value`, `*` for everything, each with `+seconds` of patience.
    fn toleration(text: &str) -> Toleration {
        let (text, seconds) = text.split_once('+').map_or((text, None), |(t, s)| (t, s.parse().ok()));
        let (key, value) = text.split_once('=').map_or((text, None), |(k, v)| (k, Some(v)));
        Toleration {
            key: (key != "*").then(|| key.to_owned()),
            operator: Some(if value.is_some() { "Equal" } else { "Exists" }.into()),
            value: value.map(str::to_owned),
            toleration_seconds: seconds,
            effect: None,
        }
    }

    #[test]
    fn patience_decides() {
        let (none, evicted, tolerated, later) = (
            "its node has no such taint",
            "pods do not tolerate the taints of their node",
            "every pod tolerates the taints of its node",
            "pods tolerate the taints of their node for a while",
        );
        let gone = "!TaintManagerEviction status p -p";
        for (name, taints, tolerations, expect, wake, why) in [
            ("no taint", "", "", "", None, none),
            ("not tolerated", "lost", "", gone, None, evicted),
            ("tolerated for ever", "lost", "lost", "", None, tolerated),
            ("tolerated for a while", "lost", "lost+30", "", Some(20), later),
            ("not any longer", "lost", "lost+10", gone, None, evicted),
            ("another taint is not covered", "lost other", "lost", gone, None, evicted),
            ("the shortest patience counts", "lost", "lost+60 *+30", "", Some(20), later),
            ("values matter", "team=a", "team=b", gone, None, evicted),
            ("equal values match", "team=a", "team=a", "", None, tolerated),
        ] {
            let since = after_seconds(NOW, -10);
            let taints: Vec<_> = taints.split_whitespace().map(|text| (taint(text), since)).collect();
            let mut pod = pod("p", &[]);
            pod.spec.as_mut().unwrap().tolerations = Some(tolerations.split_whitespace().map(toleration).collect());
            let plan = plan(&View { taints, pods: vec![Arc::new(pod)] }, NOW);
            assert_eq!((show(&plan.actions).as_str(), plan.why), (expect, why), "{name}");
            assert_eq!(plan.wake, wake.map(|seconds| after_seconds(NOW, seconds)), "{name}");
        }
    }

    fn node(taints: &[Taint]) -> Node {
        let spec = NodeSpec { taints: Some(taints.to_vec()), ..NodeSpec::default() };
        Node { metadata: meta("n1"), spec: Some(spec), status: None }
    }

    #[test]
    fn a_taint_counts_from_its_own_time_or_from_when_it_was_noticed() {
        let (mut times, key) = (TaintTimes::default(), Name::from("n1"));
        let at = |seconds| after_seconds(NOW, seconds);
        let timed = Taint { time_added: Some(time(at(-60))), ..taint("timed") };
        let soft = Taint { effect: "NoSchedule".into(), ..taint("soft") };
        for (name, taints, now, expect) in [
            ("first noticed", vec![taint("a"), timed, soft], 0, vec![0, -60]),
            ("still there, and another", vec![taint("a"), taint("b")], 5, vec![0, 5]),
            ("another value is another taint", vec![taint("a=1"), taint("b")], 9, vec![9, 5]),
            ("gone", vec![], 10, vec![]),
            ("and back", vec![taint("b")], 20, vec![20]),
        ] {
            let node = node(&taints);
            let seen: Vec<_> = times.see(&key, Some(&node), at(now)).into_iter().map(|(_, since)| since).collect();
            assert_eq!(seen, expect.into_iter().map(at).collect::<Vec<_>>(), "{name}");
        }
        assert!(times.see(&key, None, NOW).is_empty() && times.noticed.is_empty());
    }

    #[test]
    fn a_pod_concerns_its_node_if_that_has_taints() {
        for (taints, bound, expect) in [(vec![taint("a")], true, true), (vec![], true, false), (vec![], false, false)] {
            let mut pod = pod("p", &[]);
            pod.spec.as_mut().unwrap().node_name = bound.then(|| "n1".into());
            assert_eq!(by_pod(Some(&pod), |_| Some(Arc::new(node(&taints)))).is_some(), expect);
        }
        assert_eq!(by_pod(None, |_| None), None);
    }

    proptest! {
        /// Whoever does not tolerate goes once, nobody else ever does, and then there is nothing left to do.
        #[test]
        fn evicts_those_whose_time_is_over_and_rests(
            patience in prop::collection::vec(prop::option::of(0i64..40), 0..8),
        ) {
            let mut cluster = Cluster::default();
            for (number, seconds) in patience.iter().enumerate() {
                let mut pod = pod(&format!("p{number}"), &[]);
                let text = seconds.map_or_else(|| "lost".to_owned(), |seconds| format!("lost+{seconds}"));
                pod.spec.as_mut().unwrap().tolerations = Some(vec![toleration(&text)]);
                cluster.add(&pod);
            }
            let rested = cluster.settle(3, |cluster| {
                let taints = vec![(taint("lost"), after_seconds(NOW, -20))];
                plan(&View { taints, pods: cluster.list::<Pod>() }, NOW).actions
            });
            prop_assert!(rested, "{}", cluster.trace());
            let stay = patience.iter().filter(|seconds| seconds.is_none_or(|seconds| seconds > 20)).count();
            prop_assert_eq!(cluster.list::<Pod>().len(), stay);
        }
    }
}
