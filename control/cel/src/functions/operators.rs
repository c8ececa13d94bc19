//! Arithmetic, order and membership.

use std::cmp::Ordering;
use std::sync::Arc;

use super::time::{self, Time};
use crate::equal::{compare, concat, equal, same};
use crate::value::{EvalError, Items, List, Listing, NO_OVERLOAD, Res, Value, fail, failure};

const OVERFLOW: EvalError = fail("integer overflow");
const UNSIGNED: EvalError = fail("unsigned integer overflow");

/// A function that the type of its first argument does not have.
pub(crate) fn missing(function: &str, value: &Value<'_>) -> EvalError {
    match value {
        Value::String(_) | Value::Duration(_) | Value::Timestamp(_) => NO_OVERLOAD,
        _ => failure(format!("no such overload: {function}")),
    }
}

fn int(value: Option<i64>) -> Res<'static> {
    value.map(Value::Int).ok_or(OVERFLOW)
}

fn uint(value: Option<u64>) -> Res<'static> {
    value.map(Value::Uint).ok_or(UNSIGNED)
}

fn duration(value: Option<i64>) -> Res<'static> {
    value.map(Value::Duration).ok_or(OVERFLOW)
}

fn moved(from: Time, by: Option<i64>) -> Res<'static> {
    let by = by.ok_or(OVERFLOW)?;
    let nanos = i64::from(from.nanos) + by % 1_000_000_000;
    let seconds = from.seconds + by / 1_000_000_000 + nanos.div_euclid(1_000_000_000);
    if !(time::MIN..=time::MAX).contains(&seconds) {
        return Err(fail("timestamp overflow"));
    }
    let nanos = u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0);
    Ok(Value::Timestamp(Time { seconds, nanos, offset: from.offset }))
}

fn between(a: Time, b: Time) -> Option<i64> {
    let seconds = a.seconds.checked_sub(b.seconds)?.checked_mul(1_000_000_000)?;
    seconds.checked_add(i64::from(a.nanos) - i64::from(b.nanos))
}

pub(crate) fn add<'a>(args: &[Value<'a>]) -> Res<'a> {
    match (&args[0], &args[1]) {
        (Value::Int(a), Value::Int(b)) => int(a.checked_add(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_add(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::String(a), Value::String(b)) => {
            let mut sum = String::with_capacity(a.len() + b.len());
            sum.push_str(a);
            sum.push_str(b);
            Ok(Value::text(sum))
        }
        (Value::Bytes(a), Value::Bytes(b)) => Ok(Value::Bytes([&**a, &**b].concat().into())),
        (Value::Duration(a), Value::Duration(b)) => duration(a.checked_add(*b)),
        (Value::Duration(a), Value::Timestamp(b)) | (Value::Timestamp(b), Value::Duration(a)) => moved(*b, Some(*a)),
        (Value::List(a), Value::List(b)) => Ok(Value::List(concat(a, b)?)),
        (
            Value::Int(_)
            | Value::Uint(_)
            | Value::Double(_)
            | Value::String(_)
            | Value::Bytes(_)
            | Value::Duration(_)
            | Value::Timestamp(_)
            | Value::List(_),
            _,
        ) => Err(NO_OVERLOAD),
        (other, _) => Err(missing("_+_", other)),
    }
}

pub(crate) fn subtract<'a>(args: &[Value<'a>]) -> Res<'a> {
    match (&args[0], &args[1]) {
        (Value::Int(a), Value::Int(b)) => int(a.checked_sub(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_sub(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a - b)),
        (Value::Duration(a), Value::Duration(b)) => duration(a.checked_sub(*b)),
        (Value::Timestamp(a), Value::Duration(b)) => moved(*a, b.checked_neg()),
        (Value::Timestamp(a), Value::Timestamp(b)) => duration(between(*a, *b)),
        (Value::Int(_) | Value::Uint(_) | Value::Double(_), _) => Err(NO_OVERLOAD),
        (other, _) => Err(missing("_-_", other)),
    }
}

pub(crate) fn multiply<'a>(args: &[Value<'a>]) -> Res<'a> {
    match (&args[0], &args[1]) {
        (Value::Int(a), Value::Int(b)) => int(a.checked_mul(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_mul(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a * b)),
        (Value::Int(_) | Value::Uint(_) | Value::Double(_), _) => Err(NO_OVERLOAD),
        (other, _) => Err(missing("_*_", other)),
    }
}

pub(crate) fn divide<'a>(args: &[Value<'a>]) -> Res<'a> {
    match (&args[0], &args[1]) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => Err(fail("division by zero")),
        (Value::Int(a), Value::Int(b)) => int(a.checked_div(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_div(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a / b)),
        (Value::Int(_) | Value::Uint(_) | Value::Double(_), _) => Err(NO_OVERLOAD),
        (other, _) => Err(missing("_/_", other)),
    }
}

pub(crate) fn modulo<'a>(args: &[Value<'a>]) -> Res<'a> {
    match (&args[0], &args[1]) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => Err(fail("modulus by zero")),
        (Value::Int(a), Value::Int(b)) => int(a.checked_rem(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_rem(*b)),
        (Value::Int(_) | Value::Uint(_), _) => Err(NO_OVERLOAD),
        (other, _) => Err(missing("_%_", other)),
    }
}

pub(crate) fn negate<'a>(args: &[Value<'a>]) -> Res<'a> {
    match &args[0] {
        Value::Int(value) => int(value.checked_neg()),
        Value::Double(value) => Ok(Value::Double(-value)),
        Value::Bool(_) => Err(NO_OVERLOAD),
        other => Err(missing("-_", other)),
    }
}

pub(crate) fn not<'a>(args: &[Value<'a>]) -> Res<'a> {
    match &args[0] {
        Value::Bool(value) => Ok(Value::Bool(!value)),
        _ => Err(NO_OVERLOAD),
    }
}

pub(crate) fn less<'a>(args: &[Value<'a>]) -> Res<'a> {
    Ok(Value::Bool(compare("_<_", &args[0], &args[1])? == Ordering::Less))
}

pub(crate) fn less_equals<'a>(args: &[Value<'a>]) -> Res<'a> {
    Ok(Value::Bool(compare("_<=_", &args[0], &args[1])? != Ordering::Greater))
}

pub(crate) fn greater<'a>(args: &[Value<'a>]) -> Res<'a> {
    Ok(Value::Bool(compare("_>_", &args[0], &args[1])? == Ordering::Greater))
}

pub(crate) fn greater_equals<'a>(args: &[Value<'a>]) -> Res<'a> {
    Ok(Value::Bool(compare("_>=_", &args[0], &args[1])? != Ordering::Less))
}

pub(crate) fn equals<'a>(args: &[Value<'a>]) -> Res<'a> {
    Ok(Value::Bool(equal(&args[0], &args[1])?))
}

pub(crate) fn size<'a>(args: &[Value<'a>]) -> Res<'a> {
    if let Value::Extension(extension) = &args[0]
        && let Some(size) = extension.length()
    {
        return Ok(Value::Int(size));
    }
    match args[0].length() {
        Some(length) => Ok(Value::Int(i64::try_from(length).unwrap_or(i64::MAX))),
        None => Err(missing("size", &args[0])),
    }
}

pub(crate) fn within<'a>(args: &[Value<'a>]) -> Res<'a> {
    match &args[1] {
        Value::List(list) => Ok(Value::Bool(contains(list, &args[0])?)),
        Value::Map(map) => match map.get(&args[0]) {
            Some(Err(error)) => Err(error),
            found => Ok(Value::Bool(found.is_some())),
        },
        Value::Lazy(fields) => match &args[0] {
            Value::String(name) => Ok(Value::Bool(fields.field(name).is_some())),
            _ => Err(NO_OVERLOAD),
        },
        _ => Err(NO_OVERLOAD),
    }
}

/// Whether a list has an item that is equal.
pub(crate) fn contains<'a>(list: &List<'a>, wanted: &Value<'a>) -> Result<bool, EvalError> {
    if let (Items::Json(items, Some(_)), Listing::Atomic | Listing::Set | Listing::Map(_)) = (&list.items, list.listing)
    {
        return contains_typed(list, items.len(), wanted);
    }
    for item in list.iter() {
        if same(wanted, &item?).unwrap_or(false) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn contains_typed<'a>(list: &List<'a>, length: usize, wanted: &Value<'a>) -> Result<bool, EvalError> {
    let mut failed = None;
    for at in 0..length {
        let Some(item) = list.get(at) else { break };
        match item.and_then(|item| same(&item, wanted)) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(false), Err)
}

/// `cel.@mapInsert`: of another map, or of a key and a value.
pub(crate) fn map_insert<'a>(args: &[Value<'a>]) -> Res<'a> {
    let Value::Map(map) = &args[0] else { return Err(NO_OVERLOAD) };
    let mut own = match &map.0 {
        crate::value::Pairs::Own(own) => own.clone(),
        crate::value::Pairs::Json(..) => {
            let mut own = crate::value::OwnMap::default();
            for (key, value) in map.entries()? {
                own.set(key, value)?;
            }
            Arc::new(own)
        }
    };
    insert(Arc::make_mut(&mut own), &args[1..])?;
    Ok(Value::Map(crate::value::Map(crate::value::Pairs::Own(own))))
}

/// Adds what the arguments after the map of `cel.@mapInsert` are.
pub(crate) fn insert<'a>(into: &mut crate::value::OwnMap<'a>, args: &[Value<'a>]) -> Result<(), EvalError> {
    let mut add = |key: &Value<'a>, value: &Value<'a>| {
        if into.get(key).is_some() {
            return Err(failure(format!("insert failed: key {} already exists", crate::show::plain(key))));
        }
        into.set(key.clone(), value.clone())
    };
    match args {
        [key, value] => add(key, value),
        [Value::Map(more)] => more.entries()?.iter().try_for_each(|(key, value)| add(key, value)),
        _ => Err(NO_OVERLOAD),
    }
}
