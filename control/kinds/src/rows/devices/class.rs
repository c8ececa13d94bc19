//! DeviceClasses: devices that go by a name, with what they are configured with.

use serde_json::Value;

use super::{GROUP, MAX_CONFIGS, check_config, check_each, check_selectors};
use crate::{
    FieldError, Path, ResourceDef, Scope, Strategy, meta,
    rows::{
        cells::{self, Cell},
        template::resources,
        value::{carry_generation, get, list, set_generation, text},
        vocab::Errors,
    },
};

/// The row.
pub(super) fn def() -> ResourceDef {
    ResourceDef {
        scope: Scope::Cluster,
        delete_returns_object: true,
        ..ResourceDef::new(
            GROUP,
            ("deviceclasses", "deviceclass", "DeviceClass"),
            "io.k8s.api.resource.v1.DeviceClass",
            Classes,
        )
    }
}

struct Classes;

impl Strategy for Classes {
    fn prepare_create(&self, obj: &mut Value) {
        set_generation(obj, 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _sub: Option<&str>) {
        let changed = new.get("spec") != old.get("spec");
        carry_generation(new, old, changed);
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check(&mut errs, get(obj, "spec"), None);
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = meta::validate_object_meta(new, false, &|name, prefix| self.name_errors(name, prefix));
        check(&mut errs, get(new, "spec"), Some(get(old, "spec")));
        errs
    }

    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        meta::long_name_errors(name, prefix)
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        vec![cells::name(obj), cells::age(obj)]
    }
}

fn check(errs: &mut Errors, spec: &Value, old: Option<&Value>) {
    let path = Path::new("spec");
    let stored = |field: &str| old.is_some_and(|old| list(old, field) == list(spec, field));
    check_selectors(errs, &path.child("selectors"), list(spec, "selectors"), stored("selectors"));
    let same = stored("config");
    let judge = |errs: &mut Errors, path: &Path, config: &Value| check_config(errs, path, config, same);
    check_each(errs, &path.child("config"), list(spec, "config"), MAX_CONFIGS, judge);
    let name = text(spec, "extendedResourceName");
    if !name.is_empty() && !resources::extended(name) {
        let message = "must be a valid extended resource name";
        errs.push(FieldError::invalid(path.child("extendedResourceName"), name, message));
    }
}
