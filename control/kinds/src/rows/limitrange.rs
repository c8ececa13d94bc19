//! LimitRanges.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::cells::{self, Cell};
use super::template::resources;
use super::value::{child, default_to, entries, fields, get, has, items_mut, list, set, text};
use super::vocab::{self, Errors};
use crate::schema::quantity::Amount;
use crate::{FieldError, Path, ResourceDef, Strategy, meta, resource::names};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        short: names(&["limits"]),
        ..ResourceDef::new(
            ("", "v1"),
            ("limitranges", "limitrange", "LimitRange"),
            "io.k8s.api.core.v1.LimitRange",
            LimitRanges,
        )
    }
}

struct LimitRanges;

impl Strategy for LimitRanges {
    fn default(&self, obj: &mut Value) {
        for item in items_mut(child(obj, "spec"), "limits") {
            if text(item, "type") == "Container" {
                default_item(item);
            }
        }
    }

    /// One without a name is named by a uid: its own, which nobody else has.
    fn prepare_create(&self, obj: &mut Value) {
        let metadata = child(obj, "metadata");
        if text(metadata, "name").is_empty() {
            let uid = text(metadata, "uid").to_owned();
            set(metadata, "name", uid);
        }
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let mut types = BTreeSet::new();
        for (i, item) in list(get(obj, "spec"), "limits").iter().enumerate() {
            check_item(&mut errs, &Path::new("spec").child("limits").index(i), item, &mut types);
        }
        errs
    }

    fn validate_update(&self, new: &Value, _old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = meta::validate_object_meta(new, true, &|name, prefix| self.name_errors(name, prefix));
        errs.extend(self.validate(new));
        errs
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        vec![cells::name(obj), cells::of(text(get(obj, "metadata"), "creationTimestamp"))]
    }
}

/// Limits default to the maximum, requests to the limits, else to the minimum.
fn default_item(item: &mut Value) {
    for (into, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
        default_to(item, into, json!({}));
        let values = get(item, from).as_object().cloned().unwrap_or_default();
        let known = fields(child(item, into));
        for (name, value) in values {
            known.entry(name).or_insert(value);
        }
    }
}

fn check_item<'a>(errs: &mut Errors, path: &Path, item: &'a Value, types: &mut BTreeSet<&'a str>) {
    let kind = text(item, "type");
    check_type(errs, &path.child("type"), kind);
    if !types.insert(kind) {
        errs.push(FieldError::duplicate(path.child("type"), kind));
    }
    let mut names = BTreeSet::new();
    let mut check_names = |errs: &mut Errors, field: &str| {
        for (name, _) in entries(item, field) {
            check_name(errs, &path.child(field).key(name), name, kind);
            names.insert(name.clone());
        }
    };
    check_names(errs, "max");
    check_names(errs, "min");
    for field in ["default", "defaultRequest"] {
        if kind != "Pod" {
            check_names(errs, field);
        } else if entries(item, field).next().is_some() {
            errs.push(FieldError::forbidden(path.child(field), "may not be specified when `type` is 'Pod'"));
        }
    }
    let bounds_storage = || ["min", "max"].iter().any(|field| has(get(item, field), "storage"));
    if kind == "PersistentVolumeClaim" && !bounds_storage() {
        let message = "either minimum or maximum storage value is required, but neither was provided";
        errs.push(FieldError::required(path.child("limits"), message));
    }
    check_names(errs, "maxLimitRequestRatio");
    for name in &names {
        check_values(errs, path, name, &Values::of(item, name));
    }
}

fn check_type(errs: &mut Errors, path: &Path, kind: &str) {
    let before = errs.len();
    vocab::qualified_name(errs, path, kind);
    if errs.len() == before && !kind.contains('/') && !["Pod", "Container", "PersistentVolumeClaim"].contains(&kind) {
        errs.push(FieldError::invalid(path, kind, "must be a standard limit type or fully qualified"));
    }
}

fn check_name(errs: &mut Errors, path: &Path, name: &str, kind: &str) {
    match kind {
        "Pod" | "Container" => resources::check_name(errs, path, name, resources::Of::Container),
        _ => resources::check_any_name(errs, path, name),
    }
}

/// What an item says of one resource.
struct Values(BTreeMap<&'static str, Amount>);

impl Values {
    fn of(item: &Value, name: &str) -> Self {
        let pod = text(item, "type") == "Pod";
        let fields = ["min", "max", "default", "defaultRequest", "maxLimitRequestRatio"].into_iter();
        let fields = fields.filter(|field| !(pod && field.starts_with("default")));
        Self(fields.filter_map(|field| Some((field, Amount::of(get(get(item, field), name))?))).collect())
    }

    fn both(&self, a: &str, b: &str) -> Option<(Amount, Amount)> {
        Some((*self.0.get(a)?, *self.0.get(b)?))
    }
}

/// `(lower, upper, whose path, the lower value is the bad one, words for both)`.
const ORDERS: [(&str, &str, &str, bool, &str, &str); 6] = [
    ("min", "max", "min", true, "min", "max"),
    ("min", "defaultRequest", "defaultRequest", false, "min", "default request"),
    ("defaultRequest", "max", "defaultRequest", true, "default request", "max"),
    ("defaultRequest", "default", "defaultRequest", true, "default request", "default limit"),
    ("min", "default", "default", true, "min", "default"),
    ("default", "max", "default", false, "default", "max"),
];

fn check_values(errs: &mut Errors, path: &Path, name: &str, values: &Values) {
    for (low, high, at, low_is_bad, low_word, high_word) in ORDERS {
        if let Some((low, high)) = values.both(low, high).filter(|(low, high)| low > high) {
            let bad = if low_is_bad { low } else { high };
            let message = format!("{low_word} value {low} is greater than {high_word} value {high}");
            errs.push(FieldError::invalid(path.child(at).key(name), bad.to_string(), message));
        }
    }
    if let Some(ratio) = values.0.get("maxLimitRequestRatio") {
        check_ratio(errs, &path.child("maxLimitRequestRatio").key(name), *ratio, values);
    }
    if let Some((default, request)) = values.both("default", "defaultRequest")
        && default != request
        && !resources::overcommittable(name)
    {
        let message = format!("default value {default} must equal to defaultRequest value {request} in {name}");
        errs.push(FieldError::invalid(path.child("defaultRequest").key(name), request.to_string(), message));
    }
}

fn check_ratio(errs: &mut Errors, path: &Path, ratio: Amount, values: &Values) {
    if ratio < Amount::count(1) {
        errs.push(FieldError::invalid(path, ratio.to_string(), format!("ratio {ratio} is less than 1")));
    }
    if let Some((min, max)) = values.both("min", "max") {
        let most = max.as_f64() / min.as_f64();
        if ratio.as_f64() > most {
            let message = format!("ratio {ratio} is greater than max/min = {most:.6}");
            errs.push(FieldError::invalid(path, ratio.to_string(), message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_without_a_name_is_named_by_its_uid() {
        for (metadata, expect) in [(json!({"uid": "u-1"}), "u-1"), (json!({"uid": "u-1", "name": "a"}), "a")] {
            let mut object = json!({ "metadata": metadata });
            LimitRanges.prepare_create(&mut object);
            assert_eq!(object["metadata"]["name"], expect);
        }
    }

    #[test]
    fn an_item_is_checked_by_its_type() {
        for (item, expect) in [
            (json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}}), ""),
            (json!({"type": "Container", "max": {"pods": "2"}}), "spec.limits[0].max[pods]"),
            (json!({"type": "PersistentVolumeClaim", "max": {"storage": "2"}}), ""),
            (json!({"type": "Odd"}), "spec.limits[0].type"),
            (json!({"type": "a.b/Odd", "max": {"pods": "2"}}), ""),
            (
                json!({"type": "Pod", "min": {"cpu": "1"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "3"}}),
                "spec.limits[0].maxLimitRequestRatio[cpu]",
            ),
            (
                json!({"type": "Container", "default": {"a.b/c": "2"}, "defaultRequest": {"a.b/c": "1"}}),
                "spec.limits[0].defaultRequest[a.b/c]",
            ),
        ] {
            let errs = LimitRanges.validate(&json!({"spec": {"limits": [item]}}));
            let paths: Vec<&str> = errs.iter().map(|error| error.path.as_str()).collect();
            assert_eq!(paths.join(" "), expect, "{item}");
        }
    }
}
