//! What a value becomes by a structural schema: unknown fields go (pruning), nulls that are no values go, metadata gets
//! its form, defaults come. Upstream: apiextensions-apiserver `pkg/apiserver/schema/{pruning,defaulting,objectmeta}`.
//!
//! Invariants
//! - [`normalize`] and [`default`] are idempotent.
//! - [`check`] names each field that [`normalize`] drops as unknown, and changes nothing.

use serde_json::{Map, Value};

use super::super::conform::{MAX_UNKNOWN, Problems, TypeError};
use super::super::{Schema, registry};
use super::node::Node;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Whether every object has such a field.
pub(super) fn is_own(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata")
}

pub(super) fn object_meta() -> Option<&'static Schema> {
    registry::get(OBJECT_META)
}

/// What a decoder says of an object: fields that nobody specified, and metadata of wrong types.
pub(super) fn check(root: &Node, value: &Value) -> Problems {
    let mut problems = Problems::default();
    check_metadata(&mut problems, value, "metadata");
    let mut prune = Prune { path: String::new(), unknown: std::mem::take(&mut problems.unknown), problems };
    prune.walk(value, Some(root), true);
    prune.unknown.sort();
    prune.unknown.truncate(MAX_UNKNOWN);
    Problems { unknown: prune.unknown, error: prune.problems.error }
}

/// Types and unknown fields of the metadata in `object`, which is at `path`.
fn check_metadata(problems: &mut Problems, object: &Value, path: &str) {
    let (Some(schema), Some(metadata)) = (object_meta(), object.get("metadata")) else { return };
    let found = schema.check(metadata);
    let room = MAX_UNKNOWN.saturating_sub(problems.unknown.len());
    problems.unknown.extend(found.unknown.into_iter().take(room).map(|field| format!("{path}.{field}")));
    if let (None, Some(error)) = (&problems.error, found.error) {
        problems.error = Some(TypeError::of_metadata(path, metadata, &error));
    }
}

/// Walks as pruning does, but only takes notes.
struct Prune {
    path: String,
    unknown: Vec<String>,
    problems: Problems,
}

impl Prune {
    fn within(
        &mut self,
        value: &Value,
        node: Option<&Node>,
        name: &str,
        run: impl FnOnce(&mut Self, &Value, Option<&Node>),
    ) {
        let keep = self.path.len();
        if keep > 0 && !name.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(name);
        run(self, value, node);
        self.path.truncate(keep);
    }

    fn walk(&mut self, value: &Value, node: Option<&Node>, root: bool) {
        match value {
            Value::Object(map) => {
                let embedded = root || node.is_some_and(|node| node.embedded);
                if embedded && !root {
                    let path = format!("{}.metadata", self.path);
                    let mut problems =
                        Problems { unknown: std::mem::take(&mut self.unknown), error: self.problems.error.take() };
                    check_metadata(&mut problems, value, &path);
                    (self.unknown, self.problems.error) = (problems.unknown, problems.error);
                }
                let fields = map.iter().filter(|(name, _)| !(embedded && is_own(name)));
                for (name, inner) in fields {
                    self.field(name, inner, node);
                }
            }
            Value::Array(items) => {
                let inner = node.and_then(|node| node.items.as_deref());
                // What is kept whatever it is ends where nothing is said any more.
                if node.is_some_and(|node| node.preserve) && inner.is_none() {
                    return;
                }
                for (i, item) in items.iter().enumerate() {
                    self.within(item, inner, &format!("[{i}]"), |walk, item, inner| walk.walk(item, inner, false));
                }
            }
            _ => {}
        }
    }

    fn field(&mut self, name: &str, value: &Value, node: Option<&Node>) {
        match step(node, name) {
            Step::Unknown if self.unknown.len() < MAX_UNKNOWN => {
                self.within(value, None, name, |walk, _, _| walk.unknown.push(walk.path.clone()));
            }
            Step::Unknown | Step::Kept => {}
            Step::Into(inner) => self.within(value, inner, name, |walk, value, inner| walk.walk(value, inner, false)),
        }
    }
}

/// What pruning does with a field.
enum Step<'a> {
    Unknown,
    /// It stays, whatever it is.
    Kept,
    /// It stays, and this says what of it.
    Into(Option<&'a Node>),
}

fn step<'a>(node: Option<&'a Node>, name: &str) -> Step<'a> {
    use super::node::Additional;
    let Some(node) = node else { return Step::Unknown };
    if let Some(inner) = node.property(name) {
        return Step::Into(Some(inner));
    }
    match &node.additional {
        Additional::Of(inner) => Step::Into(Some(inner)),
        // Of what is allowed without a word nothing is specified.
        Additional::Allowed(_) => Step::Into(None),
        Additional::Unsaid if node.preserve => Step::Kept,
        Additional::Unsaid => Step::Unknown,
    }
}

/// See [`super::super::Schema::normalize`].
pub(super) fn normalize(root: &Node, value: &mut Value) {
    prune(value, Some(root), true);
    drop_nulls(value, Some(root));
    settle_metadata(value, root, true);
    settle_numbers(value);
}

/// Whether pruning leaves a value as it is.
pub(super) fn is_pruned(node: &Node, value: &Value) -> bool {
    let mut pruned = value.clone();
    prune(&mut pruned, Some(node), node.embedded);
    pruned == *value
}

fn prune(value: &mut Value, node: Option<&Node>, root: bool) {
    match value {
        Value::Object(map) => {
            let embedded = root || node.is_some_and(|node| node.embedded);
            map.retain(|name, inner| {
                if embedded && is_own(name) {
                    return true;
                }
                match step(node, name) {
                    Step::Unknown => return false,
                    Step::Kept => {}
                    Step::Into(below) => prune(inner, below, false),
                }
                true
            });
        }
        Value::Array(items) => {
            let inner = node.and_then(|node| node.items.as_deref());
            if !(node.is_some_and(|node| node.preserve) && inner.is_none()) {
                items.iter_mut().for_each(|item| prune(item, inner, false));
            }
        }
        _ => {}
    }
}

/// Whether null stands where it is no value.
fn is_stray(value: &Value, node: Option<&Node>) -> bool {
    value.is_null() && node.is_some_and(|node| !node.nullable)
}

/// Nulls that are no values go, but where a default comes.
fn drop_nulls(value: &mut Value, node: Option<&Node>) {
    let Some(node) = node else { return };
    match value {
        Value::Object(map) => map.retain(|name, inner| {
            let below = node.at(name);
            if is_stray(inner, below) && below.is_some_and(|below| below.default.is_none()) {
                return false;
            }
            drop_nulls(inner, below);
            true
        }),
        Value::Array(items) => items.iter_mut().for_each(|item| drop_nulls(item, node.items.as_deref())),
        _ => {}
    }
}

/// Metadata of the object, and of objects within, gets the form in which it is printed.
fn settle_metadata(value: &mut Value, node: &Node, root: bool) {
    match value {
        Value::Object(map) => {
            if (root || node.embedded)
                && let (Some(schema), Some(metadata)) = (object_meta(), map.get_mut("metadata"))
                && schema.check(metadata).error.is_none()
            {
                schema.normalize(metadata);
            }
            if has_embedded(node) {
                for (name, inner) in map {
                    if let Some(below) = node.at(name) {
                        settle_metadata(inner, below, false);
                    }
                }
            }
        }
        Value::Array(items) => {
            if let Some(below) = node.items.as_deref() {
                items.iter_mut().for_each(|item| settle_metadata(item, below, false));
            }
        }
        _ => {}
    }
}

fn has_embedded(node: &Node) -> bool {
    node.properties().next().is_some() || node.other().is_some()
}

/// `3.0` is printed as `3`, as Go prints it.
fn settle_numbers(value: &mut Value) {
    /// Up to here every whole number is a float.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) if number.is_f64() => {
            if let Some(float) = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() <= EXACT) {
                #[allow(clippy::cast_possible_truncation, reason = "it is whole, and within what an i64 holds")]
                let whole = float as i64;
                *value = whole.into();
            }
        }
        Value::Object(map) => map.values_mut().for_each(settle_numbers),
        Value::Array(items) => items.iter_mut().for_each(settle_numbers),
        _ => {}
    }
}

/// Gives a value the defaults that its schema has.
pub(super) fn default(node: &Node, value: &mut Value) {
    if !node.defaulted {
        return;
    }
    match value {
        Value::Object(map) => {
            default_properties(node, map);
            for (name, inner) in map {
                match (node.property(name), node.other()) {
                    (Some(below), _) => default(below, inner),
                    (None, Some(below)) => default_in_place(below, inner),
                    (None, None) => {}
                }
            }
        }
        Value::Array(items) => {
            if let Some(below) = node.items.as_deref() {
                items.iter_mut().for_each(|item| default_in_place(below, item));
            }
        }
        _ => {}
    }
}

fn default_properties(node: &Node, map: &mut Map<String, Value>) {
    for (name, below) in node.properties() {
        let Some(wanted) = &below.default else { continue };
        if map.get(name).is_none_or(|value| is_stray(value, Some(below))) {
            map.insert(name.to_owned(), wanted.as_ref().clone());
        }
    }
}

fn default_in_place(node: &Node, value: &mut Value) {
    if let (true, Some(wanted)) = (is_stray(value, Some(node)), &node.default) {
        *value = wanted.as_ref().clone();
    }
    default(node, value);
}
