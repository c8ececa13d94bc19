//! PodTemplates: templates on their own.

use serde_json::Value;

use super::cells::{self, Cell};
use super::selector;
use super::template::{self, defaults, warnings};
use super::value::{carry_generation, child, get, set_generation};
use super::vocab::Errors;
use crate::{FieldError, Path, ResourceDef, Strategy, meta};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    let names = ("podtemplates", "podtemplate", "PodTemplate");
    ResourceDef {
        delete_returns_object: true,
        ..ResourceDef::new(("", "v1"), names, "io.k8s.api.core.v1.PodTemplate", PodTemplates)
    }
}

struct PodTemplates;

impl Strategy for PodTemplates {
    fn default(&self, obj: &mut Value) {
        defaults::template(child(obj, "template"));
    }

    fn prepare_create(&self, obj: &mut Value) {
        set_generation(obj, 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _sub: Option<&str>) {
        let changed = new.get("template") != old.get("template");
        carry_generation(new, old, changed);
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        template::check(&mut errs, &Path::new("template"), get(obj, "template"));
        errs
    }

    fn validate_update(&self, new: &Value, _old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = meta::validate_object_meta(new, true, &|name, prefix| self.name_errors(name, prefix));
        errs.extend(self.validate(new));
        errs
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some_and(|old| get(old, "template") == get(obj, "template")) {
            return Vec::new();
        }
        warnings::of(&Path::new("template"), get(obj, "template"))
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let pod = get(obj, "template");
        let (names, images) = template::show_containers(pod);
        vec![
            cells::name(obj),
            cells::of(names),
            cells::of(images),
            cells::of(selector::show_map(get(pod, "metadata"), "labels")),
        ]
    }
}
