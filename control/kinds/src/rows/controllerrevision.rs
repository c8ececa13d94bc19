//! ControllerRevisions: what a StatefulSet or DaemonSet said at some time. Its data never changes, its number may.

use serde_json::Value;

use super::cells::{self, Cell};
use super::value::{get, list, num, on, text};
use super::vocab::{self, Errors};
use crate::{FieldError, Path, ResourceDef, Strategy, meta};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    let names = ("controllerrevisions", "controllerrevision", "ControllerRevision");
    ResourceDef::new(("apps", "v1"), names, "io.k8s.api.apps.v1.ControllerRevision", ControllerRevisions)
}

struct ControllerRevisions;

impl Strategy for ControllerRevisions {
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let data = get(obj, "data");
        if data.is_null() {
            errs.push(FieldError::required("data", "data is mandatory"));
        } else if !data.is_object() {
            errs.push(FieldError::required("data", "data must be a valid JSON object"));
        }
        vocab::not_negative(&mut errs, &Path::new("revision"), num(obj, "revision"));
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = meta::validate_object_meta(new, true, &|name, prefix| self.name_errors(name, prefix));
        errs.extend(self.validate(new));
        vocab::immutable(&mut errs, "data", get(new, "data"), get(old, "data"));
        errs
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        vec![cells::name(obj), cells::of(manager(obj)), cells::of(num(obj, "revision")), cells::age(obj)]
    }
}

/// Its manager, as `statefulset.apps/web`.
fn manager(obj: &Value) -> String {
    let owners = list(get(obj, "metadata"), "ownerReferences");
    let Some(owner) = owners.iter().find(|owner| on(owner, "controller")) else { return cells::NONE.to_owned() };
    let kind = text(owner, "kind").to_lowercase();
    match text(owner, "apiVersion").split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{}", text(owner, "name")),
        None => format!("{kind}/{}", text(owner, "name")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_names_its_manager() {
        let owned = |version: &str, controller: bool| {
            json!({"metadata": {"ownerReferences": [
                {"apiVersion": version, "kind": "StatefulSet", "name": "web", "controller": controller}]}})
        };
        for (obj, expect) in [
            (json!({"metadata": {}}), "<none>"),
            (owned("apps/v1", false), "<none>"),
            (owned("apps/v1", true), "statefulset.apps/web"),
            (owned("v1", true), "statefulset/web"),
        ] {
            assert_eq!(manager(&obj), expect, "{obj}");
        }
    }
}
