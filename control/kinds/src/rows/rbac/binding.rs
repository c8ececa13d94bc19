//! RoleBindings and ClusterRoleBindings.

use serde_json::{Value, json};

use super::GROUP;
use crate::rows::cells::{self, Cell};
use crate::rows::value::{child, default_text, get, items_mut, list, text};
use crate::rows::vocab::{self, Errors};
use crate::{Bad, FieldError, Path, ResourceDef, Scope, Strategy, meta};

/// The row of RoleBindings.
pub(super) fn namespaced() -> ResourceDef {
    let names = ("rolebindings", "rolebinding", "RoleBinding");
    ResourceDef::new((GROUP, "v1"), names, "io.k8s.api.rbac.v1.RoleBinding", Bindings(Scope::Namespaced))
}

/// The row of ClusterRoleBindings.
pub(super) fn cluster() -> ResourceDef {
    let names = ("clusterrolebindings", "clusterrolebinding", "ClusterRoleBinding");
    let strategy = Bindings(Scope::Cluster);
    ResourceDef {
        scope: Scope::Cluster,
        ..ResourceDef::new((GROUP, "v1"), names, "io.k8s.api.rbac.v1.ClusterRoleBinding", strategy)
    }
}

struct Bindings(Scope);

impl Strategy for Bindings {
    fn default(&self, obj: &mut Value) {
        default_text(child(obj, "roleRef"), "apiGroup", GROUP);
        for subject in items_mut(obj, "subjects") {
            if matches!(text(subject, "kind"), "User" | "Group") {
                default_text(subject, "apiGroup", GROUP);
            }
        }
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let kinds: &[&str] = if self.0 == Scope::Cluster { &["ClusterRole"] } else { &["Role", "ClusterRole"] };
        let (path, role) = (Path::new("roleRef"), get(obj, "roleRef"));
        vocab::known_value(&mut errs, &path.child("apiGroup"), text(role, "apiGroup"), &[GROUP]);
        vocab::known_value(&mut errs, &path.child("kind"), text(role, "kind"), kinds);
        match text(role, "name") {
            "" => errs.push(FieldError::required(path.child("name"), "")),
            name => vocab::invalid(&mut errs, &path.child("name"), name, meta::name_is_path_segment(name, false)),
        }
        for (i, subject) in list(obj, "subjects").iter().enumerate() {
            check_subject(&mut errs, &Path::new("subjects").index(i), subject, self.0);
        }
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = meta::validate_object_meta(new, self.0 == Scope::Namespaced, &|n, p| self.name_errors(n, p));
        errs.extend(self.validate(new));
        if get(new, "roleRef") != get(old, "roleRef") {
            errs.push(FieldError::invalid("roleRef", shown_role(get(new, "roleRef")), "cannot change roleRef"));
        }
        errs
    }

    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        meta::name_is_path_segment(name, prefix)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let role = get(obj, "roleRef");
        let role = format!("{}/{}", text(role, "kind"), text(role, "name"));
        let of = |kind: &str| {
            let subjects = list(obj, "subjects").iter().filter(|subject| text(subject, "kind") == kind);
            let names: Vec<String> = subjects.map(shown_subject).collect();
            cells::of(names.join(", "))
        };
        vec![cells::name(obj), cells::of(role), cells::age(obj), of("User"), of("Group"), of("ServiceAccount")]
    }
}

fn shown_subject(subject: &Value) -> String {
    match text(subject, "kind") {
        "ServiceAccount" => format!("{}/{}", text(subject, "namespace"), text(subject, "name")),
        _ => text(subject, "name").to_owned(),
    }
}

/// A role's reference as upstream's internal type prints it.
fn shown_role(role: &Value) -> Bad {
    let [group, kind, name] = ["apiGroup", "kind", "name"].map(|field| json!(text(role, field)));
    Bad::Raw(format!("{{\"APIGroup\":{group},\"Kind\":{kind},\"Name\":{name}}}"))
}

fn check_subject(errs: &mut Errors, path: &Path, subject: &Value, scope: Scope) {
    let (name, group) = (text(subject, "name"), text(subject, "apiGroup"));
    if name.is_empty() {
        errs.push(FieldError::required(path.child("name"), ""));
    }
    match text(subject, "kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                vocab::invalid(errs, &path.child("name"), name, meta::name_is_dns_subdomain(name, false));
            }
            vocab::known_value(errs, &path.child("apiGroup"), group, &[""]);
            if scope == Scope::Cluster && text(subject, "namespace").is_empty() {
                errs.push(FieldError::required(path.child("namespace"), ""));
            }
        }
        kind @ ("User" | "Group") => {
            if name.is_empty() {
                let message = format!("{} name cannot be empty", kind.to_lowercase());
                errs.push(FieldError::invalid(path.child("name"), "", message));
            }
            vocab::known_value(errs, &path.child("apiGroup"), group, &[GROUP]);
        }
        kind => {
            errs.push(FieldError::not_supported(path.child("kind"), kind, &["ServiceAccount", "User", "Group"]));
        }
    }
}
