//! Sets that were written when a type was divided otherwise.
//!
//! What has become one value since is owned as a whole by who owned a part of it. What has been one value and is divided
//! now is left as it is.

use super::{element::Element, set::Set};
use crate::schema::shape::{Forms, Relation, Shape};

/// The set as it is to be by `shape`; `None` if that is how it is.
#[must_use]
pub fn reconcile(set: &Set, shape: &Shape) -> Option<Set> {
    if !is_stale(set, shape, false) {
        return None;
    }
    Some(below(set, shape))
}

/// Whether something in the set is finer than its shape.
fn is_stale(set: &Set, shape: &Shape, whole: bool) -> bool {
    if shape.is_free() || whole {
        return false;
    }
    if is_undivided(shape) {
        return !set.is_empty();
    }
    set.nodes()
        .iter()
        .any(|node| part(shape, &node.element).is_some_and(|part| is_stale(&node.below, part, node.below.is_empty())))
}

fn below(set: &Set, shape: &Shape) -> Set {
    let mut out = Set::default();
    for node in set.nodes() {
        match part(shape, &node.element) {
            Some(part) if !part.is_free() && is_undivided(part) && !node.below.is_empty() => {
                out.push(|| node.element.clone(), true, Set::default());
            }
            Some(part) if !part.is_free() => {
                out.push(|| node.element.clone(), node.member, below(&node.below, part));
            }
            _ => out.push(|| node.element.clone(), node.member, node.below.clone()),
        }
    }
    out
}

/// Whether a value of the shape is one to its owners. A map counts before a list, as with upstream.
fn is_undivided(shape: &Shape) -> bool {
    let Forms { scalar, list, map } = shape.forms();
    match (map, scalar, list) {
        (Some(map), ..) => map.atomic,
        (None, None, Some(list)) => list.relation == Relation::Atomic,
        _ => false,
    }
}

/// The shape of a part; `None` where there is no such part.
fn part<'a>(shape: &'a Shape, element: &Element) -> Option<&'a Shape> {
    let Forms { scalar, list, map } = shape.forms();
    match (map, scalar, list) {
        (Some(map), ..) => match element {
            Element::Field(name) => map.at(name),
            _ => map.item(),
        },
        (None, None, Some(list)) => list.item(),
        _ => None,
    }
}
