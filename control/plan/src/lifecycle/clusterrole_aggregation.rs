//! ClusterRole aggregation: a role with an `aggregationRule` has the rules of all roles that its selectors match, by
//! name, each rule once (`pkg/controller/clusterroleaggregation` of upstream).

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kontiki_model::selector::Selector;

use crate::action::{Plan, patch_to};
use crate::object::{deleting, label, name};

/// The selectors of a role that gathers others.
pub fn selectors(role: &ClusterRole) -> impl Iterator<Item = &LabelSelector> {
    role.aggregation_rule.iter().flat_map(|rule| rule.cluster_role_selectors.iter().flatten())
}

/// Decides the next write for `role`. Among `others` are all that its selectors match.
#[must_use]
pub fn plan(role: &ClusterRole, others: &[Arc<ClusterRole>]) -> Plan {
    if role.aggregation_rule.is_none() {
        return Plan::rest("it gathers nothing");
    }
    if deleting(&role.metadata) {
        return Plan::rest("it is being deleted");
    }
    let new = ClusterRole { rules: Some(gathered(role, others)), ..role.clone() };
    let action = patch_to(role, &new, None);
    action.map_or(Plan::rest("it has what it gathers"), |action| Plan::new("its rules differ", vec![action]))
}

fn gathered(role: &ClusterRole, others: &[Arc<ClusterRole>]) -> Vec<PolicyRule> {
    let mut sorted: Vec<&ClusterRole> = others.iter().map(AsRef::as_ref).collect();
    sorted.sort_by_key(|other| name(&other.metadata));
    sorted.retain(|other| name(&other.metadata) != name(&role.metadata));
    let mut out: Vec<PolicyRule> = Vec::new();
    for selector in selectors(role).filter_map(Selector::from_spec) {
        let matched = sorted.iter().filter(|other| selector.matches_with(|key| label(&other.metadata, key)));
        for rule in matched.flat_map(|other| other.rules.iter().flatten()) {
            if !out.contains(rule) {
                out.push(rule.clone());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::rbac::v1::AggregationRule;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Cluster, map, meta};

    fn rule(verb: char) -> PolicyRule {
        PolicyRule { verbs: vec![verb.to_string()], resources: Some(vec!["r".into()]), ..PolicyRule::default() }
    }

    /// A role called `called` with label `to: <to>`, which gathers those to `from` and holds `verbs`.
    fn role(called: &str, to: &str, from: &str, verbs: &str) -> ClusterRole {
        let labels = (!to.is_empty()).then(|| map(&[("to", to)]));
        let selector = LabelSelector { match_labels: Some(map(&[("to", from)])), match_expressions: None };
        let gathers = AggregationRule { cluster_role_selectors: Some(vec![selector]) };
        ClusterRole {
            metadata: ObjectMeta { namespace: None, labels, ..meta(called) },
            aggregation_rule: (!from.is_empty()).then_some(gathers),
            rules: Some(verbs.chars().map(rule).collect()),
        }
    }

    fn verbs(role: &ClusterRole) -> String {
        role.rules.iter().flatten().map(|rule| rule.verbs.concat()).collect()
    }

    #[test]
    fn a_role_gathers_by_label_in_the_order_of_names() {
        let others =
            [role("b", "x", "", "bc"), role("a", "x", "", "ab"), role("c", "y", "", "z"), role("me", "x", "x", "q")];
        let others: Vec<Arc<ClusterRole>> = others.into_iter().map(Arc::new).collect();
        for (own, expect, why) in [
            (role("me", "x", "x", "q"), Some("abc"), "its rules differ"),
            (role("me", "", "x", "abc"), None, "it has what it gathers"),
            (role("me", "", "none", "abc"), Some(""), "its rules differ"),
            (role("me", "x", "", "q"), None, "it gathers nothing"),
        ] {
            let plan = plan(&own, &others);
            assert_eq!((plan.actions.is_empty(), plan.why), (expect.is_none(), why));
            if let Some(expect) = expect {
                let mut cluster = Cluster::default();
                cluster.add(&own);
                plan.actions.into_iter().for_each(|action| cluster.apply(action));
                assert_eq!(verbs(&cluster.only::<ClusterRole>()), expect);
            }
        }
    }

    proptest! {
        #[test]
        fn whoever_gathers_whom_they_come_to_rest(ways in prop::collection::vec(("[xyz]?", "[xyz]?", "[a-e]{0,3}"), 1..6)) {
            let mut cluster = Cluster::default();
            for (at, (to, from, verbs)) in ways.iter().enumerate() {
                cluster.add(&role(&format!("r{at}"), to, from, verbs));
            }
            let rested = cluster.settle(60, |cluster| {
                let all = cluster.list::<ClusterRole>();
                let plans = all.iter().map(|role| plan(role, &all).actions);
                plans.into_iter().find(|actions| !actions.is_empty()).unwrap_or_default()
            });
            prop_assert!(rested, "{}", cluster.trace());
        }
    }
}
