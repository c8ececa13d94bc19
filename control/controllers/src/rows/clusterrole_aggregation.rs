//! Gathers the rules of aggregated ClusterRoles.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kontiki_api::Api;
use kontiki_cache::{Informer, TypedChange};
use kontiki_plan::Plan;
use kontiki_plan::key::Name;
use kontiki_plan::lifecycle::clusterrole_aggregation::{self, selectors};

use crate::controller::{Context, Controller, Inputs, NoFailure};

/// Roles that gather others.
const GATHERS: &str = "gathers";
/// Roles by each of their labels, `key=value`.
const LABEL: &str = "label";

pub(crate) struct ClusterRoleAggregation {
    roles: Informer<ClusterRole>,
}

/// A role, and at least those that it gathers.
pub(crate) struct View {
    role: Arc<ClusterRole>,
    others: Vec<Arc<ClusterRole>>,
}

fn labels(role: &ClusterRole) -> Vec<String> {
    role.metadata.labels.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect()
}

impl ClusterRoleAggregation {
    /// Any role may be gathered, by any that gathers.
    fn gatherers(&self, _: &TypedChange<ClusterRole>) -> Vec<Name> {
        let gatherers = self.roles.by_index(GATHERS, "");
        gatherers.iter().filter_map(|role| role.metadata.name.as_deref().map(Name::from)).collect()
    }

    fn gathered(&self, role: &ClusterRole) -> Vec<Arc<ClusterRole>> {
        let mut out = Vec::new();
        for selector in selectors(role) {
            match selector.match_labels.iter().flatten().next() {
                Some((key, value)) => out.extend(self.roles.by_index(LABEL, &format!("{key}={value}"))),
                None => return self.roles.list(),
            }
        }
        out
    }
}

impl Controller for ClusterRoleAggregation {
    const NAME: &'static str = "clusterrole-aggregation-controller";
    const WORKERS: usize = 1;
    type Key = Name;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        let roles: Informer<ClusterRole> = api.cache().get();
        roles.add_index::<ClusterRole>(GATHERS, |role| role.aggregation_rule.iter().map(|_| String::new()).collect());
        roles.add_index::<ClusterRole>(LABEL, labels);
        Self { roles }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on(&self.roles, Self::gatherers);
    }

    fn view(&self, key: &Name, _: &Context<'_, NoFailure>) -> Option<View> {
        let role = self.roles.get(None, key.as_str())?;
        let others = self.gathered(&role);
        Some(View { role, others })
    }

    fn plan(view: &View, _: Timestamp) -> Plan {
        clusterrole_aggregation::plan(&view.role, &view.others)
    }
}
