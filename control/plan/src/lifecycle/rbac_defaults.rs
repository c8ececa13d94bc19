//! The roles and bindings that every cluster has, as upstream's API server makes them at its start
//! (`plugin/pkg/auth/authorizer/rbac/bootstrappolicy`). The data are what a server of 1.36 made.
//!
//! Invariants
//! - What is there is added to, never narrowed: rules, subjects, labels and annotations that are missing come, others stay.
//! - An object whose annotation `rbac.authorization.kubernetes.io/autoupdate` is `false` is left alone.
//! - A binding of another role is deleted, and made anew by the next plan: its role cannot be changed.
//!
//! Not here: rules of aggregated roles (see `clusterrole_aggregation`).

use std::sync::{Arc, OnceLock};

use k8s_openapi::api::rbac::v1::{
    AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kontiki_model::{Rule, rule::missing};
use serde::{Deserialize, Serialize};

use crate::action::{Action, DeleteHow, Kind, Plan, create, delete, patch_to};
use crate::object::{annotation, deleting, name, namespace};

const DATA: &str = include_str!("../../data/bootstrap-rbac.json");
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Defaults {
    cluster_roles: Vec<ClusterRole>,
    roles: Vec<Role>,
    cluster_role_bindings: Vec<ClusterRoleBinding>,
    role_bindings: Vec<RoleBinding>,
}

fn defaults() -> &'static Defaults {
    static PARSED: OnceLock<Defaults> = OnceLock::new();
    PARSED.get_or_init(|| serde_json::from_str(DATA).expect("the data are objects of these kinds"))
}

/// Looks an object up, by its namespace (empty: none) and name.
pub type Lookup<'a, K> = &'a dyn Fn(&str, &str) -> Option<Arc<K>>;

/// What is there.
pub struct View<'a> {
    /// ClusterRoles.
    pub cluster_roles: Lookup<'a, ClusterRole>,
    /// Roles.
    pub roles: Lookup<'a, Role>,
    /// ClusterRoleBindings.
    pub cluster_role_bindings: Lookup<'a, ClusterRoleBinding>,
    /// RoleBindings.
    pub role_bindings: Lookup<'a, RoleBinding>,
}

/// Decides the next writes.
#[must_use]
pub fn plan(view: &View<'_>) -> Plan {
    let wanted = defaults();
    let mut actions: Vec<Action> = Vec::new();
    actions.extend(wanted.cluster_roles.iter().filter_map(|role| reconcile(role, view.cluster_roles)));
    actions.extend(wanted.roles.iter().filter_map(|role| reconcile(role, view.roles)));
    actions.extend(wanted.cluster_role_bindings.iter().filter_map(|one| reconcile(one, view.cluster_role_bindings)));
    actions.extend(wanted.role_bindings.iter().filter_map(|one| reconcile(one, view.role_bindings)));
    Plan::new(if actions.is_empty() { "they are right" } else { "some are missing or lack something" }, actions)
}

/// A kind of which every cluster has some.
trait Default: Kind + Clone + Serialize {
    /// Adds what is missing of `wanted`; `None`: it cannot be changed so.
    fn completed(&self, wanted: &Self) -> Option<Self>;
}

fn reconcile<K: Default>(wanted: &K, present: Lookup<'_, K>) -> Option<Action> {
    let meta = wanted.metadata();
    let Some(old) = present(namespace(meta), name(meta)) else { return Some(create(wanted, None)) };
    if annotation(old.metadata(), AUTO_UPDATE) == Some("false") || deleting(old.metadata()) {
        return None;
    }
    let Some(mut new) = old.completed(wanted) else { return Some(delete(&*old, DeleteHow::default(), None)) };
    complete_metadata(new.metadata_mut(), meta);
    patch_to(&*old, &new, None)
}

fn complete_metadata(meta: &mut ObjectMeta, wanted: &ObjectMeta) {
    for (own, wanted) in [(&mut meta.labels, &wanted.labels), (&mut meta.annotations, &wanted.annotations)] {
        for (key, value) in wanted.iter().flatten() {
            own.get_or_insert_default().entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
}

fn complete_rules(rules: &mut Option<Vec<PolicyRule>>, wanted: &Option<Vec<PolicyRule>>) {
    let read = |rules: &Option<Vec<PolicyRule>>| rules.iter().flatten().map(Rule::from).collect::<Vec<_>>();
    let missing = missing(&read(rules), &read(wanted));
    if rules.as_ref().is_none_or(Vec::is_empty) {
        rules.clone_from(wanted);
    } else if !missing.is_empty() {
        rules.get_or_insert_default().extend(missing.into_iter().map(PolicyRule::from));
    }
}

fn complete_aggregation(rule: &mut Option<AggregationRule>, wanted: &Option<AggregationRule>) {
    let selectors = wanted.iter().flat_map(|wanted| wanted.cluster_role_selectors.iter().flatten());
    for selector in selectors {
        let own = rule.get_or_insert_default().cluster_role_selectors.get_or_insert_default();
        if !own.contains(selector) {
            own.push(selector.clone());
        }
    }
}

impl Default for ClusterRole {
    fn completed(&self, wanted: &Self) -> Option<Self> {
        let mut new = self.clone();
        complete_aggregation(&mut new.aggregation_rule, &wanted.aggregation_rule);
        if wanted.aggregation_rule.is_none() {
            complete_rules(&mut new.rules, &wanted.rules);
        }
        Some(new)
    }
}

impl Default for Role {
    fn completed(&self, wanted: &Self) -> Option<Self> {
        let mut new = self.clone();
        complete_rules(&mut new.rules, &wanted.rules);
        Some(new)
    }
}

/// The subjects with those that are missing; `None`: another role is bound.
fn complete_subjects(
    (role, subjects): (&RoleRef, &Option<Vec<Subject>>),
    (wanted_role, wanted): (&RoleRef, &Option<Vec<Subject>>),
) -> Option<Option<Vec<Subject>>> {
    let mut new = subjects.clone();
    for subject in wanted.iter().flatten() {
        if !new.iter().flatten().any(|known| known == subject) {
            new.get_or_insert_default().push(subject.clone());
        }
    }
    (role == wanted_role).then_some(new)
}

impl Default for ClusterRoleBinding {
    fn completed(&self, wanted: &Self) -> Option<Self> {
        let wanted = (&wanted.role_ref, &wanted.subjects);
        Some(Self { subjects: complete_subjects((&self.role_ref, &self.subjects), wanted)?, ..self.clone() })
    }
}

impl Default for RoleBinding {
    fn completed(&self, wanted: &Self) -> Option<Self> {
        let wanted = (&wanted.role_ref, &wanted.subjects);
        Some(Self { subjects: complete_subjects((&self.role_ref, &self.subjects), wanted)?, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, show};

    fn view<T>(cluster: &Cluster, then: impl FnOnce(&View<'_>) -> T) -> T {
        fn find<K: Kind>(all: &[Arc<K>], space: &str, wanted: &str) -> Option<Arc<K>> {
            all.iter().find(|one| namespace(one.metadata()) == space && name(one.metadata()) == wanted).cloned()
        }
        let (a, b, c, d) = (cluster.list(), cluster.list(), cluster.list(), cluster.list());
        then(&View {
            cluster_roles: &|space, name| find(&a, space, name),
            roles: &|space, name| find(&b, space, name),
            cluster_role_bindings: &|space, name| find(&c, space, name),
            role_bindings: &|space, name| find(&d, space, name),
        })
    }

    fn settled(cluster: &mut Cluster) {
        let rested = cluster.settle(4, |cluster| view(cluster, |view| plan(view).actions));
        assert!(rested, "{}", cluster.trace());
    }

    fn changed<K: Kind + Clone + Serialize + serde::de::DeserializeOwned>(
        cluster: &mut Cluster,
        wanted: &str,
        change: impl Fn(&mut K),
    ) {
        let mut object =
            K::clone(cluster.list::<K>().iter().find(|one| name(one.metadata()) == wanted).expect("there"));
        change(&mut object);
        cluster.add(&object);
    }

    fn of<K: Kind + serde::de::DeserializeOwned>(cluster: &Cluster, wanted: &str) -> Arc<K> {
        cluster.list::<K>().into_iter().find(|one| name(one.metadata()) == wanted).expect("there")
    }

    #[test]
    fn a_new_cluster_gets_all_and_rests() {
        let mut cluster = Cluster::default();
        settled(&mut cluster);
        let wanted = defaults();
        assert_eq!(cluster.list::<ClusterRole>().len(), wanted.cluster_roles.len());
        assert_eq!(cluster.list::<Role>().len(), wanted.roles.len());
        assert_eq!(cluster.list::<ClusterRoleBinding>().len(), wanted.cluster_role_bindings.len());
        assert_eq!(cluster.list::<RoleBinding>().len(), wanted.role_bindings.len());
    }

    #[test]
    fn what_lacks_something_is_completed_and_what_is_more_stays() {
        let mut cluster = Cluster::default();
        settled(&mut cluster);
        let more = PolicyRule { verbs: vec!["get".into()], resources: Some(vec!["x".into()]), ..PolicyRule::default() };
        changed::<ClusterRole>(&mut cluster, "system:discovery", |role| role.rules = Some(vec![more.clone()]));
        changed::<ClusterRoleBinding>(&mut cluster, "system:discovery", |one| one.subjects = None);
        changed::<ClusterRoleBinding>(&mut cluster, "system:basic-user", |one| one.role_ref.name = "view".into());
        changed::<ClusterRole>(&mut cluster, "view", |role| role.rules = Some(vec![more.clone()]));
        let plan = view(&cluster, plan);
        assert_eq!(show(&plan.actions), "patch system:discovery -system:basic-user patch system:discovery");
        settled(&mut cluster);
        let role = of::<ClusterRole>(&cluster, "system:discovery");
        assert!(role.rules.iter().flatten().any(|rule| *rule == more) && role.rules.iter().flatten().count() > 1);
        assert_eq!(of::<ClusterRoleBinding>(&cluster, "system:basic-user").role_ref.name, "system:basic-user");
        assert_eq!(of::<ClusterRole>(&cluster, "view").rules.as_ref().map(Vec::len), Some(1), "another's rules");
    }

    #[test]
    fn who_wants_no_updates_gets_none() {
        let mut cluster = Cluster::default();
        settled(&mut cluster);
        changed::<ClusterRole>(&mut cluster, "system:discovery", |role| {
            role.rules = None;
            role.metadata.annotations = Some([(AUTO_UPDATE.to_owned(), "false".to_owned())].into());
        });
        assert!(view(&cluster, plan).actions.is_empty());
    }
}
