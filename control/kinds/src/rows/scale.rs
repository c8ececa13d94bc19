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
pub(crate) type ShowSelector = fn(&Value) -> String;

/// The text of a LabelSelector at `spec.selector`.
pub(super) fn label_selector(obj: &Value) -> String {
    selector::show_plain(get(get(obj, "spec"), "selector"))
}

/// `scale` of a kind whose counts lie at `spec.replicas` and `status.replicas`.
pub(super) fn subresource(selector: ShowSelector) -> Subresource {
    let path = |root: &str| vec![root.to_owned(), "replicas".to_owned()];
    of_places(Places { spec: path("spec"), status: path("status"), selector: Selects::By(selector), judged: false })
}

/// `scale` of a kind whose counts lie at these places.
pub(crate) fn of_places(places: Places) -> Subresource {
    Subresource {
        name: "scale".into(),
        group: "autoscaling".into(),
        version: "v1".into(),
        kind: "Scale".into(),
        verbs: Verbs::PART,
        handler: Handler::View(Arc::new(Scale { schema: schema::known(SCHEMA), places })),
    }
}

/// Where an object has what a Scale shows.
pub(crate) struct Places {
    /// The wished number.
    pub spec: Vec<String>,
    /// The number that there is.
    pub status: Vec<String>,
    /// By which labels it finds its pods.
    pub selector: Selects,
    /// Whether the kind itself judges numbers at these places, and not the Scale.
    pub judged: bool,
}

/// By which labels an object finds its pods.
pub(crate) enum Selects {
    /// What this says of it.
    By(ShowSelector),
    /// The text at this place.
    At(Vec<String>),
    /// It does not say.
    Unsaid,
}

impl Selects {
    fn of(&self, obj: &Value) -> String {
        match self {
            Self::By(show) => show(obj),
            Self::At(place) => at(obj, place).as_str().unwrap_or_default().to_owned(),
            Self::Unsaid => String::new(),
        }
    }
}

/// What lies at a place.
pub(crate) fn at<'a>(obj: &'a Value, place: &[String]) -> &'a Value {
    place.iter().fold(obj, |value, key| get(value, key))
}

struct Scale {
    schema: Schema,
    places: Places,
}

impl View for Scale {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn of(&self, obj: &Value) -> Value {
        of(obj, &self.places)
    }

    fn check(&self, sent: &Value) -> Vec<FieldError> {
        if self.places.judged { Errors::new() } else { check(sent) }
    }

    fn apply(&self, obj: &mut Value, sent: &Value) {
        apply(obj, sent, &self.places.spec);
    }

    fn part(&self) -> Option<(Vec<String>, Vec<String>)> {
        Some((vec!["spec".to_owned(), "replicas".to_owned()], self.places.spec.clone()))
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

fn of(obj: &Value, places: &Places) -> Value {
    let count = |place: &[String]| at(obj, place).as_i64().unwrap_or_default();
    let mut scale = json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {},
        "spec": {"replicas": count(&places.spec)},
        "status": {"replicas": count(&places.status), "selector": places.selector.of(obj)},
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
fn apply(obj: &mut Value, scale: &Value, place: &[String]) {
    let replicas = num(get(scale, "spec"), "replicas");
    if let Some((last, roots)) = place.split_last() {
        let parent = roots.iter().fold(&mut *obj, |value, key| child(value, key));
        set(parent, last, replicas);
    }
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
