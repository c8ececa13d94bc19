//! Cells of an autoscaler: what it goes by, as `now/target`.

use serde_json::Value;

use super::super::cells::{self, Cell};
use super::super::value::{get, has, int, list, num, text};
use super::metrics::{field_of, status_at};

/// More metrics than these are only counted.
const SHOWN: usize = 2;
const UNKNOWN: &str = "<unknown>";

pub(super) fn row(obj: &Value) -> Vec<Cell> {
    let (spec, status) = (get(obj, "spec"), get(obj, "status"));
    let target = get(spec, "scaleTargetRef");
    vec![
        cells::name(obj),
        cells::of(format!("{}/{}", text(target, "kind"), text(target, "name"))),
        cells::of(targets(list(spec, "metrics"), status)),
        cells::of(int(spec, "minReplicas").map_or_else(|| "<unset>".to_owned(), |min| min.to_string())),
        cells::of(num(spec, "maxReplicas")),
        cells::of(num(status, "currentReplicas")),
        cells::age(obj),
    ]
}

fn targets(metrics: &[Value], status: &Value) -> String {
    if metrics.is_empty() {
        return cells::NONE.into();
    }
    let texts: Vec<String> = metrics.iter().take(SHOWN).enumerate().map(|(i, metric)| one(metric, status, i)).collect();
    let shown = texts.join(", ");
    if metrics.len() > SHOWN { format!("{shown} + {} more...", metrics.len() - SHOWN) } else { shown }
}

fn one(metric: &Value, status: &Value, index: usize) -> String {
    let kind = text(metric, "type");
    let field = field_of(kind);
    let source = get(metric, field);
    let target = get(source, "target");
    let now = status_at(status, index, field).map(|found| get(found, "current"));
    let of = |field: &str, mark: &str| {
        let found = now.filter(|now| has(now, field)).map(|now| shown(get(now, field)));
        let found = found.map_or_else(|| UNKNOWN.to_owned(), |found| format!("{found}{mark}"));
        format!("{found}/{}{mark}", shown(get(target, field)))
    };
    let average = has(target, "averageValue");
    match kind {
        "Pods" => of("averageValue", ""),
        "Object" | "External" if average => format!("{} (avg)", of("averageValue", "")),
        "Object" | "External" => of("value", ""),
        "Resource" => {
            let what = if average { of("averageValue", "") } else { of("averageUtilization", "%") };
            format!("{}: {what}", text(source, "name"))
        }
        "ContainerResource" => {
            let what = if average { of("averageValue", "") } else { of("averageUtilization", "%") };
            format!("{}: {what}", text(source, "name"))
        }
        _ => "<unknown type>".into(),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<auto>".into(),
        other => other.to_string(),
    }
}
