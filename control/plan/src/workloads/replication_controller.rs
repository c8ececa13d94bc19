//! ReplicationController: the older form of a ReplicaSet. It selects by a plain map, and does not count pods on their
//! way out.

use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};

use super::replicas::Replicas;

impl Replicas for ReplicationController {
    const COMPONENT: &'static str = "replication-controller";

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn status(&self) -> ReplicaSetStatus {
        let status = self.status.clone().unwrap_or_default();
        let conditions = status.conditions.map(|conditions| conditions.into_iter().map(read).collect());
        ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            terminating_replicas: None,
            observed_generation: status.observed_generation,
            conditions,
        }
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        let conditions = status.conditions.map(|conditions| conditions.into_iter().map(write).collect());
        let status = ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            conditions,
        };
        Self { status: Some(status), ..self.clone() }
    }
}

fn read(condition: ReplicationControllerCondition) -> ReplicaSetCondition {
    ReplicaSetCondition {
        type_: Some(condition.type_),
        status: Some(condition.status),
        reason: condition.reason,
        message: condition.message,
        last_transition_time: condition.last_transition_time,
    }
}

fn write(condition: ReplicaSetCondition) -> ReplicationControllerCondition {
    ReplicationControllerCondition {
        type_: condition.type_.unwrap_or_default(),
        status: condition.status.unwrap_or_default(),
        reason: condition.reason,
        message: condition.message,
        last_transition_time: condition.last_transition_time,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use super::*;
    use crate::selection::Selects as _;
    use crate::testing::{NOW, pods, replication_controller, show};
    use crate::workloads::replicas::{ReplicaFailure, View, plan};

    #[test]
    fn a_status_survives_the_way_there_and_back() {
        let said = ReplicaSetStatus {
            replicas: 3,
            fully_labeled_replicas: Some(2),
            ready_replicas: Some(1),
            available_replicas: Some(1),
            terminating_replicas: None,
            observed_generation: Some(7),
            conditions: Some(vec![ReplicaSetCondition {
                type_: Some("ReplicaFailure".into()),
                status: Some("True".into()),
                reason: Some("FailedCreate".into()),
                ..ReplicaSetCondition::default()
            }]),
        };
        assert_eq!(replication_controller("web", 1).with_status(said.clone()).status(), said);
    }

    #[test]
    fn one_without_a_selector_selects_nothing() {
        for selector in [None, Some(std::collections::BTreeMap::new())] {
            let mut controller = replication_controller("web", 1);
            controller.spec.as_mut().unwrap().selector = selector;
            assert!(controller.selector().is_none());
        }
    }

    #[test]
    fn pods_on_their_way_out_change_nothing_in_its_status() {
        let failure = |text: &str| ReplicaFailure { reason: "FailedCreate", message: text.into() };
        let view = |set, have, failure| View {
            set: Arc::new(set),
            pods: pods("web", have),
            related_per_node: HashMap::new(),
            failure,
            namespace_terminating: true,
        };
        let mut controller = replication_controller("web", 1);
        for (have, failed, expect) in [
            ("", Some(failure("no")), "status web"),
            ("a~", Some(failure("no")), ""),
            ("a~", None, "status web"),
            ("", None, ""),
        ] {
            let plan = plan(&view(controller.clone(), have, failed), NOW);
            assert_eq!(show(&plan.actions), expect, "{have}");
            if let Some(crate::Action::Patch(patch)) = plan.actions.first() {
                let mut value = crate::action::to_value(&controller);
                crate::testing::merge(&mut value, &patch.body);
                controller = serde_json::from_value(value).unwrap();
            }
        }
    }
}
