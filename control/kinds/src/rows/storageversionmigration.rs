//! StorageVersionMigrations: objects of a resource are to be written anew, as they are stored today.

use serde_json::{Value, json};

use super::cells::{self, Cell};
use super::parts;
use super::value::{copy, get, list, set, text};
use super::vocab::{self, Errors};
use crate::apply::Counted;
use crate::resource::status_alone;
use crate::{FieldError, Path, ResourceDef, Scope, Strategy, Verbs, meta};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        scope: Scope::Cluster,
        ..ResourceDef::new(
            ("storagemigration.k8s.io", "v1"),
            ("storageversionmigrations", "storageversionmigration", "StorageVersionMigration"),
            "io.k8s.api.storagemigration.v1.StorageVersionMigration",
            Migrations,
        )
    }
    .with_part("status", Verbs::PART)
}

struct Migrations;

impl Strategy for Migrations {
    fn counted(&self, sub: Option<&str>) -> Option<Counted> {
        status_alone(sub)
    }

    fn prepare_create(&self, obj: &mut Value) {
        set(obj, "status", json!({}));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        if sub == Some("status") {
            parts::only_status(new, old);
        } else {
            copy(new, old, "status");
        }
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let (mut errs, path) = (Errors::new(), Path::new("spec").child("resource"));
        let resource = get(get(obj, "spec"), "resource");
        let mut judge = |field: &str, problems: Vec<String>| {
            if !problems.is_empty() {
                errs.push(FieldError::invalid(path.child(field), text(resource, field), problems.join(",")));
            }
        };
        match text(resource, "group") {
            "" => {}
            group => judge("group", vocab::subdomain_errors(group)),
        }
        match text(resource, "resource") {
            "" => errs.insert(0, FieldError::required(path.child("resource"), "resource is required to be set")),
            name => {
                judge("resource", meta::dns1035_label(name));
                // The resource is judged first.
                errs.sort_by_key(|error| !error.path.ends_with(".resource"));
            }
        }
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if sub == Some("status") {
            check_status(&mut errs, get(new, "status"), get(old, "status"));
            return errs;
        }
        errs.extend(meta::validate_object_meta(new, false, &|name, prefix| self.name_errors(name, prefix)));
        errs.extend(self.validate(new));
        vocab::immutable(&mut errs, "spec", get(new, "spec"), get(old, "spec"));
        errs
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let resource = get(get(obj, "spec"), "resource");
        let shown = match (text(resource, "resource"), text(resource, "group")) {
            (name, "") => name.to_owned(),
            (name, group) => format!("{name}.{group}"),
        };
        let states = ["Running", "Failed", "Succeeded"];
        let state = list(get(obj, "status"), "conditions")
            .iter()
            .rev()
            .find(|c| text(c, "status") == "True" && states.contains(&text(c, "type")));
        vec![cells::name(obj), cells::of(shown), cells::of(state.map_or("Unknown", |c| text(c, "type")))]
    }
}

fn is(status: &Value, kind: &str) -> bool {
    let condition = list(status, "conditions").iter().find(|condition| text(condition, "type") == kind);
    condition.is_some_and(|condition| text(condition, "status") == "True")
}

fn check_status(errs: &mut Errors, status: &Value, before: &Value) {
    let path = Path::new("status");
    let (at, version, then) =
        (path.child("resourceVersion"), text(status, "resourceVersion"), text(before, "resourceVersion"));
    if let Some(why) = version_problem(version) {
        errs.push(FieldError::invalid(&at, version, why));
    }
    let (conditions, shown) = (path.child("conditions"), get(status, "conditions"));
    parts::check_conditions(errs, &conditions, list(status, "conditions"));
    if !then.is_empty() && then != version {
        errs.push(FieldError::invalid(&at, version, vocab::IMMUTABLE));
    }
    let mut wrong = |why: &str| errs.push(FieldError::invalid(&conditions, shown.clone(), why));
    if is(status, "Succeeded") && is(status, "Failed") {
        wrong("Both success and failed conditions cannot be true at the same time");
    }
    for (kind, word) in [("Succeeded", "Success"), ("Failed", "Failed")] {
        if is(before, kind) && !is(status, kind) {
            wrong(&format!("{word} condition cannot be set to false once it is true"));
        }
    }
}

/// A version is a number without leading zeros.
fn version_problem(version: &str) -> Option<String> {
    if version.is_empty() {
        return None;
    }
    if !version.bytes().all(|c| c.is_ascii_digit()) || version.starts_with('0') {
        return Some(format!("resource version is not well formed: {version}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_final() {
        let with = |kinds: &[&str]| {
            let condition = |kind: &&str| json!({"type": kind, "status": "True", "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"});
            json!({"conditions": kinds.iter().map(condition).collect::<Vec<_>>()})
        };
        for (before, now, count) in [
            (with(&[]), with(&["Running"]), 0),
            (with(&["Succeeded"]), with(&["Succeeded"]), 0),
            (with(&["Succeeded"]), with(&[]), 1),
            (with(&[]), with(&["Succeeded", "Failed"]), 1),
            (json!({"resourceVersion": "7"}), json!({"resourceVersion": "8"}), 1),
            (json!({}), json!({"resourceVersion": "x"}), 1),
        ] {
            let mut errs = Errors::new();
            check_status(&mut errs, &now, &before);
            assert_eq!(errs.len(), count, "{before} {now}: {errs:?}");
        }
    }
}
