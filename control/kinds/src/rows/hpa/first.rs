//! `autoscaling/v1`: one target for CPU. What else an autoscaler has is told in annotations, so that a client that writes
//! back what it read loses nothing.
//!
//! Source: `pkg/apis/autoscaling/v1/conversion.go`.

use serde_json::{Map, Value, json};

use super::super::cells::Cell;
use super::super::value::{child, copy, default_to, fields, get, has, int, list, set, some, text, unset};
use super::{Autoscalers, NAMES, SCHEMA, cpu};
use crate::{
    FieldError, ResourceDef, Strategy, Verbs,
    resource::{Storage, names},
};

/// The row of `v1`.
#[must_use]
pub fn def() -> ResourceDef {
    let (plural, _, kind) = NAMES;
    ResourceDef {
        short: names(&["hpa"]),
        categories: names(&["all"]),
        storage: Storage {
            group: "autoscaling".into(),
            plural: plural.into(),
            api_version: "autoscaling/v2".into(),
            kind: kind.into(),
        },
        ..ResourceDef::new(("autoscaling", "v1"), NAMES, FIRST_SCHEMA, FirstAutoscalers)
    }
    .with_part("status", Verbs::PART)
}

const FIRST_SCHEMA: &str = "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler";
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

struct FirstAutoscalers;

impl FirstAutoscalers {
    fn second(obj: &Value) -> Value {
        let mut second = obj.clone();
        Self.to_storage(&mut second);
        second
    }
}

impl Strategy for FirstAutoscalers {
    fn default(&self, obj: &mut Value) {
        default_to(child(obj, "spec"), "minReplicas", 1);
    }

    fn prepare_create(&self, obj: &mut Value) {
        set(obj, "status", json!({"currentReplicas": 0, "desiredReplicas": 0}));
        drop_statuses(obj);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        Autoscalers.prepare_update(new, old, sub);
        let told = if sub == Some("status") { [METRICS, BEHAVIOR] } else { [CURRENT, CONDITIONS] };
        let annotations = get(get(old, "metadata"), "annotations");
        for key in told {
            match some(annotations, key) {
                Some(_) => copy(child(child(new, "metadata"), "annotations"), annotations, key),
                None => unset_annotation(new, key),
            }
        }
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        Autoscalers.validate(&Self::second(obj))
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        Autoscalers.validate_update(&Self::second(new), &Self::second(old), sub)
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        Autoscalers.row(&Self::second(obj))
    }

    fn to_storage(&self, obj: &mut Value) {
        let mut spec = get(obj, "spec").clone();
        let mut metrics = read(obj, METRICS).map(|told| convert_all(&told, newer)).unwrap_or_default();
        if let Some(percent) = int(&spec, "targetCPUUtilizationPercentage") {
            metrics.insert(0, cpu(percent));
        }
        if metrics.is_empty() {
            metrics.push(cpu(80));
        }
        unset(&mut spec, "targetCPUUtilizationPercentage");
        set(&mut spec, "metrics", metrics);
        if let Some(behavior) = read(obj, BEHAVIOR) {
            set(&mut spec, "behavior", recased(&behavior, lower));
        }
        let mut status = get(obj, "status").clone();
        let percent = int(&status, "currentCPUUtilizationPercentage");
        unset(&mut status, "currentCPUUtilizationPercentage");
        let current = read(obj, CURRENT).map(|told| convert_all(&told, newer_status));
        let current = current.or_else(|| {
            Some(vec![json!({"type": "Resource",
            "resource": {"name": "cpu", "current": {"averageUtilization": percent?}}})])
        });
        set(&mut status, "currentMetrics", current.map_or(Value::Null, Value::from));
        if let Some(conditions) = read(obj, CONDITIONS) {
            set(&mut status, "conditions", conditions);
        }
        [METRICS, CURRENT, CONDITIONS, BEHAVIOR].iter().for_each(|key| unset_annotation(obj, key));
        set(obj, "spec", spec);
        set(obj, "status", status);
        set(obj, "apiVersion", "autoscaling/v2");
        super::super::fit(SCHEMA, obj);
    }

    fn from_storage(&self, obj: &mut Value) {
        let (spec, status) = (get(obj, "spec").clone(), get(obj, "status").clone());
        let metrics = list(&spec, "metrics");
        let first = metrics.iter().find(|metric| is_cpu(metric));
        let percent = first.and_then(|metric| int(get(get(metric, "resource"), "target"), "averageUtilization"));
        let said = |metric: &Value| is_cpu(metric) && has(get(get(metric, "resource"), "target"), "averageUtilization");
        let others: Vec<Value> = metrics.iter().filter(|metric| !said(metric)).map(older).collect();
        let current = list(&status, "currentMetrics");
        let now = current.iter().filter(|metric| is_cpu(metric));
        let now =
            now.filter_map(|metric| int(get(get(metric, "resource"), "current"), "averageUtilization")).next_back();
        if !others.is_empty() {
            tell(obj, METRICS, &Value::from(others));
        }
        if !current.is_empty() {
            tell(obj, CURRENT, &current.iter().map(older_status).collect());
        }
        if !list(&status, "conditions").is_empty() {
            tell(obj, CONDITIONS, get(&status, "conditions"));
        }
        if has(&spec, "behavior") {
            let text = behavior_text(get(&spec, "behavior"));
            set(child(child(obj, "metadata"), "annotations"), BEHAVIOR, text);
        }
        let (to_spec, to_status) = (child(obj, "spec"), ["currentMetrics", "conditions"]);
        unset(to_spec, "metrics");
        unset(to_spec, "behavior");
        if let Some(percent) = percent {
            set(to_spec, "targetCPUUtilizationPercentage", percent);
        }
        let status = child(obj, "status");
        to_status.iter().for_each(|field| unset(status, field));
        if let Some(now) = now {
            set(status, "currentCPUUtilizationPercentage", now);
        }
        set(obj, "apiVersion", "autoscaling/v1");
        super::super::fit(FIRST_SCHEMA, obj);
    }
}

fn is_cpu(metric: &Value) -> bool {
    text(metric, "type") == "Resource" && text(get(metric, "resource"), "name") == "cpu"
}

/// A new autoscaler has no status, also none in annotations.
fn drop_statuses(obj: &mut Value) {
    [CURRENT, CONDITIONS].iter().for_each(|key| unset_annotation(obj, key));
}

fn unset_annotation(obj: &mut Value, key: &str) {
    let Some(annotations) = obj.get_mut("metadata").and_then(|meta| meta.get_mut("annotations")) else { return };
    unset(annotations, key);
    if annotations.as_object().is_some_and(Map::is_empty) {
        unset(child(obj, "metadata"), "annotations");
    }
}

fn read(obj: &Value, key: &str) -> Option<Value> {
    let told = get(get(get(obj, "metadata"), "annotations"), key).as_str()?;
    serde_json::from_str(told).ok()
}

fn tell(obj: &mut Value, key: &str, value: &Value) {
    set(child(child(obj, "metadata"), "annotations"), key, ordered(value));
}

fn convert_all(told: &Value, convert: fn(&Value) -> Value) -> Vec<Value> {
    told.as_array().into_iter().flatten().map(convert).collect()
}

/// Fields of the form in annotations, in the order in which upstream prints them.
const ORDER: &[&str] = &[
    "type",
    "object",
    "pods",
    "resource",
    "containerResource",
    "external",
    "target",
    "kind",
    "name",
    "apiVersion",
    "container",
    "status",
    "lastTransitionTime",
    "reason",
    "message",
    "metricName",
    "metricSelector",
    "targetAverageUtilization",
    "targetValue",
    "targetAverageValue",
    "currentAverageUtilization",
    "currentValue",
    "currentAverageValue",
    "selector",
    "averageValue",
];

/// JSON with the fields in upstream's order.
fn ordered(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(ordered).collect::<Vec<_>>().join(",")),
        Value::Object(map) => {
            let rank = |key: &str| ORDER.iter().position(|known| *known == key).unwrap_or(ORDER.len());
            let mut all: Vec<_> = map.iter().collect();
            all.sort_by_key(|(key, _)| (rank(key), (*key).clone()));
            let written = all.iter().map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), ordered(value)));
            format!("{{{}}}", written.collect::<Vec<_>>().join(","))
        }
        plain => plain.to_string(),
    }
}

/// A metric as annotations tell it.
fn older(metric: &Value) -> Value {
    flatten(metric, "target", ("targetValue", "targetAverageValue", "targetAverageUtilization"))
}

/// The state of a metric as annotations tell it.
fn older_status(metric: &Value) -> Value {
    flatten(metric, "current", ("currentValue", "currentAverageValue", "currentAverageUtilization"))
}

fn flatten(metric: &Value, numbers: &str, (value, average, percent): (&str, &str, &str)) -> Value {
    let field = super::metrics::field_of(text(metric, "type"));
    let source = get(metric, field);
    let (aim, of) = (get(source, numbers), get(source, "metric"));
    // Objects tell their average without the word before it.
    let average = if field == "object" { "averageValue" } else { average };
    let selector = if field == "external" { "metricSelector" } else { "selector" };
    let mut out = json!({});
    for (to, found) in [
        ("target", get(source, "describedObject")),
        ("name", get(source, "name")),
        ("container", get(source, "container")),
        ("metricName", get(of, "name")),
        (selector, get(of, "selector")),
        (value, get(aim, "value")),
        (average, get(aim, "averageValue")),
        (percent, get(aim, "averageUtilization")),
    ] {
        if !found.is_null() {
            set(&mut out, to, found.clone());
        }
    }
    if field == "object" && get(&out, value).is_null() {
        set(&mut out, value, "0");
    }
    json!({"type": text(metric, "type"), field: out})
}

/// A metric that annotations told.
fn newer(told: &Value) -> Value {
    let mut metric = unflatten(told, "target", ("targetValue", "targetAverageValue", "targetAverageUtilization"));
    let field = super::metrics::field_of(text(told, "type"));
    let target = child(child(&mut metric, field), "target");
    let kind = if has(target, "averageUtilization") {
        "Utilization"
    } else if has(target, "averageValue") {
        "AverageValue"
    } else {
        "Value"
    };
    set(target, "type", kind);
    metric
}

/// The state of a metric that annotations told.
fn newer_status(told: &Value) -> Value {
    unflatten(told, "current", ("currentValue", "currentAverageValue", "currentAverageUtilization"))
}

fn unflatten(told: &Value, numbers: &str, (value, average, percent): (&str, &str, &str)) -> Value {
    let field = super::metrics::field_of(text(told, "type"));
    let old = get(told, field);
    let average = if field == "object" { "averageValue" } else { average };
    let mut source = json!({});
    for (to, found) in
        [("describedObject", get(old, "target")), ("name", get(old, "name")), ("container", get(old, "container"))]
    {
        if !found.is_null() {
            set(&mut source, to, found.clone());
        }
    }
    if has(old, "metricName") {
        let metric = child(&mut source, "metric");
        set(metric, "name", get(old, "metricName").clone());
        if let Some(selector) = some(old, "metricSelector").or_else(|| some(old, "selector")) {
            set(metric, "selector", selector.clone());
        }
    }
    let aim = child(&mut source, numbers);
    for (to, from) in [("value", value), ("averageValue", average), ("averageUtilization", percent)] {
        // An object's value is always told; zero says that it has an average instead.
        let unset = field == "object" && from == value && text(old, from) == "0" && has(old, average);
        if let Some(found) = some(old, from).filter(|_| !unset) {
            set(aim, to, found.clone());
        }
    }
    json!({"type": text(told, "type"), field: source})
}

/// A behavior as annotations tell it: all fields of upstream's internal type, under their Go names.
fn behavior_text(behavior: &Value) -> String {
    let policy = |policy: &Value| {
        let of = |field: &str| get(policy, field);
        format!("{{\"Type\":{},\"Value\":{},\"PeriodSeconds\":{}}}", of("type"), of("value"), of("periodSeconds"))
    };
    let rules = |field: &str| match some(behavior, field) {
        None => "null".to_owned(),
        Some(rules) => {
            let policies: Vec<String> = list(rules, "policies").iter().map(policy).collect();
            format!(
                "{{\"StabilizationWindowSeconds\":{},\"SelectPolicy\":{},\"Policies\":[{}],\"Tolerance\":{}}}",
                get(rules, "stabilizationWindowSeconds"),
                get(rules, "selectPolicy"),
                policies.join(","),
                get(rules, "tolerance"),
            )
        }
    };
    format!("{{\"ScaleUp\":{},\"ScaleDown\":{}}}", rules("scaleUp"), rules("scaleDown"))
}

fn lower(key: &str) -> String {
    let mut chars = key.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// The same with other names of fields, without what is null.
fn recased(value: &Value, case: fn(&str) -> String) -> Value {
    match value {
        Value::Object(_) => {
            let mut out = json!({});
            let map = fields(&mut out);
            for (key, value) in value.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
                map.insert(case(key), recased(value, case));
            }
            out
        }
        Value::Array(items) => items.iter().map(|item| recased(item, case)).collect(),
        plain => plain.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::value::entries;
    use super::*;

    #[test]
    fn nothing_is_lost_on_the_way_through_the_first_version() {
        let metric = |kind: &str, field: &str, source: Value| json!({"type": kind, field: source});
        let aim = |kind: &str, field: &str, value: Value| json!({"type": kind, field: value});
        let stored = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "a", "annotations": {"own": "1"}},
            "spec": {"maxReplicas": 5, "minReplicas": 2, "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"},
                "metrics": [
                    cpu(50),
                    metric("Pods", "pods", json!({"metric": {"name": "rps", "selector": {"matchLabels": {"a": "b"}}}, "target": aim("AverageValue", "averageValue", json!("1k"))})),
                    metric("Object", "object", json!({"describedObject": {"kind": "Service", "name": "s", "apiVersion": "v1"}, "metric": {"name": "q"}, "target": aim("AverageValue", "averageValue", json!("3"))})),
                    metric("Object", "object", json!({"describedObject": {"kind": "Service", "name": "s", "apiVersion": "v1"}, "metric": {"name": "q"}, "target": aim("Value", "value", json!("4"))})),
                    metric("External", "external", json!({"metric": {"name": "e", "selector": {"matchLabels": {"c": "d"}}}, "target": aim("Value", "value", json!("30"))})),
                    metric("ContainerResource", "containerResource", json!({"name": "memory", "container": "c", "target": aim("Utilization", "averageUtilization", json!(7))})),
                ],
                "behavior": {"scaleUp": {"selectPolicy": "Max", "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}], "tolerance": "50m"}}},
            "status": {"currentReplicas": 3, "desiredReplicas": 4,
                "conditions": [{"type": "AbleToScale", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                "currentMetrics": [metric("Resource", "resource", json!({"name": "cpu", "current": {"averageUtilization": 40, "averageValue": "1"}}))]},
        });
        let mut normal = stored.clone();
        super::super::super::fit(SCHEMA, &mut normal);
        let mut seen = normal.clone();
        FirstAutoscalers.from_storage(&mut seen);
        assert_eq!(
            (&seen["spec"]["targetCPUUtilizationPercentage"], &seen["spec"]["metrics"]),
            (&json!(50), &Value::Null)
        );
        assert_eq!(seen["status"]["currentCPUUtilizationPercentage"], 40);
        assert_eq!(entries(get(&seen, "metadata"), "annotations").count(), 5);
        FirstAutoscalers.to_storage(&mut seen);
        assert_eq!(seen, normal);
    }
}
