//! Values as YAML that readers of YAML 1.1 take for what they are: what upstream's library (go-yaml v2) would print,
//! but that long lines are not folded.

use std::fmt::Write;

use serde_json::{Map, Value};

use crate::decode::yaml_resolves;

/// Longer keys are written as `? key`.
const LONGEST_KEY: usize = 128;

/// A value as one document.
#[must_use]
pub fn to_text(value: &Value) -> String {
    let mut out = String::with_capacity(256);
    match value {
        Value::Object(map) if !map.is_empty() => fields(&mut out, map, 0, false),
        Value::Array(items) if !items.is_empty() => list(&mut out, items, 0, false),
        other => {
            scalar(&mut out, other, 0);
            out.push('\n');
        }
    }
    out
}

fn indent(out: &mut String, by: usize) {
    out.extend(std::iter::repeat_n(' ', by));
}

/// The fields of an object at some depth; the first stands in a line that has begun if `begun`.
fn fields(out: &mut String, map: &Map<String, Value>, by: usize, mut begun: bool) {
    for (key, value) in map {
        if !std::mem::take(&mut begun) {
            indent(out, by);
        }
        if key.len() > LONGEST_KEY {
            out.push_str("? ");
        }
        string(out, key, None);
        if key.len() > LONGEST_KEY {
            out.push('\n');
            indent(out, by);
        }
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                fields(out, inner, by + 2, false);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                list(out, items, by, false);
            }
            other => {
                out.push(' ');
                scalar(out, other, by);
                out.push('\n');
            }
        }
    }
}

fn list(out: &mut String, items: &[Value], by: usize, mut begun: bool) {
    for item in items {
        if !std::mem::take(&mut begun) {
            indent(out, by);
        }
        out.push_str("- ");
        match item {
            Value::Object(inner) if !inner.is_empty() => fields(out, inner, by + 2, true),
            Value::Array(inner) if !inner.is_empty() => list(out, inner, by + 2, true),
            other => {
                scalar(out, other, by);
                out.push('\n');
            }
        }
    }
}

fn scalar(out: &mut String, value: &Value, by: usize) {
    match value {
        Value::String(text) => string(out, text, Some(by)),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        // Go prints no point in a whole number.
        Value::Number(number) if number.is_f64() => {
            let shown = number.to_string();
            out.push_str(shown.strip_suffix(".0").unwrap_or(&shown));
        }
        other => drop(write!(out, "{other}")),
    }
}

/// A text, in the plainest style in which it reads back as itself. `block`: where a literal block may stand.
fn string(out: &mut String, text: &str, block: Option<usize>) {
    let shape = Shape::of(text);
    if text.contains('\n') {
        match block {
            Some(by) if shape.literal => literal(out, text, by + 2),
            _ => double_quoted(out, text),
        }
    } else if yaml_resolves(text) || base_60(text) || text == "<<" && block.is_none() {
        double_quoted(out, text);
    } else if shape.plain {
        out.push_str(text);
    } else if shape.single {
        let _ = write!(out, "'{}'", text.replace('\'', "''"));
    } else {
        double_quoted(out, text);
    }
}

/// Styles in which a text can be written.
struct Shape {
    plain: bool,
    single: bool,
    literal: bool,
}

impl Shape {
    fn of(text: &str) -> Self {
        let special = !text.chars().all(printable);
        let spaced_break = text.contains(" \n") || special;
        let (space_first, space_last) = (text.starts_with([' ', '\n']), text.ends_with([' ', '\n']));
        Self {
            plain: !text.contains('\n') && !space_first && !space_last && !spaced_break && !indicators(text),
            single: !text.contains("\n ") && !spaced_break,
            literal: !text.ends_with(' ') && !spaced_break,
        }
    }
}

/// Whether a text has what YAML takes for structure.
fn indicators(text: &str) -> bool {
    let first = text.chars().next();
    let blank = |at: usize| matches!(text.as_bytes().get(at), None | Some(b' ' | b'\t' | b'\n' | b'\r'));
    text.starts_with("---")
        || text.starts_with("...")
        || first.is_some_and(|c| "#,[]{}&*!|>'\"%@`".contains(c))
        || first.is_some_and(|c| "?-".contains(c) && blank(1))
        || text.bytes().enumerate().any(|(at, byte)| match byte {
            b':' => blank(at + 1),
            b'#' => at > 0 && blank(at - 1),
            _ => false,
        })
}

fn printable(c: char) -> bool {
    matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}' | '\u{10000}'..)
        && !matches!(c, '\u{2028}' | '\u{2029}')
}

/// Numbers in base 60 of YAML 1.1, which nobody means: `12:30`.
fn base_60(text: &str) -> bool {
    let rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = rest.split_once('.').unwrap_or((rest, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let mut parts = whole.split(':');
    let first = parts.next().unwrap_or_default();
    let sixtieths: Vec<&str> = parts.collect();
    first.starts_with(|c: char| c.is_ascii_digit())
        && digits(first)
        && digits(fraction)
        && !sixtieths.is_empty()
        && sixtieths.iter().all(|part| {
            (1..=2).contains(&part.len()) && part.parse::<u8>().is_ok_and(|value| value < 60) && !part.starts_with('+')
        })
}

fn literal(out: &mut String, text: &str, by: usize) {
    out.push('|');
    if text.starts_with([' ', '\n']) {
        out.push('2');
    }
    let body = text.strip_suffix('\n').unwrap_or(text);
    match (body.len() == text.len(), body.is_empty() || body.ends_with('\n')) {
        (true, _) => out.push('-'),
        (false, true) => out.push('+'),
        (false, false) => {}
    }
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(out, by);
            out.push_str(line);
        }
    }
}

fn double_quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0' => out.push_str("\\0"),
            c if printable(c) => out.push(c),
            c if u32::from(c) < 0x100 => drop(write!(out, "\\x{:02X}", u32::from(c))),
            c => drop(write!(out, "\\u{:04X}", u32::from(c))),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::decode::decode_yaml;

    #[test]
    fn documents_have_upstreams_layout() {
        let value = json!({
            "a": {"b": [{"c": 1, "d": {"e": []}}, [1, [2]], "x"], "m": {}}, "n": null, "s": "two\nlines\n", "t": "no end\nhere",
            "time": "2024-01-01T00:00:00Z", "u": " \n x\n\n", "v": "tab\tinside", "w": "it's", "x": "'q'",
        });
        let expected = "a:\n  b:\n  - c: 1\n    d:\n      e: []\n  - - 1\n    - - 2\n  - x\n  m: {}\n\"n\": null\ns: |\n  two\n  lines\nt: |-\n  no end\n  here\ntime: \"2024-01-01T00:00:00Z\"\nu: \" \\n x\\n\\n\"\nv: \"tab\\tinside\"\nw: it's\nx: '''q'''\n";
        assert_eq!(to_text(&value), expected);
        assert_eq!(decode_yaml(expected.as_bytes()).map(|decoded| decoded.value), Ok(value));
        for (value, text) in
            [(json!([]), "[]\n"), (json!("x"), "x\n"), (json!(["a"]), "- a\n"), (json!(null), "null\n")]
        {
            assert_eq!(to_text(&value), text);
        }
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[-:#'\"\\\\ \n\ta-z0-9.~!|>%@`{}\\[\\],?&*+_=<ynYN]{0,12}", any::<String>(), "[0-9:.eE+_-]{1,8}"]
    }

    proptest! {
        #[test]
        fn everything_reads_back_as_itself(
            key in text(), item in text(), list in proptest::collection::vec(text(), 0..4), deep in text(),
        ) {
            // A bare carriage return is a line break to readers; JSON escapes keep it, so do ours.
            let value = json!({"k": {key: item}, "l": list, "d": [[deep.clone()], {"x": deep}]});
            let written = to_text(&value);
            let read = decode_yaml(written.as_bytes()).map(|decoded| decoded.value);
            prop_assert_eq!(read, Ok(value), "{}", written);
        }
    }
}
