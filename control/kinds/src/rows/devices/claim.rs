//! ResourceClaims and their templates: requests for devices.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde_json::{Value, json};

use super::{
    GROUP, MAX_CONFIGS, check_binding, check_config, check_driver, check_each, check_expression, check_fully_qualified,
    check_object, check_pool, check_selectors, check_set, check_skipped, check_tolerations, check_uid,
};
use crate::apply::Counted;
use crate::resource::status_alone;
use crate::{
    Bad, FieldError, Path, ResourceDef, Strategy, Verbs, meta,
    rows::{
        cells::{self, Cell},
        parts,
        template::scheduling,
        value::{at, child, copy, default_text, get, has, items_mut, list, num, set, some, some_mut, text, texts},
        vocab::{self, Errors},
    },
};

/// The row of claims.
pub(super) fn def() -> ResourceDef {
    ResourceDef {
        delete_returns_object: true,
        ..ResourceDef::new(
            GROUP,
            ("resourceclaims", "resourceclaim", "ResourceClaim"),
            "io.k8s.api.resource.v1.ResourceClaim",
            Claims,
        )
    }
    .with_part("status", Verbs::PART)
}

/// The row of templates.
pub(super) fn template() -> ResourceDef {
    ResourceDef {
        delete_returns_object: true,
        ..ResourceDef::new(
            GROUP,
            ("resourceclaimtemplates", "resourceclaimtemplate", "ResourceClaimTemplate"),
            "io.k8s.api.resource.v1.ResourceClaimTemplate",
            Templates,
        )
    }
}

const MAX_REQUESTS: usize = 32;
const MAX_ALTERNATIVES: usize = 8;
const MAX_CONSTRAINTS: usize = 32;
const MAX_CONSUMERS: usize = 256;
const MAX_CONDITIONS: usize = 8;
const MAX_ADDRESSES: usize = 16;

fn default_request(request: &mut Value) {
    default_text(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" && num(request, "count") == 0 {
        set(request, "count", 1);
    }
}

fn default_spec(spec: &mut Value) {
    for request in items_mut(child(spec, "devices"), "requests") {
        if let Some(exactly) = some_mut(request, "exactly") {
            default_request(exactly);
        }
        items_mut(request, "firstAvailable").for_each(default_request);
    }
}

struct Claims;

impl Strategy for Claims {
    fn counted(&self, sub: Option<&str>) -> Option<Counted> {
        status_alone(sub)
    }

    fn default(&self, obj: &mut Value) {
        default_spec(child(obj, "spec"));
    }

    fn prepare_create(&self, obj: &mut Value) {
        set(obj, "status", json!({}));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        if sub == Some("status") {
            parts::only_status(new, old);
            drop_gone_devices(new, old);
        } else {
            copy(new, old, "status");
        }
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check_spec(&mut errs, &Path::new("spec"), get(obj, "spec"));
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        if sub == Some("status") {
            return check_status(new, old);
        }
        let mut errs = meta::validate_object_meta(new, true, &|name, prefix| self.name_errors(name, prefix));
        vocab::immutable(&mut errs, "spec", get(new, "spec"), get(old, "spec"));
        errs
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        vec![cells::name(obj), cells::of(state(obj)), cells::age(obj)]
    }
}

fn state(obj: &Value) -> String {
    let (deleted, status) = (has(get(obj, "metadata"), "deletionTimestamp"), get(obj, "status"));
    let allocated = has(status, "allocation");
    let states = [
        (deleted, "deleted"),
        (!deleted && !allocated, "pending"),
        (allocated, "allocated"),
        (allocated && !list(status, "reservedFor").is_empty(), "reserved"),
    ];
    states.iter().filter(|(holds, _)| *holds).map(|(_, state)| *state).collect::<Vec<_>>().join(",")
}

/// With the allocation goes what was said of its devices.
fn drop_gone_devices(new: &mut Value, old: &Value) {
    let gone: BTreeSet<String> =
        list(at(old, &["status", "allocation", "devices"]), "results").iter().map(device_id).collect();
    let kept: BTreeSet<String> =
        list(at(new, &["status", "allocation", "devices"]), "results").iter().map(device_id).collect();
    let lost = |device: &Value| gone.contains(&device_id(device)) && !kept.contains(&device_id(device));
    let status = child(new, "status");
    let Some(devices) = status.get_mut("devices").and_then(Value::as_array_mut) else { return };
    devices.retain(|device| !lost(device));
    if devices.is_empty() {
        crate::rows::value::unset(status, "devices");
    }
}

struct Templates;

impl Strategy for Templates {
    fn default(&self, obj: &mut Value) {
        default_spec(child(child(obj, "spec"), "spec"));
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let (mut errs, path, spec) = (Errors::new(), Path::new("spec"), get(obj, "spec"));
        let (at, metadata) = (path.child("metadata"), get(spec, "metadata"));
        vocab::labels(&mut errs, &at.child("labels"), get(metadata, "labels"));
        errs.extend(meta::validate_annotations(get(metadata, "annotations"), &at.child("annotations")));
        check_spec(&mut errs, &path.child("spec"), get(spec, "spec"));
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        vocab::immutable(&mut errs, "spec", get(new, "spec"), get(old, "spec"));
        errs
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        vec![cells::name(obj), cells::age(obj)]
    }
}

/// Requests by name, each with its alternatives.
type Names<'a> = BTreeMap<&'a str, Vec<&'a str>>;

fn names(spec: &Value) -> Names<'_> {
    let requests = list(get(spec, "devices"), "requests").iter();
    let alternatives = |request| list(request, "firstAvailable").iter().map(|one| text(one, "name")).collect();
    requests.map(|request| (text(request, "name"), alternatives(request))).collect()
}

fn check_spec(errs: &mut Errors, path: &Path, spec: &Value) {
    let (names, path, devices) = (names(spec), path.child("devices"), get(spec, "devices"));
    let key = |request: &Value| text(request, "name").to_owned();
    let constraints = list(devices, "constraints");
    let judge = |errs: &mut Errors, path: &Path, request| check_request(errs, path, request, constraints);
    check_set(errs, &path.child("requests"), list(devices, "requests"), MAX_REQUESTS, judge, key);
    let judge = |errs: &mut Errors, path: &Path, constraint| check_constraint(errs, path, constraint, &names);
    check_each(errs, &path.child("constraints"), constraints, MAX_CONSTRAINTS, judge);
    let judge = |errs: &mut Errors, path: &Path, config| {
        check_references(errs, path, config, &names);
        check_config(errs, path, config, false);
    };
    check_each(errs, &path.child("config"), list(devices, "config"), MAX_CONFIGS, judge);
}

fn check_request(errs: &mut Errors, path: &Path, request: &Value, constraints: &[Value]) {
    let name = text(request, "name");
    vocab::label(errs, &path.child("name"), name);
    let alternatives = list(request, "firstAvailable");
    match (some(request, "exactly"), alternatives.is_empty()) {
        (None, true) => {
            errs.push(FieldError::required(path, "exactly one of `exactly` or `firstAvailable` is required"))
        }
        (Some(_), false) => {
            let message = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errs.push(FieldError::invalid(path, Value::Null, message));
        }
        (Some(exactly), true) => check_wish(errs, &path.child("exactly"), exactly, name, constraints),
        (None, false) => {
            let judge = |errs: &mut Errors, path: &Path, one: &Value| {
                vocab::label(errs, &path.child("name"), text(one, "name"));
                check_wish(errs, path, one, &format!("{name}/{}", text(one, "name")), constraints);
            };
            let key = |one: &Value| text(one, "name").to_owned();
            check_set(errs, &path.child("firstAvailable"), alternatives, MAX_ALTERNATIVES, judge, key);
        }
    }
}

/// What devices are wanted, and how many.
fn check_wish(errs: &mut Errors, path: &Path, wish: &Value, request: &str, constraints: &[Value]) {
    let (at, class) = (path.child("deviceClassName"), text(wish, "deviceClassName"));
    if class.is_empty() {
        errs.push(FieldError::required(at, ""));
    } else {
        vocab::subdomain(errs, &at, class);
    }
    check_selectors(errs, &path.child("selectors"), list(wish, "selectors"), false);
    let judge = |errs: &mut Errors, path: &Path, attribute: &Value| {
        let (name, expression) = (text(attribute, "name"), text(attribute, "expression"));
        if !name.is_empty() && !constraints.iter().any(|constraint| uses(constraint, name, request)) {
            let message = "must be referenced by at least one matchAttribute or distinctAttribute constraint targeting this request";
            errs.push(FieldError::invalid(path.child("name"), name, message));
        }
        check_expression(errs, &path.child("expression"), expression, expression.is_empty());
    };
    let derived = list(wish, "derivedAttributes");
    check_set(errs, &path.child("derivedAttributes"), derived, usize::MAX, judge, |one| text(one, "name").to_owned());
    let (mode, count) = (text(wish, "allocationMode"), num(wish, "count"));
    match mode {
        "All" if count != 0 => {
            let message = "must not be specified when allocationMode is 'All'";
            errs.push(FieldError::invalid(path.child("count"), count, message));
        }
        "ExactCount" if count <= 0 => {
            errs.push(FieldError::invalid(path.child("count"), count, "must be greater than zero"));
        }
        "All" | "ExactCount" => {}
        _ => errs.push(FieldError::not_supported(path.child("allocationMode"), mode, &["All", "ExactCount"])),
    }
    check_tolerations(errs, path, wish);
}

/// Whether a constraint compares an attribute of a request (`request` or `request/alternative`).
fn uses(constraint: &Value, attribute: &str, request: &str) -> bool {
    let named = ["matchAttribute", "distinctAttribute"].map(|field| text(constraint, field));
    let named = named.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
    let requests = texts(constraint, "requests");
    let parent = request.split('/').next().unwrap_or_default();
    named == attribute && (requests.is_empty() || requests.contains(&request) || requests.contains(&parent))
}

fn check_constraint(errs: &mut Errors, path: &Path, constraint: &Value, names: &Names<'_>) {
    check_references(errs, path, constraint, names);
    let given = ["matchAttribute", "distinctAttribute"].into_iter().find(|field| has(constraint, field));
    match given {
        Some(field) => check_fully_qualified(errs, &path.child(field), text(constraint, field)),
        None => {
            let message =
                "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            errs.push(FieldError::required(path, message));
        }
    }
}

fn check_references(errs: &mut Errors, path: &Path, owner: &Value, names: &Names<'_>) {
    let requests = list(owner, "requests");
    let judge = |errs: &mut Errors, path: &Path, name: &Value| {
        check_reference(errs, path, name.as_str().unwrap_or_default(), names);
    };
    let key = |name: &Value| name.as_str().unwrap_or_default().to_owned();
    check_set(errs, &path.child("requests"), requests, MAX_REQUESTS, judge, key);
}

fn check_reference(errs: &mut Errors, path: &Path, name: &str, names: &Names<'_>) {
    const WRONG: &str =
        "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let segments: Vec<&str> = name.split('/').collect();
    let known = match segments.as_slice() {
        [request] => names.contains_key(request),
        [request, alternative] => names.get(request).is_some_and(|known| known.contains(alternative)),
        _ => return errs.push(FieldError::invalid(path, name, WRONG)),
    };
    segments.iter().for_each(|segment| vocab::label(errs, path, segment));
    if !known {
        errs.push(FieldError::invalid(path, name, WRONG));
    }
}

/// A device as messages name it: `driver/pool/device[/share]`.
fn device_id(device: &Value) -> String {
    let mut id = ["driver", "pool", "device"].map(|field| text(device, field)).join("/");
    let share = text(device, "shareID");
    if !share.is_empty() {
        id.push('/');
        id.push_str(share);
    }
    id
}

fn check_status(new: &Value, old: &Value) -> Errors {
    let (mut errs, path, status) = (Errors::new(), Path::new("status"), get(new, "status"));
    let (consumers, at) = (list(status, "reservedFor"), path.child("reservedFor"));
    let judge = |errs: &mut Errors, path: &Path, consumer: &Value| {
        for field in ["resource", "name", "uid"] {
            if text(consumer, field).is_empty() {
                errs.push(FieldError::required(path.child(field), ""));
            }
        }
    };
    check_set(&mut errs, &at, consumers, MAX_CONSUMERS, judge, |consumer| text(consumer, "uid").to_owned());
    let allocation = some(status, "allocation");
    let results = allocation.map_or(&[][..], |allocation| list(get(allocation, "devices"), "results"));
    let allocated: BTreeSet<String> = results.iter().map(device_id).collect();
    let judge = |errs: &mut Errors, path: &Path, device: &Value| check_device(errs, path, device, &allocated);
    check_set(&mut errs, &path.child("devices"), list(status, "devices"), usize::MAX, judge, device_id);
    let before = get(old, "status");
    if !consumers.is_empty() && allocation.is_none() {
        errs.push(FieldError::forbidden(&at, "may not be specified when `allocated` is not set"));
    } else if has(get(new, "metadata"), "deletionTimestamp")
        && consumers.iter().any(|consumer| !list(before, "reservedFor").contains(consumer))
    {
        let message = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        errs.push(FieldError::forbidden(&at, message));
    }
    match (some(before, "allocation"), allocation) {
        (Some(then), Some(now)) => vocab::immutable(&mut errs, "status.allocation", now, then),
        (None, Some(now)) => check_allocation(&mut errs, &path.child("allocation"), now, &names(get(new, "spec"))),
        _ => {}
    }
    errs
}

fn check_allocation(errs: &mut Errors, path: &Path, allocation: &Value, names: &Names<'_>) {
    let (at, devices) = (path.child("devices"), get(allocation, "devices"));
    let judge = |errs: &mut Errors, path: &Path, result: &Value| {
        check_reference(errs, &path.child("request"), text(result, "request"), names);
        check_driver(errs, &path.child("driver"), text(result, "driver"));
        check_pool(errs, &path.child("pool"), text(result, "pool"));
        vocab::label(errs, &path.child("device"), text(result, "device"));
        check_binding(errs, path, result);
        check_tolerations(errs, path, result);
        if has(result, "shareID") {
            check_uid(errs, &path.child("shareID"), text(result, "shareID"));
        }
        check_skipped(errs, path, result);
    };
    check_each(errs, &at.child("results"), list(devices, "results"), MAX_REQUESTS, judge);
    let judge = |errs: &mut Errors, path: &Path, config: &Value| {
        vocab::one_of(errs, &path.child("source"), text(config, "source"), &["FromClaim", "FromClass"]);
        check_references(errs, path, config, names);
        check_config(errs, path, config, false);
    };
    check_each(errs, &at.child("config"), list(devices, "config"), 2 * MAX_CONFIGS, judge);
    if let Some(nodes) = some(allocation, "nodeSelector") {
        scheduling::check_node_selector(errs, &path.child("nodeSelector"), nodes);
    }
}

fn check_device(errs: &mut Errors, path: &Path, device: &Value, allocated: &BTreeSet<String>) {
    check_driver(errs, &path.child("driver"), text(device, "driver"));
    check_pool(errs, &path.child("pool"), text(device, "pool"));
    vocab::label(errs, &path.child("device"), text(device, "device"));
    if has(device, "shareID") {
        check_uid(errs, &path.child("shareID"), text(device, "shareID"));
    }
    if !allocated.contains(&device_id(device)) {
        errs.push(FieldError::invalid(path, Bad::from(device_id(device)), "must be an allocated device in the claim"));
    }
    let (at, conditions) = (path.child("conditions"), list(device, "conditions"));
    if conditions.len() > MAX_CONDITIONS {
        errs.push(FieldError::too_many(&at, conditions.len(), MAX_CONDITIONS));
    }
    parts::check_conditions(errs, &at, conditions);
    if has(device, "data") {
        check_object(errs, &path.child("data"), get(device, "data"), false);
    }
    if let Some(network) = some(device, "networkData") {
        check_network(errs, &path.child("networkData"), network);
    }
}

fn check_network(errs: &mut Errors, path: &Path, network: &Value) {
    for (field, max) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if text(network, field).len() > max {
            errs.push(FieldError::too_long(path.child(field), max));
        }
    }
    let judge = |errs: &mut Errors, path: &Path, address: &Value| {
        let address = address.as_str().unwrap_or_default();
        match address.parse::<IpNet>() {
            Ok(net) if net.to_string() == address => {}
            Ok(net) => errs.push(FieldError::invalid(path, address, format!("must be in canonical form (\"{net}\")"))),
            Err(_) => {
                let message = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
                errs.push(FieldError::invalid(path, address, message));
            }
        }
    };
    let key = |address: &Value| address.as_str().unwrap_or_default().to_owned();
    check_set(errs, &path.child("ips"), list(network, "ips"), MAX_ADDRESSES, judge, key);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(devices: &Value) -> Vec<String> {
        let mut obj = json!({"metadata": {"name": "a"}, "spec": {"devices": devices}});
        Claims.default(&mut obj);
        Claims.validate(&obj).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn requests_say_what_they_want() {
        let exactly = json!({"deviceClassName": "c"});
        for (what, devices, expect) in [
            ("one", json!({"requests": [{"name": "a", "exactly": exactly}]}), ""),
            (
                "either",
                json!({"requests": [{"name": "a", "firstAvailable": [{"name": "b", "deviceClassName": "c"}]}]}),
                "",
            ),
            (
                "nothing",
                json!({"requests": [{"name": "a"}]}),
                "spec.devices.requests[0]: Required value: exactly one of",
            ),
            (
                "both",
                json!({"requests": [{"name": "a", "exactly": exactly, "firstAvailable": [exactly]}]}),
                "multiple fields are set",
            ),
            (
                "twice",
                json!({"requests": [{"name": "a", "exactly": exactly}, {"name": "a", "exactly": exactly}]}),
                "spec.devices.requests[1]: Duplicate value: \"a\"",
            ),
            (
                "no class",
                json!({"requests": [{"name": "a", "exactly": {}}]}),
                "exactly.deviceClassName: Required value",
            ),
            (
                "config for nobody",
                json!({"config": [{"requests": ["x"], "opaque": {"driver": "d.example.com", "parameters": {}}}]}),
                "spec.devices.config[0].requests[0]: Invalid value: \"x\": must be the name of a request",
            ),
            (
                "a constraint",
                json!({"requests": [{"name": "a", "exactly": exactly}], "constraints": [{"requests": ["a"], "matchAttribute": "example.com/x"}]}),
                "",
            ),
        ] {
            let found = claim(&devices);
            assert!(found.is_empty() == expect.is_empty() && found.join("; ").contains(expect), "{what}: {found:?}");
        }
    }

    #[test]
    fn an_allocation_stays() {
        let with = |device: &str| {
            let result = json!({"request": "a", "driver": "d.example.com", "pool": "p", "device": device});
            json!({"spec": {"devices": {"requests": [{"name": "a"}]}}, "status": {"allocation": {"devices": {"results": [result]}}}})
        };
        assert_eq!(check_status(&with("x"), &json!({})), []);
        assert_eq!(check_status(&with("x"), &with("x")), []);
        assert_eq!(check_status(&with("y"), &with("x")).len(), 1);
        let reserved = json!({"status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]}});
        assert_eq!(check_status(&reserved, &json!({})).len(), 1, "nothing to reserve");
    }
}
