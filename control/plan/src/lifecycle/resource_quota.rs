//! ResourceQuotas: `status` says what is allowed and what is taken, counted anew whenever something comes or goes.
//!
//! Invariants
//! - The status is written under the version that was looked at. Admission charges a quota in the transaction that makes
//!   an object, so a count that lacks an object made since is refused, and done again.
//! - Equal amounts are not written again, however they are spelled.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ResourceQuota;
use kontiki_model::GroupResource;
use kontiki_model::amount::Amount;
use kontiki_model::quota::{self, CLAIMS, SERVICES};
use kontiki_model::requests::{Amounts, amounts};
use kontiki_model::resource::PODS;
use serde_json::{Map, Value, json};

use crate::action::{Plan, merge_diff, patch, to_value};

/// A view that is behind its quota is looked at again after this.
const AGAIN: SignedDuration = SignedDuration::from_millis(100);

/// Kinds whose objects count by what they say.
pub const WEIGHED: [GroupResource<'static>; 3] = [PODS, SERVICES, CLAIMS];

/// A quota, and what its namespace holds of what it counts.
pub struct View {
    /// The quota.
    pub quota: ResourceQuota,
    /// Objects of [`WEIGHED`] kinds, in their JSON form.
    pub weighed: Vec<(GroupResource<'static>, Value)>,
    /// How many objects there are of the other kinds, by [`quota::count_name`].
    pub numbers: BTreeMap<String, usize>,
    /// Whether all kinds were seen at least as of the quota's version.
    pub complete: bool,
}

/// The resources that a quota names.
#[must_use]
pub fn named(quota: &ResourceQuota) -> Vec<String> {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    hard.into_iter().flatten().map(|(name, _)| name.clone()).collect()
}

/// Whether a change of an object may change what a quota counts.
#[must_use]
pub fn concerns(quota: &ResourceQuota, resource: GroupResource<'_>, comes_or_goes: bool) -> bool {
    let counted = || named(quota).iter().any(|name| quota::counts(resource, name));
    (comes_or_goes || WEIGHED.contains(&resource)) && !quota::ignores(resource) && counted()
}

/// Decides the next write for one quota.
#[must_use]
pub fn plan(view: &View, now: Timestamp) -> Plan {
    if !view.complete {
        let mut plan = Plan::rest("not everything was seen yet");
        plan.wake = now.checked_add(AGAIN).ok();
        return plan;
    }
    let old = to_value(&view.quota);
    let hard = &old["spec"]["hard"];
    let status = json!({"hard": if hard.is_null() { json!({}) } else { hard.clone() }, "used": used(view, &old, now)});
    let mut plan = match merge_diff(&comparable(&old["status"], &status), &status) {
        None => Plan::rest("its status is right"),
        Some(diff) => {
            Plan::new("its status differs", vec![patch(&view.quota, Some("status"), json!({ "status": diff }))])
        }
    };
    // Pods whose grace ends count no more, though nobody writes that.
    let ends = view.weighed.iter().filter(|(kind, _)| *kind == PODS).filter_map(|(_, pod)| quota::counts_until(pod));
    if let Some(end) = ends.filter(|end| *end >= now).min() {
        plan.wake = end.checked_add(SignedDuration::from_secs(1)).ok();
    }
    plan
}

/// What is taken of each resource that something can be counted for.
fn used(view: &View, quota: &Value, now: Timestamp) -> Value {
    let mut sums: Amounts =
        named(&view.quota).into_iter().filter(|name| countable(name)).map(|name| (name, Amount::ZERO)).collect();
    for (resource, object) in view.weighed.iter().filter(|(resource, object)| quota::in_scope(quota, *resource, object))
    {
        for (name, amount) in quota::usage(*resource, object, now) {
            sums.entry(name).and_modify(|sum| *sum = sum.plus(amount));
        }
    }
    // What is only counted is of no scope.
    let scoped = |field: &str| !quota["spec"][field].is_null() && quota["spec"][field] != json!([]);
    if !scoped("scopes") && !scoped("scopeSelector") {
        for (name, number) in &view.numbers {
            let number = Amount::count(i64::try_from(*number).unwrap_or(i64::MAX));
            let plain = name.strip_prefix("count/").unwrap_or(name);
            for name in [name.as_str(), plain] {
                sums.entry(name.to_owned()).and_modify(|sum| *sum = number);
            }
        }
    }
    Value::Object(sums.iter().map(|(name, sum)| (name.clone(), sum.to_string().into())).collect())
}

fn countable(name: &str) -> bool {
    const BY_NAME: [&str; 4] = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];
    let weighed = WEIGHED.iter().any(|resource| quota::counts(*resource, name));
    weighed || quota::counted(name).is_some() || BY_NAME.contains(&name)
}

/// The status that is there, with what is equal to the new one spelled as there.
fn comparable(old: &Value, new: &Value) -> Value {
    let mut out = Map::new();
    for field in ["hard", "used"] {
        let Some(before) = old[field].as_object() else { continue };
        let (amounts_before, amounts_now) = (amounts(&old[field]), amounts(&new[field]));
        let spelled = before.iter().map(|(name, value)| {
            let same = amounts_now.get(name).is_some_and(|now| amounts_before.get(name) == Some(now));
            (name.clone(), if same { new[field][name].clone() } else { value.clone() })
        });
        out.insert(field.to_owned(), Value::Object(spelled.collect()));
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ResourceQuotaSpec;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Cluster, NOW, meta, pod, show};

    fn new(hard: &[(&str, &str)], scopes: &[&str]) -> ResourceQuota {
        let hard = hard.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned()))).collect();
        let scopes = (!scopes.is_empty()).then(|| scopes.iter().map(|scope| (*scope).to_owned()).collect());
        let spec = ResourceQuotaSpec { hard: Some(hard), scopes, ..ResourceQuotaSpec::default() };
        ResourceQuota { metadata: meta("q"), spec: Some(spec), status: None }
    }

    fn view(quota: &ResourceQuota, pods: usize, secrets: usize) -> View {
        View {
            quota: quota.clone(),
            weighed: (0..pods).map(|i| (PODS, to_value(&pod(&format!("p{i}"), &[])))).collect(),
            numbers: [("count/secrets".to_owned(), secrets)].into(),
            complete: true,
        }
    }

    #[test]
    fn what_is_there_is_counted() {
        for (what, quota, pods, secrets, expect) in [
            ("nothing", new(&[("pods", "2"), ("secrets", "1")], &[]), 0, 0, json!({"pods": "0", "secrets": "0"})),
            (
                "some",
                new(&[("pods", "2"), ("count/secrets", "1")], &[]),
                2,
                3,
                json!({"pods": "2", "count/secrets": "3"}),
            ),
            (
                "of a scope",
                new(&[("pods", "2"), ("secrets", "9")], &["BestEffort"]),
                1,
                1,
                json!({"pods": "1", "secrets": "0"}),
            ),
            ("of another", new(&[("pods", "2")], &["NotBestEffort"]), 1, 0, json!({"pods": "0"})),
            (
                "of a kind that may come",
                new(&[("count/a.b.c", "2"), ("x.y/z", "1")], &[]),
                0,
                0,
                json!({"count/a.b.c": "0"}),
            ),
        ] {
            let plan = plan(&view(&quota, pods, secrets), NOW);
            assert_eq!(show(&plan.actions), "status q", "{what}");
            let crate::Action::Patch(patch) = &plan.actions[0] else { panic!("{what}") };
            assert_eq!(patch.body["status"]["used"], expect, "{what}");
            assert_eq!(patch.body["metadata"]["resourceVersion"], "1", "{what}");
        }
    }

    #[test]
    fn a_view_behind_its_quota_writes_nothing() {
        let plan = plan(&View { complete: false, ..view(&new(&[("pods", "1")], &[]), 0, 0) }, NOW);
        assert!(plan.actions.is_empty() && plan.wake.is_some());
    }

    #[test]
    fn a_pod_that_ends_counts_until_its_time() {
        let mut view = view(&new(&[("pods", "1")], &[]), 1, 0);
        view.weighed[0].1["metadata"]["deletionTimestamp"] = json!(NOW.to_string());
        view.weighed[0].1["metadata"]["deletionGracePeriodSeconds"] = json!(30);
        let wake = plan(&view, NOW).wake.map(|wake| (wake - NOW).get_seconds());
        assert_eq!(wake, Some(31));
    }

    #[test]
    fn only_what_it_counts_concerns_a_quota() {
        let quota = new(&[("pods", "1"), ("count/jobs.batch", "1")], &[]);
        let of = |group, resource| GroupResource { group, resource };
        for (resource, comes_or_goes, expect) in [
            (of("", "pods"), false, true),
            (of("", "services"), true, false),
            (of("batch", "jobs"), true, true),
            (of("batch", "jobs"), false, false),
            (of("", "events"), true, false),
        ] {
            assert_eq!(concerns(&quota, resource, comes_or_goes), expect, "{resource}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_there_ends_with_the_count(pods in 0usize..4, secrets in 0usize..4, before in "(0|1|2k|1000m)?") {
            let mut quota = new(&[("pods", "2"), ("requests.cpu", "1500m"), ("secrets", "3")], &[]);
            if !before.is_empty() {
                let amounts = Some(BTreeMap::from([("pods".to_owned(), Quantity(before.clone())), ("gone".to_owned(), Quantity(before))]));
                let status = k8s_openapi::api::core::v1::ResourceQuotaStatus { hard: amounts.clone(), used: amounts };
                quota.status = Some(status);
            }
            let mut cluster = Cluster::default();
            cluster.add(&quota);
            let rested = cluster.settle(3, |cluster| plan(&view(&cluster.only(), pods, secrets), NOW).actions);
            prop_assert!(rested, "{}", cluster.trace());
            let status = cluster.only::<ResourceQuota>().status.unwrap_or_default();
            let used = amounts(&to_value(&status)["used"]);
            let count = |count: usize| Amount::count(i64::try_from(count).unwrap());
            prop_assert_eq!(used.len(), 3);
            prop_assert_eq!((used["pods"], used["secrets"]), (count(pods), count(secrets)));
        }
    }
}
