//! ResourceSlices: what a driver offers, a part of a pool.

use serde_json::Value;

use super::{GROUP, check_driver, check_fully_qualified, check_pool, check_set, check_skipped, device, flags, shown};
use crate::{
    FieldError, Path, ResourceDef, Scope, Strategy,
    resource::Author,
    resource::names,
    rows::{
        cells::{self, Cell},
        template::scheduling,
        value::{
            carry_generation, child, default_text, entries, fields, get, has, items_mut, list, num, on, set_generation,
            some, text,
        },
        vocab::{self, Errors},
    },
};

/// The row.
pub(super) fn def() -> ResourceDef {
    ResourceDef {
        scope: Scope::Cluster,
        delete_returns_object: true,
        fields: names(&["spec.driver", "spec.nodeName", "spec.pool.name"]),
        ..ResourceDef::new(
            GROUP,
            ("resourceslices", "resourceslice", "ResourceSlice"),
            "io.k8s.api.resource.v1.ResourceSlice",
            Slices,
        )
    }
}

const MAX_DEVICES: usize = 128;
/// The same with taints, counters or lists of values.
const MAX_RICH_DEVICES: usize = 64;
const MAX_COUNTER_SETS: usize = 8;

struct Slices;

/// A slice has one of these.
const EITHER: [&str; 2] = ["sharedCounters", "devices"];

impl Strategy for Slices {
    fn tells_empty(&self) -> &'static [&'static str] {
        &[
            "spec.sharedCounters",
            "spec.devices",
            "spec.devices.*.attributes.*.bools",
            "spec.devices.*.attributes.*.ints",
            "spec.devices.*.attributes.*.strings",
            "spec.devices.*.attributes.*.versions",
        ]
    }

    fn prepare_create(&self, obj: &mut Value) {
        set_generation(obj, 1);
    }

    /// Taints are there since now, unless they say otherwise. The generation follows, as the time is part of the spec.
    fn stamp(&self, obj: &mut Value, old: Option<&Value>, _sub: Option<&str>, by: Author<'_>) {
        for device in items_mut(child(obj, "spec"), "devices") {
            items_mut(device, "taints").for_each(|taint| default_text(taint, "timeAdded", by.now));
        }
        if let Some(old) = old {
            let changed = differs(obj, old);
            carry_generation(obj, old, changed);
        }
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check(&mut errs, get(obj, "spec"), None);
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check(&mut errs, get(new, "spec"), Some(get(old, "spec")));
        errs
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let driver = text(get(obj, "spec"), "driver");
        let mixed = driver != driver.to_lowercase();
        let why = format!("spec.driver: driver names should be lowercase; \"{driver}\" contains uppercase characters");
        mixed.then_some(why).into_iter().collect()
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let spec = get(obj, "spec");
        vec![
            cells::name(obj),
            cells::of(text(spec, "nodeName")),
            cells::of(text(spec, "driver")),
            cells::of(text(get(spec, "pool"), "name")),
            cells::age(obj),
        ]
    }
}

/// Whether the specs differ. An empty list is none.
fn differs(new: &Value, old: &Value) -> bool {
    let said = |obj: &Value| {
        let mut spec = get(obj, "spec").clone();
        for field in EITHER.into_iter().filter(|field| list(get(obj, "spec"), field).is_empty()) {
            fields(&mut spec).remove(field);
        }
        spec
    };
    said(new) != said(old)
}

fn check(errs: &mut Errors, spec: &Value, old: Option<&Value>) {
    let path = Path::new("spec");
    check_driver(errs, &path.child("driver"), text(spec, "driver"));
    check_resource_pool(errs, &path.child("pool"), get(spec, "pool"));
    if let Some(old) = old {
        vocab::immutable(errs, "spec.pool.name", get(get(spec, "pool"), "name"), get(get(old, "pool"), "name"));
        vocab::immutable(errs, "spec.driver", get(spec, "driver"), get(old, "driver"));
        vocab::immutable(errs, "spec.nodeName", get(spec, "nodeName"), get(old, "nodeName"));
    }
    check_nodes(errs, &path, spec);
    if has(spec, "sharedCounters") && has(spec, "devices") {
        errs.push(FieldError::invalid(&path, "", "only one of `sharedCounters` or `devices` is allowed"));
    }
    let devices = list(spec, "devices");
    let max = if devices.iter().any(device::is_rich) { MAX_RICH_DEVICES } else { MAX_DEVICES };
    let per_device = on(spec, "perDeviceNodeSelection");
    let judge = |errs: &mut Errors, path: &Path, one: &Value| {
        let before =
            old.and_then(|old| list(old, "devices").iter().find(|other| text(other, "name") == text(one, "name")));
        device::check(errs, path, one, before, per_device);
    };
    check_set(errs, &path.child("devices"), devices, max, judge, |one| text(one, "name").to_owned());
    let judge = |errs: &mut Errors, path: &Path, set: &Value| device::check_counters(errs, path, set, "name");
    let sets = list(spec, "sharedCounters");
    check_set(errs, &path.child("sharedCounters"), sets, MAX_COUNTER_SETS, judge, |set| text(set, "name").to_owned());
    if has(spec, "partitionTypeAttribute") {
        check_partition(errs, &path, spec);
    }
    check_skipped(errs, &path, spec);
}

fn check_resource_pool(errs: &mut Errors, path: &Path, pool: &Value) {
    check_pool(errs, &path.child("name"), text(pool, "name"));
    let (slices, generation) = (num(pool, "resourceSliceCount"), num(pool, "generation"));
    if slices <= 0 {
        errs.push(FieldError::invalid(path.child("resourceSliceCount"), slices, "must be greater than zero"));
    }
    if generation < 0 {
        let message = "must be greater than or equal to zero";
        errs.push(FieldError::invalid(path.child("generation"), generation, message));
    }
}

/// From which nodes the devices can be reached: said in exactly one way.
fn check_nodes(errs: &mut Errors, path: &Path, spec: &Value) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let mut set = Vec::new();
    match some(spec, "nodeName").map(|_| text(spec, "nodeName")) {
        Some("") => {
            let message = "must be either unset or set to a non-empty string";
            errs.push(FieldError::invalid(path.child("nodeName"), "", message));
        }
        Some(name) => {
            set.push("nodeName");
            vocab::subdomain(errs, &path.child("nodeName"), name);
        }
        None => {}
    }
    if let Some(nodes) = some(spec, "nodeSelector") {
        set.push("nodeSelector");
        let path = path.child("nodeSelector");
        scheduling::check_node_selector(errs, &path, nodes);
        if list(nodes, "nodeSelectorTerms").len() != 1 {
            let shown = get(nodes, "nodeSelectorTerms").clone();
            errs.push(FieldError::invalid(
                path.child("nodeSelectorTerms"),
                shown,
                "must have exactly one node selector term",
            ));
        }
    }
    set.extend(flags(errs, path, spec, &["allNodes", "perDeviceNodeSelection"]));
    match set.as_slice() {
        [] => errs.push(FieldError::required(path, ONE)),
        [_] => {}
        set => errs.push(FieldError::invalid(path, shown(set), format!("{ONE}, but multiple fields are set"))),
    }
}

/// Devices that use counters say of which type of partition they are.
fn check_partition(errs: &mut Errors, path: &Path, spec: &Value) {
    let (name, devices) = (text(spec, "partitionTypeAttribute"), list(spec, "devices"));
    let counts = |device: &&Value| !list(device, "consumesCounters").is_empty();
    if !devices.iter().any(|device| counts(&device)) {
        let message = "may only be set on a slice which declares devices that consume counters";
        errs.push(FieldError::invalid(path.child("partitionTypeAttribute"), name, message));
        return;
    }
    let mut problems = Errors::new();
    check_fully_qualified(&mut problems, path, name);
    if !problems.is_empty() {
        errs.extend(
            problems.into_iter().map(|error| FieldError { path: "spec.partitionTypeAttribute".into(), ..error }),
        );
        return;
    }
    let bare = name.strip_prefix(&format!("{}/", text(spec, "driver"))).unwrap_or(name);
    for (i, device) in devices.iter().enumerate().filter(|(_, device)| counts(device)) {
        let at = path.child("devices").index(i).child("attributes").key(name);
        let found =
            |wanted: &str| entries(device, "attributes").find(|(key, _)| *key == wanted).map(|(_, value)| value);
        match found(name).or_else(|| found(bare)) {
            None => {
                let message =
                    "device consumes counters and `partitionTypeAttribute` names this attribute, so it must be set";
                errs.push(FieldError::required(at, message));
            }
            Some(attribute) if !has(attribute, "string") => {
                let message = "must be a string value because `partitionTypeAttribute` names this attribute";
                errs.push(FieldError::invalid(at, attribute.clone(), message));
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_that_were_sent_empty_are_judged_and_not_stored() {
        let def = def();
        let slice = |edit: Value| {
            let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 1});
            let mut spec = json!({"driver": "d.example.com", "pool": pool, "allNodes": true});
            edit.as_object().into_iter().flatten().for_each(|(key, value)| spec[key] = value.clone());
            let mut slice = json!({"spec": spec});
            def.normalize(&mut slice);
            slice
        };
        let counters = json!([{"name": "c", "counters": {"m": {"value": "1"}}}]);
        for (edit, expect) in [
            (json!({"devices": []}), ""),
            (json!({"devices": [], "sharedCounters": counters}), "only one of `sharedCounters` or `devices`"),
            (json!({"devices": [{"name": "a", "attributes": {"x": {"bools": []}}}]}), "must not be empty if specified"),
            (json!({"devices": [{"name": "a", "attributes": {"x": {"ints": []}}}]}), "must not be empty if specified"),
        ] {
            let found = Slices.validate(&slice(edit.clone())).iter().map(ToString::to_string).collect::<Vec<_>>();
            assert!(found.is_empty() == expect.is_empty() && found.join("; ").contains(expect), "{edit}: {found:?}");
        }
        let (mut empty, none) = (slice(json!({"devices": []})), slice(json!({})));
        assert!(!differs(&empty, &none), "the generation stays");
        def.forget_empty(&mut empty);
        assert_eq!(empty, none);
    }

    #[test]
    fn a_slice_says_where_its_devices_are() {
        let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 1});
        let slice = |edit: Value| {
            let mut spec = json!({"driver": "d.example.com", "pool": pool});
            edit.as_object().into_iter().flatten().for_each(|(key, value)| spec[key] = value.clone());
            let mut errs = Errors::new();
            check(&mut errs, &spec, None);
            errs.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        for (what, edit, expect) in [
            ("a node", json!({"nodeName": "n"}), ""),
            ("nowhere", json!({}), "spec: Required value: exactly one of"),
            ("twice", json!({"nodeName": "n", "allNodes": true}), "{`nodeName`, `allNodes`}"),
            ("not all", json!({"allNodes": false}), "must be either unset or set to true"),
            ("a device", json!({"allNodes": true, "devices": [{"name": "a", "attributes": {"x": {"int": 1}}}]}), ""),
            (
                "no value",
                json!({"allNodes": true, "devices": [{"name": "a", "attributes": {"x": {}}}]}),
                "exactly one value must be specified",
            ),
            (
                "a version",
                json!({"allNodes": true, "devices": [{"name": "a", "attributes": {"x": {"version": "1"}}}]}),
                "semver.org",
            ),
            ("twice the same", json!({"allNodes": true, "devices": [{"name": "a"}, {"name": "a"}]}), "Duplicate value"),
            (
                "its own node",
                json!({"allNodes": true, "devices": [{"name": "a", "nodeName": "n"}]}),
                "can only be set if",
            ),
        ] {
            let found = slice(edit);
            assert!(found.is_empty() == expect.is_empty() && found.join("; ").contains(expect), "{what}: {found:?}");
        }
    }
}
