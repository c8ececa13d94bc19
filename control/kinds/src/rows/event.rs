//! Events: stored as core events, served in the core group and in `events.k8s.io`.
//!
//! The newer group renames fields and is strict; the older one accepts nearly anything, as old
//! clients count on it.

use std::time::Duration;

use serde_json::Value;

use super::cells::{self, Cell};
use super::value::{fields, get, has, num, set, some, text};
use super::vocab::{self, Errors};
use crate::{
    FieldError, Path, ResourceDef, Strategy, meta,
    resource::{Storage, names},
};

/// How long an event is kept.
const KEPT: Duration = Duration::from_secs(3600);

/// The row of the core group.
#[must_use]
pub fn core() -> ResourceDef {
    ResourceDef {
        short: names(&["ev"]),
        fields: names(FIELDS),
        time_to_live: Some(KEPT),
        ..ResourceDef::new(("", "v1"), ("events", "event", "Event"), CORE_SCHEMA, CoreEvents)
    }
}

/// The row of `events.k8s.io`: other names for what is stored as core events.
#[must_use]
pub fn def() -> ResourceDef {
    let storage = Storage { group: "".into(), plural: "events".into(), api_version: "v1".into(), kind: "Event".into() };
    ResourceDef {
        short: names(&["ev"]),
        fields: names(NEW_FIELDS),
        time_to_live: Some(KEPT),
        storage,
        ..ResourceDef::new(("events.k8s.io", "v1"), ("events", "event", "Event"), SCHEMA, Events)
    }
}

const FIELDS: &[&str] = &[
    "involvedObject.apiVersion",
    "involvedObject.fieldPath",
    "involvedObject.kind",
    "involvedObject.name",
    "involvedObject.namespace",
    "involvedObject.resourceVersion",
    "involvedObject.uid",
    "reason",
    "reportingComponent",
    "source",
    "type",
];
const NEW_FIELDS: &[&str] = &[
    "reason",
    "regarding.apiVersion",
    "regarding.fieldPath",
    "regarding.kind",
    "regarding.name",
    "regarding.namespace",
    "regarding.resourceVersion",
    "regarding.uid",
    "reportingController",
    "type",
];

const CORE_SCHEMA: &str = "io.k8s.api.core.v1.Event";
const SCHEMA: &str = "io.k8s.api.events.v1.Event";

/// Field names: in core, in `events.k8s.io`.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

struct CoreEvents;

impl Strategy for CoreEvents {
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check_any(&mut errs, obj);
        errs
    }

    fn validate_update(&self, new: &Value, _old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        self.validate(new)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        row(obj)
    }

    fn field(&self, obj: &Value, path: &str) -> String {
        match path {
            "source" => match text(get(obj, "source"), "component") {
                "" => text(obj, "reportingComponent").to_owned(),
                component => component.to_owned(),
            },
            path => match path.strip_prefix("involvedObject.") {
                Some(field) => text(get(obj, "involvedObject"), field).to_owned(),
                None => text(obj, path).to_owned(),
            },
        }
    }
}

struct Events;

impl Events {
    fn core(obj: &Value) -> Value {
        let mut core = obj.clone();
        Self.to_storage(&mut core);
        core
    }
}

impl Strategy for Events {
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let core = Self::core(obj);
        let mut errs = Errors::new();
        check_any(&mut errs, &core);
        errs.extend(meta::validate_object_meta(obj, true, &|name, prefix| self.name_errors(name, prefix)));
        check_new(&mut errs, &core);
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let (new, old) = (Self::core(new), Self::core(old));
        let mut errs = Errors::new();
        check_any(&mut errs, &new);
        check_unchanged(&mut errs, &new, &old);
        errs
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        row(&Self::core(obj))
    }

    fn to_storage(&self, obj: &mut Value) {
        for (core, new) in RENAMED {
            rename(obj, new, core);
        }
        set(obj, "apiVersion", "v1");
        super::fit(CORE_SCHEMA, obj);
    }

    fn from_storage(&self, obj: &mut Value) {
        for (core, new) in RENAMED {
            rename(obj, core, new);
        }
        set(obj, "apiVersion", "events.k8s.io/v1");
        super::fit(SCHEMA, obj);
    }
}

fn rename(obj: &mut Value, from: &str, to: &str) {
    let map = fields(obj);
    if let Some(value) = map.remove(from) {
        map.insert(to.to_owned(), value);
    }
}

/// Rules for every event. One with an `eventTime` comes from a newer client and is held to more.
fn check_any(errs: &mut Errors, event: &Value) {
    let namespace = text(get(event, "metadata"), "namespace");
    let about = text(get(event, "involvedObject"), "namespace");
    let agrees = match (has(event, "eventTime"), about) {
        (false, "") => ["", "default"].contains(&namespace),
        (false, about) => namespace == about,
        (true, "") => ["default", "kube-system"].contains(&namespace),
        (true, _) => true,
    };
    if !agrees {
        errs.push(FieldError::invalid("involvedObject.namespace", about, "does not match event.namespace"));
    }
    if has(event, "eventTime") {
        check_texts(errs, event);
    }
    vocab::subdomain(errs, &Path::new("namespace"), namespace);
}

fn check_texts(errs: &mut Errors, event: &Value) {
    let controller = text(event, "reportingComponent");
    if controller.is_empty() {
        errs.push(FieldError::required("reportingController", ""));
    }
    vocab::qualified_name(errs, &Path::new("reportingController"), controller);
    for (field, most) in [("reportingInstance", 128), ("action", 128), ("reason", 128), ("message", 1024)] {
        let value = text(event, field);
        if value.is_empty() && field != "message" {
            errs.push(FieldError::required(field, ""));
        }
        if value.len() > most {
            errs.push(FieldError::invalid(field, "", format!("can have at most {most} characters")));
        }
    }
}

/// Rules for events created through the newer group.
fn check_new(errs: &mut Errors, event: &Value) {
    check_series(errs, event);
    if !has(event, "eventTime") {
        errs.push(FieldError::required("eventTime", ""));
    }
    let kind = text(event, "type");
    if !["Normal", "Warning"].contains(&kind) {
        errs.push(FieldError::invalid("type", "", format!("has invalid value: {kind}")));
    }
    let source = get(event, "source");
    for (field, unset) in [
        ("firstTimestamp", !has(event, "firstTimestamp")),
        ("lastTimestamp", !has(event, "lastTimestamp")),
        ("count", num(event, "count") == 0),
        ("source", text(source, "component").is_empty() && text(source, "host").is_empty()),
    ] {
        if !unset {
            errs.push(FieldError::invalid(field, "", "needs to be unset"));
        }
    }
}

fn check_series(errs: &mut Errors, event: &Value) {
    let Some(series) = some(event, "series") else { return };
    if num(series, "count") < 2 {
        errs.push(FieldError::invalid("series.count", "", "should be at least 2"));
    }
    if !has(series, "lastObservedTime") {
        errs.push(FieldError::required("series.lastObservedTime", ""));
    }
}

fn check_unchanged(errs: &mut Errors, new: &Value, old: &Value) {
    if get(new, "series") != get(old, "series") {
        check_series(errs, new);
    }
    // The reason is checked twice upstream.
    for field in [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "reason",
        "type",
        "eventTime",
        "action",
        "related",
        "reportingComponent",
        "reportingInstance",
    ] {
        let shown = if field == "reportingComponent" { "reportingController" } else { field };
        vocab::immutable(errs, shown, get(new, field), get(old, field));
    }
}

fn row(event: &Value) -> Vec<Cell> {
    let moment = |field: &str| some(event, field).and_then(Value::as_str);
    let first = Cell::since(moment("firstTimestamp").or_else(|| moment("eventTime")).unwrap_or_default());
    let mut last = moment("lastTimestamp").map_or_else(|| first.clone(), Cell::since);
    let mut count = num(event, "count");
    if let Some(series) = some(event, "series") {
        last = Cell::since(text(series, "lastObservedTime"));
        count = num(series, "count");
    } else if count == 0 {
        count = 1;
    }
    let about = get(event, "involvedObject");
    let kind = text(about, "kind").to_lowercase();
    let target = if has(about, "name") { format!("{kind}/{}", text(about, "name")) } else { kind };
    let source = get(event, "source");
    let either = |own: &str, other: &str| if own.is_empty() { other.to_owned() } else { own.to_owned() };
    let component = either(text(source, "component"), text(event, "reportingComponent"));
    let host = either(text(source, "host"), text(event, "reportingInstance"));
    let from = if host.is_empty() { component } else { format!("{component}, {host}") };
    vec![
        last,
        cells::of(text(event, "type")),
        cells::of(text(event, "reason")),
        cells::of(target),
        cells::of(text(about, "fieldPath")),
        cells::of(from),
        cells::of(text(event, "message").trim()),
        first,
        cells::of(count),
        cells::name(event),
    ]
}
