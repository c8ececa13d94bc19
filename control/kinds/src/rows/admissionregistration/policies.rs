//! Policies: of the mutating and of the validating kind.

use std::collections::BTreeSet;

use kontiki_machinery::Table;
use serde_json::{Value, json};

use super::{FAILURE_POLICIES, GROUP, REINVOCATION_POLICIES, cel, name_of};
use crate::apply::Counted;
use crate::resource::status_alone;
use crate::{
    FieldError, Path, ResourceDef, Strategy, Verbs, meta,
    rows::{
        cells::{self, Cell},
        parts,
        value::{carry_generation, child, copy, default_text, get, has, list, set, set_generation, some, text},
        vocab::{self, Errors},
    },
};

/// The rows.
pub(super) fn defs() -> [ResourceDef; 2] {
    let mutating = ResourceDef::new(
        GROUP,
        ("mutatingadmissionpolicies", "mutatingadmissionpolicy", "MutatingAdmissionPolicy"),
        "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy",
        Policies { mutating: true },
    );
    let validating = ResourceDef::new(
        GROUP,
        ("validatingadmissionpolicies", "validatingadmissionpolicy", "ValidatingAdmissionPolicy"),
        "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy",
        Policies { mutating: false },
    );
    [mutating, validating.with_part("status", Verbs::PART)]
}

const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
const MAX_ANNOTATIONS: usize = 20;
/// The longest expression of an audit annotation, in bytes.
const MAX_EXPRESSION: usize = 5 * 1024;

struct Policies {
    mutating: bool,
}

impl Strategy for Policies {
    fn counted(&self, sub: Option<&str>) -> Option<Counted> {
        status_alone(sub)
    }

    fn default(&self, obj: &mut Value) {
        let spec = child(obj, "spec");
        default_text(spec, "failurePolicy", "Fail");
        super::default_matching(spec, "matchConstraints");
    }

    fn prepare_create(&self, obj: &mut Value) {
        set_generation(obj, 1);
        if !self.mutating {
            set(obj, "status", json!({}));
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        if sub == Some("status") {
            parts::only_status(new, old);
            return;
        }
        let changed = new.get("spec") != old.get("spec");
        carry_generation(new, old, changed);
        if !self.mutating {
            copy(new, old, "status");
        }
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        self.check(&mut errs, obj, None);
        super::check_static_name(&mut errs, obj);
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if sub == Some("status") {
            check_status(&mut errs, get(new, "status"));
            return errs;
        }
        errs.extend(meta::validate_object_meta(new, false, &|name, prefix| self.name_errors(name, prefix)));
        self.check(&mut errs, new, Some(old));
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

    fn observed(&self, obj: &Value, table: &Table) -> Option<Value> {
        (!self.mutating).then(|| crate::policies::typed::checked(obj, table))
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let spec = get(obj, "spec");
        let rules = if self.mutating { "mutations" } else { "validations" };
        let param = some(spec, "paramKind").map(|kind| format!("{}/{}", text(kind, "apiVersion"), text(kind, "kind")));
        vec![
            cells::name(obj),
            cells::of(list(spec, rules).len()),
            cells::of(param.unwrap_or_else(|| "<unset>".to_owned())),
            cells::age(obj),
        ]
    }
}

impl Policies {
    fn check(&self, errs: &mut Errors, obj: &Value, old: Option<&Value>) {
        let (spec, path) = (get(obj, "spec"), Path::new("spec"));
        let same = |field: &str| old.is_some_and(|old| get(get(old, "spec"), field) == get(spec, field));
        // What was accepted goes on to be, if nothing that expressions look at changed.
        let age = if ["paramKind", "variables", "validations", "auditAnnotations", "mutations"].iter().all(|f| same(f))
        {
            cel::Age::Stored
        } else {
            cel::Age::New
        };
        let mut scope = cel::Scope::new(has(spec, "paramKind"), true, age);
        super::check_policy(errs, &path, spec, "failurePolicy", FAILURE_POLICIES);
        if let Some(kind) = some(spec, "paramKind") {
            check_param_kind(errs, &path.child("paramKind"), kind);
        }
        let (at, matching) = (path.child("matchConstraints"), some(spec, "matchConstraints"));
        super::check_matching(errs, &at, matching);
        match matching {
            None => errs.push(FieldError::required(&at, "")),
            Some(matching) if list(matching, "resourceRules").is_empty() => {
                errs.push(FieldError::required(at.child("resourceRules"), ""));
            }
            Some(_) => {}
        }
        if self.mutating {
            super::check_mutable(errs, &at, matching);
        }
        if !(same("paramKind") && same("matchConditions")) {
            let conditions = list(spec, "matchConditions");
            super::check_match_conditions(errs, &path.child("matchConditions"), conditions, &scope);
        }
        scope.variables = Some(Vec::new());
        for (i, variable) in list(spec, "variables").iter().enumerate() {
            check_variable(errs, &path.child("variables").index(i), variable, &mut scope);
        }
        if self.mutating {
            scope.patches = true;
            check_mutations(errs, &path, spec, &scope);
            super::check_policy(errs, &path, spec, "reinvocationPolicy", REINVOCATION_POLICIES);
        } else {
            check_validations(errs, &path, obj, &scope);
        }
    }
}

fn check_param_kind(errs: &mut Errors, path: &Path, param: &Value) {
    let (at, version) = (path.child("apiVersion"), text(param, "apiVersion"));
    let parts: Vec<&str> = version.split('/').collect();
    match parts.as_slice() {
        _ if version.is_empty() => errs.push(FieldError::required(&at, "")),
        _ if version == "/" => errs.push(FieldError::invalid(&at, version, "version must be specified")),
        [version] => check_group_version(errs, &at, "", version, version),
        [group, own] => check_group_version(errs, &at, group, own, version),
        _ => errs.push(FieldError::invalid(&at, version, format!("unexpected GroupVersion string: {version}"))),
    }
    let (path, kind) = (path.child("kind"), text(param, "kind"));
    let problems = meta::dns1035_label(&kind.to_lowercase());
    if kind.is_empty() {
        errs.push(FieldError::required(path, ""));
    } else if !problems.is_empty() {
        let message = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
        errs.push(FieldError::invalid(path, kind, message));
    }
}

fn check_group_version(errs: &mut Errors, path: &Path, group: &str, version: &str, shown: &str) {
    let mut judge = |value: &str, problems: Vec<String>| {
        if !problems.is_empty() {
            errs.push(FieldError::invalid(path, value, problems.join(",")));
        }
    };
    if !group.is_empty() {
        judge(group, vocab::subdomain_errors(group));
    }
    if version.is_empty() {
        judge(shown, vec!["version must be specified".to_owned()]);
    } else {
        judge(version, meta::dns1035_label(version));
    }
}

fn check_variable(errs: &mut Errors, path: &Path, variable: &Value, scope: &mut cel::Scope) {
    let (name, expression) = (text(variable, "name"), text(variable, "expression"));
    if name.trim().is_empty() {
        errs.push(FieldError::required(path.child("name"), "name is not specified"));
    } else if !cel::is_identifier(name) {
        errs.push(FieldError::invalid(path.child("name"), name, "must be a valid CEL identifier"));
    }
    let path = path.child("expression");
    if expression.trim().is_empty() {
        errs.push(FieldError::required(path, "expression is not specified"));
        return;
    }
    match scope.compile(expression, cel::Returns::Any) {
        Err(why) => errs.push(FieldError::invalid(path, expression, why)),
        Ok(program) => {
            let ty = program.result_type().clone();
            scope.variables.get_or_insert_default().push((name.to_owned(), ty));
        }
    }
}

fn check_validations(errs: &mut Errors, path: &Path, obj: &Value, scope: &cel::Scope) {
    let spec = get(obj, "spec");
    let (validations, annotations) = (list(spec, "validations"), list(spec, "auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let message = "validations or auditAnnotations must contain at least one item";
        errs.push(FieldError::required(path.child("validations"), message));
        errs.push(FieldError::required(path.child("auditAnnotations"), message));
        return;
    }
    for (i, validation) in validations.iter().enumerate() {
        check_validation(errs, &path.child("validations").index(i), validation, scope);
    }
    let path = path.child("auditAnnotations");
    if annotations.len() > MAX_ANNOTATIONS {
        let message = format!("must not have more than {MAX_ANNOTATIONS} auditAnnotations");
        errs.push(FieldError::invalid(&path, get(spec, "auditAnnotations").clone(), message));
    }
    let mut seen = BTreeSet::new();
    for (i, annotation) in annotations.iter().enumerate() {
        check_annotation(errs, &path.index(i), annotation, name_of(obj), scope);
        if !seen.insert(text(annotation, "key")) {
            errs.push(FieldError::duplicate(path.index(i).child("key"), text(annotation, "key")));
        }
    }
}

fn check_validation(errs: &mut Errors, path: &Path, validation: &Value, scope: &cel::Scope) {
    let expression = text(validation, "expression");
    let at = path.child("expression");
    if expression.trim().is_empty() {
        errs.push(FieldError::required(at, "expression is not specified"));
    } else {
        cel::check(errs, &at, expression, cel::Returns::Bool, scope);
    }
    let (at, message) = (path.child("messageExpression"), text(validation, "messageExpression"));
    if !message.is_empty() && message.trim().is_empty() {
        errs.push(FieldError::invalid(at, message, "must be non-empty if specified"));
    } else if !message.is_empty() {
        let scope = cel::Scope { authorizer: false, ..scope.clone() };
        cel::check(errs, &at, message, cel::Returns::String, &scope);
    }
    let (at, message) = (path.child("message"), text(validation, "message"));
    if !message.is_empty() && message.trim().is_empty() {
        errs.push(FieldError::invalid(at, message, "must be non-empty if specified"));
    } else if message.trim().contains(['\n', '\r']) {
        errs.push(FieldError::invalid(at, message, "must not contain line breaks"));
    }
    super::check_choice(errs, path, validation, "reason", REASONS);
}

fn check_annotation(errs: &mut Errors, path: &Path, annotation: &Value, name: &str, scope: &cel::Scope) {
    let (at, key) = (path.child("key"), text(annotation, "key"));
    if name.is_empty() {
        errs.push(FieldError::invalid(at, key, "requires metadata.name be non-empty"));
    } else {
        vocab::qualified_name(errs, &at, &format!("{name}/{key}"));
    }
    let (path, expression) = (path.child("valueExpression"), text(annotation, "valueExpression").trim());
    if expression.is_empty() {
        errs.push(FieldError::required(path, "valueExpression is not specified"));
    } else if expression.len() > MAX_EXPRESSION {
        errs.push(FieldError::required(path, format!("must not exceed {MAX_EXPRESSION} bytes in length")));
    } else {
        cel::check(errs, &path, expression, cel::Returns::StringOrNull, scope);
    }
}

/// A type of patch, the field that says what it does, and what its expression returns.
const PATCHES: [(&str, &str, cel::Returns); 2] = [
    ("ApplyConfiguration", "applyConfiguration", cel::Returns::Configuration),
    ("JSONPatch", "jsonPatch", cel::Returns::Patch),
];

fn check_mutations(errs: &mut Errors, path: &Path, spec: &Value, scope: &cel::Scope) {
    let (path, mutations) = (path.child("mutations"), list(spec, "mutations"));
    if mutations.is_empty() {
        errs.push(FieldError::required(&path, "mutations must contain at least one item"));
    }
    for (i, mutation) in mutations.iter().enumerate() {
        check_mutation(errs, &path.index(i), mutation, scope);
    }
}

fn check_mutation(errs: &mut Errors, path: &Path, mutation: &Value, scope: &cel::Scope) {
    let kind = text(mutation, "patchType");
    let Some((_, field, returns)) = PATCHES.iter().find(|(known, ..)| *known == kind) else {
        vocab::one_of(errs, &path.child("patchType"), kind, &PATCHES.map(|(known, ..)| known));
        return;
    };
    let at = path.child(field);
    match some(mutation, field) {
        None => errs.push(FieldError::required(at, format!("must be specified when patchType is {kind}"))),
        Some(patch) => {
            let (at, expression) = (at.child("expression"), text(patch, "expression").trim());
            if expression.is_empty() {
                errs.push(FieldError::required(at, ""));
            } else {
                cel::check(errs, &at, expression, *returns, scope);
            }
        }
    }
    for (_, other, _) in PATCHES.iter().filter(|(_, other, _)| other != field && has(mutation, other)) {
        let message = format!("must not be specified when patchType is {kind}");
        errs.push(FieldError::invalid(path.child(other), format!("{{{other}}}"), message));
    }
}

fn check_status(errs: &mut Errors, status: &Value) {
    let path = Path::new("status");
    let warnings = list(get(status, "typeChecking"), "expressionWarnings");
    for (i, warning) in warnings.iter().enumerate() {
        let path = path.child("typeChecking").child("expressionWarnings").index(i);
        for field in ["warning", "fieldRef"] {
            if text(warning, field).trim().is_empty() {
                errs.push(FieldError::required(path.child(field), ""));
            }
        }
    }
    parts::check_conditions(errs, &path.child("conditions"), list(status, "conditions"));
}
