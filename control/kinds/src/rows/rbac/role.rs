//! Roles and ClusterRoles.

use serde_json::Value;

use super::GROUP;
use crate::rows::cells::{self, Cell};
use crate::rows::selector;
use crate::rows::value::{get, list, some, text};
use crate::rows::vocab::Errors;
use crate::{FieldError, Path, ResourceDef, Scope, Strategy, meta};

/// The row of Roles.
pub(super) fn namespaced() -> ResourceDef {
    let names = ("roles", "role", "Role");
    ResourceDef::new((GROUP, "v1"), names, "io.k8s.api.rbac.v1.Role", Roles(Scope::Namespaced))
}

/// The row of ClusterRoles.
pub(super) fn cluster() -> ResourceDef {
    let names = ("clusterroles", "clusterrole", "ClusterRole");
    let strategy = Roles(Scope::Cluster);
    ResourceDef {
        scope: Scope::Cluster,
        ..ResourceDef::new((GROUP, "v1"), names, "io.k8s.api.rbac.v1.ClusterRole", strategy)
    }
}

struct Roles(Scope);

impl Strategy for Roles {
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        for (i, rule) in list(obj, "rules").iter().enumerate() {
            check_rule(&mut errs, &Path::new("rules").index(i), rule, self.0);
        }
        if let Some(aggregation) = some(obj, "aggregationRule") {
            check_aggregation(&mut errs, &Path::new("aggregationRule").child("clusterRoleSelectors"), aggregation);
        }
        errs
    }

    fn validate_update(&self, new: &Value, _old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = meta::validate_object_meta(new, self.0 == Scope::Namespaced, &|n, p| self.name_errors(n, p));
        errs.extend(self.validate(new));
        errs
    }

    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        meta::name_is_path_segment(name, prefix)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        vec![cells::name(obj), cells::of(text(get(obj, "metadata"), "creationTimestamp"))]
    }
}

fn check_rule(errs: &mut Errors, path: &Path, rule: &Value, scope: Scope) {
    let none = |field: &str| list(rule, field).is_empty();
    if none("verbs") {
        errs.push(FieldError::required(path.child("verbs"), "verbs must contain at least one value"));
    }
    if !none("nonResourceURLs") {
        let (at, urls) = (path.child("nonResourceURLs"), get(rule, "nonResourceURLs"));
        let mut bad = |why: &str| errs.push(FieldError::invalid(&at, urls.clone(), why));
        if scope == Scope::Namespaced {
            bad("namespaced rules cannot apply to non-resource URLs");
        }
        if !(none("apiGroups") && none("resources") && none("resourceNames")) {
            bad("rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    for (field, what) in [("apiGroups", "api group"), ("resources", "resource")] {
        if none(field) {
            let message = format!("resource rules must supply at least one {what}");
            errs.push(FieldError::required(path.child(field), message));
        }
    }
}

fn check_aggregation(errs: &mut Errors, path: &Path, rule: &Value) {
    if list(rule, "clusterRoleSelectors").is_empty() {
        let message = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errs.push(FieldError::required(path, message));
    }
    for (i, one) in list(rule, "clusterRoleSelectors").iter().enumerate() {
        selector::check(errs, &path.index(i), one);
        if selector::parse(one).is_none() {
            errs.push(FieldError::invalid(path.index(i), Value::Null, "invalid label selector."));
        }
    }
}
