//! Jobs.

mod policy;
pub(super) mod spec;
mod status;
mod update;

use kontiki_model::selector::Selector;
use serde_json::{Map, Value};

use super::cells::{self, Cell};
use super::template::{self, defaults, warnings};
use super::value::{
    at, child, default_text, default_to, entries, get, has, int, items_mut, list, num, on, set, set_generation, some,
    text, unset,
};
use super::vocab::{self, Errors};
use super::{replicas, selector};
use crate::{Bad, FieldError, Path, ResourceDef, Strategy, Verbs, meta, resource::names};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        categories: names(&["all"]),
        fields: names(&["status.successful"]),
        ..ResourceDef::new(("batch", "v1"), ("jobs", "job", "Job"), "io.k8s.api.batch.v1.Job", Jobs)
    }
    .with_part("status", Verbs::PART)
}

const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// The same labels from before they had a prefix.
const OLD_CONTROLLER_UID: &str = "controller-uid";
const OLD_JOB_NAME: &str = "job-name";

struct Jobs;

impl Strategy for Jobs {
    fn default(&self, obj: &mut Value) {
        default_spec(child(obj, "spec"));
        default_labels(obj);
        pod_conditions(child(obj, "spec"));
        defaults::template(child(child(obj, "spec"), "template"));
    }

    fn prepare_create(&self, obj: &mut Value) {
        if !on(get(obj, "spec"), "manualSelector") {
            generate_selector(obj);
            // Upstream's defaults are there again when it is read.
            default_labels(obj);
        }
        // Behind a gate that is off.
        unset(child(obj, "spec"), "scheduling");
        set(obj, "status", Map::new());
        set_generation(obj, 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        if !has(get(old, "spec"), "scheduling") {
            unset(child(new, "spec"), "scheduling");
        }
        replicas::prepare_update(new, old, sub);
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        check(obj, true)
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        if sub == Some("status") {
            return status::check(new, old);
        }
        let labels = at(old, &["spec", "template", "metadata", "labels"]);
        let prefixed = [JOB_NAME, CONTROLLER_UID].iter().all(|key| has(labels, key));
        let mut errs = meta::validate_object_meta(new, true, &|name, prefix| self.name_errors(name, prefix));
        errs.extend(check(new, prefixed));
        update::check(&mut errs, new, old);
        errs
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        warn(obj, old, &Path::new("spec"), get(obj, "spec"))
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn orphan_warning(&self) -> Option<&'static str> {
        Some(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or \
             set propagationPolicy=Orphan to suppress this warning",
        )
    }

    fn field(&self, obj: &Value, path: &str) -> String {
        match path {
            "status.successful" => num(get(obj, "status"), "succeeded").to_string(),
            _ => String::new(),
        }
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let spec = get(obj, "spec");
        let (names, images) = template::show_containers(get(spec, "template"));
        vec![
            cells::name(obj),
            cells::of(phase(obj)),
            cells::of(completions(spec, num(get(obj, "status"), "succeeded"))),
            duration(get(obj, "status")),
            cells::age(obj),
            cells::of(names),
            cells::of(images),
            cells::of(selector::show(get(spec, "selector"))),
        ]
    }
}

/// Who has no labels has those of its pods.
fn default_labels(obj: &mut Value) {
    let labels = at(obj, &["spec", "template", "metadata", "labels"]).clone();
    if labels.is_object() && entries(get(obj, "metadata"), "labels").next().is_none() {
        set(child(obj, "metadata"), "labels", labels);
    }
}

fn default_spec(spec: &mut Value) {
    if !has(spec, "completions") && !has(spec, "parallelism") {
        set(spec, "completions", 1);
    }
    default_to(spec, "parallelism", 1);
    let limit = if has(spec, "backoffLimitPerIndex") { i64::from(i32::MAX) } else { 6 };
    default_to(spec, "backoffLimit", limit);
    default_to(spec, "completionMode", "NonIndexed");
    default_to(spec, "suspend", false);
    let replacement = if has(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    default_to(spec, "podReplacementPolicy", replacement);
    default_to(spec, "manualSelector", false);
}

/// Defaults of a spec that stands in a Job or in the template of one.
pub(super) fn pod_conditions(spec: &mut Value) {
    let Some(policy) = super::value::some_mut(spec, "podFailurePolicy") else { return };
    for rule in items_mut(policy, "rules") {
        items_mut(rule, "onPodConditions").for_each(|pattern| default_text(pattern, "status", "True"));
    }
}

/// Labels that no other Job's pods have, and the selector that finds them. What a client gave stays; validation refuses
/// it if it does not fit.
fn generate_selector(obj: &mut Value) {
    let field = |name: &str| text(get(obj, "metadata"), name).to_owned();
    let (name, uid) = (field("name"), field("uid"));
    let spec = child(obj, "spec");
    let labels = child(child(child(spec, "template"), "metadata"), "labels");
    for (key, value) in [(OLD_JOB_NAME, &name), (JOB_NAME, &name), (OLD_CONTROLLER_UID, &uid), (CONTROLLER_UID, &uid)] {
        default_to(labels, key, value.as_str());
    }
    default_to(child(child(spec, "selector"), "matchLabels"), CONTROLLER_UID, uid);
}

fn check(obj: &Value, prefixed: bool) -> Errors {
    let mut errs = Errors::new();
    check_generated(&mut errs, obj, prefixed);
    let spec = get(obj, "spec");
    spec::check_with_selector(&mut errs, spec);
    let completions = num(spec, "completions");
    if text(spec, "completionMode") == "Indexed" && completions > 0 {
        let name = text(get(obj, "metadata"), "name");
        let host = format!("{name}-{}", completions - 1);
        if !vocab::label_errors(&host).is_empty() {
            let message = format!("will not able to create pod with invalid DNS label: {host}");
            errs.push(FieldError::invalid("metadata.name", name, message));
        }
    }
    errs
}

/// Checks the labels and the selector that were generated, or that a client gave in their place.
fn check_generated(errs: &mut Errors, obj: &Value, prefixed: bool) {
    let (spec, meta) = (get(obj, "spec"), get(obj, "metadata"));
    let Some(wanted) = some(spec, "selector").filter(|_| !on(spec, "manualSelector")) else { return };
    let (name, uid) = (text(meta, "name"), text(meta, "uid"));
    if uid.is_empty() {
        errs.push(FieldError::required("metadata.uid", ""));
    }
    let old = [(OLD_CONTROLLER_UID, uid), (OLD_JOB_NAME, name)];
    let new = [(CONTROLLER_UID, uid), (JOB_NAME, name)];
    let expected: Vec<(&str, &str)> = old.into_iter().chain(new.into_iter().filter(|_| prefixed)).collect();
    let labels = at(spec, &["template", "metadata", "labels"]);
    let path = Path::new("spec").child("template").child("metadata").child("labels");
    for (key, value) in &expected {
        let message = format!("must be '{value}'");
        match labels.get(*key).and_then(Value::as_str) {
            None => errs.push(FieldError::required(path.key(key), message)),
            Some(found) if found != *value => {
                errs.push(FieldError::invalid(path.key(key), Bad::Json(labels.clone()), message));
            }
            Some(_) => {}
        }
    }
    let value = |key: &str| expected.iter().find(|(known, _)| *known == key).map(|(_, value)| *value);
    let fits = |parsed: Selector| parsed.matches_with(value);
    if selector::parse(wanted).is_some_and(|parsed| !fits(parsed)) {
        errs.push(FieldError::invalid("spec.selector", selector::bad(wanted), "`selector` not auto-generated"));
    }
}

/// Warnings for the name (pods inherit it) and the spec of Jobs, which stands at `path`.
pub(super) fn warn(obj: &Value, old: Option<&Value>, path: &Path, spec: &Value) -> Vec<String> {
    let mut out = Vec::new();
    if old.is_none() {
        out.extend(replicas::warn_name(obj));
    }
    let generation = |obj: &Value| super::value::generation(obj);
    if old.is_some_and(|old| generation(old) == generation(obj)) {
        return out;
    }
    if text(spec, "completionMode") == "Indexed"
        && num(spec, "completions") > 100_000
        && num(spec, "parallelism") > 10_000
    {
        let text = "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, \
                    Kubernetes might not be able to track completedIndexes when a big number of indexes fail";
        out.push(format!("{path}: {text}"));
    }
    out.extend(warnings::of(&path.child("template"), get(spec, "template")));
    out
}

/// Whether a condition is true.
fn is_true(status: &Value, kind: &str) -> bool {
    list(status, "conditions").iter().any(|c| text(c, "type") == kind && text(c, "status") == "True")
}

fn phase(obj: &Value) -> &'static str {
    let status = get(obj, "status");
    if is_true(status, "Complete") {
        "Complete"
    } else if is_true(status, "Failed") {
        "Failed"
    } else if has(get(obj, "metadata"), "deletionTimestamp") {
        "Terminating"
    } else if is_true(status, "Suspended") {
        "Suspended"
    } else if is_true(status, "FailureTarget") {
        "FailureTarget"
    } else if is_true(status, "SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn completions(spec: &Value, succeeded: i64) -> String {
    match (int(spec, "completions"), num(spec, "parallelism")) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn duration(status: &Value) -> Cell {
    let started = text(status, "startTime");
    let moment = |text: &str| crate::schema::time::parse(text).map(|time| time.as_second());
    match (moment(started), moment(text(status, "completionTime"))) {
        (None, _) => cells::of(""),
        (Some(_), None) => Cell::since(started),
        (Some(from), Some(to)) => cells::of(crate::table::human_duration(to - from)),
    }
}
