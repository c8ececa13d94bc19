//! Which parts an object has.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    element::Element,
    set::Set,
    typed::{Faults, Form, NO_FORM, element_of, form},
};
use crate::schema::shape::{ListShape, MapShape, Relation, Shape};

/// The set of all parts of `value`: its leaves, the items of its lists, and what is there and empty.
///
/// # Errors
/// It does not fit its shape.
pub fn fields_of(value: &Value, shape: &Shape) -> Result<Set, Faults> {
    parts(value, shape).map(|(_, below)| below)
}

/// Whether the value is a part itself, and the parts of it.
fn parts(value: &Value, shape: &Shape) -> Result<(bool, Set), Faults> {
    match (form(shape, value), value) {
        (Form::Scalar(_), _) => Ok((true, Set::default())),
        (Form::List(list), _) if list.relation == Relation::Atomic => Ok((true, Set::default())),
        (Form::Map(map), _) if map.atomic => Ok((true, Set::default())),
        (Form::List(shape), Value::Array(items)) => Ok((false, items_of(items, shape)?)),
        (Form::Map(shape), Value::Object(map)) => Ok((false, entries_of(map, shape)?)),
        (Form::List(_) | Form::Map(_), _) => Ok((false, Set::default())),
        (Form::None, _) => {
            let mut faults = Faults::default();
            faults.add(NO_FORM);
            Err(faults)
        }
    }
}

fn entries_of(map: &Map<String, Value>, shape: &MapShape) -> Result<Set, Faults> {
    let mut out = Set::default();
    for (key, value) in map {
        let Some(part) = shape.at(key) else {
            return Err(in_part(&Element::field(key), NO_FORM));
        };
        let (member, below) = parts(value, part).map_err(|found| at(&Element::field(key), found))?;
        let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
        out.push(|| Element::field(key), member || empty || !shape.fields().contains_key(key), below);
    }
    Ok(out)
}

fn items_of(items: &[Value], shape: &ListShape) -> Result<Set, Faults> {
    let Some(part) = shape.item() else { return Ok(Set::default()) };
    // What is there twice is a part as a whole.
    let mut found: BTreeMap<Element, Option<Set>> = BTreeMap::new();
    for item in items {
        // Items that cannot be told apart are no parts.
        let Ok(element) = element_of(shape, item) else { continue };
        let (_, below) = parts(item, part).map_err(|found| at(&element, found))?;
        found.entry(element).and_modify(|before| *before = None).or_insert(Some(below));
    }
    let mut out = Set::default();
    for (element, below) in found {
        out.push(|| element, true, below.unwrap_or_default());
    }
    Ok(out)
}

fn plain(message: String) -> Faults {
    let mut faults = Faults::default();
    faults.add(message);
    faults
}

fn in_part(element: &Element, message: &str) -> Faults {
    at(element, plain(message.to_owned()))
}

fn at(element: &Element, found: Faults) -> Faults {
    let mut faults = Faults::default();
    faults.of_part(element, found);
    faults
}
