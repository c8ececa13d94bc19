//! ResourceQuotas.

use serde_json::{Value, json};

use super::cells::{self, Cell};
use super::template::resources;
use super::value::{copy, entries, get, has, list, set, text, texts};
use super::vocab::{self, Errors};
use crate::schema::quantity::Amount;
use crate::{Bad, FieldError, Path, ResourceDef, Strategy, Verbs, resource::names};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        short: names(&["quota"]),
        delete_returns_object: true,
        ..ResourceDef::new(
            ("", "v1"),
            ("resourcequotas", "resourcequota", "ResourceQuota"),
            "io.k8s.api.core.v1.ResourceQuota",
            ResourceQuotas,
        )
    }
    .with_part("status", Verbs::PART)
}

struct ResourceQuotas;

impl Strategy for ResourceQuotas {
    fn tells_empty(&self) -> &'static [&'static str] {
        &["spec.scopeSelector.matchExpressions.*.values"]
    }

    fn prepare_create(&self, obj: &mut Value) {
        set(obj, "status", json!({}));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        copy(new, old, if sub == Some("status") { "spec" } else { "status" });
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check_spec(&mut errs, get(obj, "spec"));
        check_amounts(&mut errs, &Path::new("status").child("hard"), get(get(obj, "status"), "hard"));
        check_amounts(&mut errs, &Path::new("status").child("used"), get(get(obj, "status"), "used"));
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if sub == Some("status") {
            check_amounts(&mut errs, &Path::new("status").child("hard"), get(get(new, "status"), "hard"));
            check_amounts(&mut errs, &Path::new("status").child("used"), get(get(new, "status"), "used"));
            return errs;
        }
        check_spec(&mut errs, get(new, "spec"));
        let (now, before) = (get(get(new, "spec"), "scopes"), get(get(old, "spec"), "scopes"));
        if sorted(get(new, "spec")) != sorted(get(old, "spec")) {
            vocab::immutable(&mut errs, "spec.scopes", now, before);
        }
        errs
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let status = get(obj, "status");
        let shown = |limits: bool| {
            let hard = entries(status, "hard").filter(|(name, _)| name.starts_with("limits.") == limits);
            let parts =
                hard.map(|(name, hard)| format!("{name}: {}/{}", amount(get(get(status, "used"), name)), amount(hard)));
            parts.collect::<Vec<_>>().join(", ")
        };
        vec![cells::name(obj), cells::of(shown(false)), cells::of(shown(true)), cells::age(obj)]
    }
}

fn amount(value: &Value) -> Amount {
    Amount::of(value).unwrap_or(Amount::ZERO)
}

fn sorted(spec: &Value) -> Vec<&str> {
    let mut scopes = texts(spec, "scopes");
    scopes.sort_unstable();
    scopes.dedup();
    scopes
}

fn check_spec(errs: &mut Errors, spec: &Value) {
    let path = Path::new("spec");
    check_amounts(errs, &path.child("hard"), get(spec, "hard"));
    let hard: Vec<&str> = entries(spec, "hard").map(|(name, _)| name.as_str()).collect();
    check_scopes(errs, &path.child("scopes"), spec, &hard);
    if has(spec, "scopeSelector") {
        check_selector(errs, &path.child("scopeSelector").child("matchExpressions"), spec, &hard);
    }
}

fn check_amounts(errs: &mut Errors, path: &Path, amounts: &Value) {
    for (name, value) in amounts.as_object().into_iter().flatten() {
        let at = path.key(name);
        resources::check_any_name(errs, &at, name);
        if !name.contains('/') && !standard(name) {
            errs.push(FieldError::invalid(&at, name.as_str(), "must be a standard resource for quota"));
        }
        resources::check_amount(errs, &at, name, value);
    }
}

/// Resources that quotas know without a domain.
fn standard(name: &str) -> bool {
    name != "storage" && resources::standard(name)
}

const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];
const CONFLICTS: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];
const COMPUTE: [&str; 6] = ["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

/// Whether a quota of this scope can count this resource.
fn countable(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => ["persistentvolumeclaims", "requests.storage"].contains(&resource),
        scope if SCOPES.contains(&scope) => resource == "pods" || COMPUTE.contains(&resource),
        _ => true,
    }
}

fn check_scopes(errs: &mut Errors, path: &Path, spec: &Value, hard: &[&str]) {
    let scopes = texts(spec, "scopes");
    let mut bad = |message: &str| errs.push(FieldError::invalid(path, get(spec, "scopes").clone(), message));
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            bad("unsupported scope");
        }
        for _ in hard.iter().filter(|name| standard(name) && !countable(scope, name)) {
            bad("unsupported scope applied to resource");
        }
    }
    if CONFLICTS.iter().any(|pair| pair.iter().all(|scope| scopes.contains(scope))) {
        bad("conflicting scopes");
    }
}

fn check_selector(errs: &mut Errors, path: &Path, spec: &Value, hard: &[&str]) {
    let terms = list(get(spec, "scopeSelector"), "matchExpressions");
    for term in terms {
        let (scope, operator) = (text(term, "scopeName"), text(term, "operator"));
        if !SCOPES.contains(&scope) {
            errs.push(FieldError::invalid(path.child("scopeName"), scope, "unsupported scope"));
        }
        for _ in hard.iter().filter(|name| standard(name) && !countable(scope, name)) {
            errs.push(FieldError::invalid(path, shown(terms), "unsupported scope applied to resource"));
        }
        if SCOPES.contains(&scope)
            && !["PriorityClass", "VolumeAttributesClass"].contains(&scope)
            && operator != "Exists"
        {
            let message = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            errs.push(FieldError::invalid(path.child("operator"), operator, message));
        }
        check_operator(errs, path, term, operator);
    }
    let named = |scope: &&str| terms.iter().any(|term| text(term, "scopeName") == *scope);
    if CONFLICTS.iter().any(|pair| pair.iter().all(&named)) {
        errs.push(FieldError::invalid(path, get(spec, "scopes").clone(), "conflicting scopes"));
    }
}

fn check_operator(errs: &mut Errors, path: &Path, term: &Value, operator: &str) {
    let values = list(term, "values");
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            let message = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
            errs.push(FieldError::required(path.child("values"), message));
        }
        "In" | "NotIn" => {}
        "Exists" | "DoesNotExist" if values.is_empty() => {}
        "Exists" | "DoesNotExist" => {
            let message = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
            errs.push(FieldError::invalid(path.child("values"), get(term, "values").clone(), message));
        }
        operator => {
            let message = "not a valid selector operator";
            errs.push(FieldError::invalid(path.child("operator"), operator, message));
        }
    }
}

/// A scope selector as upstream's internal type prints it.
fn shown(terms: &[Value]) -> Bad {
    let term = |term: &Value| {
        let field = |name: &str| json!(text(term, name));
        let values = get(term, "values");
        format!("{{\"ScopeName\":{},\"Operator\":{},\"Values\":{values}}}", field("scopeName"), field("operator"))
    };
    let terms: Vec<String> = terms.iter().map(term).collect();
    Bad::Raw(format!("{{\"MatchExpressions\":[{}]}}", terms.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_checked() {
        let selector = |scope: &str, operator: &str, values: Value| json!({"scopeSelector": {"matchExpressions": [{"scopeName": scope, "operator": operator, "values": values}]}});
        for (spec, expect) in [
            (
                json!({"hard": {"pods": "1", "count/jobs.batch": "1", "requests.a.b/gpu": "1", "hugepages-2Mi": "1"}}),
                "",
            ),
            (json!({"hard": {"storage": "1"}}), "must be a standard resource for quota"),
            (json!({"hard": {"pods": "1500m"}}), "must be an integer"),
            (json!({"hard": {"pods": "1"}, "scopes": ["BestEffort", "NotBestEffort"]}), "conflicting scopes"),
            (json!({"hard": {"persistentvolumeclaims": "1"}, "scopes": ["VolumeAttributesClass"]}), ""),
            (
                json!({"hard": {"pods": "1"}, "scopes": ["VolumeAttributesClass"]}),
                "unsupported scope applied to resource",
            ),
            (selector("Terminating", "In", json!(["a"])), "must be 'Exist' when"),
            (selector("PriorityClass", "Exists", json!(["a"])), "must be no value"),
            (selector("PriorityClass", "Like", json!([])), "not a valid selector operator"),
        ] {
            let mut errs = Errors::new();
            check_spec(&mut errs, &spec);
            let found = errs.first().map(|error| error.detail.as_str()).unwrap_or_default();
            assert!(
                errs.len() < 2 && found.starts_with(expect) && found.is_empty() == expect.is_empty(),
                "{spec}: {errs:?}"
            );
        }
    }

    #[test]
    fn scopes_stay_and_status_has_a_door_of_its_own() {
        let old = json!({"spec": {"hard": {"pods": "1"}, "scopes": ["BestEffort"]}, "status": {"hard": {"pods": "1"}}});
        let mut new = json!({"spec": {"hard": {"pods": "2"}, "scopes": []}, "status": {}});
        let errs = ResourceQuotas.validate_update(&new, &old, None);
        assert_eq!((errs.len(), errs[0].path.as_str()), (1, "spec.scopes"));
        ResourceQuotas.prepare_update(&mut new, &old, Some("status"));
        assert_eq!(new["spec"], old["spec"]);
    }
}
