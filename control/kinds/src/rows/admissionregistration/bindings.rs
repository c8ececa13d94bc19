//! Bindings: where a policy holds, and with which parameters.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::GROUP;
use crate::{
    FieldError, Path, ResourceDef, Strategy, meta,
    rows::{
        cells::{self, Cell},
        selector,
        value::{carry_generation, child, get, has, set_generation, some, text, texts},
        vocab::{self, Errors},
    },
};

/// The rows.
pub(super) fn defs() -> [ResourceDef; 2] {
    let mutating = ResourceDef::new(
        GROUP,
        ("mutatingadmissionpolicybindings", "mutatingadmissionpolicybinding", "MutatingAdmissionPolicyBinding"),
        "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBinding",
        Bindings { mutating: true },
    );
    let validating = ResourceDef::new(
        GROUP,
        ("validatingadmissionpolicybindings", "validatingadmissionpolicybinding", "ValidatingAdmissionPolicyBinding"),
        "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding",
        Bindings { mutating: false },
    );
    [mutating, validating]
}

const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];

struct Bindings {
    mutating: bool,
}

impl Strategy for Bindings {
    fn default(&self, obj: &mut Value) {
        super::default_matching(child(obj, "spec"), "matchResources");
    }

    fn prepare_create(&self, obj: &mut Value) {
        set_generation(obj, 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _sub: Option<&str>) {
        let changed = new.get("spec") != old.get("spec");
        carry_generation(new, old, changed);
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        self.check(&mut errs, get(obj, "spec"));
        super::check_static_name(&mut errs, obj);
        errs
    }

    fn validate_update(&self, new: &Value, _old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = meta::validate_object_meta(new, false, &|name, prefix| self.name_errors(name, prefix));
        self.check(&mut errs, get(new, "spec"));
        errs
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some() { super::warn_of_static_name(obj) } else { Vec::new() }
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let spec = get(obj, "spec");
        vec![
            cells::name(obj),
            cells::of(text(spec, "policyName")),
            cells::of(some(spec, "paramRef").map_or("<unset>".to_owned(), show_param)),
            cells::age(obj),
        ]
    }
}

fn show_param(param: &Value) -> String {
    match (text(param, "name"), text(param, "namespace")) {
        ("", _) if has(param, "selector") => selector::show_go(get(param, "selector")),
        ("", _) => "<unset>".to_owned(),
        (name, "") => format!("*/{name}"),
        (name, namespace) => format!("{namespace}/{name}"),
    }
}

impl Bindings {
    fn check(&self, errs: &mut Errors, spec: &Value) {
        let (path, policy) = (Path::new("spec"), text(spec, "policyName"));
        if policy.is_empty() {
            errs.push(FieldError::required(path.child("policyName"), ""));
        } else {
            vocab::subdomain(errs, &path.child("policyName"), policy);
        }
        if let Some(param) = some(spec, "paramRef") {
            check_param(errs, &path.child("paramRef"), param);
        }
        let (at, matching) = (path.child("matchResources"), some(spec, "matchResources"));
        super::check_matching(errs, &at, matching);
        if self.mutating {
            super::check_mutable(errs, &at, matching);
        } else {
            check_actions(errs, &path.child("validationActions"), &texts(spec, "validationActions"));
        }
    }
}

fn check_param(errs: &mut Errors, path: &Path, param: &Value) {
    const ONE: &str = "name and selector are mutually exclusive";
    let (name, labels) = (text(param, "name"), some(param, "selector"));
    if !name.is_empty() {
        vocab::invalid(errs, &path.child("name"), name, meta::name_is_path_segment(name, false));
        if labels.is_some() {
            errs.push(FieldError::forbidden(path.child("name"), ONE));
        }
    }
    if let Some(labels) = labels {
        selector::check(errs, &path.child("selector"), labels);
        if !name.is_empty() {
            errs.push(FieldError::forbidden(path.child("selector"), ONE));
        }
    }
    if name.is_empty() && labels.is_none() {
        errs.push(FieldError::required(path, "one of name or selector must be specified"));
    }
    super::check_policy(errs, path, param, "parameterNotFoundAction", &["Deny", "Allow"]);
}

fn check_actions(errs: &mut Errors, path: &Path, actions: &[&str]) {
    let mut seen = BTreeSet::new();
    for (i, action) in actions.iter().enumerate() {
        vocab::known_value(errs, &path.index(i), action, ACTIONS);
        if !seen.insert(action) {
            errs.push(FieldError::duplicate(path.index(i), *action));
        }
    }
    if seen.contains(&"Deny") && seen.contains(&"Warn") {
        let message = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errs.push(FieldError::invalid(path, json!(actions), message));
    }
    if actions.is_empty() {
        errs.push(FieldError::required(path, "at least one validation action is required"));
    }
}
