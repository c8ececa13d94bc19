//! Reviews: questions that are answered and not stored.

use serde_json::{Value, json};

use super::value::{entries, get, has, list, some, text};
use super::vocab::Errors;
use crate::{
    Bad, FieldError, Path, ResourceDef, Scope, Strategy, Verbs,
    resource::{Creation, Review as Ask},
};

type Check = fn(&mut Errors, &Value);

fn review(
    group: &'static str,
    names: (&'static str, &'static str, &'static str),
    asks: Ask,
    check: Check,
) -> ResourceDef {
    let package = group.split('.').next().unwrap_or(group);
    let schema = format!("io.k8s.api.{package}.v1.{}", names.2);
    ResourceDef {
        scope: Scope::Cluster,
        verbs: Verbs::CREATE,
        creation: Creation::Review(asks),
        ..ResourceDef::new((group, "v1"), names, &schema, Review { check })
    }
}

/// The rows of authentication and authorization, in discovery order.
#[must_use]
pub fn defs() -> Vec<ResourceDef> {
    const AUTHENTICATION: &str = "authentication.k8s.io";
    const AUTHORIZATION: &str = "authorization.k8s.io";
    let own = ("selfsubjectreviews", "selfsubjectreview", "SelfSubjectReview");
    let token = ("tokenreviews", "tokenreview", "TokenReview");
    let local = ("localsubjectaccessreviews", "localsubjectaccessreview", "LocalSubjectAccessReview");
    let own_access = ("selfsubjectaccessreviews", "selfsubjectaccessreview", "SelfSubjectAccessReview");
    let rules = ("selfsubjectrulesreviews", "selfsubjectrulesreview", "SelfSubjectRulesReview");
    let access = ("subjectaccessreviews", "subjectaccessreview", "SubjectAccessReview");
    vec![
        review(AUTHENTICATION, own, Ask::SelfSubject, |_, _| {}),
        review(AUTHENTICATION, token, Ask::Token, |_, _| {}),
        ResourceDef { scope: Scope::Namespaced, ..review(AUTHORIZATION, local, Ask::Access, check_local) },
        review(AUTHORIZATION, own_access, Ask::SelfAccess, check_self),
        review(AUTHORIZATION, rules, Ask::SelfRules, |_, _| {}),
        review(AUTHORIZATION, access, Ask::Access, check_access),
    ]
}

struct Review {
    check: Check,
}

impl Strategy for Review {
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        (self.check)(&mut errs, obj);
        errs
    }

    /// Everybody may ask about themselves: a question takes a few hundred bytes, a user of many groups some thousand.
    fn body_limit(&self) -> Option<usize> {
        Some(64 << 10)
    }

    /// Reviews have no name.
    fn name_errors(&self, _name: &str, _prefix: bool) -> Vec<String> {
        Vec::new()
    }
}

fn shown_path(attributes: &Value) -> Bad {
    Bad::Raw(format!("{{\"Path\":{},\"Verb\":{}}}", json!(text(attributes, "path")), json!(text(attributes, "verb"))))
}

fn check_attributes(errs: &mut Errors, spec: &Value) {
    let path = Path::new("spec");
    match (some(spec, "resourceAttributes"), some(spec, "nonResourceAttributes")) {
        (Some(_), Some(other)) => {
            let message = "cannot be specified in combination with resourceAttributes";
            errs.push(FieldError::invalid(path.child("nonResourceAttributes"), shown_path(other), message));
        }
        (None, None) => {
            let message = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errs.push(FieldError::invalid(path.child("resourceAttributes"), Value::Null, message));
        }
        _ => {}
    }
}

fn check_selectors(errs: &mut Errors, spec: &Value) {
    let (path, attributes) = (Path::new("spec").child("resourceAttributes"), get(spec, "resourceAttributes"));
    for kind in ["fieldSelector", "labelSelector"] {
        if let Some(selector) = some(attributes, kind) {
            check_selector(errs, &path.child(kind), selector);
        }
    }
}

fn check_selector(errs: &mut Errors, path: &Path, selector: &Value) {
    let (raw, requirements) = (text(selector, "rawSelector"), list(selector, "requirements"));
    if !raw.is_empty() && !requirements.is_empty() {
        let message = "may not specified at the same time as requirements";
        errs.push(FieldError::invalid(path.child("rawSelector"), raw, message));
    }
    let path = path.child("requirements");
    if raw.is_empty() && requirements.is_empty() {
        let whole = path.as_str().trim_end_matches(".requirements");
        let message = format!("when {whole} is specified, requirements or rawSelector is required");
        errs.push(FieldError::required(&path, message));
    }
    for (i, requirement) in requirements.iter().enumerate() {
        check_requirement(errs, &path.index(i), requirement);
    }
}

/// Operators that are not known may be those of a newer client.
fn check_requirement(errs: &mut Errors, path: &Path, requirement: &Value) {
    let values = list(requirement, "values");
    if text(requirement, "key").is_empty() {
        errs.push(FieldError::required(path.child("key"), "must be specified"));
    }
    match text(requirement, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            let message = "must be specified when `operator` is 'In' or 'NotIn'";
            errs.push(FieldError::required(path.child("values"), message));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let message = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errs.push(FieldError::forbidden(path.child("values"), message));
        }
        _ => {}
    }
}

fn check_self(errs: &mut Errors, review: &Value) {
    check_attributes(errs, get(review, "spec"));
    check_selectors(errs, get(review, "spec"));
    check_metadata(errs, review);
}

fn check_subject(errs: &mut Errors, spec: &Value) {
    check_attributes(errs, spec);
    if text(spec, "user").is_empty() && list(spec, "groups").is_empty() {
        let message = "at least one of user or group must be specified";
        errs.push(FieldError::invalid("spec.user", "", message));
    }
    check_selectors(errs, spec);
}

fn check_access(errs: &mut Errors, review: &Value) {
    check_subject(errs, get(review, "spec"));
    check_metadata(errs, review);
}

fn check_local(errs: &mut Errors, review: &Value) {
    let spec = get(review, "spec");
    check_subject(errs, spec);
    check_empty(errs, review, &["namespace"], "must be empty except for namespace");
    let namespace = text(get(review, "metadata"), "namespace");
    if let Some(attributes) = some(spec, "resourceAttributes") {
        let asked = text(attributes, "namespace");
        if asked != namespace {
            errs.push(FieldError::invalid("spec.resourceAttributes.namespace", asked, "must match metadata.namespace"));
        }
    }
    if let Some(other) = some(spec, "nonResourceAttributes") {
        let path = "spec.nonResourceAttributes";
        errs.push(FieldError::invalid(path, shown_path(other), "disallowed on this kind of request"));
    }
}

/// Metadata means nothing here, and so must be empty.
fn check_metadata(errs: &mut Errors, review: &Value) {
    check_empty(errs, review, &[], "must be empty");
}

fn check_empty(errs: &mut Errors, review: &Value, but: &[&str], why: &str) {
    let own = |key: &str| ["managedFields", "creationTimestamp", "uid"].contains(&key) || but.contains(&key);
    if has(review, "metadata") && entries(review, "metadata").any(|(key, _)| !own(key)) {
        errs.push(FieldError::invalid("metadata", shown_metadata(get(review, "metadata")), why));
    }
}

const META: [&str; 15] = [
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
];
const OWNER: [&str; 7] = ["manager", "operation", "apiVersion", "time", "fieldsType", "fieldsV1", "subresource"];

/// Metadata with its fields in the order of upstream's type.
fn shown_metadata(meta: &Value) -> Bad {
    let owners: Vec<String> =
        list(meta, "managedFields").iter().map(|owner| ordered(owner, &OWNER, &|_| None)).collect();
    let shown = |field: &str| (field == "managedFields").then(|| format!("[{}]", owners.join(",")));
    Bad::Raw(ordered(meta, &META, &shown))
}

/// An object with its fields in this order; `shown`: those that are written otherwise.
fn ordered(value: &Value, order: &[&str], shown: &dyn Fn(&str) -> Option<String>) -> String {
    let there = order.iter().filter(|field| has(value, field));
    let text =
        there.map(|field| format!("\"{field}\":{}", shown(field).unwrap_or_else(|| get(value, field).to_string())));
    format!("{{{}}}", text.collect::<Vec<_>>().join(","))
}
