//! How fast an autoscaler may go up and down.

use serde_json::{Value, json};

use super::super::value::{child, default_to, has, int, list, num, some, text};
use super::super::vocab::{self, Errors};
use crate::schema::quantity::Amount;
use crate::{FieldError, Path};

const MAX_WINDOW: i64 = 3600;
const MAX_PERIOD: i64 = 1800;

/// Fills in both directions.
pub(super) fn default(behavior: &mut Value) {
    let up = child(behavior, "scaleUp");
    default_to(up, "stabilizationWindowSeconds", 0);
    default_to(up, "selectPolicy", "Max");
    default_to(
        up,
        "policies",
        json!([
            {"type": "Pods", "value": 4, "periodSeconds": 15},
            {"type": "Percent", "value": 100, "periodSeconds": 15},
        ]),
    );
    let down = child(behavior, "scaleDown");
    default_to(down, "selectPolicy", "Max");
    default_to(down, "policies", json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
}

/// Checks both directions.
pub(super) fn check(errs: &mut Errors, path: &Path, behavior: &Value) {
    for field in ["scaleUp", "scaleDown"] {
        if let Some(rules) = some(behavior, field) {
            check_rules(errs, &path.child(field), rules);
        }
    }
}

fn check_rules(errs: &mut Errors, path: &Path, rules: &Value) {
    if let Some(window) = int(rules, "stabilizationWindowSeconds") {
        let path = path.child("stabilizationWindowSeconds");
        if window < 0 {
            errs.push(FieldError::invalid(&path, window, "must be greater than or equal to zero"));
        }
        if window > MAX_WINDOW {
            errs.push(FieldError::invalid(&path, window, format!("must be less than or equal to {MAX_WINDOW}")));
        }
    }
    if has(rules, "selectPolicy") {
        let policy = text(rules, "selectPolicy");
        vocab::known_value(errs, &path.child("selectPolicy"), policy, &["Disabled", "Max", "Min"]);
    }
    let (at, policies) = (path.child("policies"), list(rules, "policies"));
    if policies.is_empty() {
        errs.push(FieldError::required(&at, "must specify at least one Policy"));
    }
    for (i, policy) in policies.iter().enumerate() {
        check_policy(errs, &at.index(i), policy);
    }
    if let Some(tolerance) = some(rules, "tolerance").filter(|t| Amount::of(t).is_some_and(|a| a.milli() < 0)) {
        errs.push(FieldError::invalid(path.child("tolerance"), tolerance.clone(), "must be greater or equal to 0"));
    }
}

fn check_policy(errs: &mut Errors, path: &Path, policy: &Value) {
    vocab::known_value(errs, &path.child("type"), text(policy, "type"), &["Percent", "Pods"]);
    for field in ["value", "periodSeconds"] {
        let value = num(policy, field);
        if value <= 0 {
            errs.push(FieldError::invalid(path.child(field), value, "must be greater than zero"));
        }
    }
    let period = num(policy, "periodSeconds");
    if period > MAX_PERIOD {
        let message = format!("must be less than or equal to {MAX_PERIOD}");
        errs.push(FieldError::invalid(path.child("periodSeconds"), period, message));
    }
}
