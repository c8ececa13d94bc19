//! What a Job says about failures and successes of its pods.

use std::collections::BTreeSet;

use kontiki_model::indexes::Indexes;
use serde_json::{Value, json};

use super::super::value::{get, has, int, list, num, some, text};
use super::super::vocab::{self, Errors};
use crate::{Bad, FieldError, Path};

const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_PATTERNS: usize = 20;
const MAX_INDEX_TEXT: usize = 64 * 1024;
const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: &[&str] = &["In", "NotIn"];
const STATUSES: &[&str] = &["False", "True", "Unknown"];

/// One of `known`; an empty one is told which there are.
fn one_of(errs: &mut Errors, path: &Path, text: &str, known: &[&str]) {
    if text.is_empty() {
        let values: Vec<String> = known.iter().map(|value| crate::field_error::quote(value)).collect();
        errs.push(FieldError::required(path, format!("valid values: [{}]", values.join(" "))));
    } else {
        vocab::known_value(errs, path, text, known);
    }
}

/// Checks a failure policy.
pub(super) fn check_failure(errs: &mut Errors, path: &Path, policy: &Value, spec: &Value) {
    let (path, rules) = (path.child("rules"), list(policy, "rules"));
    if rules.len() > MAX_RULES {
        errs.push(FieldError::too_many(&path, rules.len(), MAX_RULES));
    }
    let pod = get(get(spec, "template"), "spec");
    let names: BTreeSet<&str> =
        ["containers", "initContainers"].iter().flat_map(|field| list(pod, field)).map(|c| text(c, "name")).collect();
    for (i, rule) in rules.iter().enumerate() {
        check_rule(errs, &path.index(i), rule, has(spec, "backoffLimitPerIndex"), &names);
    }
}

fn check_rule(errs: &mut Errors, path: &Path, rule: &Value, per_index: bool, names: &BTreeSet<&str>) {
    let (at, action) = (path.child("action"), text(rule, "action"));
    if action == "FailIndex" && !per_index {
        errs.push(FieldError::invalid(&at, action, "requires the backoffLimitPerIndex to be set"));
    } else {
        one_of(errs, &at, action, ACTIONS);
    }
    let (codes, conditions) = (some(rule, "onExitCodes"), list(rule, "onPodConditions"));
    if let Some(codes) = codes {
        check_codes(errs, &path.child("onExitCodes"), codes, names);
    }
    if !conditions.is_empty() {
        check_conditions(errs, &path.child("onPodConditions"), conditions);
    }
    let message = match (codes.is_some(), !conditions.is_empty()) {
        (true, true) => "specifying both OnExitCodes and OnPodConditions is not supported",
        (false, false) => "specifying one of OnExitCodes and OnPodConditions is required",
        _ => return,
    };
    errs.push(FieldError::invalid(path, Bad::Omitted, message));
}

fn check_conditions(errs: &mut Errors, path: &Path, patterns: &[Value]) {
    if patterns.len() > MAX_PATTERNS {
        errs.push(FieldError::too_many(path, patterns.len(), MAX_PATTERNS));
    }
    for (i, pattern) in patterns.iter().enumerate() {
        let path = path.index(i);
        vocab::qualified_name(errs, &path.child("type"), text(pattern, "type"));
        one_of(errs, &path.child("status"), text(pattern, "status"), STATUSES);
    }
}

fn check_codes(errs: &mut Errors, path: &Path, codes: &Value, names: &BTreeSet<&str>) {
    let operator = text(codes, "operator");
    one_of(errs, &path.child("operator"), operator, OPERATORS);
    if let Some(name) = some(codes, "containerName").and_then(Value::as_str).filter(|name| !names.contains(name)) {
        let message = "must be one of the container or initContainer names in the pod template";
        errs.push(FieldError::invalid(path.child("containerName"), name, message));
    }
    let (path, values) = (path.child("values"), list(codes, "values"));
    if values.is_empty() {
        errs.push(FieldError::invalid(&path, get(codes, "values").clone(), "at least one value is required"));
    } else if values.len() > MAX_EXIT_CODES {
        errs.push(FieldError::too_many(&path, values.len(), MAX_EXIT_CODES));
    }
    let numbers: Vec<i64> = values.iter().map(|value| value.as_i64().unwrap_or(0)).collect();
    for (i, code) in numbers.iter().enumerate() {
        if operator == "In" && *code == 0 {
            errs.push(FieldError::invalid(path.index(i), *code, "must not be 0 for the In operator"));
        }
        if numbers[..i].contains(code) {
            errs.push(FieldError::duplicate(path.index(i), *code));
        }
    }
    if !numbers.is_sorted() {
        errs.push(FieldError::invalid(&path, numbers, "must be ordered"));
    }
}

/// Checks a success policy.
pub(super) fn check_success(errs: &mut Errors, path: &Path, policy: &Value, spec: &Value) {
    if text(spec, "completionMode") != "Indexed" {
        errs.push(FieldError::invalid(path, shown(policy), "requires indexed completion mode"));
        return;
    }
    let (path, rules) = (path.child("rules"), list(policy, "rules"));
    if rules.is_empty() {
        let message = "at least one rules must be specified when the successPolicy is specified";
        errs.push(FieldError::required(&path, message));
    }
    if rules.len() > MAX_RULES {
        errs.push(FieldError::too_many(&path, rules.len(), MAX_RULES));
    }
    for (i, rule) in rules.iter().enumerate() {
        check_success_rule(errs, &path.index(i), rule, num(spec, "completions"));
    }
}

/// A policy as upstream's internal type prints it.
fn shown(policy: &Value) -> Bad {
    let rules: Vec<Value> = list(policy, "rules")
        .iter()
        .map(|rule| json!({"SucceededIndexes": get(rule, "succeededIndexes"), "SucceededCount": get(rule, "succeededCount")}))
        .collect();
    Bad::Json(json!({ "Rules": rules }))
}

fn check_success_rule(errs: &mut Errors, path: &Path, rule: &Value, completions: i64) {
    let indexes = some(rule, "succeededIndexes").and_then(Value::as_str);
    let count = int(rule, "succeededCount");
    if indexes.is_none() && count.is_none() {
        let message = "at least one of succeededCount or succeededIndexes must be specified";
        errs.push(FieldError::required(path, message));
    }
    let mut total = 0;
    if let Some(indexes) = indexes {
        let path = path.child("succeededIndexes");
        if indexes.len() > MAX_INDEX_TEXT {
            errs.push(FieldError::too_long(&path, MAX_INDEX_TEXT));
        }
        match Indexes::check(indexes, completions) {
            Ok(found) => total = found,
            Err(error) => {
                errs.push(FieldError::invalid(&path, indexes, format!("error parsing succeededIndexes: {error}")));
            }
        }
    }
    let (Some(count), path) = (count, path.child("succeededCount")) else { return };
    vocab::not_negative(errs, &path, count);
    if count > completions {
        let message = format!("must be less than or equal to {completions} (the number of specified completions)");
        errs.push(FieldError::invalid(&path, count, message));
    }
    if indexes.is_some() && count > total {
        let message = format!(
            "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
        );
        errs.push(FieldError::invalid(&path, count, message));
    }
}
