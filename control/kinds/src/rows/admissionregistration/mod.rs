//! `admissionregistration.k8s.io`: webhooks and policies that have a say in what is written, and which requests they are
//! asked about.

mod bindings;
pub mod cel;
mod policies;
mod webhooks;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    FieldError, Path, ResourceDef, Scope, meta,
    resource::names,
    rows::{
        selector,
        value::{self, default_text, default_to, get, items_mut, list, some, text, texts},
        vocab::{self, Errors},
    },
};

const GROUP: (&str, &str) = ("admissionregistration.k8s.io", "v1");

/// The rows.
#[must_use]
pub fn defs() -> [ResourceDef; 6] {
    let [mutating, validating] = policies::defs();
    let [mutating_bindings, validating_bindings] = bindings::defs();
    let [mutating_hooks, validating_hooks] = webhooks::defs();
    [mutating, mutating_bindings, mutating_hooks, validating, validating_bindings, validating_hooks]
        .map(|def| ResourceDef { scope: Scope::Cluster, categories: names(&["api-extensions"]), ..def })
}

const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const MUTABLE_OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];
/// Objects of such names come from files of the servers.
const STATIC: &str = ".static.k8s.io";

fn name_of(obj: &Value) -> &str {
    text(get(obj, "metadata"), "name")
}

fn static_names(name: &str) -> Option<String> {
    name.ends_with(STATIC).then(|| {
        format!(
            "names ending with \"{STATIC}\" are reserved for static manifest-based configurations and cannot be managed via the API"
        )
    })
}

fn check_static_name(errs: &mut Errors, obj: &Value) {
    if let Some(why) = static_names(name_of(obj)) {
        errs.push(FieldError::invalid("metadata.name", name_of(obj), why));
    }
}

fn warn_of_static_name(obj: &Value) -> Vec<String> {
    static_names(name_of(obj)).map(|why| format!("metadata.name: {why}")).into_iter().collect()
}

/// Defaults of a list of rules.
fn default_rules(owner: &mut Value, field: &str) {
    items_mut(owner, field).for_each(|rule| default_text(rule, "scope", "*"));
}

fn default_selectors(owner: &mut Value) {
    default_to(owner, "namespaceSelector", json!({}));
    default_to(owner, "objectSelector", json!({}));
}

/// Defaults of what a policy or binding matches, if it says so at all.
fn default_matching(spec: &mut Value, field: &str) {
    if let Some(matching) = value::some_mut(spec, field) {
        default_text(matching, "matchPolicy", "Equivalent");
        default_selectors(matching);
        default_rules(matching, "resourceRules");
        default_rules(matching, "excludeResourceRules");
    }
}

/// An optional word out of some.
fn check_choice(errs: &mut Errors, path: &Path, owner: &Value, field: &str, known: &[&str]) {
    if some(owner, field).is_some() {
        vocab::known_value(errs, &path.child(field), text(owner, field), known);
    }
}

/// Whether one `*` and something else is in a list.
fn mixed(items: &[&str]) -> bool {
    items.len() > 1 && items.contains(&"*")
}

/// A rule: operations, groups, versions, resources, scope.
fn check_rule(errs: &mut Errors, path: &Path, rule: &Value) {
    let (at, operations) = (path.child("operations"), texts(rule, "operations"));
    if operations.is_empty() {
        errs.push(FieldError::required(&at, ""));
    }
    if mixed(&operations) {
        let message = "if '*' is present, must not specify other operations";
        errs.push(FieldError::invalid(&at, json!(operations), message));
    }
    for (i, operation) in operations.iter().enumerate() {
        vocab::known_value(errs, &at.index(i), operation, OPERATIONS);
    }
    for (field, what) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let (at, items) = (path.child(field), texts(rule, field));
        if items.is_empty() {
            errs.push(FieldError::required(&at, ""));
        }
        if mixed(&items) {
            let message = format!("if '*' is present, must not specify other {what}");
            errs.push(FieldError::invalid(at, json!(items), message));
        }
    }
    let versions = texts(rule, "apiVersions");
    let empty = versions.iter().enumerate().filter(|(_, version)| version.is_empty());
    errs.extend(empty.map(|(i, _)| FieldError::required(path.child("apiVersions").index(i), "")));
    check_resources(errs, &path.child("resources"), &texts(rule, "resources"));
    check_choice(errs, path, rule, "scope", &["*", "Cluster", "Namespaced"]);
}

fn check_resources(errs: &mut Errors, path: &Path, resources: &[&str]) {
    if resources.is_empty() {
        errs.push(FieldError::required(path, ""));
    }
    // `x/*` and `*/x` that came before.
    let (mut whole, mut everywhere) = (BTreeSet::new(), BTreeSet::new());
    let mut plain = false;
    for (i, resource) in resources.iter().enumerate() {
        let Some((name, sub)) = resource.split_once('/') else {
            if resource.is_empty() {
                errs.push(FieldError::required(path.index(i), ""));
            } else {
                plain = *resource != "*";
            }
            continue;
        };
        let mut wrong = |why| errs.push(FieldError::invalid(path.index(i), *resource, why));
        if whole.contains(name) {
            wrong(format!("if '{name}/*' is present, must not specify {resource}"));
        }
        if everywhere.contains(sub) {
            wrong(format!("if '*/{sub}' is present, must not specify {resource}"));
        }
        if sub == "*" {
            whole.insert(name);
        }
        if name == "*" {
            everywhere.insert(sub);
        }
    }
    if resources.len() > 1 && resources.contains(&"*/*") {
        let message = "if '*/*' is present, must not specify other resources";
        errs.push(FieldError::invalid(path, json!(resources), message));
    }
    if resources.contains(&"*") && plain {
        let message = "if '*' is present, must not specify other resources without subresources";
        errs.push(FieldError::invalid(path, json!(resources), message));
    }
}

/// What a policy or binding matches; absent is fine.
fn check_matching(errs: &mut Errors, path: &Path, matching: Option<&Value>) {
    let Some(matching) = matching else { return };
    check_policy(errs, path, matching, "matchPolicy", MATCH_POLICIES);
    for field in ["namespaceSelector", "objectSelector"] {
        match some(matching, field) {
            None => errs.push(FieldError::required(path.child(field), "")),
            Some(labels) => selector::check(errs, &path.child(field), labels),
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        for (i, rule) in list(matching, field).iter().enumerate() {
            check_named_rule(errs, &path.child(field).index(i), rule);
        }
    }
}

fn check_named_rule(errs: &mut Errors, path: &Path, rule: &Value) {
    let names = texts(rule, "resourceNames");
    for (i, name) in names.iter().enumerate() {
        let path = path.child("resourceNames").index(i);
        vocab::invalid(errs, &path, *name, meta::name_is_path_segment(name, false));
        if names[..i].contains(name) {
            errs.push(FieldError::duplicate(path, *name));
        }
    }
    check_rule(errs, path, rule);
}

/// What is deleted cannot be mutated.
fn check_mutable(errs: &mut Errors, path: &Path, matching: Option<&Value>) {
    for rule in matching.into_iter().flat_map(|matching| list(matching, "resourceRules")) {
        for operation in texts(rule, "operations") {
            let path = path.child("resourceRules").child("operations");
            vocab::known_value(errs, &path, operation, MUTABLE_OPERATIONS);
        }
    }
}

/// A word out of some that must be set.
fn check_policy(errs: &mut Errors, path: &Path, owner: &Value, field: &str, known: &[&str]) {
    vocab::one_of(errs, &path.child(field), text(owner, field), known);
}

/// The most match conditions of a webhook or policy.
const MAX_CONDITIONS: usize = 64;

fn check_match_conditions(errs: &mut Errors, path: &Path, conditions: &[Value], scope: &cel::Scope) {
    if conditions.len() > MAX_CONDITIONS {
        errs.push(FieldError::too_many(path, conditions.len(), MAX_CONDITIONS));
    }
    let mut seen = BTreeSet::new();
    for (i, condition) in conditions.iter().enumerate() {
        let (path, name) = (path.index(i), text(condition, "name"));
        let expression = text(condition, "expression").trim();
        if expression.is_empty() {
            errs.push(FieldError::required(path.child("expression"), ""));
        } else {
            cel::check(errs, &path.child("expression"), expression, cel::Returns::Bool, scope);
        }
        let path = path.child("name");
        if name.is_empty() {
            errs.push(FieldError::required(path, ""));
            continue;
        }
        vocab::qualified_name(errs, &path, name);
        if !seen.insert(name) {
            errs.push(FieldError::duplicate(path, name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_of_a_rule_do_not_repeat_each_other() {
        for (resources, expect) in [
            (&["pods"][..], ""),
            (&["*", "pods/status"], ""),
            (&["pods/*", "pods/status"], "if 'pods/*' is present, must not specify pods/status"),
            (&["*/status", "pods/status"], "if '*/status' is present, must not specify pods/status"),
            (&["*/*", "pods"], "if '*/*' is present"),
            (&["*", "pods"], "if '*' is present, must not specify other resources without subresources"),
            (&[], "Required value"),
            (&[""], "Required value"),
        ] {
            let mut errs = Errors::new();
            check_resources(&mut errs, &Path::new("r"), resources);
            let found = errs.first().map(ToString::to_string).unwrap_or_default();
            assert!(found.contains(expect) && found.is_empty() == expect.is_empty(), "{resources:?}: {found}");
        }
    }
}
