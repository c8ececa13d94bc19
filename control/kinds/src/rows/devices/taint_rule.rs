//! DeviceTaintRules: taints for devices that others offer.

use serde_json::{Value, json};

use super::{GROUP, check_driver, check_pool, check_taint};
use crate::apply::Counted;
use crate::resource::status_alone;
use crate::{
    FieldError, Path, ResourceDef, Scope, Strategy, Verbs,
    resource::Author,
    rows::{
        cells::{self, Cell},
        parts,
        value::{at, carry_generation, child, copy, get, has, list, set, set_generation, some, text},
        vocab::{self, Errors},
    },
};

/// The row.
pub(super) fn def() -> ResourceDef {
    ResourceDef {
        scope: Scope::Cluster,
        ..ResourceDef::new(
            GROUP,
            ("devicetaintrules", "devicetaintrule", "DeviceTaintRule"),
            "io.k8s.api.resource.v1.DeviceTaintRule",
            Rules,
        )
    }
    .with_part("status", Verbs::PART)
}

const MAX_CONDITIONS: usize = 8;

struct Rules;

impl Strategy for Rules {
    fn counted(&self, sub: Option<&str>) -> Option<Counted> {
        status_alone(sub)
    }

    fn prepare_create(&self, obj: &mut Value) {
        set(obj, "status", json!({}));
        set_generation(obj, 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        if sub == Some("status") {
            parts::only_status(new, old);
        } else {
            copy(new, old, "status");
        }
    }

    /// The taint is there since now if it is new, or has another effect than before and the same time. The generation
    /// follows, as the time is part of the spec.
    fn stamp(&self, obj: &mut Value, old: Option<&Value>, sub: Option<&str>, by: Author<'_>) {
        if sub.is_some() {
            return;
        }
        let before = old.map(|old| at(old, &["spec", "taint"]));
        let taint = child(child(obj, "spec"), "taint");
        let moved = before.is_some_and(|before| {
            text(before, "effect") != text(taint, "effect") && text(before, "timeAdded") == text(taint, "timeAdded")
        });
        if moved || !has(taint, "timeAdded") {
            set(taint, "timeAdded", by.now);
        }
        if let Some(old) = old {
            let changed = obj.get("spec") != old.get("spec");
            carry_generation(obj, old, changed);
        }
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check(&mut errs, get(obj, "spec"), None);
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if sub != Some("status") {
            check(&mut errs, get(new, "spec"), Some(get(old, "spec")));
            return errs;
        }
        let (path, conditions) = (Path::new("status").child("conditions"), list(get(new, "status"), "conditions"));
        parts::check_conditions(&mut errs, &path, conditions);
        if conditions.len() > MAX_CONDITIONS {
            errs.push(FieldError::too_many(path, conditions.len(), MAX_CONDITIONS));
        }
        errs
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let taint = at(obj, &["spec", "taint"]);
        let added = text(taint, "timeAdded");
        vec![
            cells::name(obj),
            cells::of(text(taint, "key")),
            cells::of(text(taint, "value")),
            cells::of(text(taint, "effect")),
            if added.is_empty() { cells::of("") } else { Cell::since(added) },
            cells::age(obj),
        ]
    }
}

fn check(errs: &mut Errors, spec: &Value, old: Option<&Value>) {
    let path = Path::new("spec");
    if let Some(devices) = some(spec, "deviceSelector") {
        let path = path.child("deviceSelector");
        if has(devices, "driver") {
            check_driver(errs, &path.child("driver"), text(devices, "driver"));
        }
        if has(devices, "pool") {
            check_pool(errs, &path.child("pool"), text(devices, "pool"));
        }
        if has(devices, "device") {
            vocab::label(errs, &path.child("device"), text(devices, "device"));
        }
    }
    check_taint(errs, &path.child("taint"), get(spec, "taint"), old.map(|old| get(old, "taint")));
}

#[cfg(test)]
mod tests {
    use kontiki_machinery::access::User;

    use super::*;

    #[test]
    fn a_taint_is_as_old_as_its_effect() {
        let rule = |effect: &str, added: Value| json!({"metadata": {"generation": 1}, "spec": {"taint": {"key": "k", "effect": effect, "timeAdded": added}}});
        let user = User::default();
        let by = Author { user: &user, now: "now" };
        for (what, old, new, added, generation) in [
            ("new", None, rule("None", Value::Null), "now", 1),
            ("kept", Some(rule("None", json!("then"))), rule("None", json!("then")), "then", 1),
            ("moved", Some(rule("None", json!("then"))), rule("NoExecute", json!("then")), "now", 2),
            ("set", Some(rule("None", json!("then"))), rule("NoExecute", json!("soon")), "soon", 2),
        ] {
            let mut new = new;
            Rules.stamp(&mut new, old.as_ref(), None, by);
            assert_eq!(
                (&new["spec"]["taint"]["timeAdded"], &new["metadata"]["generation"]),
                (&json!(added), &json!(generation)),
                "{what}"
            );
        }
    }
}
