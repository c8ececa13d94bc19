//! PriorityClasses.

use serde_json::Value;

use super::cells::{self, Cell};
use super::value::{carry_generation, default_text, get, num, on, set_generation, text};
use super::vocab::{self, Errors};
use crate::{
    FieldError, Path, ResourceDef, Scope, Strategy,
    resource::{Protected, names},
};

/// The largest value of a class that is not the system's own.
const MAX_USER_VALUE: i64 = 1_000_000_000;

/// The classes that every cluster has, with their values.
pub const SYSTEM: &[(&str, i64)] =
    &[("system-node-critical", 2 * MAX_USER_VALUE + 1000), ("system-cluster-critical", 2 * MAX_USER_VALUE)];

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    let protected = Protected {
        names: names(&[SYSTEM[0].0, SYSTEM[1].0]),
        why: "this is a system priority class and cannot be deleted".into(),
    };
    ResourceDef {
        scope: Scope::Cluster,
        short: names(&["pc"]),
        protected: Some(protected),
        ..ResourceDef::new(
            ("scheduling.k8s.io", "v1"),
            ("priorityclasses", "priorityclass", "PriorityClass"),
            "io.k8s.api.scheduling.v1.PriorityClass",
            PriorityClasses,
        )
    }
}

struct PriorityClasses;

impl Strategy for PriorityClasses {
    fn default(&self, obj: &mut Value) {
        default_text(obj, "preemptionPolicy", "PreemptLowerPriority");
    }

    fn prepare_create(&self, obj: &mut Value) {
        set_generation(obj, 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _sub: Option<&str>) {
        carry_generation(new, old, false);
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let name = text(get(obj, "metadata"), "name");
        let priority = num(obj, "value");
        if name.starts_with("system-") {
            if let Some(why) = not_the_systems(name, priority, on(obj, "globalDefault")) {
                let message = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
                );
                errs.push(FieldError::forbidden("metadata.name", message));
            }
        } else if priority > MAX_USER_VALUE {
            let message = format!("maximum allowed value of a user defined priority is {MAX_USER_VALUE}");
            errs.push(FieldError::forbidden("value", message));
        }
        let policy = text(obj, "preemptionPolicy");
        vocab::known_value(&mut errs, &Path::new("preemptionPolicy"), policy, &["Never", "PreemptLowerPriority"]);
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if num(new, "value") != num(old, "value") {
            errs.push(FieldError::forbidden("value", "may not be changed in an update."));
        }
        vocab::immutable(&mut errs, "preemptionPolicy", get(new, "preemptionPolicy"), get(old, "preemptionPolicy"));
        errs
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        vec![
            cells::name(obj),
            cells::of(num(obj, "value")),
            cells::of(on(obj, "globalDefault")),
            cells::age(obj),
            cells::of(text(obj, "preemptionPolicy")),
        ]
    }
}

/// Why a class is not one of the system's own; `None` if it is.
fn not_the_systems(name: &str, priority: i64, default: bool) -> Option<String> {
    match SYSTEM.iter().find(|(known, _)| *known == name) {
        None => Some(format!("{name} is not a known system priority class")),
        Some((_, wanted)) if *wanted != priority => Some(format!("value of {name} PriorityClass must be {wanted}")),
        Some(_) if default => Some(format!("globalDefault of {name} PriorityClass must be false")),
        Some(_) => None,
    }
}
