//! Reviews: questions that are answered and not stored.

use serde_json::{Value, json};

use super::value::{entries, get, has, list, some, text};
use super::vocab::Errors;
use crate::{Bad, FieldError, GroupResource, Path, ResourceDef, Scope, Strategy};

macro_rules! review {
    ($(#[$doc:meta])* $name:ident, $group:literal, $plural:literal, $singular:literal, $kind:literal, $scope:ident, $schema:literal, $check:expr) => {
        $(#[$doc])*
        pub static $name: ResourceDef = ResourceDef {
            group: $group,
            version: "v1",
            plural: $plural,
            singular: $singular,
            kind: $kind,
            scope: Scope::$scope,
            verbs: &["create"],
            short: &[],
            categories: &[],
            subresources: &[],
            schema: $schema,
            storage: GroupResource { group: $group, resource: $plural },
            storage_kind: (concat!($group, "/v1"), $kind),
            strategy: &Review { check: $check },
        };
    };
}

review!(
    /// Who am I?
    SELF_SUBJECT, "authentication.k8s.io", "selfsubjectreviews", "selfsubjectreview", "SelfSubjectReview", Cluster,
    "io.k8s.api.authentication.v1.SelfSubjectReview", |_, _| {}
);
review!(
    /// Whose token is this?
    TOKEN, "authentication.k8s.io", "tokenreviews", "tokenreview", "TokenReview", Cluster,
    "io.k8s.api.authentication.v1.TokenReview", |_, _| {}
);
review!(
    /// May somebody do this in this namespace?
    LOCAL_ACCESS, "authorization.k8s.io", "localsubjectaccessreviews", "localsubjectaccessreview",
    "LocalSubjectAccessReview", Namespaced, "io.k8s.api.authorization.v1.LocalSubjectAccessReview", check_local
);
review!(
    /// May I do this?
    SELF_ACCESS, "authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectaccessreview",
    "SelfSubjectAccessReview", Cluster, "io.k8s.api.authorization.v1.SelfSubjectAccessReview", check_self
);
review!(
    /// What may I do in a namespace?
    SELF_RULES, "authorization.k8s.io", "selfsubjectrulesreviews", "selfsubjectrulesreview", "SelfSubjectRulesReview",
    Cluster, "io.k8s.api.authorization.v1.SelfSubjectRulesReview", |_, _| {}
);
review!(
    /// May somebody do this?
    ACCESS, "authorization.k8s.io", "subjectaccessreviews", "subjectaccessreview", "SubjectAccessReview", Cluster,
    "io.k8s.api.authorization.v1.SubjectAccessReview", check_access
);

struct Review {
    check: fn(&mut Errors, &Value),
}

impl Strategy for Review {
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        (self.check)(&mut errs, obj);
        errs
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

fn check_self(errs: &mut Errors, review: &Value) {
    check_attributes(errs, get(review, "spec"));
    check_metadata(errs, review);
}

fn check_subject(errs: &mut Errors, spec: &Value) {
    check_attributes(errs, spec);
    if text(spec, "user").is_empty() && list(spec, "groups").is_empty() {
        let message = "at least one of user or group must be specified";
        errs.push(FieldError::invalid("spec.user", "", message));
    }
}

fn check_access(errs: &mut Errors, review: &Value) {
    check_subject(errs, get(review, "spec"));
    check_metadata(errs, review);
}

fn check_local(errs: &mut Errors, review: &Value) {
    let spec = get(review, "spec");
    check_subject(errs, spec);
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
    let meta = get(review, "metadata");
    if has(review, "metadata")
        && entries(review, "metadata")
            .any(|(key, _)| key != "managedFields" && key != "creationTimestamp" && key != "uid")
    {
        errs.push(FieldError::invalid("metadata", meta.clone(), "must be empty"));
    }
}
