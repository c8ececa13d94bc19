//! Affinity, tolerations, spreading and scheduling gates.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::value::{entries, get, has, int, list, num, some, text, texts};
use super::super::vocab::{self, Errors};
use super::super::{selector, value};
use crate::{FieldError, Path};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
/// Effects of taints.
pub const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Checks the affinities of a spec.
pub fn check_affinity(errs: &mut Errors, path: &Path, affinity: &Value) {
    if let Some(node) = some(affinity, "nodeAffinity") {
        check_node_affinity(errs, &path.child("nodeAffinity"), node);
    }
    for name in ["podAffinity", "podAntiAffinity"] {
        if let Some(pod) = some(affinity, name) {
            check_pod_affinity(errs, &path.child(name), pod);
        }
    }
}

fn check_node_affinity(errs: &mut Errors, path: &Path, affinity: &Value) {
    if let Some(required) = some(affinity, REQUIRED) {
        check_node_selector(errs, &path.child(REQUIRED), required);
    }
    for (i, term) in list(affinity, PREFERRED).iter().enumerate() {
        let path = path.child(PREFERRED).index(i);
        check_weight(errs, &path, term);
        // A preference for what cannot be is harmless: values are not judged.
        check_term(errs, &path.child("preference"), get(term, "preference"), false);
    }
}

/// Checks terms of which a node must meet one.
pub fn check_node_selector(errs: &mut Errors, path: &Path, selector: &Value) {
    let (path, terms) = (path.child("nodeSelectorTerms"), list(selector, "nodeSelectorTerms"));
    if terms.is_empty() {
        errs.push(FieldError::required(&path, "must have at least one node selector term"));
    }
    for (i, term) in terms.iter().enumerate() {
        check_term(errs, &path.index(i), term, true);
    }
}

fn check_weight(errs: &mut Errors, path: &Path, term: &Value) {
    let weight = num(term, "weight");
    if !(1..=100).contains(&weight) {
        errs.push(FieldError::invalid(path.child("weight"), weight, "must be in the range 1-100"));
    }
}

fn check_term(errs: &mut Errors, path: &Path, term: &Value, judge_values: bool) {
    for (i, requirement) in list(term, "matchExpressions").iter().enumerate() {
        check_expression(errs, &path.child("matchExpressions").index(i), requirement, judge_values);
    }
    for (i, requirement) in list(term, "matchFields").iter().enumerate() {
        check_field(errs, &path.child("matchFields").index(i), requirement);
    }
}

fn check_expression(errs: &mut Errors, path: &Path, requirement: &Value, judge_values: bool) {
    let values = texts(requirement, "values");
    let at = path.child("values");
    match text(requirement, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            errs.push(FieldError::required(&at, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "In" | "NotIn" => {}
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errs.push(FieldError::forbidden(&at, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
        }
        "Exists" | "DoesNotExist" => {}
        "Gt" | "Lt" if values.len() != 1 => {
            errs.push(FieldError::required(&at, "must be specified single value when `operator` is 'Lt' or 'Gt'"));
        }
        "Gt" | "Lt" => {}
        other => errs.push(FieldError::invalid(path.child("operator"), other, "not a valid selector operator")),
    }
    vocab::qualified_name(errs, &path.child("key"), text(requirement, "key"));
    if judge_values {
        for (i, value) in values.iter().enumerate() {
            vocab::invalid(errs, &at.index(i), *value, vocab::label_value_errors(value));
        }
    }
}

fn check_field(errs: &mut Errors, path: &Path, requirement: &Value) {
    let values = texts(requirement, "values");
    match text(requirement, "operator") {
        "In" | "NotIn" if values.len() != 1 => {
            let message = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errs.push(FieldError::required(path.child("values"), message));
        }
        "In" | "NotIn" => {}
        other => errs.push(FieldError::invalid(path.child("operator"), other, "not a valid selector operator")),
    }
    match text(requirement, "key") {
        "metadata.name" => {
            for (i, value) in values.iter().enumerate() {
                vocab::subdomain(errs, &path.child("values").index(i), value);
            }
        }
        key => errs.push(FieldError::invalid(path.child("key"), key, "not a valid field selector key")),
    }
}

fn check_pod_affinity(errs: &mut Errors, path: &Path, affinity: &Value) {
    for (i, term) in list(affinity, REQUIRED).iter().enumerate() {
        check_pod_term(errs, &path.child(REQUIRED).index(i), term);
    }
    for (i, term) in list(affinity, PREFERRED).iter().enumerate() {
        let path = path.child(PREFERRED).index(i);
        check_weight(errs, &path, term);
        check_pod_term(errs, &path.child("podAffinityTerm"), get(term, "podAffinityTerm"));
    }
}

fn check_pod_term(errs: &mut Errors, path: &Path, term: &Value) {
    for name in ["labelSelector", "namespaceSelector"] {
        selector::check(errs, &path.child(name), get(term, name));
    }
    for namespace in texts(term, "namespaces") {
        vocab::label(errs, &path.child("namespace"), namespace);
    }
    check_label_keys(errs, path, term);
    let key = text(term, "topologyKey");
    if key.is_empty() {
        errs.push(FieldError::required(path.child("topologyKey"), "can not be empty"));
    }
    vocab::qualified_name(errs, &path.child("topologyKey"), key);
}

/// Checks keys whose values in the pod's own labels narrow a selector, of an affinity's term or a spread constraint.
fn check_label_keys(errs: &mut Errors, path: &Path, term: &Value) {
    let selector = get(term, "labelSelector");
    for name in ["matchLabelKeys", "mismatchLabelKeys"] {
        let (keys, path) = (texts(term, name), path.child(name));
        if !keys.is_empty() && selector.is_null() {
            errs.push(FieldError::forbidden(&path, "must not be specified when labelSelector is not set"));
            continue;
        }
        for (i, key) in keys.iter().enumerate() {
            vocab::qualified_name(errs, &path.index(i), key);
        }
    }
    let (matched, mismatched) = (texts(term, "matchLabelKeys"), texts(term, "mismatchLabelKeys"));
    // What the keys came to is in the selector already: a key that is there twice was there before.
    let mut selected: BTreeSet<&str> = entries(selector, "matchLabels").map(|(key, _)| key.as_str()).collect();
    for expression in list(selector, "matchExpressions") {
        let key = text(expression, "key");
        if let (false, Some(i)) = (selected.insert(key), matched.iter().rposition(|known| *known == key)) {
            // Upstream leaves out the list's name here.
            errs.push(FieldError::invalid(path.index(i), key, "exists in both matchLabelKeys and labelSelector"));
        }
    }
    for (i, key) in matched.iter().enumerate().filter(|(_, key)| mismatched.contains(key)) {
        let path = path.child("matchLabelKeys").index(i);
        errs.push(FieldError::invalid(path, *key, "exists in both matchLabelKeys and mismatchLabelKeys"));
    }
}

/// Writes what label keys come to, by the pod's own labels, into the selectors beside them (KEP-3633, KEP-3243).
pub fn settle_label_keys(pod: &mut Value) {
    let labels = get(get(pod, "metadata"), "labels").clone();
    let spec = value::child(pod, "spec");
    if let Some(affinity) = value::some_mut(spec, "affinity") {
        for kind in ["podAffinity", "podAntiAffinity"] {
            let Some(terms) = value::some_mut(affinity, kind) else { continue };
            value::items_mut(terms, REQUIRED).for_each(|term| settle(term, &labels));
            for weighted in value::items_mut(terms, PREFERRED) {
                settle(value::child(weighted, "podAffinityTerm"), &labels);
            }
        }
    }
    value::items_mut(spec, "topologySpreadConstraints").for_each(|constraint| settle(constraint, &labels));
}

fn settle(term: &mut Value, labels: &Value) {
    let mut found = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        let known = texts(term, field).into_iter().filter_map(|key| Some((key, labels.get(key)?)));
        found.extend(known.map(|(key, value)| json!({"key": key, "operator": operator, "values": [value]})));
    }
    // Nothing selects nothing: there is nothing to narrow.
    let Some(selector) = value::some_mut(term, "labelSelector").filter(|_| !found.is_empty()) else { return };
    let mut expressions = list(selector, "matchExpressions").to_vec();
    expressions.extend(found);
    value::set(selector, "matchExpressions", expressions);
}

/// Checks tolerations.
pub fn check_tolerations(errs: &mut Errors, path: &Path, tolerations: &[Value]) {
    for (i, toleration) in tolerations.iter().enumerate() {
        let path = path.index(i);
        let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
        let (value, effect) = (text(toleration, "value"), text(toleration, "effect"));
        if !key.is_empty() {
            vocab::qualified_name(errs, &path.child("key"), key);
        } else if operator != "Exists" {
            let message = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errs.push(FieldError::invalid(path.child("operator"), operator, message));
        }
        if has(toleration, "tolerationSeconds") && effect != "NoExecute" {
            let message = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errs.push(FieldError::invalid(path.child("effect"), effect, message));
        }
        let at = path.child("operator");
        match operator {
            "Equal" | "" => {
                let messages = vocab::label_value_errors(value);
                if !messages.is_empty() {
                    errs.push(FieldError::invalid(&at, value, messages.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                errs.push(FieldError::invalid(&at, value, "value must be empty when `operator` is 'Exists'"));
            }
            "Exists" => {}
            other => errs.push(FieldError::not_supported(&at, other, &["Equal", "Exists"])),
        }
        if !effect.is_empty() {
            vocab::known_value(errs, &path.child("effect"), effect, EFFECTS);
        }
    }
}

/// Checks spread constraints.
pub fn check_spread(errs: &mut Errors, path: &Path, constraints: &[Value]) {
    for (i, constraint) in constraints.iter().enumerate() {
        let path = path.index(i);
        let (key, action) = (text(constraint, "topologyKey"), text(constraint, "whenUnsatisfiable"));
        let skew = num(constraint, "maxSkew");
        if skew <= 0 {
            errs.push(FieldError::invalid(path.child("maxSkew"), skew, "must be greater than zero"));
        }
        if key.is_empty() {
            errs.push(FieldError::required(path.child("topologyKey"), "can not be empty"));
        }
        vocab::known_value(errs, &path.child("whenUnsatisfiable"), action, &["DoNotSchedule", "ScheduleAnyway"]);
        let same = |other: &Value| text(other, "topologyKey") == key && text(other, "whenUnsatisfiable") == action;
        if constraints[i + 1..].iter().any(same) {
            let path = path.child("{topologyKey, whenUnsatisfiable}");
            errs.push(FieldError::duplicate(path, format!("{{{key}, {action}}}")));
        }
        check_min_domains(errs, &path.child("minDomains"), int(constraint, "minDomains"), action);
        for name in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if has(constraint, name) {
                vocab::known_value(errs, &path.child(name), text(constraint, name), &["Honor", "Ignore"]);
            }
        }
        check_label_keys(errs, &path, constraint);
        selector::check(errs, &path.child("labelSelector"), get(constraint, "labelSelector"));
    }
}

fn check_min_domains(errs: &mut Errors, path: &Path, domains: Option<i64>, action: &str) {
    let Some(domains) = domains else { return };
    if domains <= 0 {
        errs.push(FieldError::invalid(path, domains, "must be greater than zero"));
    }
    if action != "DoNotSchedule" {
        let message = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
        errs.push(FieldError::invalid(path, domains, message));
    }
}

/// Checks scheduling gates.
pub fn check_gates(errs: &mut Errors, path: &Path, gates: &[Value]) {
    let mut seen = BTreeSet::new();
    for (i, gate) in gates.iter().enumerate() {
        let name = value::text(gate, "name");
        vocab::qualified_name(errs, &path.index(i), name);
        if !seen.insert(name) {
            errs.push(FieldError::duplicate(path.index(i), name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(selector: Value, keys: &[&str]) -> Value {
        let mut constraint = json!({"topologyKey": "zone", "matchLabelKeys": keys});
        if !selector.is_null() {
            constraint["labelSelector"] = selector;
        }
        constraint
    }

    fn wrong(term: &Value) -> Vec<String> {
        let mut errs = Errors::new();
        check_label_keys(&mut errs, &Path::new("c"), term);
        errs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn label_keys_become_expressions() {
        let term = json!({"labelSelector": {"matchLabels": {"x": "y"}}, "matchLabelKeys": ["a", "none"], "mismatchLabelKeys": ["b"]});
        let mut pod = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {
            "affinity": {"podAffinity": {REQUIRED: [term]}, "podAntiAffinity": {PREFERRED: [{"weight": 1, "podAffinityTerm": term}]}},
            "topologySpreadConstraints": [spread(json!({}), &["a"]), spread(Value::Null, &["a"])],
        }});
        settle_label_keys(&mut pod);
        let (is, is_not) = (
            json!({"key": "a", "operator": "In", "values": ["1"]}),
            json!({"key": "b", "operator": "NotIn", "values": ["2"]}),
        );
        let spec = &pod["spec"];
        for term in [
            &spec["affinity"]["podAffinity"][REQUIRED][0],
            &spec["affinity"]["podAntiAffinity"][PREFERRED][0]["podAffinityTerm"],
        ] {
            assert_eq!(term["labelSelector"]["matchExpressions"], json!([is, is_not]));
        }
        let constraints = &spec["topologySpreadConstraints"];
        assert_eq!(constraints[0]["labelSelector"]["matchExpressions"], json!([is]));
        assert!(constraints[1].get("labelSelector").is_none());
    }

    #[test]
    fn label_keys_are_checked_after_that() {
        let expression = |key: &str| json!({"key": key, "operator": "In", "values": ["1"]});
        for (selector, keys, expect) in [
            (json!({"matchExpressions": [expression("a")]}), &["a"][..], vec![]),
            (
                Value::Null,
                &["a"],
                vec!["c.matchLabelKeys: Forbidden: must not be specified when labelSelector is not set"],
            ),
            (
                json!({"matchLabels": {"a": "1"}, "matchExpressions": [expression("a")]}),
                &["b", "a"],
                vec!["c[1]: Invalid value: \"a\": exists in both matchLabelKeys and labelSelector"],
            ),
            (
                json!({"matchExpressions": [expression("a"), expression("a")]}),
                &["a"],
                vec!["c[0]: Invalid value: \"a\": exists in both matchLabelKeys and labelSelector"],
            ),
        ] {
            assert_eq!(wrong(&spread(selector.clone(), keys)), expect, "{selector}");
        }
        let both = json!({"labelSelector": {}, "matchLabelKeys": ["a"], "mismatchLabelKeys": ["a"]});
        let expect = "c.matchLabelKeys[0]: Invalid value: \"a\": exists in both matchLabelKeys and mismatchLabelKeys";
        assert_eq!(wrong(&both), [expect]);
    }
}
