//! What a PodDisruptionBudget still allows.

use std::collections::BTreeSet;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kontiki_model::selector::Selector;

use crate::object::namespace;
use crate::scheduler::pod::PodInfo;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    namespace: String,
    selector: Selector,
    allowed: i32,
    /// Pods whose going it knows of already.
    disrupted: BTreeSet<String>,
}

impl Budget {
    /// Reads one. `None`: it covers no pod.
    #[must_use]
    pub fn read(budget: &PodDisruptionBudget) -> Option<Self> {
        let (spec, status) = (budget.spec.as_ref()?, budget.status.as_ref());
        let selector = Selector::from_spec(spec.selector.as_ref()?)?;
        if selector.is_empty() {
            return None;
        }
        let disrupted = status.and_then(|status| status.disrupted_pods.as_ref());
        Some(Self {
            namespace: namespace(&budget.metadata).to_owned(),
            selector,
            allowed: status.and_then(|status| status.disruptions_allowed).unwrap_or(0),
            disrupted: disrupted.into_iter().flatten().map(|(name, _)| name.clone()).collect(),
        })
    }

    /// Whether it covers a pod whose going it does not know of.
    fn covers(&self, pod: &PodInfo) -> bool {
        self.namespace == pod.namespace
            && self.selector.matches(&pod.spec.labels)
            && !self.disrupted.contains(&pod.name)
    }
}

/// Which of the pods cannot go, one after the other, without a budget being overdrawn.
#[must_use]
pub fn violating(budgets: &[Budget], pods: &[std::sync::Arc<PodInfo>]) -> Vec<bool> {
    let mut left: Vec<i32> = budgets.iter().map(|budget| budget.allowed).collect();
    let mut violates = |pod: &PodInfo| {
        let mut violates = false;
        for (_, left) in budgets.iter().zip(&mut left).filter(|(budget, _)| budget.covers(pod)) {
            *left -= 1;
            violates |= *left < 0;
        }
        violates
    };
    pods.iter().map(|pod| violates(pod)).collect()
}
