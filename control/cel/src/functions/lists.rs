//! Lists and sets: cel-go's extensions, and Kubernetes' older functions.

use std::cmp::Ordering;

use super::operators::{add, contains};
use super::table::{Row, row};
use crate::equal::{comparable, compare, same};
use crate::value::{EvalError, List, NO_OVERLOAD, Res, Value, fail, failure};

const MAX_RANGE: i64 = 1_000_000;

pub(crate) static ROWS: &[Row] = &[
    row(0, "isSorted", "list_int_is_sorted_bool", "list(int).() -> bool", is_sorted),
    row(0, "isSorted", "list_uint_is_sorted_bool", "list(uint).() -> bool", is_sorted),
    row(0, "isSorted", "list_double_is_sorted_bool", "list(double).() -> bool", is_sorted),
    row(0, "isSorted", "list_bool_is_sorted_bool", "list(bool).() -> bool", is_sorted),
    row(0, "isSorted", "list_duration_is_sorted_bool", "list(duration).() -> bool", is_sorted),
    row(0, "isSorted", "list_timestamp_is_sorted_bool", "list(timestamp).() -> bool", is_sorted),
    row(0, "isSorted", "list_string_is_sorted_bool", "list(string).() -> bool", is_sorted),
    row(0, "isSorted", "list_bytes_is_sorted_bool", "list(bytes).() -> bool", is_sorted),
    row(0, "sum", "list_int_sum_int", "list(int).() -> int", |args| sum(args, Value::Int(0))),
    row(0, "sum", "list_uint_sum_uint", "list(uint).() -> uint", |args| sum(args, Value::Uint(0))),
    row(0, "sum", "list_double_sum_double", "list(double).() -> double", |args| sum(args, Value::Double(0.0))),
    row(0, "sum", "list_duration_sum_duration", "list(duration).() -> duration", |args| sum(args, Value::Duration(0))),
    row(0, "max", "list_int_max_int", "list(int).() -> int", max),
    row(0, "max", "list_uint_max_uint", "list(uint).() -> uint", max),
    row(0, "max", "list_double_max_double", "list(double).() -> double", max),
    row(0, "max", "list_bool_max_bool", "list(bool).() -> bool", max),
    row(0, "max", "list_duration_max_duration", "list(duration).() -> duration", max),
    row(0, "max", "list_timestamp_max_timestamp", "list(timestamp).() -> timestamp", max),
    row(0, "max", "list_string_max_string", "list(string).() -> string", max),
    row(0, "max", "list_bytes_max_bytes", "list(bytes).() -> bytes", max),
    row(0, "min", "list_int_min_int", "list(int).() -> int", min),
    row(0, "min", "list_uint_min_uint", "list(uint).() -> uint", min),
    row(0, "min", "list_double_min_double", "list(double).() -> double", min),
    row(0, "min", "list_bool_min_bool", "list(bool).() -> bool", min),
    row(0, "min", "list_duration_min_duration", "list(duration).() -> duration", min),
    row(0, "min", "list_timestamp_min_timestamp", "list(timestamp).() -> timestamp", min),
    row(0, "min", "list_string_min_string", "list(string).() -> string", min),
    row(0, "min", "list_bytes_min_bytes", "list(bytes).() -> bytes", min),
    row(0, "indexOf", "list_a_index_of_int", "list(A).(A) -> int", |args| position(args, false)),
    row(0, "lastIndexOf", "list_a_last_index_of_int", "list(A).(A) -> int", |args| position(args, true)),
    row(37, "includes", "list_includes_dyn_dyn", "dyn.(dyn) -> bool", includes),
    row(29, "sets.contains", "list_sets_contains_list", "(list(T), list(T)) -> bool", sets_contain),
    row(29, "sets.equivalent", "list_sets_equivalent_list", "(list(T), list(T)) -> bool", sets_equivalent),
    row(29, "sets.intersects", "list_sets_intersects_list", "(list(T), list(T)) -> bool", sets_intersect),
    row(34, "slice", "list_slice", "list(T).(int, int) -> list(T)", slice),
    row(34, "flatten", "list_flatten", "list(list(T)).() -> list(T)", flatten),
    row(34, "flatten", "list_flatten_int", "list(dyn).(int) -> list(dyn)", flatten),
    row(34, "lists.range", "lists_range", "(int) -> list(int)", range),
    row(34, "reverse", "list_reverse", "list(T).() -> list(T)", |args| {
        let mut items = list(args, 0)?.collect()?;
        items.reverse();
        Ok(Value::list(items))
    }),
    row(34, "distinct", "list_distinct", "list(T).() -> list(T)", distinct),
];

pub(crate) static SHARED: &[Row] = &[
    row(34, "sort", "list_int_sort", "list(int).() -> list(int)", sort),
    row(34, "sort", "list_uint_sort", "list(uint).() -> list(uint)", sort),
    row(34, "sort", "list_double_sort", "list(double).() -> list(double)", sort),
    row(34, "sort", "list_bool_sort", "list(bool).() -> list(bool)", sort),
    row(34, "sort", "list_google.protobuf.Duration_sort", "list(duration).() -> list(duration)", sort),
    row(34, "sort", "list_google.protobuf.Timestamp_sort", "list(timestamp).() -> list(timestamp)", sort),
    row(34, "sort", "list_string_sort", "list(string).() -> list(string)", sort),
    row(34, "sort", "list_bytes_sort", "list(bytes).() -> list(bytes)", sort),
    row(34, BY_KEYS, "list_int_sortByAssociatedKeys", "list(T).(list(int)) -> list(T)", sort_by),
    row(34, BY_KEYS, "list_uint_sortByAssociatedKeys", "list(T).(list(uint)) -> list(T)", sort_by),
    row(34, BY_KEYS, "list_double_sortByAssociatedKeys", "list(T).(list(double)) -> list(T)", sort_by),
    row(34, BY_KEYS, "list_bool_sortByAssociatedKeys", "list(T).(list(bool)) -> list(T)", sort_by),
    row(
        34,
        BY_KEYS,
        "list_google.protobuf.Duration_sortByAssociatedKeys",
        "list(T).(list(duration)) -> list(T)",
        sort_by,
    ),
    row(
        34,
        BY_KEYS,
        "list_google.protobuf.Timestamp_sortByAssociatedKeys",
        "list(T).(list(timestamp)) -> list(T)",
        sort_by,
    ),
    row(34, BY_KEYS, "list_string_sortByAssociatedKeys", "list(T).(list(string)) -> list(T)", sort_by),
    row(34, BY_KEYS, "list_bytes_sortByAssociatedKeys", "list(T).(list(bytes)) -> list(T)", sort_by),
];

const BY_KEYS: &str = crate::ast::operator::SORT_BY_KEYS;

fn list<'v, 'a>(args: &'v [Value<'a>], at: usize) -> Result<&'v List<'a>, EvalError> {
    match args.get(at) {
        Some(Value::List(list)) => Ok(list),
        _ => Err(NO_OVERLOAD),
    }
}

fn int(args: &[Value<'_>], at: usize) -> Result<i64, EvalError> {
    match args.get(at) {
        Some(Value::Int(value)) => Ok(*value),
        _ => Err(NO_OVERLOAD),
    }
}

fn order(a: &Value<'_>, b: &Value<'_>) -> Result<Ordering, EvalError> {
    if comparable(a) { compare("", a, b) } else { Err(NO_OVERLOAD) }
}

fn is_sorted<'a>(args: &[Value<'a>]) -> Res<'a> {
    let items = list(args, 0)?.collect()?;
    if items.iter().any(|item| !comparable(item)) {
        return Err(NO_OVERLOAD);
    }
    let sorted = items.windows(2).all(|pair| !matches!(order(&pair[0], &pair[1]), Ok(Ordering::Greater)));
    Ok(Value::Bool(sorted))
}

fn sum<'a>(args: &[Value<'a>], zero: Value<'static>) -> Res<'a> {
    list(args, 0)?.iter().try_fold(zero, |sum: Value<'a>, item| add(&[sum, item?]))
}

fn best<'a>(args: &[Value<'a>], name: &str, wins: Ordering) -> Res<'a> {
    let mut best: Option<Value<'a>> = None;
    for item in list(args, 0)?.iter() {
        let item = item?;
        if !comparable(&item) {
            return Err(NO_OVERLOAD);
        }
        let better = best.as_ref().is_none_or(|best| order(best, &item).is_ok_and(|order| order == wins));
        if better {
            best = Some(item);
        }
    }
    best.ok_or_else(|| failure(format!("{name} called on empty list")))
}

fn max<'a>(args: &[Value<'a>]) -> Res<'a> {
    best(args, "max", Ordering::Less)
}

fn min<'a>(args: &[Value<'a>]) -> Res<'a> {
    best(args, "min", Ordering::Greater)
}

fn position<'a>(args: &[Value<'a>], last: bool) -> Res<'a> {
    let items = list(args, 0)?.collect()?;
    let hit = |item: &Value<'a>| same(item, &args[1]).unwrap_or(false);
    let found = if last { items.iter().rposition(hit) } else { items.iter().position(hit) };
    Ok(Value::Int(found.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1)))
}

fn includes<'a>(args: &[Value<'a>]) -> Res<'a> {
    let hit = |item: &Value<'a>| same(item, &args[1]).unwrap_or(false);
    Ok(Value::Bool(match &args[0] {
        Value::List(list) => list.collect()?.iter().any(hit),
        other => hit(other),
    }))
}

fn has_all<'a>(all: &List<'a>, of: &List<'a>) -> Result<bool, EvalError> {
    for item in of.iter() {
        if !contains(all, &item?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn sets_contain<'a>(args: &[Value<'a>]) -> Res<'a> {
    Ok(Value::Bool(has_all(list(args, 0)?, list(args, 1)?)?))
}

fn sets_equivalent<'a>(args: &[Value<'a>]) -> Res<'a> {
    let (a, b) = (list(args, 0)?, list(args, 1)?);
    Ok(Value::Bool(has_all(a, b)? && has_all(b, a)?))
}

fn sets_intersect<'a>(args: &[Value<'a>]) -> Res<'a> {
    let (a, b) = (list(args, 0)?, list(args, 1)?);
    for item in a.iter() {
        if contains(b, &item?).unwrap_or(false) {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

fn slice<'a>(args: &[Value<'a>]) -> Res<'a> {
    let (list, start, end) = (list(args, 0)?, int(args, 1)?, int(args, 2)?);
    let cannot = |why: String| Err(failure(format!("cannot slice({start}, {end}), {why}")));
    let (Ok(from), Ok(to)) = (usize::try_from(start), usize::try_from(end)) else {
        return cannot("negative indexes not supported".to_owned());
    };
    if from > to {
        return cannot("start index must be less than or equal to end index".to_owned());
    }
    if list.len() < to {
        return cannot(format!("list is length {}", list.len()));
    }
    Ok(Value::list((from..to).filter_map(|at| list.get(at)).collect::<Result<_, _>>()?))
}

fn flatten<'a>(args: &[Value<'a>]) -> Res<'a> {
    let depth = if args.len() > 1 { int(args, 1)? } else { 1 };
    if depth < 0 {
        return Err(fail("level must be non-negative"));
    }
    let mut out = Vec::new();
    flatten_into(list(args, 0)?, depth, &mut out)?;
    Ok(Value::list(out))
}

fn flatten_into<'a>(list: &List<'a>, depth: i64, out: &mut Vec<Value<'a>>) -> Result<(), EvalError> {
    for item in list.iter() {
        match item? {
            Value::List(inner) if depth > 0 => flatten_into(&inner, depth - 1, out)?,
            other => out.push(other),
        }
    }
    Ok(())
}

fn range<'a>(args: &[Value<'a>]) -> Res<'a> {
    let size = int(args, 0)?;
    if size < 0 {
        return Err(failure(format!("lists.range: size must be non-negative, got {size}")));
    }
    if size > MAX_RANGE {
        return Err(failure(format!("lists.range: size {size} exceeds maximum allowed ({MAX_RANGE})")));
    }
    Ok(Value::list((0..size).map(Value::Int).collect()))
}

fn distinct<'a>(args: &[Value<'a>]) -> Res<'a> {
    let mut out: Vec<Value<'a>> = Vec::new();
    for item in list(args, 0)?.iter() {
        let item = item?;
        if !out.iter().any(|other| same(&item, other).unwrap_or(false)) {
            out.push(item);
        }
    }
    Ok(Value::list(out))
}

fn sort<'a>(args: &[Value<'a>]) -> Res<'a> {
    match &args[0] {
        Value::List(list) => sorted(list, list),
        other => Err(super::operators::missing("sort", other)),
    }
}

fn sort_by<'a>(args: &[Value<'a>]) -> Res<'a> {
    match &args[0] {
        Value::List(items) => sorted(items, list(args, 1)?),
        other => Err(super::operators::missing(BY_KEYS, other)),
    }
}

fn sorted<'a>(items: &List<'a>, keys: &List<'a>) -> Res<'a> {
    if items.len() != keys.len() {
        return Err(failure(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} elements respectively",
            items.len(),
            keys.len()
        )));
    }
    let (items, keys) = (items.collect()?, keys.collect()?);
    let Some(first) = keys.first() else { return Ok(Value::list(items)) };
    if !comparable(first) {
        return Err(fail("list elements must be comparable"));
    }
    let kind = first.type_name();
    if keys.len() > 1 && keys.iter().any(|key| key.type_name() != kind) {
        return Err(fail("list elements must have the same type"));
    }
    let mut pairs: Vec<_> = keys.into_iter().zip(items).collect();
    pairs.sort_by(|a, b| order(&a.0, &b.0).unwrap_or(Ordering::Equal));
    Ok(Value::list(pairs.into_iter().map(|(_, item)| item).collect()))
}
