//! PersistentVolumes.

use serde_json::{Value, json};

use super::super::cells::{self, Cell};
use super::super::template::{defaults, scheduling, warnings};
use super::super::value::{annotation, at, child, copy, default_text, entries, get, has, list, set, some, text, texts};
use super::super::vocab::{self, Errors};
use super::{
    CLASS, CLASS_DEPRECATED, VOLUME_MODES, check_access_modes, check_amount, class_of, show_access_modes, source,
};
use crate::resource::{Author, names};
use crate::schema::quantity::Amount;
use crate::{Bad, FieldError, Path, ResourceDef, Scope, Strategy, Verbs, meta};

const RECLAIM: &[&str] = &["Delete", "Recycle", "Retain"];
const MOUNT_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        scope: Scope::Cluster,
        short: names(&["pv"]),
        delete_returns_object: true,
        ..ResourceDef::new(
            ("", "v1"),
            ("persistentvolumes", "persistentvolume", "PersistentVolume"),
            "io.k8s.api.core.v1.PersistentVolume",
            Volumes,
        )
    }
    .with_part("status", Verbs::PART)
}

struct Volumes;

/// The defaults of a volume's spec.
pub fn default_spec(spec: &mut Value) {
    default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
    default_text(spec, "volumeMode", "Filesystem");
    defaults::round_up(spec, "capacity");
    defaults::persistent(spec);
}

impl Strategy for Volumes {
    fn default(&self, obj: &mut Value) {
        default_spec(child(obj, "spec"));
        default_text(child(obj, "status"), "phase", "Pending");
    }

    fn prepare_create(&self, obj: &mut Value) {
        set(obj, "status", json!({"phase": "Pending"}));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        copy(new, old, if sub == Some("status") { "spec" } else { "status" });
    }

    /// When the phase changed last, unless whoever changed it says so.
    fn stamp(&self, new: &mut Value, old: Option<&Value>, sub: Option<&str>, by: Author<'_>) {
        const FIELD: &str = "lastPhaseTransitionTime";
        let (status, before) = (get(new, "status"), old.map(|old| get(old, "status")));
        let changed = before.is_none_or(|before| text(status, "phase") != text(before, "phase"));
        let told = before.is_some_and(|before| has(status, FIELD) && get(status, FIELD) != get(before, FIELD));
        if changed && !told && (old.is_none() || sub == Some("status")) {
            set(child(new, "status"), FIELD, by.now);
        } else if let (false, true, Some(before)) = (changed, sub == Some("status"), before)
            && !has(status, FIELD)
        {
            copy(child(new, "status"), before, FIELD);
        }
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check_spec(&mut errs, &Path::new("spec"), get(obj, "spec"));
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if sub == Some("status") {
            return errs;
        }
        // Upstream looks at all of it twice.
        for _ in 0..2 {
            errs.extend(meta::validate_object_meta(new, false, &|name, prefix| self.name_errors(name, prefix)));
            errs.extend(self.validate(new));
        }
        check_kept(&mut errs, get(new, "spec"), get(old, "spec"));
        errs
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        warn(obj)
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let (spec, status) = (get(obj, "spec"), get(obj, "status"));
        let claim = some(spec, "claimRef")
            .map_or_else(String::new, |claim| format!("{}/{}", text(claim, "namespace"), text(claim, "name")));
        vec![
            cells::name(obj),
            cells::of(storage_of(get(spec, "capacity"))),
            cells::of(show_access_modes(&texts(spec, "accessModes"))),
            cells::of(text(spec, "persistentVolumeReclaimPolicy")),
            cells::of(phase(obj)),
            cells::of(claim),
            cells::of(class_of(obj).unwrap_or("")),
            cells::of(or_unset(spec, "volumeAttributesClassName")),
            cells::of(text(status, "reason")),
            cells::age(obj),
            cells::of(or_unset(spec, "volumeMode")),
        ]
    }
}

/// How much storage some amounts have, as tables show it.
pub fn storage_of(amounts: &Value) -> String {
    some(amounts, "storage").and_then(Amount::of).unwrap_or(Amount::ZERO).to_string()
}

/// The phase of a volume or claim, as tables show it.
pub fn phase(obj: &Value) -> &str {
    if has(get(obj, "metadata"), "deletionTimestamp") { "Terminating" } else { text(get(obj, "status"), "phase") }
}

/// A text that need not be there, as tables show it.
pub fn or_unset<'a>(spec: &'a Value, field: &str) -> &'a str {
    some(spec, field).and_then(Value::as_str).unwrap_or("<unset>")
}

/// Checks the access modes of a volume's spec.
pub fn check_access_modes_of(errs: &mut Errors, path: &Path, spec: &Value) {
    let (at, modes) = (path.child("accessModes"), texts(spec, "accessModes"));
    if modes.is_empty() {
        errs.push(FieldError::required(&at, ""));
    }
    check_access_modes(errs, &at, &modes);
}

fn check_spec(errs: &mut Errors, path: &Path, spec: &Value) {
    check_access_modes_of(errs, path, spec);
    check_capacity(errs, &path.child("capacity"), spec);
    let policy = text(spec, "persistentVolumeReclaimPolicy");
    if !policy.is_empty() {
        vocab::known_value(errs, &path.child("persistentVolumeReclaimPolicy"), policy, RECLAIM);
    }
    let affinity = some(spec, "nodeAffinity");
    if let Some(affinity) = affinity {
        let path = path.child("nodeAffinity").child("required");
        match some(affinity, "required") {
            Some(required) => scheduling::check_node_selector(errs, &path, required),
            None => errs.push(FieldError::required(path, "must specify required node constraints")),
        }
    }
    source::check(errs, path, spec, affinity.is_some());
    let whole = some(spec, "hostPath").is_some_and(|source| is_root(text(source, "path")));
    if whole && policy == "Recycle" {
        let message = "may not be 'recycle' for a hostPath mount of '/'";
        errs.push(FieldError::forbidden(path.child("persistentVolumeReclaimPolicy"), message));
    }
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        vocab::subdomain(errs, &path.child("storageClassName"), class);
    }
    if has(spec, "volumeMode") {
        vocab::known_value(errs, &path.child("volumeMode"), text(spec, "volumeMode"), VOLUME_MODES);
    }
    check_attributes(errs, path, spec);
}

/// Whether a path is another way to write `/`.
fn is_root(path: &str) -> bool {
    let mut depth = 0;
    for part in path.split('/').filter(|part| !["", "."].contains(part)) {
        depth = if part == ".." { depth.max(1) - 1 } else { depth + 1 };
    }
    path.starts_with('/') && depth == 0
}

fn check_attributes(errs: &mut Errors, path: &Path, spec: &Value) {
    let at = path.child("volumeAttributesClassName");
    match some(spec, "volumeAttributesClassName").and_then(Value::as_str) {
        None => return,
        Some("") => errs.push(FieldError::required(at, "an empty string is disallowed")),
        Some(class) => vocab::subdomain(errs, &at, class),
    }
    if !has(spec, "csi") {
        let message = "has to be specified when using volumeAttributesClassName";
        errs.push(FieldError::required(path.child("csi"), message));
    }
}

fn check_capacity(errs: &mut Errors, path: &Path, spec: &Value) {
    let capacity = get(spec, "capacity");
    let all: Vec<(&String, &Value)> = entries(spec, "capacity").collect();
    if all.is_empty() {
        errs.push(FieldError::required(path, ""));
    }
    if !has(capacity, "storage") || all.len() > 1 {
        let shown = if capacity.is_null() { json!({}) } else { capacity.clone() };
        errs.push(FieldError::not_supported(path, shown, &["storage"]));
    }
    for (name, amount) in all {
        let path = path.key(name);
        if let Some(amount) = Amount::of(amount) {
            check_amount(errs, &path, amount);
            vocab::positive(errs, &path, amount);
        }
    }
}

/// Checks what a volume keeps for good.
fn check_kept(errs: &mut Errors, new: &Value, old: &Value) {
    let secret = ["csi", "controllerExpandSecretRef"];
    let only_sources = |spec: &Value| {
        let mut out = json!({});
        source::ALL.iter().for_each(|field| copy(&mut out, spec, field));
        out
    };
    let (mut now, before) = (only_sources(new), only_sources(old));
    if has(old, "csi") && has(new, "csi") && at(old, &secret).is_null() {
        copy(child(&mut now, "csi"), &Value::Null, secret[1]);
    }
    if now != before {
        let changed = vocab::changed_fields("spec", &now, &before).join(", ");
        let message = format!("spec.persistentvolumesource is immutable after creation\n@@ changed: {changed}");
        errs.push(FieldError::forbidden("spec.persistentvolumesource", message));
    }
    vocab::immutable(errs, "volumeMode", get(new, "volumeMode"), get(old, "volumeMode"));
    let affinity = get(new, "nodeAffinity");
    if has(old, "nodeAffinity") && relabelled(get(old, "nodeAffinity"), affinity) != *affinity {
        errs.push(FieldError::invalid("nodeAffinity", shown(affinity), vocab::IMMUTABLE));
    }
    const ATTRIBUTES: &str = "volumeAttributesClassName";
    if has(old, ATTRIBUTES) && !has(new, ATTRIBUTES) {
        let message = "update from non-nil value to nil is forbidden";
        errs.push(FieldError::forbidden(format!("spec.{ATTRIBUTES}"), message));
    }
}

/// The old affinity, with those keys brought up to date that have a successor and that `new` names by it.
fn relabelled(old: &Value, new: &Value) -> Value {
    const SUCCESSORS: &[(&str, &str)] = &[
        ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
        ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
        ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
        ("beta.kubernetes.io/os", "kubernetes.io/os"),
        ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ];
    match (old, new) {
        (Value::Object(before), _) => {
            before.iter().map(|(key, value)| (key.clone(), relabelled(value, get(new, key)))).collect()
        }
        (Value::Array(before), Value::Array(now)) if before.len() == now.len() => {
            before.iter().zip(now).map(|(before, now)| relabelled(before, now)).collect()
        }
        (Value::String(before), now) => {
            let successor = SUCCESSORS.iter().find(|(key, successor)| key == before && now == successor);
            successor.map_or_else(|| old.clone(), |(_, successor)| json!(successor))
        }
        _ => old.clone(),
    }
}

/// A node affinity as upstream's internal type prints it.
fn shown(affinity: &Value) -> Bad {
    let requirement = |one: &Value| {
        let (key, operator) = (json!(text(one, "key")), json!(text(one, "operator")));
        format!("{{\"Key\":{key},\"Operator\":{operator},\"Values\":{}}}", get(one, "values"))
    };
    let requirements = |term: &Value, field: &str| match list(term, field) {
        [] => "null".to_owned(),
        all => format!("[{}]", all.iter().map(requirement).collect::<Vec<_>>().join(",")),
    };
    let term = |term: &Value| {
        let (by_label, by_field) = (requirements(term, "matchExpressions"), requirements(term, "matchFields"));
        format!("{{\"MatchExpressions\":{by_label},\"MatchFields\":{by_field}}}")
    };
    let Some(required) = some(affinity, "required") else { return Bad::Raw("null".into()) };
    let terms: Vec<String> = list(required, "nodeSelectorTerms").iter().map(term).collect();
    Bad::Raw(format!("{{\"Required\":{{\"NodeSelectorTerms\":[{}]}}}}", terms.join(",")))
}

fn warn(obj: &Value) -> Vec<String> {
    let (spec, path) = (get(obj, "spec"), Path::new("spec"));
    let annotations = Path::new("metadata").child("annotations");
    let mut out = Vec::new();
    for (key, message) in
        [(CLASS, CLASS_DEPRECATED), (MOUNT_OPTIONS, "deprecated since v1.31; use \"mountOptions\" attribute instead")]
    {
        if annotation(obj, key).is_some() {
            out.push(format!("{}: {message}", annotations.key(key)));
        }
    }
    if text(spec, "persistentVolumeReclaimPolicy") == "Recycle" {
        let message = "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.";
        out.push(format!("spec.persistentVolumeReclaimPolicy: {message}"));
    }
    let required = path.child("nodeAffinity").child("required").child("nodeSelectorTerms");
    warnings::node_terms(&mut out, &required, list(at(spec, &["nodeAffinity", "required"]), "nodeSelectorTerms"));
    let gone = [
        ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ];
    if let Some((_, shown, message)) = gone.iter().find(|(field, ..)| has(spec, field)) {
        out.push(format!("spec.{shown}: {message}"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_phase_is_kept() {
        let volume = |phase: &str, time: &str| json!({"status": {"phase": phase, "lastPhaseTransitionTime": time}});
        for (what, old, mut new, sub, expect) in [
            ("a new volume", None, json!({"status": {"phase": "Pending"}}), None, "now"),
            ("the same phase", Some(volume("Bound", "a")), volume("Bound", "a"), Some("status"), "a"),
            ("another phase", Some(volume("Bound", "a")), volume("Released", "a"), Some("status"), "now"),
            ("another phase and time", Some(volume("Bound", "a")), volume("Released", "b"), Some("status"), "b"),
            ("another spec", Some(volume("Bound", "a")), volume("Bound", "a"), None, "a"),
        ] {
            let by = Author { user: &kontiki_machinery::access::User::default(), now: "now" };
            Volumes.stamp(&mut new, old.as_ref(), sub, by);
            assert_eq!(new["status"]["lastPhaseTransitionTime"], expect, "{what}");
        }
    }

    #[test]
    fn what_a_volume_is_made_of_stays() {
        let old = json!({"csi": {"driver": "d"}, "volumeMode": "Block", "nodeAffinity": {"required":
            {"nodeSelectorTerms": [{"matchExpressions": [{"key": "beta.kubernetes.io/os", "operator": "Exists"}]}]}}});
        for (what, pointer, value, expect) in [
            ("nothing", "/volumeMode", json!("Block"), ""),
            ("another volume", "/csi/driver", json!("e"), "spec.persistentvolumesource"),
            ("a secret to grow it", "/csi/controllerExpandSecretRef", json!({"name": "s"}), ""),
            (
                "a label's new name",
                "/nodeAffinity/required/nodeSelectorTerms/0/matchExpressions/0/key",
                json!("kubernetes.io/os"),
                "",
            ),
            (
                "another label",
                "/nodeAffinity/required/nodeSelectorTerms/0/matchExpressions/0/key",
                json!("a"),
                "nodeAffinity",
            ),
        ] {
            let mut new = old.clone();
            match new.pointer_mut(pointer) {
                Some(field) => *field = value,
                None => new["csi"]["controllerExpandSecretRef"] = value,
            }
            let mut errs = Errors::new();
            check_kept(&mut errs, &new, &old);
            let paths: Vec<&str> = errs.iter().map(|error| error.path.as_str()).collect();
            assert_eq!(paths.join(" "), expect, "{what}");
        }
    }

    #[test]
    fn roots_are_known_by_any_name() {
        for (path, root) in [("/", true), ("/.", true), ("/a/..", true), ("/..", true), ("/a", false), ("a/..", false)]
        {
            assert_eq!(is_root(path), root, "{path}");
        }
    }
}
