//! Kubernetes' quantities, regular expressions and JSON patches.

use std::cmp::Ordering;

use kontiki_model::amount::{self, Amount};

use super::extension::{Extension, Quantity};
use super::re2;
use super::table::{Row, row};
use crate::value::{EvalError, NO_OVERLOAD, Res, Value, fail, failure};

const IS_GREATER: &str = "quantity.(quantity) -> bool";

pub(crate) static ROWS: &[Row] = &[
    row(28, "quantity", "string_to_quantity", "(string) -> quantity", |args| {
        read(text(args, 0)?).map(wrap).map_err(failure)
    }),
    row(28, "isQuantity", "is_quantity_string", "(string) -> bool", |args| {
        Ok(Value::Bool(read(text(args, 0)?).is_ok()))
    }),
    row(28, "sign", "quantity_sign", "(quantity) -> int", |args| {
        let amount = quantity(args, 0)?.amount;
        Ok(Value::Int(amount.cmp(&Amount::ZERO) as i64))
    }),
    row(28, "isGreaterThan", "quantity_is_greater_than", IS_GREATER, |args| Ok(Value::Bool(order(args)?.is_gt()))),
    row(28, "isLessThan", "quantity_is_less_than", IS_GREATER, |args| Ok(Value::Bool(order(args)?.is_lt()))),
    row(28, "compareTo", "quantity_compare_to", "quantity.(quantity) -> int", |args| {
        Ok(Value::Int(order(args)? as i64))
    }),
    row(28, "asApproximateFloat", "quantity_get_float", "quantity.() -> double", |args| {
        Ok(Value::Double(quantity(args, 0)?.amount.as_f64()))
    }),
    row(28, "asInteger", "quantity_get_int", "quantity.() -> int", |args| {
        whole(quantity(args, 0)?).map(Value::Int).ok_or(fail("cannot convert value to integer"))
    }),
    row(28, "isInteger", "quantity_is_integer", "quantity.() -> bool", |args| {
        Ok(Value::Bool(whole(quantity(args, 0)?).is_some()))
    }),
    row(28, "add", "quantity_add", "quantity.(quantity) -> quantity", |args| sum(args, Amount::plus)),
    row(28, "add", "quantity_add_int", "quantity.(int) -> quantity", |args| sum(args, Amount::plus)),
    row(28, "sub", "quantity_sub", "quantity.(quantity) -> quantity", |args| sum(args, Amount::minus)),
    row(28, "sub", "quantity_sub_int", "quantity.(int) -> quantity", |args| sum(args, Amount::minus)),
    row(0, "find", "string_find_string", "string.(string) -> string", |args| {
        let pattern = compile(text(args, 1)?)?;
        let found = pattern.find(text(args, 0)?).map_or("", |found| found.as_str());
        Ok(Value::text(found))
    }),
    row(0, "findAll", "string_find_all_string", "string.(string) -> list(string)", find_all),
    row(0, "findAll", "string_find_all_string_int", "string.(string, int) -> list(string)", find_all),
    row(32, "jsonpatch.escapeKey", "string_jsonpatch_escapeKey_string", "(string) -> string", |args| {
        Ok(Value::text(text(args, 0)?.replace('~', "~0").replace('/', "~1")))
    }),
];

fn text<'v>(args: &'v [Value<'_>], at: usize) -> Result<&'v str, EvalError> {
    args.get(at).and_then(Value::as_str).ok_or(NO_OVERLOAD)
}

fn compile(pattern: &str) -> Result<re2::Pattern, EvalError> {
    re2::compile(pattern).map_err(|error| failure(format!("Illegal regex: {error}")))
}

fn find_all<'a>(args: &[Value<'a>]) -> Res<'a> {
    let (subject, pattern) = (text(args, 0)?, compile(text(args, 1)?)?);
    let most = match args.get(2) {
        Some(Value::Int(most)) => usize::try_from(*most).unwrap_or(usize::MAX),
        Some(_) => return Err(NO_OVERLOAD),
        None => usize::MAX,
    };
    Ok(Value::texts(re2::find_all(&pattern, subject, most).map(str::to_owned)))
}

fn quantity(args: &[Value<'_>], at: usize) -> Result<Quantity, EvalError> {
    match args.get(at) {
        Some(Value::Extension(Extension::Quantity(quantity))) => Ok(*quantity),
        Some(Value::Int(count)) => Ok(Quantity { amount: Amount::count(*count), scale: Some(0) }),
        _ => Err(NO_OVERLOAD),
    }
}

fn wrap(quantity: Quantity) -> Value<'static> {
    Value::Extension(Extension::Quantity(quantity))
}

fn order(args: &[Value<'_>]) -> Result<Ordering, EvalError> {
    Ok(quantity(args, 0)?.amount.cmp(&quantity(args, 1)?.amount))
}

fn sum<'a>(args: &[Value<'a>], of: fn(Amount, Amount) -> Amount) -> Res<'a> {
    let (a, b) = (quantity(args, 0)?, quantity(args, 1)?);
    // The finer of two scales; of a zero, the other's.
    let scale = match (a.amount.is_zero(), b.amount.is_zero()) {
        (_, true) => a.scale,
        (true, _) => b.scale,
        _ => a.scale.zip(b.scale).map(|(a, b)| a.min(b)),
    };
    Ok(wrap(Quantity { amount: of(a.amount, b.amount), scale }))
}

/// The whole number, where upstream's inner number has no decimals, be they zeros.
fn whole(quantity: Quantity) -> Option<i64> {
    quantity.scale.filter(|scale| *scale >= 0)?;
    let (whole, rest) = (quantity.amount.nanos() / 1_000_000_000, quantity.amount.nanos() % 1_000_000_000);
    (rest == 0).then(|| i64::try_from(whole).ok())?
}

fn read(text: &str) -> Result<Quantity, String> {
    match Amount::parse(text) {
        Some(amount) => Ok(Quantity { amount, scale: scale(text) }),
        // Why, in upstream's words.
        None => Err(amount::canonical(text).err().unwrap_or_default()),
    }
}

/// The power of ten of upstream's inner number; `None` if it is too long for one.
fn scale(text: &str) -> Option<i32> {
    let unsigned = text.trim_start_matches(['+', '-']).trim_start_matches('0');
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let whole = digits(unsigned);
    let rest = &unsigned[whole..];
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    let length = i32::try_from(whole.max(1) + fraction.len()).ok()?;
    let decimals = i32::try_from(fraction.len()).ok()?;
    if suffix.ends_with('i') {
        let power = i32::try_from("KMGTPE".find(suffix.chars().next()?)?).ok()? + 1;
        let room = 14 - length - power * 3;
        return (fraction.is_empty() && room >= 0).then_some(0);
    }
    let exponent = match suffix {
        "" => 0,
        "n" => -9,
        "u" => -6,
        "m" => -3,
        "k" => 3,
        "M" => 6,
        "G" => 9,
        "T" => 12,
        "P" => 15,
        "E" => 18,
        other => other.get(1..)?.trim_start_matches('+').parse().ok()?,
    };
    let scale = exponent - decimals;
    (length <= 18 && scale >= -9).then_some(scale)
}
