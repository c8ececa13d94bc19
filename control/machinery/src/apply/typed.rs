//! A value beside its shape: which form it takes, what its items are called, and whether it fits.

use std::{collections::BTreeSet, fmt};

use serde_json::{Map, Value};

use super::{
    element::Element,
    value::{go_syntax, go_type},
};
use crate::schema::shape::{Forms, Key, ListShape, MapShape, Relation, Scalar, Shape};

/// What does not fit, each with its path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    path: String,
    message: String,
}

impl Faults {
    pub(super) fn add(&mut self, message: impl Into<String>) {
        self.0.push(Fault { path: String::new(), message: message.into() });
    }

    /// Adds what was found in a part.
    pub(super) fn of_part(&mut self, element: &Element, found: Self) {
        self.0.extend(found.0.into_iter().map(|fault| Fault { path: format!("{element}{}", fault.path), ..fault }));
    }

    pub(super) fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn or<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

impl fmt::Display for Faults {
    /// As upstream's merge library lists them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [fault] = self.0.as_slice() {
            return fault.fmt(f);
        }
        f.write_str("errors:")?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

/// The form in which a value is looked at.
pub(super) enum Form<'a> {
    Map(&'a MapShape),
    Scalar(Scalar),
    List(&'a ListShape),
    /// The shape has none.
    None,
}

/// Which of the forms a shape leaves for a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    map: bool,
    scalar: bool,
    list: bool,
}

/// The forms that `value` may have: the one that it has, or all where it has none of them (it is not there, null, or
/// of a wrong type).
pub(super) fn left(shape: &Shape, value: Option<&Value>) -> Left {
    let Forms { scalar, list, map } = shape.forms();
    let none = Left { map: false, scalar: false, list: false };
    match value {
        Some(Value::Number(_) | Value::String(_) | Value::Bool(_)) if scalar.is_some() => Left { scalar: true, ..none },
        Some(Value::Array(_)) if list.is_some() => Left { list: true, ..none },
        Some(Value::Object(_)) if map.is_some() => Left { map: true, ..none },
        _ => Left { map: map.is_some(), scalar: scalar.is_some(), list: list.is_some() },
    }
}

/// The first of the forms that are left.
pub(super) fn first(shape: &Shape, left: Left) -> Form<'_> {
    let Forms { scalar, list, map } = shape.forms();
    match (map, scalar, list) {
        (Some(map), ..) if left.map => Form::Map(map),
        (_, Some(scalar), _) if left.scalar => Form::Scalar(*scalar),
        (.., Some(list)) if left.list => Form::List(list),
        _ => Form::None,
    }
}

/// The form in which `value` is looked at.
pub(super) fn form<'a>(shape: &'a Shape, value: &Value) -> Form<'a> {
    first(shape, left(shape, Some(value)))
}

pub(super) const NO_FORM: &str = "schema error: invalid atom: inlined";

/// The map, if it is one and not null.
pub(super) fn map(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

/// The list, if it is one and not null.
pub(super) fn list(value: Option<&Value>) -> Option<&[Value]> {
    value.and_then(Value::as_array).map(Vec::as_slice)
}

/// How an item of a divided list is called.
///
/// # Errors
/// It has nothing to be called by.
pub(super) fn element_of(shape: &ListShape, item: &Value) -> Result<Element, String> {
    match &shape.relation {
        Relation::Atomic => Err("invalid indexing of non-associative list".into()),
        Relation::Keyed(keys) => keyed(keys, item),
        Relation::Set => match item {
            Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
            Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
            Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
            scalar => Ok(Element::Value(scalar.clone())),
        },
    }
}

fn keyed(keys: &[Key], item: &Value) -> Result<Element, String> {
    let fields = match item {
        Value::Object(fields) => fields,
        Value::Null => return Err("associative list with keys may not have a null element".into()),
        _ => return Err("associative list with keys may not have non-map elements".into()),
    };
    let value = |key: &Key| fields.get(&key.name).or(key.default.as_ref()).cloned();
    let mut found: Vec<(Box<str>, Value)> =
        keys.iter().filter_map(|key| Some((key.name.as_str().into(), value(key)?))).collect();
    if found.is_empty() && !keys.is_empty() {
        let names: Vec<String> = keys.iter().map(|key| crate::field_error::quote(&key.name)).collect();
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values \
             for any key fields)",
            names.join(" ")
        ));
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(Element::Key(found))
}

/// Whether a scalar fits. One that is not there or null does.
pub(super) fn check_scalar(scalar: Scalar, value: Option<&Value>, prefix: &str) -> Option<String> {
    let value = value.filter(|value| !value.is_null())?;
    let shown = || format!("&value.valueUnstructured{{Value:{}}}", go_syntax(value));
    match scalar {
        Scalar::Numeric if !value.is_number() => {
            Some(format!("{prefix}expected numeric (int or float), got {}", go_type(value)))
        }
        Scalar::String if !value.is_string() => Some(format!("{prefix}expected string, got {}", shown())),
        Scalar::Boolean if !value.is_boolean() => Some(format!("{prefix}expected boolean, got {}", go_print(value))),
        Scalar::Untyped if value.is_array() || value.is_object() => {
            Some(format!("{prefix}expected any scalar, got {}", go_print(value)))
        }
        _ => None,
    }
}

/// `%v` of what upstream wraps a value in.
fn go_print(value: &Value) -> String {
    match value {
        Value::String(text) => format!("&{{{text}}}"),
        other => format!("&{{{}}}", crate::patch::go_print(other)),
    }
}

/// Checks that `value` fits its shape. An item that is there twice fits only if `duplicates` says so.
///
/// # Errors
/// What does not fit.
pub fn validate(value: &Value, shape: &Shape, duplicates: bool) -> Result<(), Faults> {
    check(value, shape, duplicates).or(())
}

fn check(value: &Value, shape: &Shape, duplicates: bool) -> Faults {
    let mut faults = Faults::default();
    match (form(shape, value), value) {
        (Form::Map(shape), Value::Object(map)) => check_map(map, shape, duplicates, &mut faults),
        (Form::List(shape), Value::Array(items)) => check_list(items, shape, duplicates, &mut faults),
        (Form::Map(_) | Form::List(_), Value::Null) => {}
        (Form::Map(_), other) => faults.add(format!("expected map, got {}", go_print(other))),
        (Form::List(_), other) => faults.add(format!("expected list, got {}", go_print(other))),
        (Form::Scalar(scalar), value) => {
            if let Some(fault) = check_scalar(scalar, Some(value), "") {
                faults.add(fault);
            }
        }
        (Form::None, _) => faults.add(NO_FORM),
    }
    faults
}

fn check_map(map: &Map<String, Value>, shape: &MapShape, duplicates: bool, faults: &mut Faults) {
    for (key, value) in map {
        let Some(part) = shape.at(key) else {
            let mut unknown = Faults::default();
            unknown.add("field not declared in schema");
            faults.of_part(&Element::field(key), unknown);
            return;
        };
        let found = check(value, part, duplicates);
        if !found.is_empty() {
            faults.of_part(&Element::field(key), found);
        }
    }
}

fn check_list(items: &[Value], shape: &ListShape, duplicates: bool, faults: &mut Faults) {
    let Some(part) = shape.item() else { return };
    let mut seen = BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        let element = match &shape.relation {
            Relation::Atomic => Element::Index(i64::try_from(index).unwrap_or(i64::MAX)),
            _ => match element_of(shape, item) {
                Ok(element) => element,
                Err(fault) => return faults.add(format!("element {index}: {fault}")),
            },
        };
        let found = check(item, part, duplicates);
        if !duplicates && shape.relation != Relation::Atomic && !seen.insert(element.clone()) {
            faults.add(format!("duplicate entries for key {element}"));
        }
        faults.of_part(&element, found);
    }
}
