//! StatefulSets.

use serde_json::{Value, json};

use super::cells::{self, Cell};
use super::template::warnings;
use super::value::{
    child, default_text, default_to, get, int, items_mut, list, num, set, set_generation, some, some_mut, text,
};
use super::vocab::{self, Errors};
use super::{replicas, scale, storage, template};
use crate::{Bad, FieldError, Path, ResourceDef, Strategy, Verbs, meta, resource::names};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        short: names(&["sts"]),
        categories: names(&["all"]),
        ..ResourceDef::new(
            ("apps", "v1"),
            ("statefulsets", "statefulset", "StatefulSet"),
            "io.k8s.api.apps.v1.StatefulSet",
            StatefulSets,
        )
    }
    .with(scale::subresource(scale::label_selector))
    .with_part("status", Verbs::PART)
}

const WORDS: replicas::Words = replicas::Words { noun: "statefulset", unusable: "", kind: "StatefulSet" };
/// The fields of a spec that may change.
const CHANGING: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];
const FIXED: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

struct StatefulSets;

impl Strategy for StatefulSets {
    fn default(&self, obj: &mut Value) {
        let spec = child(obj, "spec");
        replicas::default(spec);
        default_text(spec, "podManagementPolicy", "OrderedReady");
        default_to(spec, "revisionHistoryLimit", 10);
        let strategy = child(spec, "updateStrategy");
        if text(strategy, "type").is_empty() {
            set(strategy, "type", "RollingUpdate");
            child(strategy, "rollingUpdate");
        }
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = some_mut(strategy, "rollingUpdate")
        {
            default_to(rolling, "partition", 0);
        }
        let retention = child(spec, "persistentVolumeClaimRetentionPolicy");
        default_text(retention, "whenDeleted", "Retain");
        default_text(retention, "whenScaled", "Retain");
        items_mut(spec, "volumeClaimTemplates").for_each(default_claim);
    }

    fn prepare_create(&self, obj: &mut Value) {
        set(obj, "status", json!({"availableReplicas": 0, "replicas": 0}));
        set_generation(obj, 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        replicas::prepare_update(new, old, sub);
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let spec = get(obj, "spec");
        check(&mut errs, spec, false, true);
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if sub == Some("status") {
            check_status(&mut errs, get(new, "status"), get(old, "status"));
            return errs;
        }
        check(&mut errs, get(new, "spec"), replicas::emptied(new, old), false);
        if fixed(get(new, "spec")) != fixed(get(old, "spec")) {
            errs.push(FieldError::forbidden("spec", FIXED));
        }
        errs
    }

    /// Its pods have its name and a number, and are hosts.
    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        meta::name_is_dns_label(name, prefix)
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = replicas::warn_template(obj, old);
        for (i, claim) in list(get(obj, "spec"), "volumeClaimTemplates").iter().enumerate() {
            let path = Path::new("spec").child("volumeClaimTemplates").index(i);
            // Upstream says so.
            let path = if old.is_some() { path.child("Spec") } else { path };
            warnings::claim(&mut out, &path, get(claim, "spec"));
        }
        if int(get(obj, "spec"), "revisionHistoryLimit").is_some_and(|limit| limit < 0) {
            let advice = "a negative value retains all historical revisions; a value >= 0 is recommended";
            out.push(format!("spec.revisionHistoryLimit: {advice}"));
        }
        out
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let (spec, status) = (get(obj, "spec"), get(obj, "status"));
        let (names, images) = template::show_containers(get(spec, "template"));
        vec![
            cells::name(obj),
            cells::of(format!("{}/{}", num(status, "readyReplicas"), num(spec, "replicas"))),
            cells::age(obj),
            cells::of(names),
            cells::of(images),
        ]
    }
}

fn default_claim(claim: &mut Value) {
    set(claim, "apiVersion", "v1");
    set(claim, "kind", "PersistentVolumeClaim");
    storage::claim::default_spec(child(claim, "spec"));
    default_text(child(claim, "status"), "phase", "Pending");
}

/// The part of a spec that stays as it was made.
fn fixed(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|field, _| !CHANGING.contains(&field.as_str()));
    }
    spec
}

/// `new` says that the set is made now: what can no longer change is checked only then.
fn check(errs: &mut Errors, spec: &Value, emptied: bool, new: bool) {
    let path = Path::new("spec");
    let policy = text(spec, "podManagementPolicy");
    if !["OrderedReady", "Parallel"].contains(&policy) {
        let message = "must be 'OrderedReady' or 'Parallel'";
        errs.push(FieldError::invalid(path.child("podManagementPolicy"), policy, message));
    }
    check_strategy(errs, &path.child("updateStrategy"), get(spec, "updateStrategy"));
    if let Some(retention) = some(spec, "persistentVolumeClaimRetentionPolicy") {
        let path = path.child("persistentVolumeClaimRetentionPolicy");
        for field in ["whenDeleted", "whenScaled"] {
            vocab::known_value(errs, &path.child(field), text(retention, field), &["Retain", "Delete"]);
        }
    }
    if new {
        for (i, claim) in list(spec, "volumeClaimTemplates").iter().enumerate() {
            let path = path.child("volumeClaimTemplates").index(i).child("spec");
            storage::claim::check_spec(errs, &path, get(claim, "spec"));
        }
    }
    replicas::check_optional(errs, &path, spec, "replicas");
    vocab::not_negative(errs, &path.child("minReadySeconds"), num(spec, "minReadySeconds"));
    let start = num(get(spec, "ordinals"), "start");
    vocab::not_negative(errs, &path.child("ordinals").child("start"), start);
    let service = text(spec, "serviceName");
    if new && !service.is_empty() {
        vocab::label(errs, &path.child("serviceName"), service);
    }
    replicas::check_selector_of(errs, spec, &with_claims(spec), emptied, &WORDS);
}

/// The template as its pods are made: each claim is a volume, which takes the place of its namesake.
fn with_claims(spec: &Value) -> Value {
    let mut template = get(spec, "template").clone();
    let claims = list(spec, "volumeClaimTemplates");
    if claims.is_empty() {
        return template;
    }
    let names: Vec<&str> = claims.iter().map(|claim| text(get(claim, "metadata"), "name")).collect();
    let own = list(get(&template, "spec"), "volumes").iter();
    let mut volumes: Vec<Value> = own.filter(|volume| !names.contains(&text(volume, "name"))).cloned().collect();
    // What the claims are called does not matter here, but it has to be a name.
    volumes.extend(names.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": "claim"}})));
    set(child(&mut template, "spec"), "volumes", volumes);
    template
}

fn check_strategy(errs: &mut Errors, path: &Path, strategy: &Value) {
    match (text(strategy, "type"), some(strategy, "rollingUpdate")) {
        ("OnDelete", Some(rolling)) => {
            let message = "only allowed for updateStrategy 'RollingUpdate'";
            errs.push(FieldError::invalid(path.child("rollingUpdate"), Bad::Raw(show_rolling(rolling)), message));
        }
        ("RollingUpdate", Some(rolling)) => check_rolling(errs, &path.child("rollingUpdate"), rolling),
        ("OnDelete" | "RollingUpdate", None) => {}
        (kind, rolling) => {
            let rolling = rolling.map_or("null".to_owned(), show_rolling);
            let shown = Bad::Raw(format!("{{\"Type\":{},\"RollingUpdate\":{rolling}}}", json!(kind)));
            errs.push(FieldError::invalid(path, shown, "must be 'RollingUpdate' or 'OnDelete'"));
        }
    }
}

fn show_rolling(rolling: &Value) -> String {
    format!("{{\"Partition\":{},\"MaxUnavailable\":{}}}", num(rolling, "partition"), get(rolling, "maxUnavailable"))
}

fn check_rolling(errs: &mut Errors, path: &Path, rolling: &Value) {
    vocab::not_negative(errs, &path.child("partition"), num(rolling, "partition"));
    let Some(unavailable) = some(rolling, "maxUnavailable") else { return };
    let path = path.child("maxUnavailable");
    vocab::count_or_percent(errs, &path, unavailable);
    if vocab::count_of(unavailable) == 0 {
        errs.push(FieldError::invalid(&path, unavailable.clone(), "cannot be 0"));
    }
    vocab::at_most_all(errs, &path, unavailable);
}

fn check_status(errs: &mut Errors, status: &Value, before: &Value) {
    let parts = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
    replicas::check_counts(errs, status, &["replicas"]);
    replicas::check_counts(errs, status, &parts);
    replicas::check_counts(errs, status, &["observedGeneration"]);
    replicas::check_optional(errs, &Path::new("status"), status, "collisionCount");
    for part in parts {
        replicas::check_at_most(errs, status, part, "replicas", "cannot be greater than status.replicas");
    }
    let message = "cannot be greater than status.readyReplicas";
    replicas::check_at_most(errs, status, "availableReplicas", "readyReplicas", message);
    replicas::check_collisions(errs, status, before);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(change: Value) -> Value {
        let mut obj = json!({"spec": {
            "serviceName": "s",
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
                {"name": "c", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}],
        }});
        for (field, value) in change.as_object().into_iter().flatten() {
            set(child(&mut obj, "spec"), field, value.clone());
        }
        StatefulSets.default(&mut obj);
        obj
    }

    #[test]
    fn specs_are_judged() {
        let rolling = |rolling: Value| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}});
        for (name, change, expect) in [
            ("mounts find the claims", json!({}), ""),
            ("without claims they do not", json!({"volumeClaimTemplates": []}), "Not found: \"data\""),
            ("a service that is no name", json!({"serviceName": "A.b"}), "serviceName: Invalid value: \"A.b\""),
            ("a limit", rolling(json!({"maxUnavailable": "30%"})), ""),
            ("no limit", rolling(json!({"maxUnavailable": 0})), "maxUnavailable: Invalid value: 0: cannot be 0"),
            ("more than all", rolling(json!({"maxUnavailable": "101%"})), "must not be greater than 100%"),
            ("another policy", json!({"podManagementPolicy": "Odd"}), "must be 'OrderedReady' or 'Parallel'"),
        ] {
            let found: Vec<String> =
                StatefulSets.validate(&spec(change)).iter().map(|error| format!("{error}")).collect();
            assert_eq!(found.is_empty(), expect.is_empty(), "{name}: {found:?}");
            assert!(found.join("; ").contains(expect), "{name}: {found:?}");
        }
    }

    #[test]
    fn history_without_end_is_warned_of() {
        for (limit, expect) in [(-1, 1), (0, 0)] {
            let obj = spec(json!({"revisionHistoryLimit": limit}));
            assert_eq!(StatefulSets.warnings(&obj, None).len(), expect, "{limit}");
        }
    }
}
