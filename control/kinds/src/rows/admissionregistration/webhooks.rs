//! Webhooks: of the mutating and of the validating kind.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{FAILURE_POLICIES, GROUP, MATCH_POLICIES, REINVOCATION_POLICIES, cel, check_choice};
use crate::{
    FieldError, Path, ResourceDef, Strategy, meta,
    rows::{
        cells::{self, Cell},
        clients, selector,
        value::{
            carry_generation, default_text, default_to, get, int, items_mut, list, set_generation, some, some_mut,
            text, texts,
        },
        vocab::{self, Errors},
    },
};

/// The rows.
pub(super) fn defs() -> [ResourceDef; 2] {
    let mutating = ResourceDef::new(
        GROUP,
        ("mutatingwebhookconfigurations", "mutatingwebhookconfiguration", "MutatingWebhookConfiguration"),
        "io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration",
        Webhooks { mutating: true },
    );
    let validating = ResourceDef::new(
        GROUP,
        ("validatingwebhookconfigurations", "validatingwebhookconfiguration", "ValidatingWebhookConfiguration"),
        "io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration",
        Webhooks { mutating: false },
    );
    [mutating, validating]
}

const HARMLESS: &[&str] = &["None", "NoneOnDryRun"];
const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun", "Some", "Unknown"];
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

struct Webhooks {
    mutating: bool,
}

impl Strategy for Webhooks {
    fn default(&self, obj: &mut Value) {
        for hook in items_mut(obj, "webhooks") {
            default_text(hook, "failurePolicy", "Fail");
            default_text(hook, "matchPolicy", "Equivalent");
            super::default_selectors(hook);
            default_to(hook, "timeoutSeconds", 10);
            if self.mutating {
                default_text(hook, "reinvocationPolicy", "Never");
            }
            super::default_rules(hook, "rules");
            if let Some(service) = some_mut(hook, "clientConfig").and_then(|client| some_mut(client, "service")) {
                default_to(service, "port", 443);
            }
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        set_generation(obj, 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _sub: Option<&str>) {
        let changed = list(new, "webhooks") != list(old, "webhooks");
        carry_generation(new, old, changed);
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        self.check(&mut errs, obj, &Tolerated::default());
        super::check_static_name(&mut errs, obj);
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = meta::validate_object_meta(new, false, &|name, prefix| self.name_errors(name, prefix));
        self.check(&mut errs, new, &Tolerated::of(new, old));
        errs
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = if old.is_some() { super::warn_of_static_name(obj) } else { Vec::new() };
        for (i, hook) in list(obj, "webhooks").iter().enumerate() {
            for (j, rule) in list(hook, "rules").iter().enumerate() {
                let ignored = ignored(rule).into_iter();
                let why = "is excluded from admission webhooks; this rule will have no effect";
                out.extend(ignored.map(|resource| format!("webhooks[{i}].rules[{j}]: {resource} {why}")));
            }
        }
        out
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        vec![cells::name(obj), cells::of(list(obj, "webhooks").len()), cells::age(obj)]
    }
}

/// Reviews, which webhooks are never asked about (`pkg/kubeapiserver/admission/exclusion`).
const IGNORED: &[(&str, &str)] = &[
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];

/// What a rule names in vain, as `resource.group`.
fn ignored(rule: &Value) -> Vec<String> {
    let (groups, resources) = (texts(rule, "apiGroups"), texts(rule, "resources"));
    if groups.contains(&"*") || resources.contains(&"*") {
        return Vec::new();
    }
    let mut out = Vec::new();
    for group in groups {
        for resource in resources.iter().filter(|resource| IGNORED.contains(&(group, **resource))) {
            let shown = format!("{resource}.{group}");
            if !out.contains(&shown) {
                out.push(shown);
            }
        }
    }
    out
}

/// What is not held against an update, as it was so before.
#[derive(Default)]
struct Tolerated {
    conditions: bool,
    side_effects: bool,
    unknown_reviews: bool,
    repeated_names: bool,
    selectors: bool,
}

impl Tolerated {
    fn of(new: &Value, old: &Value) -> Self {
        let hooks = list(old, "webhooks");
        let names: BTreeSet<&str> = hooks.iter().map(|hook| text(hook, "name")).collect();
        let conditions =
            |obj| list(obj, "webhooks").iter().map(|hook| get(hook, "matchConditions")).collect::<Vec<_>>();
        let unknown = |hook: &Value| {
            let versions = texts(hook, "admissionReviewVersions");
            !versions.is_empty() && !REVIEWS.iter().any(|known| versions.contains(known))
        };
        let bad_selector = |hook: &Value| {
            let mut errs = Errors::new();
            for field in ["namespaceSelector", "objectSelector"] {
                selector::check(&mut errs, &Path::new(field), get(hook, field));
            }
            !errs.is_empty()
        };
        Self {
            conditions: conditions(new) == conditions(old),
            side_effects: !hooks.iter().all(|hook| HARMLESS.contains(&text(hook, "sideEffects"))),
            unknown_reviews: hooks.iter().any(unknown),
            repeated_names: names.len() < hooks.len(),
            selectors: hooks.iter().any(bad_selector),
        }
    }
}

impl Webhooks {
    fn check(&self, errs: &mut Errors, obj: &Value, tolerated: &Tolerated) {
        let mut seen = BTreeSet::new();
        for (i, hook) in list(obj, "webhooks").iter().enumerate() {
            let (path, name) = (Path::new("webhooks").index(i), text(hook, "name"));
            self.check_hook(errs, &path, hook, tolerated);
            check_reviews(errs, &path.child("admissionReviewVersions"), hook, tolerated);
            if !name.is_empty() && !seen.insert(name) && !tolerated.repeated_names {
                errs.push(FieldError::duplicate(path.child("name"), name));
            }
        }
    }

    fn check_hook(&self, errs: &mut Errors, path: &Path, hook: &Value, tolerated: &Tolerated) {
        check_name(errs, &path.child("name"), text(hook, "name"));
        for (i, rule) in list(hook, "rules").iter().enumerate() {
            super::check_rule(errs, &path.child("rules").index(i), rule);
        }
        check_choice(errs, path, hook, "failurePolicy", FAILURE_POLICIES);
        check_choice(errs, path, hook, "matchPolicy", MATCH_POLICIES);
        let known = if tolerated.side_effects { SIDE_EFFECTS } else { HARMLESS };
        match some(hook, "sideEffects") {
            None => {
                let message = format!("must specify one of {}", known.join(", "));
                errs.push(FieldError::required(path.child("sideEffects"), message));
            }
            Some(_) => check_choice(errs, path, hook, "sideEffects", known),
        }
        if let Some(seconds) = int(hook, "timeoutSeconds").filter(|seconds| !(1..=30).contains(seconds)) {
            let message = "the timeout value must be between 1 and 30 seconds";
            errs.push(FieldError::invalid(path.child("timeoutSeconds"), seconds, message));
        }
        for field in ["namespaceSelector", "objectSelector"] {
            let values = tolerated.selectors;
            selector::check_but(errs, &path.child(field), get(hook, field), values);
        }
        if self.mutating {
            check_choice(errs, path, hook, "reinvocationPolicy", REINVOCATION_POLICIES);
        }
        clients::check(
            errs,
            &path.child("clientConfig"),
            get(hook, "clientConfig"),
            "exactly one of url or service is required",
        );
        if !tolerated.conditions {
            let scope = cel::Scope::new(false, true, cel::Age::New);
            let conditions = list(hook, "matchConditions");
            super::check_match_conditions(errs, &path.child("matchConditions"), conditions, &scope);
        }
    }
}

fn check_name(errs: &mut Errors, path: &Path, name: &str) {
    let problems = vocab::subdomain_errors(name);
    if name.is_empty() {
        errs.push(FieldError::required(path, ""));
    } else if !problems.is_empty() {
        errs.push(FieldError::invalid(path, name, problems.join(",")));
    } else if name.split('.').count() < 3 {
        let message = "should be a domain with at least three segments separated by dots";
        errs.push(FieldError::invalid(path, name, message));
    }
}

fn check_reviews(errs: &mut Errors, path: &Path, hook: &Value, tolerated: &Tolerated) {
    let versions = texts(hook, "admissionReviewVersions");
    if versions.is_empty() {
        errs.push(FieldError::required(path, format!("must specify one of {}", REVIEWS.join(", "))));
        return;
    }
    for (i, version) in versions.iter().enumerate() {
        if versions[..i].contains(version) {
            errs.push(FieldError::invalid(path.index(i), *version, "duplicate version"));
        } else {
            vocab::invalid(errs, &path.index(i), *version, meta::dns1035_label(version));
        }
    }
    if !tolerated.unknown_reviews && !REVIEWS.iter().any(|known| versions.contains(known)) {
        let message = format!("must include at least one of {}", REVIEWS.join(", "));
        errs.push(FieldError::invalid(path, json!(versions), message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_name_reviews_are_in_vain() {
        for (groups, resources, expect) in [
            (
                &["authorization.k8s.io"][..],
                &["subjectaccessreviews"][..],
                vec!["subjectaccessreviews.authorization.k8s.io"],
            ),
            (&["*"], &["subjectaccessreviews"], vec![]),
            (&["apps"], &["deployments"], vec![]),
        ] {
            assert_eq!(ignored(&json!({"apiGroups": groups, "resources": resources})), expect);
        }
    }
}
