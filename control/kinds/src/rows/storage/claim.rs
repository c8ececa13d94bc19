//! PersistentVolumeClaims.

use serde_json::{Value, json};

use super::super::cells::{self, Cell};
use super::super::selector;
use super::super::template::{defaults, resources, warnings};
use super::super::value::{
    annotation, at, child, copy, default_text, entries, get, has, list, set, some, text, texts, unset,
};
use super::super::vocab::{self, Errors};
use super::{
    CLASS, CLASS_DEPRECATED, VOLUME_MODES, check_access_modes, check_amount, class_of, show_access_modes,
    volume::{or_unset, phase, storage_of},
};
use crate::resource::names;
use crate::schema::quantity::Amount;
use crate::{Bad, FieldError, Path, ResourceDef, Strategy, Verbs, meta};

const ATTRIBUTES: &str = "volumeAttributesClassName";
const SOURCES: [&str; 2] = ["dataSource", "dataSourceRef"];
/// How far the resizing of a volume is.
const RESIZING: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        short: names(&["pvc"]),
        delete_returns_object: true,
        ..ResourceDef::new(
            ("", "v1"),
            ("persistentvolumeclaims", "persistentvolumeclaim", "PersistentVolumeClaim"),
            "io.k8s.api.core.v1.PersistentVolumeClaim",
            Claims,
        )
    }
    .with_part("status", Verbs::PART)
}

struct Claims;

/// The defaults of a claim's spec.
pub fn default_spec(spec: &mut Value) {
    default_text(spec, "volumeMode", "Filesystem");
    if has(spec, "resources") {
        let needs = child(spec, "resources");
        defaults::round_up(needs, "limits");
        defaults::round_up(needs, "requests");
    }
}

impl Strategy for Claims {
    fn default(&self, obj: &mut Value) {
        default_spec(child(obj, "spec"));
        let status = child(obj, "status");
        default_text(status, "phase", "Pending");
        defaults::round_up(status, "capacity");
    }

    fn prepare_create(&self, obj: &mut Value) {
        set(obj, "status", json!({"phase": "Pending"}));
        settle_sources(child(obj, "spec"), &Value::Null);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        if sub == Some("status") {
            copy(new, old, "spec");
            return;
        }
        copy(new, old, "status");
        settle_sources(child(new, "spec"), get(old, "spec"));
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check_spec(&mut errs, &Path::new("spec"), get(obj, "spec"));
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if sub == Some("status") {
            check_status(&mut errs, new);
            return errs;
        }
        // Upstream looks at all of it twice.
        for _ in 0..2 {
            errs.extend(meta::validate_object_meta(new, true, &|name, prefix| self.name_errors(name, prefix)));
            errs.extend(self.validate(new));
        }
        check_kept(&mut errs, new, old);
        errs
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        if annotation(obj, CLASS).is_some() {
            let path = Path::new("metadata").child("annotations").key(CLASS);
            out.push(format!("{path}: {CLASS_DEPRECATED}"));
        }
        warnings::claim(&mut out, &Path::new("spec"), get(obj, "spec"));
        out
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let (spec, status) = (get(obj, "spec"), get(obj, "status"));
        let volume = text(spec, "volumeName");
        let (capacity, modes) = match volume {
            "" => (String::new(), String::new()),
            _ => (storage_of(get(status, "capacity")), show_access_modes(&texts(status, "accessModes"))),
        };
        vec![
            cells::name(obj),
            cells::of(phase(obj)),
            cells::of(volume),
            cells::of(capacity),
            cells::of(modes),
            cells::of(class_of(obj).unwrap_or("")),
            cells::of(or_unset(spec, ATTRIBUTES)),
            cells::age(obj),
            cells::of(or_unset(spec, "volumeMode")),
        ]
    }
}

/// Brings the two ways to name what a volume begins with into one (KEP-1495): what the older one cannot name is
/// dropped, then each says what the other does. A source in another namespace is behind a gate.
fn settle_sources(spec: &mut Value, old: &Value) {
    let [plain, wide] = SOURCES;
    let elsewhere = |spec: &Value| !text(get(spec, wide), "namespace").is_empty();
    if elsewhere(spec) && !has(old, wide) {
        unset(spec, wide);
    }
    if !has(old, plain) && !has(old, wide) && !has(spec, wide) && !can_be_plain(get(spec, plain)) {
        unset(spec, plain);
    }
    match (some(spec, plain), some(spec, wide)) {
        (Some(source), None) => {
            let source = source.clone();
            set(spec, wide, source);
        }
        (None, Some(source)) if !elsewhere(spec) => {
            let mut source = source.clone();
            unset(&mut source, "namespace");
            set(spec, plain, source);
        }
        _ => {}
    }
}

fn can_be_plain(source: &Value) -> bool {
    matches!(
        (text(source, "kind"), text(source, "apiGroup")),
        ("PersistentVolumeClaim", "") | ("VolumeSnapshot", "snapshot.storage.k8s.io")
    )
}

/// Checks the spec of a claim, wherever it stands.
pub fn check_spec(errs: &mut Errors, path: &Path, spec: &Value) {
    let (at, modes) = (path.child("accessModes"), texts(spec, "accessModes"));
    if modes.is_empty() {
        errs.push(FieldError::required(&at, "at least 1 access mode is required"));
    }
    selector::check(errs, &path.child("selector"), get(spec, "selector"));
    check_access_modes(errs, &at, &modes);
    check_size(errs, &path.child("resources").key("storage"), spec);
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        vocab::subdomain(errs, &path.child("storageClassName"), class);
    }
    if has(spec, "volumeMode") {
        vocab::known_value(errs, &path.child("volumeMode"), text(spec, "volumeMode"), VOLUME_MODES);
    }
    for field in SOURCES {
        if let Some(source) = some(spec, field) {
            check_source(errs, &path.child(field), source);
        }
    }
    check_sources_agree(errs, path, spec);
    let attributes = text(spec, ATTRIBUTES);
    if !attributes.is_empty() {
        vocab::subdomain(errs, &path.child(ATTRIBUTES), attributes);
    }
}

fn check_size(errs: &mut Errors, path: &Path, spec: &Value) {
    let size = get(get(get(spec, "resources"), "requests"), "storage");
    let Some(amount) = Amount::of(size) else {
        errs.push(FieldError::required(path, ""));
        return;
    };
    let before = errs.len();
    vocab::positive(errs, path, amount);
    if errs.len() == before {
        resources::check_amount(errs, path, "storage", size);
    }
}

fn check_source(errs: &mut Errors, path: &Path, source: &Value) {
    for field in ["name", "kind"] {
        if text(source, field).is_empty() {
            errs.push(FieldError::required(path.child(field), ""));
        }
    }
    let (kind, group) = (text(source, "kind"), text(source, "apiGroup"));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        let message = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errs.push(FieldError::invalid(path, kind, message));
    }
    if !group.is_empty() {
        vocab::subdomain(errs, &path.child("apiGroup"), group);
    }
    let namespace = text(source, "namespace");
    if !namespace.is_empty() {
        vocab::label(errs, &path.child("namespace"), namespace);
    }
}

fn check_sources_agree(errs: &mut Errors, path: &Path, spec: &Value) {
    let (Some(plain), Some(wide)) = (some(spec, SOURCES[0]), some(spec, SOURCES[1])) else { return };
    let same = ["apiGroup", "kind", "name"].iter().all(|field| get(plain, field) == get(wide, field));
    let message = match text(wide, "namespace") {
        "" if same => return,
        "" => "must match dataSourceRef",
        _ => "may not be specified when dataSourceRef.namespace is specified",
    };
    // Upstream prints a path here, which has nothing that JSON could show.
    errs.push(FieldError::invalid(path, Bad::Raw("{}".into()), message));
}

/// Checks what a claim keeps for good.
fn check_kept(errs: &mut Errors, new: &Value, old: &Value) {
    let (spec, before) = (get(new, "spec"), get(old, "spec"));
    let (mut now, mut then) = (spec.clone(), before.clone());
    if text(before, "volumeName").is_empty() {
        // The binder may say once which volume it is.
        copy(&mut then, spec, "volumeName");
    }
    let (class, named) = (get(spec, "storageClassName"), annotation(old, CLASS));
    if annotation(new, CLASS) != named {
        let path = Path::new("metadata").child("annotations").key(CLASS);
        errs.push(FieldError::invalid(path, annotation(new, CLASS).unwrap_or(""), vocab::IMMUTABLE));
    }
    if !has(before, "storageClassName") && class.as_str().is_some_and(|class| named.is_none_or(|old| old == class)) {
        copy(&mut now, before, "storageClassName");
    }
    if text(get(new, "status"), "phase") == "Bound" && has(get(&now, "resources"), "requests") {
        let old_requests = at(before, &["resources", "requests"]);
        copy(child(child(&mut now, "resources"), "requests"), old_requests, "storage");
    }
    copy(&mut now, before, ATTRIBUTES);
    if now != then {
        let changed = vocab::changed_fields("spec", &now, &then).join(", ");
        let message =
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errs.push(FieldError::forbidden("spec", format!("{message}\n@@ changed: {changed}")));
    }
    let amount = |owner: &Value, path: &[&str]| Amount::of(at(owner, path)).unwrap_or(Amount::ZERO);
    let size = |owner: &Value| amount(owner, &["spec", "resources", "requests", "storage"]);
    if size(new) < size(old) && size(new) <= amount(old, &["status", "capacity", "storage"]) {
        errs.push(FieldError::forbidden(
            "spec.resources.requests.storage",
            "field can not be less than status.capacity",
        ));
    }
    vocab::immutable(errs, "volumeMode", get(spec, "volumeMode"), get(before, "volumeMode"));
    check_attributes_kept(errs, spec, before);
}

fn check_attributes_kept(errs: &mut Errors, spec: &Value, before: &Value) {
    if !has(before, ATTRIBUTES) || get(spec, ATTRIBUTES) == get(before, ATTRIBUTES) {
        return;
    }
    let message = match some(spec, ATTRIBUTES).and_then(Value::as_str) {
        None => "update from non-nil value to nil is forbidden",
        Some("") => "update from non-nil value to an empty string is forbidden",
        Some(_) => return,
    };
    errs.push(FieldError::forbidden(format!("spec.{ATTRIBUTES}"), message));
}

fn check_status(errs: &mut Errors, claim: &Value) {
    if list(get(claim, "spec"), "accessModes").is_empty() {
        errs.push(FieldError::required("Spec.accessModes", ""));
    }
    let (path, status) = (Path::new("status"), get(claim, "status"));
    for (name, amount) in entries(status, "capacity") {
        if let Some(amount) = Amount::of(amount) {
            check_amount(errs, &path.child("capacity").key(name), amount);
        }
    }
    let at = path.child("allocatedResourceStatus");
    for (name, state) in entries(status, "allocatedResourceStatuses") {
        check_resource(errs, &at, name);
        if !RESIZING.contains(&state.as_str().unwrap_or("")) {
            errs.push(FieldError::not_supported(&at, name.as_str(), RESIZING));
        }
    }
    let at = path.child("allocatedResources");
    for (name, amount) in entries(status, "allocatedResources") {
        let before = errs.len();
        check_resource(errs, &at, name);
        if let Some(amount) = Amount::of(amount).filter(|_| errs.len() == before) {
            check_amount(errs, &at.key(name), amount);
        }
    }
}

/// The only resource of Kubernetes itself that a claim can have is storage.
fn check_resource(errs: &mut Errors, path: &Path, name: &str) {
    let before = errs.len();
    vocab::qualified_name(errs, path, name);
    if errs.len() == before && resources::overcommittable(name) && name != "storage" {
        errs.push(FieldError::not_supported(path, name, &["storage"]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_volume_begins_with_is_said_twice() {
        let claim = json!({"kind": "PersistentVolumeClaim", "name": "c"});
        let other = json!({"apiGroup": "a.b", "kind": "K", "name": "n"});
        let far = json!({"kind": "PersistentVolumeClaim", "name": "c", "namespace": "x"});
        for (what, spec, old, expect) in [
            ("a claim", json!({"dataSource": claim}), json!({}), json!({"dataSource": claim, "dataSourceRef": claim})),
            (
                "by the newer way",
                json!({"dataSourceRef": other}),
                json!({}),
                json!({"dataSource": other, "dataSourceRef": other}),
            ),
            ("what the older way cannot name", json!({"dataSource": other}), json!({}), json!({})),
            (
                "unless it is stored",
                json!({"dataSource": other}),
                json!({"dataSource": other}),
                json!({"dataSource": other, "dataSourceRef": other}),
            ),
            ("elsewhere, behind a gate", json!({"dataSourceRef": far}), json!({}), json!({})),
        ] {
            let mut found = spec;
            settle_sources(&mut found, &old);
            assert_eq!(found, expect, "{what}");
        }
    }

    #[test]
    fn a_bound_claim_grows_and_nothing_else() {
        let claim = |phase: &str, size: &str, volume: &str| {
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, "volumeName": volume},
                   "status": {"phase": phase, "capacity": {"storage": "2Gi"}}})
        };
        for (what, old, new, expect) in [
            ("binding", claim("Pending", "2Gi", ""), claim("Pending", "2Gi", "v"), ""),
            ("binding once more", claim("Pending", "2Gi", "v"), claim("Pending", "2Gi", "w"), "spec"),
            ("growing too soon", claim("Pending", "2Gi", "v"), claim("Pending", "3Gi", "v"), "spec"),
            ("growing", claim("Bound", "2Gi", "v"), claim("Bound", "3Gi", "v"), ""),
            ("less after it failed", claim("Bound", "4Gi", "v"), claim("Bound", "3Gi", "v"), ""),
            (
                "less than there is",
                claim("Bound", "4Gi", "v"),
                claim("Bound", "2Gi", "v"),
                "spec.resources.requests.storage",
            ),
        ] {
            let mut errs = Errors::new();
            check_kept(&mut errs, &new, &old);
            let paths: Vec<&str> = errs.iter().map(|error| error.path.as_str()).collect();
            assert_eq!(paths.join(" "), expect, "{what}");
        }
    }
}
