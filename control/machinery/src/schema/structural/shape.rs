//! How values of a structural schema are divided among those who own parts of them (KEP-555).

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::shape::{Key, Relation, Scalar, Shape};
use super::fit::{is_own, object_meta};
use super::{Lists, Node, Structural};

/// The shape of an object. Its fields are worked out when they are first asked for.
pub(super) fn of_root(schema: Structural) -> Shape {
    let item = schema.node().preserve.then(|| Shape::free().clone());
    Shape::fields(false, item, move || {
        let mut fields = of_properties(schema.node());
        fields.extend(own());
        fields
    })
}

/// The fields that every object has.
fn own() -> BTreeMap<String, Shape> {
    let text = |name: &str| (name.to_owned(), Shape::scalar(Scalar::String));
    let metadata = object_meta().map(|schema| ("metadata".to_owned(), schema.shape().clone()));
    [text("apiVersion"), text("kind")].into_iter().chain(metadata).collect()
}

fn of_properties(node: &Node) -> BTreeMap<String, Shape> {
    let fields = node.properties().filter(|(name, _)| !(node.embedded && is_own(name)));
    fields.map(|(name, inner)| (name.to_owned(), of(inner))).collect()
}

fn of(node: &Node) -> Shape {
    let has = |word: &str| node.types.has(word);
    if has("object") {
        return of_object(node);
    }
    if has("array") {
        let item = node.items.as_deref().map_or_else(|| Shape::free().clone(), of);
        return Shape::list(item, relation(node));
    }
    match (has("string"), has("integer") || has("number"), has("boolean")) {
        (true, true, _) => Shape::scalar(Scalar::Untyped),
        (true, false, _) => Shape::scalar(Scalar::String),
        (false, true, _) => Shape::scalar(Scalar::Numeric),
        (false, false, true) => Shape::scalar(Scalar::Boolean),
        (false, false, false) => Shape::free().clone(),
    }
}

fn of_object(node: &Node) -> Shape {
    use super::Additional;
    let item = match &node.additional {
        Additional::Of(inner) => Some(of(inner)),
        Additional::Allowed(true) => Some(Shape::free().clone()),
        Additional::Allowed(false) => None,
        // What nobody specified has been pruned, or is kept as it is.
        Additional::Unsaid if node.preserve || (node.properties().next().is_none() && !node.embedded) => {
            Some(Shape::free().clone())
        }
        Additional::Unsaid => None,
    };
    let mut fields = of_properties(node);
    if node.embedded {
        fields.extend(own());
    }
    Shape::fields(node.atomic, item, move || fields)
}

fn relation(node: &Node) -> Relation {
    match &node.lists {
        Lists::Unsaid | Lists::Atomic => Relation::Atomic,
        Lists::Set => Relation::Set,
        Lists::Map(keys) => {
            let default = |key: &str| -> Option<Value> {
                node.items.as_deref()?.property(key)?.default.as_ref().map(|value| value.as_ref().clone())
            };
            Relation::Keyed(keys.iter().map(|key| Key { name: key.to_string(), default: default(key) }).collect())
        }
    }
}
