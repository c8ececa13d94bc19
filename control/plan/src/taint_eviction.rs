//! Taint eviction: deletes the pods that do not tolerate a `NoExecute` taint of their node, at once
//! or when their patience ends. A taint that goes in time changes nothing.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

use crate::action::{Action, DeleteHow, EventRecord, Plan, delete, reference};
use crate::object::{after_seconds, deleting, name, namespace};
use crate::pod;

const COMPONENT: &str = "taint-eviction-controller";

/// What a plan is made from.
pub struct View<'a> {
    /// The `NoExecute` taints of one node, each with the time from which patience is counted.
    pub taints: &'a [(Taint, Timestamp)],
    /// The pods bound to the node.
    pub pods: &'a [Arc<Pod>],
}

/// Decides who goes now, and when to look again.
#[must_use]
pub fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for pod in view.pods.iter().filter(|pod| !deleting(&pod.metadata)) {
        match deadline(pod, view.taints) {
            Some(at) if at <= now => evict(pod, now, &mut plan),
            Some(at) => plan.wake_at(at),
            None => {}
        }
    }
    plan
}

fn evict(pod: &Pod, now: Timestamp, plan: &mut Plan) {
    let message = format!("Marking for deletion Pod {}/{}", namespace(&pod.metadata), name(&pod.metadata));
    let event = EventRecord::normal(reference(pod), COMPONENT, "TaintManagerEviction", message);
    plan.actions.push(Action::Event(event));
    let why = "Taint manager: deleting due to NoExecute taint";
    plan.actions.extend(pod::disrupt(pod, "DeletionByTaintManager", why, now));
    plan.actions.push(delete(pod, DeleteHow::default(), None));
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
    use super::*;
    use crate::testing::{NOW, pod, show};

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
        for (name, taints, tolerations, expect, wake) in [
            ("no taint", "", "", "", None),
            ("not tolerated", "lost", "", "!TaintManagerEviction status p -p", None),
            ("tolerated for ever", "lost", "lost", "", None),
            ("tolerated for a while", "lost", "lost+30", "", Some(20)),
            ("not any longer", "lost", "lost+10", "!TaintManagerEviction status p -p", None),
            ("another taint is not covered", "lost other", "lost", "!TaintManagerEviction status p -p", None),
            ("the shortest patience counts", "lost", "lost+60 *+30", "", Some(20)),
            ("values matter", "team=a", "team=b", "!TaintManagerEviction status p -p", None),
            ("equal values match", "team=a", "team=a", "", None),
        ] {
            let since = after_seconds(NOW, -10);
            let taints: Vec<_> = taints.split_whitespace().map(|text| (taint(text), since)).collect();
            let mut pod = pod("p", &[]);
            pod.spec.as_mut().unwrap().tolerations = Some(tolerations.split_whitespace().map(toleration).collect());
            let plan = plan(&View { taints: &taints, pods: &[Arc::new(pod)] }, NOW);
            assert_eq!(show(&plan.actions), expect, "{name}");
            assert_eq!(plan.wake, wake.map(|seconds| after_seconds(NOW, seconds)), "{name}");
        }
    }
}
