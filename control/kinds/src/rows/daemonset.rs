//! DaemonSets.

use serde_json::{Value, json};

use super::cells::{self, Cell};
use super::value::{
    annotation, carry_generation, child, copy, default_text, default_to, get, num, set, set_generation, some, text,
};
use super::vocab::{self, Errors};
use super::{replicas, selector, template};
use crate::{Bad, FieldError, Path, ResourceDef, Strategy, Verbs, meta, resource::names};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        short: names(&["ds"]),
        categories: names(&["all"]),
        ..ResourceDef::new(
            ("apps", "v1"),
            ("daemonsets", "daemonset", "DaemonSet"),
            "io.k8s.api.apps.v1.DaemonSet",
            DaemonSets,
        )
    }
    .with_part("status", Verbs::PART)
}

/// Counts the templates that a set has had. Upstream keeps it in a field that `apps/v1` shows as this annotation.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

struct DaemonSets;

impl Strategy for DaemonSets {
    fn default(&self, obj: &mut Value) {
        let spec = child(obj, "spec");
        template::defaults::template(child(spec, "template"));
        default_to(spec, "revisionHistoryLimit", 10);
        let strategy = child(spec, "updateStrategy");
        default_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            let rolling = child(strategy, "rollingUpdate");
            default_to(rolling, "maxUnavailable", 1);
            default_to(rolling, "maxSurge", 0);
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        let status = json!({
            "currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0,
        });
        set(obj, "status", status);
        set_generation(obj, 1);
        let templates = template_generation(obj).max(1);
        set_template_generation(obj, templates);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        let templates = template_generation(old);
        if sub == Some("status") {
            copy(new, old, "spec");
            set_template_generation(new, templates);
            carry_generation(new, old, false);
            return;
        }
        copy(new, old, "status");
        let moved = get(get(new, "spec"), "template") != get(get(old, "spec"), "template");
        set_template_generation(new, templates + i64::from(moved));
        let changed = new.get("spec") != old.get("spec");
        carry_generation(new, old, changed);
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check(&mut errs, get(obj, "spec"), false);
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        if sub == Some("status") {
            let mut errs = Errors::new();
            check_status(&mut errs, get(new, "status"), get(old, "status"));
            return errs;
        }
        // Upstream judges the new set as such, and then once more as a change.
        let mut errs = meta::validate_object_meta(new, true, &|name, prefix| self.name_errors(name, prefix));
        for _ in 0..2 {
            check(&mut errs, get(new, "spec"), replicas::emptied(new, old));
        }
        replicas::check_selector_kept(&mut errs, new, old);
        errs
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        replicas::warn_template(obj, old)
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let (spec, status) = (get(obj, "spec"), get(obj, "status"));
        let (names, images) = template::show_containers(get(spec, "template"));
        vec![
            cells::name(obj),
            cells::of(num(status, "desiredNumberScheduled")),
            cells::of(num(status, "currentNumberScheduled")),
            cells::of(num(status, "numberReady")),
            cells::of(num(status, "updatedNumberScheduled")),
            cells::of(num(status, "numberAvailable")),
            cells::of(selector::show_map(get(get(spec, "template"), "spec"), "nodeSelector")),
            cells::age(obj),
            cells::of(names),
            cells::of(images),
            cells::of(selector::show(get(spec, "selector"))),
        ]
    }
}

fn template_generation(obj: &Value) -> i64 {
    annotation(obj, TEMPLATE_GENERATION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn set_template_generation(obj: &mut Value, generation: i64) {
    let annotations = child(child(obj, "metadata"), "annotations");
    set(annotations, TEMPLATE_GENERATION, generation.to_string());
}

fn check(errs: &mut Errors, spec: &Value, emptied: bool) {
    let path = Path::new("spec");
    check_selector(errs, &path, spec, emptied);
    vocab::not_negative(errs, &path.child("minReadySeconds"), num(spec, "minReadySeconds"));
    check_strategy(errs, &path.child("updateStrategy"), get(spec, "updateStrategy"));
    replicas::check_optional(errs, &path, spec, "revisionHistoryLimit");
}

/// Unlike in other sets, a missing selector, or one that cannot be used, is no finding of its own.
fn check_selector(errs: &mut Errors, path: &Path, spec: &Value, emptied: bool) {
    let (wanted, at) = (get(spec, "selector"), path.child("selector"));
    let (pod, pod_at) = (get(spec, "template"), path.child("template"));
    selector::check(errs, &at, wanted);
    if wanted.is_null() || selector::parse(wanted).is_some() {
        template::check_fit(errs, &pod_at, pod, wanted, emptied);
    }
    if !wanted.is_null() && selector::is_empty(wanted) {
        errs.push(FieldError::invalid(&at, selector::bad(wanted), "empty selector is invalid for daemonset"));
    }
    template::check_of_set(errs, &pod_at, pod, "DaemonSet");
}

fn check_strategy(errs: &mut Errors, path: &Path, strategy: &Value) {
    match (text(strategy, "type"), some(strategy, "rollingUpdate")) {
        ("OnDelete", _) => {}
        ("RollingUpdate", Some(rolling)) => check_rolling(errs, &path.child("rollingUpdate"), rolling),
        ("RollingUpdate", None) => errs.push(FieldError::required(path.child("rollingUpdate"), "")),
        (kind, rolling) => {
            let rolling = rolling.map_or("null".to_owned(), |rolling| {
                let (unavailable, surge) = (get(rolling, "maxUnavailable"), get(rolling, "maxSurge"));
                format!("{{\"MaxUnavailable\":{unavailable},\"MaxSurge\":{surge}}}")
            });
            let shown = Bad::Raw(format!("{{\"Type\":{},\"RollingUpdate\":{rolling}}}", json!(kind)));
            errs.push(FieldError::not_supported(path, shown, &["RollingUpdate", "OnDelete"]));
        }
    }
}

/// Exactly one of the two limits is not zero.
fn check_rolling(errs: &mut Errors, path: &Path, rolling: &Value) {
    let limits = ["maxUnavailable", "maxSurge"].map(|field| (path.child(field), get(rolling, field)));
    for (at, value) in &limits {
        vocab::count_or_percent(errs, at, value);
    }
    for (at, value) in &limits {
        vocab::at_most_all(errs, at, value);
    }
    let [(unavailable_at, unavailable), (surge_at, surge)] = &limits;
    match (vocab::count_of(unavailable) != 0, vocab::count_of(surge) != 0) {
        (true, true) => {
            let message = "may not be set when maxUnavailable is non-zero";
            errs.push(FieldError::invalid(surge_at, (*surge).clone(), message));
        }
        (false, false) => errs.push(FieldError::required(unavailable_at, "cannot be 0 when maxSurge is 0")),
        _ => {}
    }
}

fn check_status(errs: &mut Errors, status: &Value, before: &Value) {
    let counts = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
    ];
    replicas::check_counts(errs, status, &counts);
    replicas::check_optional(errs, &Path::new("status"), status, "collisionCount");
    replicas::check_collisions(errs, status, before);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::value::has;

    fn set_with(annotations: Value, image: &str, limit: i64) -> Value {
        json!({"metadata": {"annotations": annotations, "generation": 3},
               "spec": {"revisionHistoryLimit": limit, "template": {"spec": {"containers": [{"image": image}]}}}})
    }

    #[test]
    fn only_new_templates_are_counted() {
        let old = set_with(json!({TEMPLATE_GENERATION: "7"}), "a", 1);
        for (name, new, sub, templates, generation) in [
            ("the same", set_with(json!({}), "a", 1), None, "7", 3),
            ("a client's own count", set_with(json!({TEMPLATE_GENERATION: "99"}), "a", 1), None, "7", 3),
            ("another template", set_with(json!({}), "b", 1), None, "8", 4),
            ("something else", set_with(json!({}), "a", 2), None, "7", 4),
            ("a status", set_with(json!({TEMPLATE_GENERATION: "99"}), "b", 1), Some("status"), "7", 3),
        ] {
            let mut new = new;
            DaemonSets.prepare_update(&mut new, &old, sub);
            assert_eq!(annotation(&new, TEMPLATE_GENERATION), Some(templates), "{name}");
            assert_eq!(new["metadata"]["generation"], generation, "{name}");
            assert!(has(&new, "spec"), "{name}");
        }
    }
}
