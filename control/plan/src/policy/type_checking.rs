//! What the types of objects say of a ValidatingAdmissionPolicy's expressions is told in its status, once for each generation
//! of it. Upstream: `pkg/controller/validatingadmissionpolicystatus`.

use k8s_openapi::api::admissionregistration::v1::{TypeChecking, ValidatingAdmissionPolicy};

use crate::action::{Plan, patch_to};

/// Whether its status does not tell of this generation.
#[must_use]
pub fn is_due(policy: &ValidatingAdmissionPolicy) -> bool {
    let told = policy.status.as_ref().and_then(|status| status.observed_generation);
    policy.metadata.generation.unwrap_or_default() > told.unwrap_or_default()
}

/// Decides the next write for a policy. `found`: what types say of this generation, if that is known.
#[must_use]
pub fn plan(policy: &ValidatingAdmissionPolicy, found: Option<&TypeChecking>) -> Plan {
    if !is_due(policy) {
        return Plan::rest("its status tells of its types");
    }
    let Some(found) = found else { return Plan::rest("nothing is known of its types") };
    let mut new = policy.clone();
    let status = new.status.get_or_insert_default();
    status.observed_generation = policy.metadata.generation;
    status.type_checking = Some(found.clone());
    Plan::new("its types are checked", patch_to(policy, &new, Some("status")).into_iter().collect())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::admissionregistration::v1::{ExpressionWarning, ValidatingAdmissionPolicyStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
    use serde_json::{Value, json};

    use super::*;
    use crate::action::Action;
    use crate::testing::{Cluster, NOW, meta};

    fn policy(generation: i64, told: Option<(i64, TypeChecking)>) -> ValidatingAdmissionPolicy {
        let status = |(at, types)| ValidatingAdmissionPolicyStatus {
            observed_generation: Some(at),
            type_checking: Some(types),
            conditions: Some(vec![Condition {
                type_: "Others".into(),
                status: "True".into(),
                reason: "Say".into(),
                message: String::new(),
                observed_generation: None,
                last_transition_time: Time(NOW),
            }]),
        };
        ValidatingAdmissionPolicy {
            metadata: ObjectMeta { namespace: None, generation: Some(generation), ..meta("p") },
            status: told.map(status),
            ..ValidatingAdmissionPolicy::default()
        }
    }

    fn types(warnings: &[&str]) -> TypeChecking {
        let warning = |text: &&str| ExpressionWarning { field_ref: "spec".into(), warning: (*text).to_owned() };
        let all: Vec<_> = warnings.iter().map(warning).collect();
        TypeChecking { expression_warnings: Some(all).filter(|all| !all.is_empty()) }
    }

    #[test]
    fn each_generation_is_told_of_once() {
        let one = json!([{"fieldRef": "spec", "warning": "w"}]);
        for (policy, found, expect) in [
            (policy(1, None), Some(types(&[])), json!({"observedGeneration": 1, "typeChecking": {}})),
            (
                policy(1, None),
                Some(types(&["w"])),
                json!({"observedGeneration": 1, "typeChecking": {"expressionWarnings": one}}),
            ),
            (policy(1, None), None, Value::Null),
            (policy(2, Some((1, types(&["w"])))), Some(types(&["w"])), json!({"observedGeneration": 2})),
            (
                policy(2, Some((1, types(&["w"])))),
                Some(types(&[])),
                json!({"observedGeneration": 2, "typeChecking": {"expressionWarnings": null}}),
            ),
            (policy(2, Some((2, types(&["w"])))), Some(types(&[])), Value::Null),
        ] {
            let actions = plan(&policy, found.as_ref()).actions;
            let bodies: Vec<Value> = actions
                .iter()
                .map(|action| match action {
                    Action::Patch(patch) if patch.subresource == Some("status") => patch.body["status"].clone(),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(bodies.first().unwrap_or(&Value::Null), &expect);
            let mut cluster = Cluster::default();
            cluster.add(&policy);
            actions.into_iter().for_each(|action| cluster.apply(action));
            let rested = plan(&cluster.only::<ValidatingAdmissionPolicy>(), found.as_ref());
            assert!(rested.actions.is_empty(), "{rested:?}");
        }
    }
}
