//! Eviction: a deletion that disruption budgets may refuse.
//!
//! Source: `pkg/registry/core/pod/storage/eviction.go`. There the budget is charged first and the pod deleted then; here
//! both are one transaction.

use kontiki_machinery::admission::{Guard, Lookup};
use kontiki_model::GroupResource;
use serde_json::{Value, json};

use super::super::selector;
use super::super::value::{at, child, count, fields, generation, get, has, list, num, set, text};
use crate::schema::{self, time};
use crate::status::{StatusCause, StatusDetails};
use crate::subresource::{Evict, Evicted};
use crate::{Handler, Status, Subresource, Verbs};

const BUDGETS: GroupResource<'static> = GroupResource { group: "policy", resource: "poddisruptionbudgets" };
/// Most evictions that a budget's controller may not have seen yet.
const MAX_DISRUPTED: usize = 2000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// `eviction` of pods.
pub(super) fn subresource() -> Subresource {
    let handler = Handler::Evict(schema::known("io.k8s.api.policy.v1.Eviction"), &Eviction);
    Subresource {
        name: "eviction".into(),
        group: "policy".into(),
        version: "v1".into(),
        kind: "Eviction".into(),
        verbs: Verbs::CREATE,
        handler,
    }
}

struct Eviction;

impl Evict for Eviction {
    fn evict(&self, pod: &Value, cluster: &mut dyn Lookup) -> Result<Evicted, Status> {
        let now = time::print_seconds(cluster.now());
        let object = marked(pod, &now);
        if disturbs_nobody(pod) {
            return Ok(Evicted { object, beside: Vec::new() });
        }
        let meta = get(pod, "metadata");
        let namespace = text(meta, "namespace");
        let covers = |budget: &Value| {
            text(get(budget, "metadata"), "namespace") == namespace
                && has(get(budget, "spec"), "selector")
                && selector::parse(get(get(budget, "spec"), "selector"))
                    .is_some_and(|parsed| selector::matches(&parsed, get(meta, "labels")))
        };
        let budgets: Vec<Value> = cluster.objects(BUDGETS)?.into_iter().filter(covers).collect();
        let name = match budgets.as_slice() {
            [] => return Ok(Evicted { object, beside: Vec::new() }),
            [one] => text(get(one, "metadata"), "name"),
            _ => return Err(Status::failure(500, "", SEVERAL)),
        };
        // What is relied on has to be so when it is written.
        let Some(budget) = cluster.object(BUDGETS, Some(namespace), name, Guard::Unchanged)? else {
            return Ok(Evicted { object, beside: Vec::new() });
        };
        let beside =
            if is_ready(pod) || !may_lose_unready(&budget) { vec![charged(budget, pod, &now)?] } else { Vec::new() };
        Ok(Evicted { object, beside: beside.into_iter().map(|budget| (BUDGETS, budget)).collect() })
    }
}

const SEVERAL: &str =
    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";

/// Whether its end disrupts nothing: it has not begun, has ended, or is on its way out.
fn disturbs_nobody(pod: &Value) -> bool {
    let phase = text(get(pod, "status"), "phase");
    ["Succeeded", "Failed", "Pending"].contains(&phase) || has(get(pod, "metadata"), "deletionTimestamp")
}

fn is_ready(pod: &Value) -> bool {
    let conditions = list(get(pod, "status"), "conditions");
    conditions.iter().any(|c| text(c, "type") == "Ready" && text(c, "status") == "True")
}

/// Whether the budget lets a pod go that does not count as healthy, without being charged.
fn may_lose_unready(budget: &Value) -> bool {
    let status = get(budget, "status");
    let (healthy, wanted) = (num(status, "currentHealthy"), num(status, "desiredHealthy"));
    text(get(budget, "spec"), "unhealthyPodEvictionPolicy") == "AlwaysAllow" || healthy >= wanted && wanted > 0
}

/// The budget with one disruption less.
fn charged(mut budget: Value, pod: &Value, now: &str) -> Result<Value, Status> {
    let name = text(get(&budget, "metadata"), "name").to_owned();
    let status = get(&budget, "status");
    if num(status, "observedGeneration") < generation(&budget) {
        return Err(refused(10, format!("The disruption budget {name} is still being processed by the server.")));
    }
    let allowed = num(status, "disruptionsAllowed");
    let forbidden =
        |why: &str| Status::forbidden(GroupResource { group: "policy", resource: "poddisruptionbudget" }, &name, why);
    if allowed < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    if count(status, "disruptedPods") > MAX_DISRUPTED {
        return Err(forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller"));
    }
    if allowed == 0 {
        let (wanted, healthy) = (num(status, "desiredHealthy"), num(status, "currentHealthy"));
        let cause = format!("The disruption budget {name} needs {wanted} healthy pods and has {healthy} currently");
        return Err(refused(0, cause));
    }
    let status = child(&mut budget, "status");
    set(status, "disruptionsAllowed", allowed - 1);
    if allowed == 1 {
        set_exhausted(status, now);
    }
    let pod = text(get(pod, "metadata"), "name");
    fields(child(status, "disruptedPods")).insert(pod.to_owned(), now.into());
    Ok(budget)
}

/// 429 for programs that try again.
fn refused(retry_after_seconds: u32, cause: String) -> Status {
    let cause = StatusCause { reason: "DisruptionBudget".into(), message: cause, field: String::new() };
    let details = StatusDetails { causes: vec![cause], retry_after_seconds, ..StatusDetails::default() };
    Status::too_many_requests(REFUSED, retry_after_seconds).with_details(details)
}

/// No more disruptions are allowed.
fn set_exhausted(status: &mut Value, now: &str) {
    let observed = num(status, "observedGeneration");
    let old = list(status, "conditions").iter().find(|c| text(c, "type") == "DisruptionAllowed");
    let since = old.filter(|c| text(c, "status") == "False").map_or(now, |c| text(c, "lastTransitionTime")).to_owned();
    let new = json!({
        "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
        "observedGeneration": observed, "lastTransitionTime": since,
    });
    put_condition(status, new);
}

/// The pod, which says why it goes.
fn marked(pod: &Value, now: &str) -> Value {
    let conditions = list(get(pod, "status"), "conditions");
    let old = conditions.iter().find(|c| text(c, "type") == "DisruptionTarget");
    let since = old.filter(|c| text(c, "status") == "True").map_or(now, |c| text(c, "lastTransitionTime"));
    let mut new = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": since,
    });
    if let Some(generation) = at(pod, &["metadata", "generation"]).as_i64() {
        set(&mut new, "observedGeneration", generation);
    }
    let mut marked = pod.clone();
    put_condition(child(&mut marked, "status"), new);
    marked
}

/// Puts a condition in the place of its namesake, or at the end.
fn put_condition(status: &mut Value, new: Value) {
    let slot = fields(status).entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = slot.as_array_mut() else { return };
    match conditions.iter_mut().find(|c| text(c, "type") == text(&new, "type")) {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    struct Budgets(Vec<Value>);

    impl Lookup for Budgets {
        fn object(
            &mut self,
            _: GroupResource<'_>,
            _: Option<&str>,
            name: &str,
            guard: Guard,
        ) -> Result<Option<Value>, Status> {
            assert_eq!(guard, Guard::Unchanged);
            Ok(self.0.iter().find(|budget| budget["metadata"]["name"] == name).cloned())
        }

        fn objects(&self, _: GroupResource<'_>) -> Result<Vec<Value>, Status> {
            Ok(self.0.clone())
        }

        fn random(&mut self) -> u64 {
            0
        }

        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
    }

    fn budget(name: &str, spec: Value, [allowed, healthy, wanted]: [i64; 3]) -> Value {
        let mut spec = spec;
        default_selector(&mut spec);
        json!({"metadata": {"name": name, "namespace": "ns", "generation": 1}, "spec": spec, "status": {
            "disruptionsAllowed": allowed, "currentHealthy": healthy, "desiredHealthy": wanted, "observedGeneration": 1}})
    }

    fn default_selector(spec: &mut Value) {
        super::super::super::value::default_to(spec, "selector", json!({"matchLabels": {"a": "b"}}));
    }

    fn pod(phase: &str, ready: &str) -> Value {
        json!({"metadata": {"name": "p", "namespace": "ns", "labels": {"a": "b"}},
               "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}})
    }

    #[test]
    fn budgets_decide_on_pods_that_run() {
        let stale = {
            let mut stale = budget("one", json!({}), [1, 2, 1]);
            stale["metadata"]["generation"] = json!(2);
            stale
        };
        let always = json!({"unhealthyPodEvictionPolicy": "AlwaysAllow"});
        let other = json!({"selector": {"matchLabels": {"a": "c"}}});
        let one = |counts| vec![budget("one", json!({}), counts)];
        for (name, budgets, phase, ready, expect) in [
            ("no budget", vec![], "Running", "True", Ok(None)),
            ("another's budget", vec![budget("one", other, [0, 0, 1])], "Running", "True", Ok(None)),
            ("one is allowed", one([1, 2, 1]), "Running", "True", Ok(Some(0))),
            ("two are allowed", one([2, 3, 1]), "Running", "True", Ok(Some(1))),
            ("none is allowed", one([0, 1, 1]), "Running", "True", Err(429)),
            ("the budget was not looked at", vec![stale], "Running", "True", Err(429)),
            ("negative", one([-1, 1, 1]), "Running", "True", Err(403)),
            (
                "two budgets",
                [one([1, 2, 1]), vec![budget("two", json!({}), [1, 2, 1])]].concat(),
                "Running",
                "True",
                Err(500),
            ),
            ("it has not begun", one([0, 1, 1]), "Pending", "False", Ok(None)),
            ("it has ended", one([0, 1, 1]), "Failed", "False", Ok(None)),
            ("it is not ready, and others are enough", one([0, 1, 1]), "Running", "False", Ok(None)),
            ("it is not ready, nor are enough others", one([0, 0, 1]), "Running", "False", Err(429)),
            (
                "it is not ready, which may always go",
                vec![budget("one", always, [0, 0, 1])],
                "Running",
                "False",
                Ok(None),
            ),
        ] {
            let got = Eviction.evict(&pod(phase, ready), &mut Budgets(budgets));
            let left = got.as_ref().map(|evicted| {
                let mark = &evicted.object["status"]["conditions"][1];
                assert_eq!(
                    (&mark["type"], &mark["reason"]),
                    (&json!("DisruptionTarget"), &json!("EvictionByEvictionAPI"))
                );
                evicted.beside.first().map(|(_, budget)| num(get(budget, "status"), "disruptionsAllowed"))
            });
            assert_eq!(left.map_err(|status| status.code), expect, "{name}");
        }
    }

    #[test]
    fn the_last_disruption_is_noted() {
        let evicted = Eviction.evict(&pod("Running", "True"), &mut Budgets(vec![budget("one", json!({}), [1, 2, 1])]));
        let status = evicted.expect("allowed").beside[0].1["status"].clone();
        assert_eq!(status["disruptedPods"], json!({"p": "1970-01-01T00:00:00Z"}));
        assert_eq!(
            (&status["conditions"][0]["status"], &status["conditions"][0]["reason"]),
            (&json!("False"), &json!("InsufficientPods"))
        );
    }
}
