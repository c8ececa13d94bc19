//! The `scale` subresource of sets of pods: a view of their counts.

use std::sync::Arc;

use serde_json::{Value, json};

use super::cells::{self, Cell};
use super::selector;
use super::value::{child, copy, get, num, set};
use super::vocab::{self, Errors};
use crate::{FieldError, Handler, Path, Subresource, Verbs, schema, schema::Schema, subresource::View};

const SCHEMA: &str = "io.k8s.api.autoscaling.v1.Scale";

/// Says by which labels an object finds its pods.
type ShowSelector = fn(&Value) -> String;

/// The text of a LabelSelector at `spec.selector`.
pub(super) fn label_selector(obj: &Value) -> String {
    selector::show_plain(get(get(obj, "spec"), "selector"))
}

/// `scale` of a kind whose counts lie at `spec.replicas` and `status.replicas`.
pub(super) fn subresource(selector: ShowSelector) -> Subresource {
    Subresource {
        name: "scale".into(),
        group: "autoscaling".into(),
        version: "v1".into(),
        kind: "Scale".into(),
        verbs: Verbs::PART,
        handler: Handler::View(Arc::new(Scale { schema: schema::known(SCHEMA), selector })),
    }
}

struct Scale {
    schema: Schema,
    selector: ShowSelector,
}

impl View for Scale {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn of(&self, obj: &Value) -> Value {
        of(obj, (self.selector)(obj))
    }

    fn check(&self, sent: &Value) -> Vec<FieldError> {
        check(sent)
    }

    fn apply(&self, obj: &mut Value, sent: &Value) {
        apply(obj, sent);
    }

    fn columns(&self) -> Value {
        let column =
            |name: &str, ty: &str| json!({"name": name, "type": ty, "format": "", "description": "", "priority": 0});
        json!([
            column("Name", "string"),
            column("Desired", "integer"),
            column("Available", "integer"),
            column("Age", "string")
        ])
    }

    fn row(&self, view: &Value) -> Vec<Cell> {
        row(view)
    }
}

fn of(obj: &Value, selector: String) -> Value {
    let (spec, status) = (get(obj, "spec"), get(obj, "status"));
    let mut scale = json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {},
        "spec": {"replicas": num(spec, "replicas")},
        "status": {"replicas": num(status, "replicas"), "selector": selector},
    });
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        copy(child(&mut scale, "metadata"), get(obj, "metadata"), field);
    }
    super::fit(SCHEMA, &mut scale);
    scale
}

/// Checks a sent Scale.
fn check(scale: &Value) -> Errors {
    let mut errs = Errors::new();
    vocab::not_negative(&mut errs, &Path::new("spec").child("replicas"), num(get(scale, "spec"), "replicas"));
    errs
}

/// Sets the wished number of pods. Version and uid of the Scale are preconditions.
fn apply(obj: &mut Value, scale: &Value) {
    let replicas = num(get(scale, "spec"), "replicas");
    set(child(obj, "spec"), "replicas", replicas);
    for field in ["resourceVersion", "uid"] {
        if get(get(scale, "metadata"), field).is_string() {
            copy(child(obj, "metadata"), get(scale, "metadata"), field);
        }
    }
}

/// The cells of a Scale.
fn row(scale: &Value) -> Vec<Cell> {
    vec![
        cells::name(scale),
        cells::of(num(get(scale, "spec"), "replicas")),
        cells::of(num(get(scale, "status"), "replicas")),
        cells::age(scale),
    ]
}
