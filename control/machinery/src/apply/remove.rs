//! An object without some of its parts.
//!
//! A list or map whose last part goes is null, unless it goes itself: it has been there, and is empty now.

use serde_json::{Map, Value};

use super::{
    element::Element,
    set::Set,
    typed::{Form, element_of, form},
};
use crate::schema::shape::{ListShape, MapShape, Relation, Shape};

/// `value` without the parts in `set`.
#[must_use]
pub fn remove(value: &Value, set: &Set, shape: &Shape) -> Value {
    match (form(shape, value), value) {
        (Form::Scalar(_), value) => value.clone(),
        (Form::List(shape), Value::Array(items)) if shape.relation != Relation::Atomic => items_of(items, set, shape),
        (Form::Map(shape), Value::Object(map)) if !shape.atomic => entries_of(map, set, shape),
        _ => Value::Null,
    }
}

fn items_of(items: &[Value], set: &Set, shape: &ListShape) -> Value {
    let mut out = Vec::with_capacity(items.len());
    for item in items {
        let node = element_of(shape, item).ok().and_then(|element| set.get(&element));
        match (node, shape.item()) {
            (Some(node), _) if node.member => {}
            (Some(node), Some(shape)) if !node.below.is_empty() => out.push(remove(item, &node.below, shape)),
            _ => out.push(item.clone()),
        }
    }
    if out.is_empty() { Value::Null } else { Value::Array(out) }
}

fn entries_of(map: &Map<String, Value>, set: &Set, shape: &MapShape) -> Value {
    let mut out = Map::new();
    for (key, value) in map {
        let node = set.get(&Element::field(key));
        match (node, shape.at(key)) {
            (Some(node), _) if node.member => {}
            (Some(node), Some(shape)) if !node.below.is_empty() => {
                out.insert(key.clone(), remove(value, &node.below, shape));
            }
            _ => {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    if out.is_empty() { Value::Null } else { Value::Object(out) }
}
