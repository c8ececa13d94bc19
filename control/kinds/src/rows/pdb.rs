//! PodDisruptionBudgets.

use serde_json::{Value, json};

use super::cells::{self, Cell};
use super::replicas;
use super::selector;
use super::value::{get, has, list, num, set, set_generation, some, text};
use super::vocab::{self, Errors};
use crate::{Bad, FieldError, Path, ResourceDef, Strategy, Verbs, meta, resource::names};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        short: names(&["pdb"]),
        ..ResourceDef::new(
            ("policy", "v1"),
            ("poddisruptionbudgets", "poddisruptionbudget", "PodDisruptionBudget"),
            "io.k8s.api.policy.v1.PodDisruptionBudget",
            Budgets,
        )
    }
    .with_part("status", Verbs::PART)
}

const COUNTS: &[&str] = &["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];

struct Budgets;

impl Strategy for Budgets {
    fn prepare_create(&self, obj: &mut Value) {
        set(
            obj,
            "status",
            json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}),
        );
        set_generation(obj, 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        replicas::prepare_update(new, old, sub);
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check(&mut errs, &Path::new("spec"), get(obj, "spec"));
        errs
    }

    fn validate_update(&self, new: &Value, _old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        if sub != Some("status") {
            return self.validate(new);
        }
        let (mut errs, path, status) = (Errors::new(), Path::new("status"), get(new, "status"));
        check_conditions(&mut errs, &path.child("conditions"), list(status, "conditions"));
        replicas::check_counts(&mut errs, status, COUNTS);
        errs
    }

    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        meta::name_is_path_segment(name, prefix)
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let spec = get(obj, "spec");
        let amount = |field: &str| match get(spec, field) {
            Value::Null => cells::of("N/A"),
            Value::String(text) => cells::of(text.as_str()),
            other => cells::of(other.to_string()),
        };
        vec![
            cells::name(obj),
            amount("minAvailable"),
            amount("maxUnavailable"),
            cells::of(num(get(obj, "status"), "disruptionsAllowed")),
            cells::age(obj),
        ]
    }
}

fn check(errs: &mut Errors, path: &Path, spec: &Value) {
    if has(spec, "minAvailable") && has(spec, "maxUnavailable") {
        let message = "minAvailable and maxUnavailable cannot be both set";
        errs.push(FieldError::invalid(path, shown(spec), message));
    }
    for field in ["minAvailable", "maxUnavailable"] {
        if let Some(amount) = some(spec, field) {
            let path = path.child(field);
            vocab::count_or_percent(errs, &path, amount);
            if vocab::percent(amount).is_some_and(|percent| percent > 100) {
                errs.push(FieldError::invalid(&path, amount.clone(), "must not be greater than 100%"));
            }
        }
    }
    selector::check(errs, &path.child("selector"), get(spec, "selector"));
    if let Some(policy) = some(spec, "unhealthyPodEvictionPolicy").and_then(Value::as_str) {
        let path = path.child("unhealthyPodEvictionPolicy");
        vocab::known_value(errs, &path, policy, &["AlwaysAllow", "IfHealthyBudget"]);
    }
}

/// A spec as upstream's internal type prints it.
fn shown(spec: &Value) -> Bad {
    let selector = match selector::bad(get(spec, "selector")) {
        Bad::Raw(text) => text,
        _ => "null".into(),
    };
    Bad::Raw(format!(
        "{{\"MinAvailable\":{},\"Selector\":{selector},\"MaxUnavailable\":{},\"UnhealthyPodEvictionPolicy\":{}}}",
        get(spec, "minAvailable"),
        get(spec, "maxUnavailable"),
        get(spec, "unhealthyPodEvictionPolicy"),
    ))
}

/// Checks conditions of the common type (`metav1.Condition`).
fn check_conditions(errs: &mut Errors, path: &Path, conditions: &[Value]) {
    for (i, condition) in conditions.iter().enumerate() {
        let path = path.index(i);
        let (kind, status, reason) = (text(condition, "type"), text(condition, "status"), text(condition, "reason"));
        if conditions[..i].iter().any(|other| text(other, "type") == kind) {
            errs.push(FieldError::duplicate(path.child("type"), kind));
        }
        vocab::qualified_name(errs, &path.child("type"), kind);
        vocab::known_value(errs, &path.child("status"), status, &["False", "True", "Unknown"]);
        vocab::not_negative(errs, &path.child("observedGeneration"), num(condition, "observedGeneration"));
        if !has(condition, "lastTransitionTime") {
            errs.push(FieldError::required(path.child("lastTransitionTime"), "must be set"));
        }
        if reason.is_empty() {
            errs.push(FieldError::required(path.child("reason"), "must be set"));
        } else if !is_reason(reason) {
            let message = "a condition reason must start with alphabetic character, optionally followed by a string of \
                           alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. \
                           'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex \
                           used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
            errs.push(FieldError::invalid(path.child("reason"), reason, message));
        }
    }
}

fn is_reason(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(word)
        && text.chars().all(|c| word(c) || c == ',' || c == ':')
}
