//! Equality and order.

use std::cmp::Ordering;

use serde_json::Value as Json;

use crate::schema::Schema;
use crate::value::{EvalError, List, Listing, Map, NO_OVERLOAD, Pairs, Value, fail};

type Answer = Result<bool, EvalError>;

/// Whether `a == b`, numbers of all types compared by value. `null` equals nothing but itself.
pub(crate) fn equal(a: &Value<'_>, b: &Value<'_>) -> Answer {
    match (a, b) {
        (Value::Null, Value::Null) => Ok(true),
        (Value::Null, _) | (_, Value::Null) => Ok(false),
        _ => same(a, b),
    }
}

/// What upstream's values answer themselves.
pub(crate) fn same(a: &Value<'_>, b: &Value<'_>) -> Answer {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::String(a), Value::String(b)) => Ok(**a == **b),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(a == b),
        (Value::Duration(a), Value::Duration(b)) => Ok(a == b),
        (Value::Timestamp(a), Value::Timestamp(b)) => Ok(a.instant() == b.instant()),
        (Value::Type(a), Value::Type(b)) => Ok(a == b),
        (Value::Null, other) => Ok(matches!(other, Value::Null)),
        (Value::Optional(a), Value::Optional(b)) => match (a, b) {
            (Some(a), Some(b)) => same(a, b),
            (a, b) => Ok(a.is_none() && b.is_none()),
        },
        (Value::List(a), Value::List(b)) => lists(a, b),
        (Value::Map(a), Value::Map(b)) if a.object_type() != b.object_type() => Ok(false),
        (Value::Map(a), Value::Map(b)) => maps(a, b),
        (Value::Preserved(a), other) => Ok(raw(other).is_some_and(|b| deep(a, b))),
        (Value::Extension(a), Value::Extension(b)) => a.same(b),
        (Value::Extension(_), _) => Err(NO_OVERLOAD),
        (Value::List(List { items: crate::value::Items::Json(_, Some(_)), .. }), _)
        | (Value::Map(Map(Pairs::Json(_, Some(_)))), _) => Err(NO_OVERLOAD),
        _ => Ok(numbers(a, b) == Some(Ordering::Equal)),
    }
}

/// What upstream's `Value()` of a value that came from JSON is.
fn raw<'v>(value: &'v Value<'_>) -> Option<&'v Json> {
    match value {
        Value::Preserved(json) => Some(json),
        _ => None,
    }
}

fn deep(a: &Json, b: &Json) -> bool {
    a == b
}

fn lists(a: &List<'_>, b: &List<'_>) -> Answer {
    if a.len() != b.len() {
        return Ok(false);
    }
    match a.listing {
        Listing::Atomic => {}
        Listing::Set => return sets(a, b),
        Listing::Map(keys) => return keyed(a, b, keys),
    }
    for (a, b) in a.iter().zip(b.iter()) {
        if !equal(&a?, &b?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Items of sets are scalars.
fn scalars<'a>(list: &List<'a>) -> Result<Vec<Value<'a>>, EvalError> {
    let items = list.collect()?;
    if items.iter().any(|item| matches!(item, Value::List(_) | Value::Map(_))) {
        return Err(fail("listSet operations are only supported on lists of scalar values"));
    }
    Ok(items)
}

fn sets(a: &List<'_>, b: &List<'_>) -> Answer {
    let (a, b) = (scalars(a)?, scalars(b)?);
    let within = |item: &Value<'_>, of: &[Value<'_>]| of.iter().any(|other| equal(item, other).unwrap_or(false));
    Ok(b.iter().all(|item| within(item, &a)) && a.iter().all(|item| within(item, &b)))
}

/// The values of an element's keys.
fn key_of<'a>(item: &Value<'a>, keys: &[String]) -> Vec<Option<Value<'a>>> {
    let Value::Map(map) = item else { return Vec::new() };
    keys.iter().map(|key| map.field(&crate::escape::escape(key)?)?.ok()).collect()
}

fn same_key(a: &[Option<Value<'_>>], b: &[Option<Value<'_>>]) -> bool {
    let same = |a: &Option<Value<'_>>, b: &Option<Value<'_>>| match (a, b) {
        (Some(a), Some(b)) => equal(a, b).unwrap_or(false),
        (a, b) => a.is_none() && b.is_none(),
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
}

fn keyed(a: &List<'_>, b: &List<'_>, keys: &[String]) -> Answer {
    let (a, b) = (a.collect()?, b.collect()?);
    let a: Vec<_> = a.into_iter().map(|item| (key_of(&item, keys), item)).collect();
    let mut seen = vec![false; a.len()];
    for item in &b {
        let key = key_of(item, keys);
        let Some(at) = a.iter().position(|(other, _)| same_key(other, &key)) else { return Ok(false) };
        if !equal(&a[at].1, item)? {
            return Ok(false);
        }
        seen[at] = true;
    }
    Ok(seen.into_iter().all(|seen| seen))
}

/// The sum of two lists, as the first of them adds up.
pub(crate) fn concat<'a>(a: &List<'a>, b: &List<'a>) -> Result<List<'a>, EvalError> {
    let mut sum = match a.listing {
        Listing::Set => scalars(a)?,
        _ => a.collect()?,
    };
    match a.listing {
        Listing::Atomic => {
            for item in b.iter() {
                sum.push(item?);
            }
        }
        Listing::Set => {
            for item in scalars(b)? {
                if !sum.iter().any(|other| equal(other, &item).unwrap_or(false)) {
                    sum.push(item);
                }
            }
        }
        Listing::Map(keys) => {
            let mut known: Vec<_> = sum.iter().map(|item| key_of(item, keys)).collect();
            for item in b.iter() {
                let item = item?;
                let key = key_of(&item, keys);
                match known.iter().position(|other| same_key(other, &key)) {
                    Some(at) => sum[at] = item,
                    None => {
                        known.push(key);
                        sum.push(item);
                    }
                }
            }
        }
    }
    let mut list = List::own(sum);
    list.listing = a.listing;
    Ok(list)
}

fn maps(a: &Map<'_>, b: &Map<'_>) -> Answer {
    if a.len() != b.len() {
        return Ok(false);
    }
    if let Pairs::Json(map, Some(schema)) = &a.0 {
        return objects(a, map, schema, b);
    }
    for (key, value) in a.entries()? {
        let Some(other) = b.get(&key) else { return Ok(false) };
        if !equal(&value, &other?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// An object with a schema: what the schema does not know is compared as it is.
fn objects(a: &Map<'_>, fields: &serde_json::Map<String, Json>, schema: &Schema, b: &Map<'_>) -> Answer {
    for (name, value) in fields {
        if schema.property(name).is_none() {
            let Pairs::Json(others, Some(_)) = &b.0 else { return Err(NO_OVERLOAD) };
            if others.get(name).is_some_and(|other| !deep(value, other)) {
                return Ok(false);
            }
            continue;
        }
        match (a.field(name), b.field(name)) {
            (None, None) => {}
            (Some(value), Some(other)) => {
                if !equal(&value?, &other?)? {
                    return Ok(false);
                }
            }
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// The order of two numbers; `None` if one is none, or not a number.
fn numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    Some(match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Uint(a), Value::Uint(b)) => a.cmp(b),
        (Value::Int(a), Value::Uint(b)) => i128::from(*a).cmp(&i128::from(*b)),
        (Value::Uint(a), Value::Int(b)) => i128::from(*a).cmp(&i128::from(*b)),
        (Value::Double(a), Value::Double(b)) => return a.partial_cmp(b),
        (Value::Double(a), Value::Int(b)) => return with_int(*a, *b as f64, i64::MIN as f64, i64::MAX as f64),
        (Value::Int(a), Value::Double(b)) => {
            return with_int(*b, *a as f64, i64::MIN as f64, i64::MAX as f64).map(Ordering::reverse);
        }
        (Value::Double(a), Value::Uint(b)) => return with_int(*a, *b as f64, 0.0, u64::MAX as f64),
        (Value::Uint(a), Value::Double(b)) => {
            return with_int(*b, *a as f64, 0.0, u64::MAX as f64).map(Ordering::reverse);
        }
        _ => return None,
    })
}

fn with_int(double: f64, int: f64, low: f64, high: f64) -> Option<Ordering> {
    if double < low {
        Some(Ordering::Less)
    } else if double > high {
        Some(Ordering::Greater)
    } else {
        double.partial_cmp(&int)
    }
}

/// The order of two values; `function` is what was called.
pub(crate) fn compare(function: &str, a: &Value<'_>, b: &Value<'_>) -> Result<Ordering, EvalError> {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Ok(a.cmp(b)),
        (Value::String(a), Value::String(b)) => Ok((**a).cmp(&**b)),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Ok(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Ok(a.instant().cmp(&b.instant())),
        _ => match numbers(a, b) {
            Some(order) => Ok(order),
            None if is_number(a) && is_number(b) => Err(fail("NaN values cannot be ordered")),
            None if comparable(a) => Err(NO_OVERLOAD),
            None => Err(crate::functions::operators::missing(function, a)),
        },
    }
}

fn is_number(value: &Value<'_>) -> bool {
    matches!(value, Value::Int(_) | Value::Uint(_) | Value::Double(_))
}

/// Whether values of its type have an order.
pub(crate) fn comparable(value: &Value<'_>) -> bool {
    is_number(value)
        || matches!(
            value,
            Value::Bool(_) | Value::String(_) | Value::Bytes(_) | Value::Duration(_) | Value::Timestamp(_)
        )
}
