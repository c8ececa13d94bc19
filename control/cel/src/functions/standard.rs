//! CEL's own functions.

use super::convert::{
    identity, to_bool, to_bytes, to_double, to_duration, to_int, to_string, to_timestamp, to_uint, type_of,
};
use super::operators::{
    add, divide, equals, greater, greater_equals, less, less_equals, map_insert, modulo, multiply, negate, not, size,
    subtract, within,
};
use super::table::{Row, never, row};
use crate::value::{NO_OVERLOAD, Res, Value, fail, failure};

/// The overloads of a comparison.
macro_rules! order {
    ($name:literal, $id:literal, $run:expr) => {
        [
            row(0, $name, concat!($id, "_bool"), "(bool, bool) -> bool", $run),
            row(0, $name, concat!($id, "_int64"), "(int, int) -> bool", $run),
            row(28, $name, concat!($id, "_int64_double"), "(int, double) -> bool", $run),
            row(28, $name, concat!($id, "_int64_uint64"), "(int, uint) -> bool", $run),
            row(0, $name, concat!($id, "_uint64"), "(uint, uint) -> bool", $run),
            row(28, $name, concat!($id, "_uint64_double"), "(uint, double) -> bool", $run),
            row(28, $name, concat!($id, "_uint64_int64"), "(uint, int) -> bool", $run),
            row(0, $name, concat!($id, "_double"), "(double, double) -> bool", $run),
            row(28, $name, concat!($id, "_double_int64"), "(double, int) -> bool", $run),
            row(28, $name, concat!($id, "_double_uint64"), "(double, uint) -> bool", $run),
            row(0, $name, concat!($id, "_string"), "(string, string) -> bool", $run),
            row(0, $name, concat!($id, "_bytes"), "(bytes, bytes) -> bool", $run),
            row(0, $name, concat!($id, "_timestamp"), "(timestamp, timestamp) -> bool", $run),
            row(0, $name, concat!($id, "_duration"), "(duration, duration) -> bool", $run),
        ]
    };
}

/// Comparisons run the same for all types.
pub(crate) static COMPARISONS: [[Row; 14]; 4] = [
    order!("_<_", "less", less),
    order!("_<=_", "less_equals", less_equals),
    order!("_>_", "greater", greater),
    order!("_>=_", "greater_equals", greater_equals),
];

/// Functions whose overloads all run the same.
pub(crate) static SHARED: &[Row] = &[
    row(0, "_?_:_", "conditional", "(bool, A, A) -> A", never),
    row(0, "_&&_", "logical_and", "(bool, bool) -> bool", never),
    row(0, "_||_", "logical_or", "(bool, bool) -> bool", never),
    row(0, "!_", "logical_not", "(bool) -> bool", not),
    row(0, "@not_strictly_false", "not_strictly_false", "(bool) -> bool", never),
    row(0, "_==_", "equals", "(A, A) -> bool", equals),
    row(0, "_!=_", "not_equals", "(A, A) -> bool", never),
    row(0, "_+_", "add_bytes", "(bytes, bytes) -> bytes", add),
    row(0, "_+_", "add_double", "(double, double) -> double", add),
    row(0, "_+_", "add_duration_duration", "(duration, duration) -> duration", add),
    row(0, "_+_", "add_duration_timestamp", "(duration, timestamp) -> timestamp", add),
    row(0, "_+_", "add_timestamp_duration", "(timestamp, duration) -> timestamp", add),
    row(0, "_+_", "add_int64", "(int, int) -> int", add),
    row(0, "_+_", "add_list", "(list(A), list(A)) -> list(A)", add),
    row(0, "_+_", "add_string", "(string, string) -> string", add),
    row(0, "_+_", "add_uint64", "(uint, uint) -> uint", add),
    row(0, "_/_", "divide_double", "(double, double) -> double", divide),
    row(0, "_/_", "divide_int64", "(int, int) -> int", divide),
    row(0, "_/_", "divide_uint64", "(uint, uint) -> uint", divide),
    row(0, "_%_", "modulo_int64", "(int, int) -> int", modulo),
    row(0, "_%_", "modulo_uint64", "(uint, uint) -> uint", modulo),
    row(0, "_*_", "multiply_double", "(double, double) -> double", multiply),
    row(0, "_*_", "multiply_int64", "(int, int) -> int", multiply),
    row(0, "_*_", "multiply_uint64", "(uint, uint) -> uint", multiply),
    row(0, "-_", "negate_double", "(double) -> double", negate),
    row(0, "-_", "negate_int64", "(int) -> int", negate),
    row(0, "_-_", "subtract_double", "(double, double) -> double", subtract),
    row(0, "_-_", "subtract_duration_duration", "(duration, duration) -> duration", subtract),
    row(0, "_-_", "subtract_int64", "(int, int) -> int", subtract),
    row(0, "_-_", "subtract_timestamp_duration", "(timestamp, duration) -> timestamp", subtract),
    row(0, "_-_", "subtract_timestamp_timestamp", "(timestamp, timestamp) -> duration", subtract),
    row(0, "_-_", "subtract_uint64", "(uint, uint) -> uint", subtract),
    row(0, "_[_]", "index_list", "(list(A), int) -> A", never),
    row(0, "_[_]", "index_map", "(map(A, B), A) -> B", never),
    row(28, "_[_]", "optional_list_index_int", "(opt(list(A)), int) -> opt(A)", never),
    row(28, "_[_]", "optional_map_index_value", "(opt(map(A, B)), A) -> opt(B)", never),
    row(28, "_[?_]", "list_optindex_optional_int", "(list(A), int) -> opt(A)", never),
    row(28, "_[?_]", "optional_list_optindex_optional_int", "(opt(list(A)), int) -> opt(A)", never),
    row(28, "_[?_]", "map_optindex_optional_value", "(map(A, B), A) -> opt(B)", never),
    row(28, "_[?_]", "optional_map_optindex_optional_value", "(opt(map(A, B)), A) -> opt(B)", never),
    row(28, "_?._", "select_optional_field", "(dyn, string) -> opt(A)", never),
    row(0, "@in", "in_list", "(A, list(A)) -> bool", within),
    row(0, "@in", "in_map", "(A, map(A, B)) -> bool", within),
    row(0, "size", "size_bytes", "(bytes) -> int", size),
    row(0, "size", "bytes_size", "bytes.() -> int", size),
    row(0, "size", "size_list", "(list(A)) -> int", size),
    row(0, "size", "list_size", "list(A).() -> int", size),
    row(0, "size", "size_map", "(map(A, B)) -> int", size),
    row(0, "size", "map_size", "map(A, B).() -> int", size),
    row(0, "size", "size_string", "(string) -> int", size),
    row(0, "size", "string_size", "string.() -> int", size),
    row(0, "type", "type", "(A) -> type(A)", type_of),
    row(0, "dyn", "to_dyn", "(A) -> dyn", identity),
    row(0, "contains", "contains_string", "string.(string) -> bool", contains),
    row(0, "endsWith", "ends_with_string", "string.(string) -> bool", ends_with),
    row(0, "startsWith", "starts_with_string", "string.(string) -> bool", starts_with),
    row(0, "matches", "matches", "(string, string) -> bool", matches),
    row(0, "matches", "matches_string", "string.(string) -> bool", matches),
    row(28, "or", "optional_or_optional", "opt(A).(opt(A)) -> opt(A)", never),
    row(28, "orValue", "optional_orValue_value", "opt(A).(A) -> A", never),
];

pub(crate) static ROWS: &[Row] = &[
    row(0, "bool", "bool_to_bool", "(bool) -> bool", to_bool),
    row(0, "bool", "string_to_bool", "(string) -> bool", to_bool),
    row(0, "bytes", "bytes_to_bytes", "(bytes) -> bytes", to_bytes),
    row(0, "bytes", "string_to_bytes", "(string) -> bytes", to_bytes),
    row(0, "double", "double_to_double", "(double) -> double", to_double),
    row(0, "double", "int64_to_double", "(int) -> double", to_double),
    row(0, "double", "string_to_double", "(string) -> double", to_double),
    row(0, "double", "uint64_to_double", "(uint) -> double", to_double),
    row(0, "duration", "duration_to_duration", "(duration) -> duration", to_duration),
    row(0, "duration", "string_to_duration", "(string) -> duration", to_duration),
    row(0, "int", "int64_to_int64", "(int) -> int", to_int),
    row(0, "int", "double_to_int64", "(double) -> int", to_int),
    row(0, "int", "duration_to_int64", "(duration) -> int", to_int),
    row(0, "int", "string_to_int64", "(string) -> int", to_int),
    row(0, "int", "timestamp_to_int64", "(timestamp) -> int", to_int),
    row(0, "int", "uint64_to_int64", "(uint) -> int", to_int),
    row(0, "string", "string_to_string", "(string) -> string", to_string),
    row(0, "string", "bool_to_string", "(bool) -> string", to_string),
    row(0, "string", "bytes_to_string", "(bytes) -> string", to_string),
    row(0, "string", "double_to_string", "(double) -> string", to_string),
    row(0, "string", "duration_to_string", "(duration) -> string", to_string),
    row(0, "string", "int64_to_string", "(int) -> string", to_string),
    row(0, "string", "timestamp_to_string", "(timestamp) -> string", to_string),
    row(0, "string", "uint64_to_string", "(uint) -> string", to_string),
    row(30, "string", "ip_to_string", "(ip) -> string", to_string),
    row(30, "string", "cidr_to_string", "(cidr) -> string", to_string),
    row(0, "timestamp", "timestamp_to_timestamp", "(timestamp) -> timestamp", to_timestamp),
    row(0, "timestamp", "int64_to_timestamp", "(int) -> timestamp", to_timestamp),
    row(0, "timestamp", "string_to_timestamp", "(string) -> timestamp", to_timestamp),
    row(0, "uint", "uint64_to_uint64", "(uint) -> uint", to_uint),
    row(0, "uint", "double_to_uint64", "(double) -> uint", to_uint),
    row(0, "uint", "int64_to_uint64", "(int) -> uint", to_uint),
    row(0, "uint", "string_to_uint64", "(string) -> uint", to_uint),
    row(28, "optional.of", "optional_of", "(A) -> opt(A)", |args| Ok(args[0].clone().some())),
    row(28, "optional.ofNonZeroValue", "optional_ofNonZeroValue", "(A) -> opt(A)", |args| {
        Ok(if args[0].is_zero() { Value::Optional(None) } else { args[0].clone().some() })
    }),
    row(28, "optional.none", "optional_none", "() -> opt(A)", |_| Ok(Value::Optional(None))),
    row(28, "optional.unwrap", "optional_unwrap", "(list(opt(A))) -> list(A)", unwrap),
    row(28, "unwrapOpt", "optional_unwrapOpt", "list(opt(A)).() -> list(A)", unwrap),
    row(28, "value", "optional_value", "opt(A).() -> A", |args| match &args[0] {
        Value::Optional(Some(inner)) => Ok((**inner).clone()),
        _ => Err(fail("optional.none() dereference")),
    }),
    row(28, "hasValue", "optional_hasValue", "opt(A).() -> bool", |args| {
        Ok(Value::Bool(matches!(&args[0], Value::Optional(Some(_)))))
    }),
    row(28, "first", "list_first", "list(A).() -> opt(A)", |args| end(&args[0], |_| 0)),
    row(28, "last", "list_last", "list(A).() -> opt(A)", |args| end(&args[0], |length| length - 1)),
    row(32, "cel.@mapInsert", "@mapInsert_map_key_value", "(map(K, V), K, V) -> map(K, V)", map_insert),
    row(32, "cel.@mapInsert", "@mapInsert_map_map", "(map(K, V), map(K, V)) -> map(K, V)", map_insert),
];

fn end<'a>(list: &Value<'a>, at: fn(usize) -> usize) -> Res<'a> {
    match list {
        Value::List(list) if list.is_empty() => Ok(Value::Optional(None)),
        Value::List(list) => list.get(at(list.len())).unwrap_or(Err(NO_OVERLOAD)).map(Value::some),
        _ => Err(NO_OVERLOAD),
    }
}

fn unwrap<'a>(args: &[Value<'a>]) -> Res<'a> {
    let Value::List(list) = &args[0] else { return Err(NO_OVERLOAD) };
    let mut out = Vec::new();
    for item in list.iter() {
        match item? {
            Value::Optional(None) => {}
            Value::Optional(Some(inner)) => out.push((*inner).clone()),
            other => return Err(failure(format!("value {} is not optional", crate::show::plain(&other)))),
        }
    }
    Ok(Value::list(out))
}

fn texts<'v>(args: &'v [Value<'_>]) -> Result<(&'v str, &'v str), crate::value::EvalError> {
    Ok((args[0].as_str().ok_or(NO_OVERLOAD)?, args[1].as_str().ok_or(NO_OVERLOAD)?))
}

fn contains<'a>(args: &[Value<'a>]) -> Res<'a> {
    texts(args).map(|(text, part)| Value::Bool(text.contains(part)))
}

fn ends_with<'a>(args: &[Value<'a>]) -> Res<'a> {
    texts(args).map(|(text, part)| Value::Bool(text.ends_with(part)))
}

fn starts_with<'a>(args: &[Value<'a>]) -> Res<'a> {
    texts(args).map(|(text, part)| Value::Bool(text.starts_with(part)))
}

fn matches<'a>(args: &[Value<'a>]) -> Res<'a> {
    if args[0].as_str().is_none() {
        return Err(super::operators::missing("matches", &args[0]));
    }
    let (text, pattern) = texts(args)?;
    let pattern = super::re2::compile(pattern).map_err(failure)?;
    Ok(Value::Bool(pattern.is_match(text)))
}
