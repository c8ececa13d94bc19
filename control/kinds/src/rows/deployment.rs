//! Deployments.

use kontiki_model::rollout::Settings;
use serde_json::{Map, Value, json};

use super::cells::{self, Cell};
use super::value::{
    carry_generation, child, copy, default_text, default_to, get, int, num, set, set_generation, some, text,
};
use super::vocab::{self, Errors};
use super::{replicas, scale, selector, template};
use crate::{
    Bad, FieldError, Path, ResourceDef, Strategy, Verbs,
    apply::Counted,
    resource::{names, without},
};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        short: names(&["deploy"]),
        categories: names(&["all"]),
        ..ResourceDef::new(("apps", "v1"), ("deployments", "deployment", "Deployment"), SCHEMA, Deployments)
    }
    .with(scale::subresource(scale::label_selector))
    .with_part("status", Verbs::PART)
}

const SCHEMA: &str = "io.k8s.api.apps.v1.Deployment";

struct Deployments;

impl Strategy for Deployments {
    fn counted(&self, sub: Option<&str>) -> Option<Counted> {
        (sub == Some("status")).then(|| without(&["spec", "metadata.labels"]))
    }

    fn default(&self, obj: &mut Value) {
        let spec = child(obj, "spec");
        replicas::default(spec);
        default_to(spec, "revisionHistoryLimit", 10);
        default_to(spec, "progressDeadlineSeconds", 600);
        let strategy = child(spec, "strategy");
        default_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            let rolling = child(strategy, "rollingUpdate");
            default_to(rolling, "maxUnavailable", "25%");
            default_to(rolling, "maxSurge", "25%");
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        set(obj, "status", Map::new());
        set_generation(obj, 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        if sub == Some("status") {
            copy(new, old, "spec");
            copy(child(new, "metadata"), get(old, "metadata"), "labels");
            carry_generation(new, old, false);
            return;
        }
        copy(new, old, "status");
        // Annotations count: the controller copies them to its ReplicaSets.
        let annotated = get(get(new, "metadata"), "annotations") != get(get(old, "metadata"), "annotations");
        let changed = new.get("spec") != old.get("spec");
        carry_generation(new, old, changed || annotated);
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check(&mut errs, get(obj, "spec"), false);
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if sub == Some("status") {
            check_status(&mut errs, get(new, "status"), get(old, "status"));
            return errs;
        }
        check(&mut errs, get(new, "spec"), replicas::emptied(new, old));
        replicas::check_selector_kept(&mut errs, new, old);
        errs
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = replicas::warn(obj, old);
        out.extend(warn_rollout(obj));
        out
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let (spec, status) = (get(obj, "spec"), get(obj, "status"));
        let (names, images) = template::show_containers(get(spec, "template"));
        vec![
            cells::name(obj),
            cells::of(format!("{}/{}", num(status, "readyReplicas"), num(spec, "replicas"))),
            cells::of(num(status, "updatedReplicas")),
            cells::of(num(status, "availableReplicas")),
            cells::age(obj),
            cells::of(names),
            cells::of(images),
            cells::of(selector::show(get(spec, "selector"))),
        ]
    }
}

/// The warning for annotations about rollouts that cannot be meant: nothing is rolled out until they can.
fn warn_rollout(obj: &Value) -> Option<String> {
    let annotations = get(get(obj, "metadata"), "annotations").as_object()?;
    let texts = annotations.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)));
    Settings::read(texts).err().map(|why| format!("metadata.annotations: {why}; nothing is rolled out until then"))
}

fn check(errs: &mut Errors, spec: &Value, emptied: bool) {
    let path = Path::new("spec");
    replicas::check_optional(errs, &path, spec, "replicas");
    replicas::check_selector(errs, spec, emptied);
    check_strategy(errs, &path.child("strategy"), get(spec, "strategy"));
    let ready = num(spec, "minReadySeconds");
    vocab::not_negative(errs, &path.child("minReadySeconds"), ready);
    replicas::check_optional(errs, &path, spec, "revisionHistoryLimit");
    replicas::check_optional(errs, &path, spec, "progressDeadlineSeconds");
    if let Some(deadline) = int(spec, "progressDeadlineSeconds").filter(|deadline| *deadline <= ready) {
        let path = path.child("progressDeadlineSeconds");
        errs.push(FieldError::invalid(path, deadline, "must be greater than minReadySeconds"));
    }
}

fn check_strategy(errs: &mut Errors, path: &Path, strategy: &Value) {
    let at = path.child("rollingUpdate");
    match (text(strategy, "type"), some(strategy, "rollingUpdate")) {
        ("Recreate", Some(_)) => {
            errs.push(FieldError::forbidden(at, "may not be specified when strategy `type` is 'Recreate'"));
        }
        ("Recreate", None) => {}
        ("RollingUpdate", Some(rolling)) => check_rolling(errs, &at, rolling),
        ("RollingUpdate", None) => errs.push(FieldError::required(at, "this should be defaulted and never be nil")),
        (kind, rolling) => {
            let rolling = rolling.map_or("null".to_owned(), |rolling| {
                format!(
                    "{{\"MaxUnavailable\":{},\"MaxSurge\":{}}}",
                    get(rolling, "maxUnavailable"),
                    get(rolling, "maxSurge")
                )
            });
            let shown = Bad::Raw(format!("{{\"Type\":{},\"RollingUpdate\":{rolling}}}", json!(kind)));
            errs.push(FieldError::not_supported(path, shown, &["Recreate", "RollingUpdate"]));
        }
    }
}

fn check_rolling(errs: &mut Errors, path: &Path, rolling: &Value) {
    let (unavailable, surge) = (get(rolling, "maxUnavailable"), get(rolling, "maxSurge"));
    let at = path.child("maxUnavailable");
    vocab::count_or_percent(errs, &at, unavailable);
    vocab::count_or_percent(errs, &path.child("maxSurge"), surge);
    if vocab::count_of(unavailable) == 0 && vocab::count_of(surge) == 0 {
        errs.push(FieldError::invalid(&at, unavailable.clone(), "may not be 0 when `maxSurge` is 0"));
    }
    vocab::at_most_all(errs, &at, unavailable);
}

fn check_status(errs: &mut Errors, status: &Value, before: &Value) {
    replicas::check_counts(
        errs,
        status,
        &[
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
        ],
    );
    let path = Path::new("status");
    replicas::check_optional(errs, &path, status, "collisionCount");
    replicas::check_parts(errs, status, &["updatedReplicas", "readyReplicas", "availableReplicas"]);
    replicas::check_collisions(errs, status, before);
}
