//! Values as upstream's merge library sees them: numbers are equal by value, everything has an order, and errors print
//! them as Go does.

use std::{cmp::Ordering, fmt::Write};

use serde_json::{Map, Number, Value};

use crate::field_error::quote;

/// Whether two values are the same. 1 and 1.0 are.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => order_numbers(a, b) == Ordering::Equal,
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((key, a), (other, b))| key == other && same(a, b))
        }
        (a, b) => a == b,
    }
}

/// A total order: numbers, strings, booleans, lists, maps, null.
pub(super) fn order(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => order_numbers(a, b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => order_lists(a, b),
        (Value::Object(a), Value::Object(b)) => order_maps(a, b),
        (a, b) => rank(a).cmp(&rank(b)),
    }
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    }
}

fn order_numbers(a: &Number, b: &Number) -> Ordering {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal),
    }
}

fn order_lists(a: &[Value], b: &[Value]) -> Ordering {
    let differ = a.iter().zip(b).map(|(a, b)| order(a, b)).find(|order| order.is_ne());
    differ.unwrap_or_else(|| a.len().cmp(&b.len()))
}

fn order_maps(a: &Map<String, Value>, b: &Map<String, Value>) -> Ordering {
    let pairs = a.iter().zip(b);
    let differ = pairs.map(|((x, a), (y, b))| x.cmp(y).then_with(|| order(a, b))).find(|order| order.is_ne());
    differ.unwrap_or_else(|| a.len().cmp(&b.len()))
}

/// In the path of an error or conflict: `"a"`, `80`.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(set) => set.to_string(),
        Value::Number(number) => go_number(number),
        Value::String(text) => quote(text),
        Value::Array(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(",")),
        Value::Object(map) => map.iter().map(|(key, value)| format!("{key}={}", show(value))).collect(),
    }
}

/// `%v` of a number: exponents from 1e21 on, as Go has them.
fn go_number(number: &Number) -> String {
    match number.as_i64() {
        Some(whole) => whole.to_string(),
        None => go_float(number.as_f64().unwrap_or_default(), -4),
    }
}

/// A float with an exponent below 10 to the power of `smallest` and from 1e21 on, as Go prints it.
fn go_float(float: f64, smallest: i32) -> String {
    let short = format!("{float:e}");
    let (digits, exponent) = short.split_once('e').unwrap_or((&short, "0"));
    let power: i32 = exponent.parse().unwrap_or_default();
    if float != 0.0 && !(smallest..21).contains(&power) {
        let sign = if power < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", power.abs());
    }
    float.to_string()
}

/// `%#v` of a value in Go.
pub(super) fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".into(),
        Value::Bool(set) => set.to_string(),
        Value::Number(number) => go_number(number),
        Value::String(text) => quote(text),
        Value::Array(items) => {
            format!("[]interface {{}}{{{}}}", items.iter().map(go_syntax).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let pairs: Vec<String> =
                map.iter().map(|(key, value)| format!("{}:{}", quote(key), go_syntax(value))).collect();
            format!("map[string]interface {{}}{{{}}}", pairs.join(", "))
        }
    }
}

/// `%T` of a value in Go.
#[must_use]
pub fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// JSON as Go's encoder writes it: `<`, `>` and `&` are escaped, and so are the two line separators.
pub(super) fn go_json(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(set) => out.push_str(if *set { "true" } else { "false" }),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => _ = write!(out, "{whole}"),
            None => out.push_str(&json_float(number.as_f64().unwrap_or_default())),
        },
        Value::String(text) => go_string(text, true, out),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                separate(index, out);
                go_json(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (index, (key, value)) in map.iter().enumerate() {
                separate(index, out);
                go_string(key, true, out);
                out.push(':');
                go_json(value, out);
            }
            out.push('}');
        }
    }
}

/// Go's JSON has no two digits in a small exponent: `1e-7`.
fn json_float(float: f64) -> String {
    go_float(float, -6).replace("e-0", "e-")
}

fn separate(index: usize, out: &mut String) {
    if index > 0 {
        out.push(',');
    }
}

/// A JSON string as Go writes it.
pub(super) fn go_string(text: &str, html: bool, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' if html => _ = write!(out, "\\u{:04x}", u32::from(c)),
            '\u{0}'..='\u{1f}' | '\u{2028}' | '\u{2029}' => _ = write!(out, "\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_ordered_and_equal_by_what_they_are() {
        let sorted = [
            json!(-1),
            json!(1.5),
            json!(2),
            json!("a"),
            json!("b"),
            json!(false),
            json!(true),
            json!([1]),
            json!([1, 2]),
            json!({"a": 1}),
            json!({"a": 2}),
            json!(null),
        ];
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                assert_eq!(order(a, b), i.cmp(&j), "{a} {b}");
                assert_eq!(same(a, b), i == j, "{a} {b}");
            }
        }
        assert!(same(&json!({"a": [1]}), &json!({"a": [1.0]})) && order(&json!(1), &json!(1.0)).is_eq());
        assert!(!same(&json!("1"), &json!(1)));
    }

    #[test]
    fn values_are_written_as_go_writes_them() {
        for (value, json, shown, syntax) in [
            (json!("a<b>\n\u{1}"), r#""a\u003cb\u003e\n\u0001""#, r#""a<b>\n\x01""#, r#""a<b>\n\x01""#),
            (json!(1.5), "1.5", "1.5", "1.5"),
            (json!(2.0), "2", "2", "2"),
            (json!(1e21), "1e+21", "1e+21", "1e+21"),
            (json!(0.000_000_1), "1e-7", "1e-07", "1e-07"),
            (
                json!({"a": [null, true]}),
                r#"{"a":[null,true]}"#,
                "a=[null,true]",
                r#"map[string]interface {}{"a":[]interface {}{interface {}(nil), true}}"#,
            ),
        ] {
            let mut out = String::new();
            go_json(&value, &mut out);
            assert_eq!((out.as_str(), show(&value).as_str(), go_syntax(&value).as_str()), (json, shown, syntax));
        }
    }
}
