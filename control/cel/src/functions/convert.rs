//! Conversions between types.

use std::sync::Arc;

use super::extension::Extension;
use super::time::{self, Time};
use super::{duration, go};
use crate::value::{EvalError, NO_OVERLOAD, Res, Value, fail, failure};

const OVERFLOW: EvalError = fail("integer overflow");
const UNSIGNED: EvalError = fail("unsigned integer overflow");

fn wrong(value: &Value<'_>, to: &str) -> EvalError {
    failure(format!("type conversion error from '{}' to '{to}'", value.type_name()))
}

pub(crate) fn identity<'a>(args: &[Value<'a>]) -> Res<'a> {
    Ok(args[0].clone())
}

pub(crate) fn type_of<'a>(args: &[Value<'a>]) -> Res<'a> {
    match &args[0] {
        Value::Preserved(_) => Err(fail(
            "type conversion to 'type' not supported for values preserved by x-kubernetes-preserve-unknown-fields",
        )),
        value => Ok(Value::Type(value.type_name())),
    }
}

pub(crate) fn to_bool<'a>(args: &[Value<'a>]) -> Res<'a> {
    match &args[0] {
        Value::Bool(value) => Ok(Value::Bool(*value)),
        Value::String(text) => match &**text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Value::Bool(false)),
            _ => Err(wrong(&args[0], "bool")),
        },
        other => Err(wrong(other, "bool")),
    }
}

pub(crate) fn to_bytes<'a>(args: &[Value<'a>]) -> Res<'a> {
    match &args[0] {
        Value::Bytes(bytes) => Ok(Value::Bytes(bytes.clone())),
        Value::String(text) => Ok(Value::Bytes(text.as_bytes().into())),
        other => Err(wrong(other, "bytes")),
    }
}

pub(crate) fn to_double<'a>(args: &[Value<'a>]) -> Res<'a> {
    Ok(Value::Double(match &args[0] {
        Value::Double(value) => *value,
        Value::Int(value) => *value as f64,
        Value::Uint(value) => *value as f64,
        Value::String(text) => go::parse_float(text).ok_or_else(|| wrong(&args[0], "double"))?,
        other => return Err(wrong(other, "double")),
    }))
}

pub(crate) fn to_duration<'a>(args: &[Value<'a>]) -> Res<'a> {
    match &args[0] {
        Value::Duration(value) => Ok(Value::Duration(*value)),
        Value::String(text) => {
            duration::parse(text).map(Value::Duration).ok_or_else(|| wrong(&args[0], "google.protobuf.Duration"))
        }
        other => Err(wrong(other, "google.protobuf.Duration")),
    }
}

fn integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

pub(crate) fn to_int<'a>(args: &[Value<'a>]) -> Res<'a> {
    Ok(Value::Int(match &args[0] {
        Value::Int(value) | Value::Duration(value) => *value,
        Value::Uint(value) => i64::try_from(*value).map_err(|_| OVERFLOW)?,
        Value::Double(value) if *value > i64::MIN as f64 && *value < i64::MAX as f64 => *value as i64,
        Value::Double(_) => return Err(OVERFLOW),
        Value::Timestamp(time) => time.seconds,
        Value::String(text) => integer(text).ok_or_else(|| wrong(&args[0], "int"))?,
        other => return Err(wrong(other, "int")),
    }))
}

pub(crate) fn to_uint<'a>(args: &[Value<'a>]) -> Res<'a> {
    Ok(Value::Uint(match &args[0] {
        Value::Uint(value) => *value,
        Value::Int(value) => u64::try_from(*value).map_err(|_| UNSIGNED)?,
        Value::Double(value) if *value >= 0.0 && *value < 18_446_744_073_709_551_616.0 => *value as u64,
        Value::Double(_) => return Err(UNSIGNED),
        Value::String(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse().map_err(|_| wrong(&args[0], "uint"))?
        }
        other => return Err(wrong(other, "uint")),
    }))
}

pub(crate) fn to_timestamp<'a>(args: &[Value<'a>]) -> Res<'a> {
    let time = match &args[0] {
        Value::Timestamp(time) => *time,
        Value::Int(seconds) => Time { seconds: *seconds, nanos: 0, offset: 0 },
        Value::String(text) => time::rfc3339(text).ok_or_else(|| wrong(&args[0], "google.protobuf.Timestamp"))?,
        other => return Err(wrong(other, "google.protobuf.Timestamp")),
    };
    if !(time::MIN..=time::MAX).contains(&time.seconds) {
        return Err(fail("timestamp overflow"));
    }
    Ok(Value::Timestamp(time))
}

/// The text of a value that `string()` takes.
pub(crate) fn text(value: &Value<'_>) -> Result<Arc<str>, EvalError> {
    Ok(match value {
        Value::String(text) => (&**text).into(),
        Value::Bool(value) => value.to_string().into(),
        Value::Int(value) => value.to_string().into(),
        Value::Uint(value) => value.to_string().into(),
        Value::Double(value) => go::float(*value).into(),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => return Err(fail("invalid UTF-8 in bytes, cannot convert to string")),
        },
        Value::Duration(nanos) => duration::seconds_text(*nanos).into(),
        Value::Timestamp(time) => time.text().into(),
        Value::Type(name) => name.clone(),
        Value::Null => "null".into(),
        other => return Err(wrong(other, "string")),
    })
}

pub(crate) fn to_string<'a>(args: &[Value<'a>]) -> Res<'a> {
    match &args[0] {
        Value::String(text) => Ok(Value::String(text.clone())),
        Value::Extension(Extension::Ip(address)) => Ok(Value::text(address.to_string())),
        Value::Extension(Extension::Cidr(cidr)) => Ok(Value::text(cidr.to_string())),
        Value::Extension(_) | Value::Null => Err(NO_OVERLOAD),
        other => text(other).map(Value::text),
    }
}
