//! One device of a slice: its attributes, capacities, counters and nodes.

use kontiki_machinery::schema::quantity::Amount;
use serde_json::Value;

use super::{check_binding, check_each, check_qualified, check_set, check_taint, flags, shown};
use crate::{
    FieldError, Path,
    rows::{
        template::{resources, scheduling},
        value::{count, entries, get, has, list, on, some, text, texts},
        vocab::{self, Errors},
    },
};

const MAX_NAMES: usize = 32;
const MAX_VALUES: usize = 48;
const MAX_TEXT: usize = 64;
const MAX_TAINTS: usize = 16;
const MAX_CONSUMPTIONS: usize = 2;
const MAX_COUNTERS: usize = 32;
const MAX_OPTIONS: usize = 10;
const LISTS: [&str; 4] = ["bools", "ints", "strings", "versions"];

/// Whether a device uses what makes slices large.
pub(super) fn is_rich(device: &Value) -> bool {
    !list(device, "taints").is_empty()
        || !list(device, "consumesCounters").is_empty()
        || entries(device, "attributes").any(|(_, attribute)| LISTS.iter().any(|field| has(attribute, field)))
}

pub(super) fn check(errs: &mut Errors, path: &Path, device: &Value, old: Option<&Value>, per_device: bool) {
    vocab::label(errs, &path.child("name"), text(device, "name"));
    check_amount_of_facts(errs, path, device);
    for (name, attribute) in entries(device, "attributes") {
        check_qualified(errs, &path.child("attributes"), name);
        check_attribute(errs, &path.child("attributes").key(&shortened(name)), attribute);
    }
    let same = |field: &str| old.is_some_and(|old| get(old, field) == get(device, field));
    for (name, capacity) in entries(device, "capacity").filter(|_| !same("capacity")) {
        check_qualified(errs, &path.child("capacity"), name);
        let path = path.child("capacity").key(&shortened(name)).child("requestPolicy");
        let Some(policy) = some(capacity, "requestPolicy") else { continue };
        if on(device, "allowMultipleAllocations") {
            check_request_policy(errs, &path, policy, get(capacity, "value"));
        } else {
            errs.push(FieldError::forbidden(path, "allowMultipleAllocations must be true"));
        }
    }
    if !same("taints") {
        let judge = |errs: &mut Errors, path: &Path, taint: &Value| check_taint(errs, path, taint, None);
        check_each(errs, &path.child("taints"), list(device, "taints"), MAX_TAINTS, judge);
    }
    let judge = |errs: &mut Errors, path: &Path, set: &Value| check_counters(errs, path, set, "counterSet");
    let used = list(device, "consumesCounters");
    let key = |set: &Value| text(set, "counterSet").to_owned();
    check_set(errs, &path.child("consumesCounters"), used, MAX_CONSUMPTIONS, judge, key);
    check_nodes(errs, path, device, per_device);
    check_binding(errs, path, device);
    for (name, mapping) in entries(device, "nodeAllocatableResources") {
        let path = path.child("nodeAllocatableResources").key(name);
        check_mapping(errs, &path, name, mapping, get(device, "capacity"));
    }
}

fn check_amount_of_facts(errs: &mut Errors, path: &Path, device: &Value) {
    let names = count(device, "attributes") + count(device, "capacity");
    if names > MAX_NAMES {
        let message = format!("the total number of attributes and capacities must not exceed {MAX_NAMES}");
        errs.push(FieldError::invalid(path, names, message));
    }
    let values = |attribute: &Value| LISTS.iter().map(|field| list(attribute, field).len()).sum::<usize>().max(1);
    let values: usize = entries(device, "attributes").map(|(_, attribute)| values(attribute)).sum();
    if values > MAX_VALUES {
        let message = format!("the total number of attribute values must not exceed {MAX_VALUES}");
        errs.push(FieldError::invalid(path, values, message));
    }
}

/// A key that is too long, without its middle.
fn shortened(key: &str) -> String {
    const MAX: usize = 63 + 1 + 32;
    let chars: Vec<char> = key.chars().collect();
    if chars.len() <= MAX {
        return key.to_owned();
    }
    let rest = MAX - 3;
    let (head, tail) = (&chars[..rest.div_ceil(2)], &chars[chars.len() - rest / 2..]);
    format!("{}...{}", head.iter().collect::<String>(), tail.iter().collect::<String>())
}

fn check_attribute(errs: &mut Errors, path: &Path, attribute: &Value) {
    let given: Vec<&str> =
        ["bool", "int", "string", "version"].into_iter().chain(LISTS).filter(|field| has(attribute, field)).collect();
    if has(attribute, "string") {
        check_length(errs, &path.child("string"), text(attribute, "string"));
    }
    if has(attribute, "version") {
        check_version(errs, &path.child("version"), text(attribute, "version"));
    }
    for field in LISTS.into_iter().filter(|field| has(attribute, field)) {
        let path = path.child(field);
        if list(attribute, field).is_empty() {
            errs.push(FieldError::invalid(&path, get(attribute, field).clone(), "must not be empty if specified"));
        }
        for (i, value) in texts(attribute, field).iter().enumerate() {
            match field {
                "strings" => check_length(errs, &path.index(i), value),
                _ => check_version(errs, &path.index(i), value),
            }
        }
    }
    if given.len() != 1 {
        let bad = if given.is_empty() { "".into() } else { attribute.clone() };
        errs.push(FieldError::invalid(path, bad, "exactly one value must be specified"));
    }
}

fn check_length(errs: &mut Errors, path: &Path, value: &str) {
    if value.len() > MAX_TEXT {
        errs.push(FieldError::too_long(path, MAX_TEXT));
    }
}

fn check_version(errs: &mut Errors, path: &Path, value: &str) {
    if !is_semver(value) {
        errs.push(FieldError::invalid(path, value, "must be a string compatible with semver.org spec 2.0.0"));
    }
    check_length(errs, path, value);
}

/// Semantic Versioning 2.0.0.
fn is_semver(text: &str) -> bool {
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    let number = |part: &str| {
        part == "0" || (!part.starts_with('0') && !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit()))
    };
    let word = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    let plain = |part: &str| word(part) && (number(part) || !part.bytes().all(|c| c.is_ascii_digit()));
    core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|pre| pre.split('.').all(plain))
        && build.is_none_or(|build| build.split('.').all(word))
}

/// How much of a capacity may be asked for.
fn check_request_policy(errs: &mut Errors, path: &Path, policy: &Value, capacity: &Value) {
    let (values, range) = (list(policy, "validValues"), some(policy, "validRange"));
    if !values.is_empty() && range.is_some() {
        let message =
            "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
        errs.push(FieldError::forbidden(path, message));
        return;
    }
    let kind = if values.is_empty() { "validRange" } else { "validValues" };
    if values.is_empty() && range.is_none() {
        return;
    }
    let Some(default) = some(policy, "default") else {
        errs.push(FieldError::required(path.child("default"), format!("required when {kind} is defined")));
        return;
    };
    match range {
        Some(range) => check_range(errs, &path.child(kind), range, default, capacity),
        None => check_options(errs, &path.child(kind), values, default, capacity),
    }
}

fn nanos(value: &Value) -> i128 {
    Amount::of(value).map_or(0, Amount::nanos)
}

/// An amount as messages print it.
fn printed(value: &Value) -> String {
    Amount::of(value).map_or_else(String::new, |amount| amount.to_string())
}

fn check_options(errs: &mut Errors, path: &Path, values: &[Value], default: &Value, capacity: &Value) {
    for (i, pair) in values.windows(2).enumerate().filter(|(_, pair)| nanos(&pair[0]) > nanos(&pair[1])) {
        let message = "values must be sorted in ascending order";
        errs.push(FieldError::invalid(path.index(i + 1), printed(&pair[1]), message));
    }
    let judge = |errs: &mut Errors, path: &Path, option: &Value| {
        if nanos(option) > nanos(capacity) {
            let message = format!("option is larger than capacity value: {}", printed(capacity));
            errs.push(FieldError::invalid(path, printed(option), message));
        }
    };
    check_set(errs, path, values, MAX_OPTIONS, judge, printed);
    if !values.iter().any(|option| nanos(option) == nanos(default)) {
        let message = "default value is not valid according to the requestPolicy";
        errs.push(FieldError::invalid(path, printed(default), message));
    }
}

fn check_range(errs: &mut Errors, path: &Path, range: &Value, default: &Value, capacity: &Value) {
    let Some(min) = some(range, "min") else {
        errs.push(FieldError::required(path.child("min"), "required when validRange is defined"));
        return;
    };
    let mut compare = |small: &Value, large: &Value, field: &str, bad: &Value, why: &str| {
        if nanos(small) > nanos(large) {
            let other = if std::ptr::eq(bad, large) { small } else { large };
            errs.push(FieldError::invalid(path.child(field), printed(bad), format!("{why}: {}", printed(other))));
        }
    };
    compare(min, capacity, "min", min, "min is larger than capacity value");
    compare(min, default, "default", default, "default is less than min");
    let max = some(range, "max");
    if let Some(max) = max {
        compare(min, max, "max", min, "min is larger than max");
        compare(max, capacity, "max", max, "max is larger than capacity value");
        compare(default, max, "default", default, "default is more than max");
    }
    let Some(step) = some(range, "step") else { return };
    let path = path.child("step");
    if nanos(step) <= 0 {
        errs.push(FieldError::invalid(path, printed(step), "must be greater than zero"));
        return;
    }
    if nanos(min) + nanos(step) > nanos(capacity) {
        let added =
            Amount::of(min).zip(Amount::of(step)).map_or_else(String::new, |(min, step)| min.plus(step).to_string());
        let message = format!("one step {added} is larger than capacity value: {}", printed(capacity));
        errs.push(FieldError::invalid(&path, printed(step), message));
    }
    for value in [Some(default), max].into_iter().flatten() {
        if (nanos(value) - nanos(min)) % nanos(step) != 0 {
            let message =
                format!("value is not a multiple of a given step ({}) from ({})", printed(step), printed(min));
            errs.push(FieldError::invalid(&path, printed(value), message));
        }
    }
}

/// A set of counters, whose name is in `field`.
pub(super) fn check_counters(errs: &mut Errors, path: &Path, set: &Value, field: &str) {
    let (at, name) = (path.child(field), text(set, field));
    if name.is_empty() {
        errs.push(FieldError::required(at, ""));
    } else {
        vocab::label(errs, &at, name);
    }
    let (path, counters) = (path.child("counters"), count(set, "counters"));
    if counters == 0 {
        errs.push(FieldError::required(path, ""));
    } else if counters > MAX_COUNTERS {
        errs.push(FieldError::too_many(path, counters, MAX_COUNTERS));
    } else {
        entries(set, "counters").for_each(|(name, _)| vocab::label(errs, &path, name));
    }
}

fn check_nodes(errs: &mut Errors, path: &Path, device: &Value, per_device: bool) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    if !per_device {
        if ["nodeName", "nodeSelector", "allNodes"].iter().any(|field| has(device, field)) {
            let message = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errs.push(FieldError::invalid(path, Value::Null, message));
        }
        return;
    }
    let mut set = Vec::new();
    match some(device, "nodeName").map(|_| text(device, "nodeName")) {
        Some("") => errs.push(FieldError::invalid(path.child("nodeName"), "", "must not be empty")),
        Some(name) => {
            set.push("nodeName");
            vocab::subdomain(errs, &path.child("nodeName"), name);
        }
        None => {}
    }
    if let Some(nodes) = some(device, "nodeSelector") {
        set.push("nodeSelector");
        scheduling::check_node_selector(errs, &path.child("nodeSelector"), nodes);
    }
    set.extend(flags(errs, path, device, &["allNodes"]));
    match set.as_slice() {
        [] => errs.push(FieldError::required(path, ONE)),
        [_] => {}
        set => errs.push(FieldError::invalid(path, shown(set), ONE)),
    }
}

/// What a device takes of its node.
fn check_mapping(errs: &mut Errors, path: &Path, name: &str, resource: &Value, capacities: &Value) {
    let of_nodes = ["cpu", "memory", "ephemeral-storage"].contains(&name) || name.starts_with("hugepages-");
    if !of_nodes || resources::extended(name) {
        errs.push(FieldError::invalid(path, name, "must be a node allocatable resource name"));
    }
    let (mapping, overhead) = (some(resource, "mapping"), some(resource, "overhead"));
    if mapping.is_none() && overhead.is_none() {
        errs.push(FieldError::required(path, "at least one of mapping or overhead must be set"));
    }
    if let Some(mapping) = mapping {
        check_multipliers(errs, &path.child("mapping"), mapping, capacities);
    }
    let Some(overhead) = overhead else { return };
    let (path, given) = (path.child("overhead"), ["perPod", "perContainer"].map(|field| some(overhead, field)));
    if given.iter().all(Option::is_none) {
        errs.push(FieldError::invalid(&path, "", "at least one of perPod or perContainer must be set"));
    }
    for (field, amount) in ["perPod", "perContainer"].iter().zip(given) {
        if let Some(amount) = amount.filter(|amount| nanos(amount) < 0) {
            errs.push(FieldError::invalid(path.child(field), printed(amount), "must be non-negative"));
        }
    }
}

fn check_multipliers(errs: &mut Errors, path: &Path, mapping: &Value, capacities: &Value) {
    let positive = |errs: &mut Errors, field: &str, amount: &Value| {
        if nanos(amount) <= 0 {
            errs.push(FieldError::invalid(path.child(field), printed(amount), "must be positive"));
        }
    };
    let multiplier = some(mapping, "capacityMultiplier");
    if has(mapping, "capacityKey") {
        match text(mapping, "capacityKey") {
            "" => {
                errs.push(FieldError::invalid(path.child("capacityKey"), "", "capacityKey must not be an empty string"))
            }
            key if !has(capacities, key) => errs.push(FieldError::not_found(path.child("capacityKey"), key)),
            _ => {}
        }
        match multiplier {
            None => {
                let message = "capacityMultiplier is required when capacityKey is set";
                errs.push(FieldError::required(path.child("capacityMultiplier"), message));
            }
            Some(amount) => positive(errs, "capacityMultiplier", amount),
        }
    }
    if let Some(amount) = some(mapping, "deviceMultiplier") {
        positive(errs, "deviceMultiplier", amount);
    }
    if multiplier.is_some() && !has(mapping, "capacityKey") {
        let message = "capacityKey is required when capacityMultiplier is set";
        errs.push(FieldError::required(path.child("capacityKey"), message));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn versions_are_semantic() {
        for (text, good) in [
            ("1.2.3", true),
            ("1.2.3-alpha.1+b.01", true),
            ("1.2", false),
            ("01.2.3", false),
            ("1.2.3-01", false),
            ("1.2.3-", false),
        ] {
            assert_eq!(is_semver(text), good, "{text}");
        }
    }

    #[test]
    fn amounts_are_asked_for_in_steps() {
        let range = |range: Value| json!({"default": "2Gi", "validRange": range});
        for (policy, expect) in [
            (range(json!({"min": "1Gi", "max": "4Gi", "step": "1Gi"})), ""),
            (range(json!({"min": "3Gi"})), "default is less than min: 3Gi"),
            (range(json!({"min": "1Gi", "step": "3Gi"})), "value is not a multiple"),
            (range(json!({})), "required when validRange is defined"),
            (json!({"default": "2Gi", "validValues": ["1Gi", "2Gi"]}), ""),
            (json!({"default": "3Gi", "validValues": ["2Gi", "1Gi"]}), "sorted in ascending order"),
            (json!({"validValues": ["1Gi"]}), "required when validValues is defined"),
        ] {
            let mut errs = Errors::new();
            check_request_policy(&mut errs, &Path::new("p"), &policy, &json!("8Gi"));
            let found: Vec<_> = errs.iter().map(ToString::to_string).collect();
            assert!(found.is_empty() == expect.is_empty() && found.join("; ").contains(expect), "{policy}: {found:?}");
        }
    }
}
