//! cel-go's string extension, version 2. Places are counted in characters.

use super::format;
use super::go::quoted;
use super::table::{Row, row};
use crate::value::{EvalError, NO_OVERLOAD, Res, Value, failure, length};

pub(crate) static ROWS: &[Row] = &[
    row(0, "charAt", "string_char_at_int", "string.(int) -> string", char_at),
    row(0, "indexOf", "string_index_of_string", "string.(string) -> int", index_of),
    row(0, "indexOf", "string_index_of_string_int", "string.(string, int) -> int", index_of),
    row(0, "lastIndexOf", "string_last_index_of_string", "string.(string) -> int", last_index_of),
    row(0, "lastIndexOf", "string_last_index_of_string_int", "string.(string, int) -> int", last_index_of),
    row(0, "lowerAscii", "string_lower_ascii", "string.() -> string", |args| {
        Ok(Value::text(text(args, 0)?.to_ascii_lowercase()))
    }),
    row(0, "upperAscii", "string_upper_ascii", "string.() -> string", |args| {
        Ok(Value::text(text(args, 0)?.to_ascii_uppercase()))
    }),
    row(0, "replace", "string_replace_string_string", "string.(string, string) -> string", replace),
    row(0, "replace", "string_replace_string_string_int", "string.(string, string, int) -> string", replace),
    row(0, "split", "string_split_string", "string.(string) -> list(string)", split),
    row(0, "split", "string_split_string_int", "string.(string, int) -> list(string)", split),
    row(0, "substring", "string_substring_int", "string.(int) -> string", substring),
    row(0, "substring", "string_substring_int_int", "string.(int, int) -> string", substring),
    row(0, "trim", "string_trim", "string.() -> string", |args| Ok(Value::text(trim(text(args, 0)?)))),
    row(29, "format", "string_format", "string.(list(dyn)) -> string", |args| match &args[1] {
        Value::List(list) => format::format(text(args, 0)?, list).map(Value::text),
        _ => Err(NO_OVERLOAD),
    }),
    row(29, "strings.quote", "strings_quote", "(string) -> string", |args| {
        Ok(Value::text(quoted(text(args, 0)?, String::push)))
    }),
    row(0, "join", "list_join", "list(string).() -> string", join),
    row(0, "join", "list_join_string", "list(string).(string) -> string", join),
];

fn text<'v>(args: &'v [Value<'_>], at: usize) -> Result<&'v str, EvalError> {
    args.get(at).and_then(Value::as_str).ok_or(NO_OVERLOAD)
}

fn number(args: &[Value<'_>], at: usize) -> Result<Option<i64>, EvalError> {
    match args.get(at) {
        None => Ok(None),
        Some(Value::Int(value)) => Ok(Some(*value)),
        Some(_) => Err(NO_OVERLOAD),
    }
}

fn out_of_range(at: i64) -> EvalError {
    failure(format!("index out of range: {at}"))
}

/// Where the character `at` begins, in bytes; the end is one more.
fn offset(text: &str, at: i64) -> Result<usize, EvalError> {
    let wanted = usize::try_from(at).map_err(|_| out_of_range(at))?;
    if text.is_ascii() {
        return if wanted <= text.len() { Ok(wanted) } else { Err(out_of_range(at)) };
    }
    let mut places = text.char_indices().map(|(place, _)| place).chain([text.len()]);
    places.nth(wanted).ok_or_else(|| out_of_range(at))
}

fn char_at<'a>(args: &[Value<'a>]) -> Res<'a> {
    let (text, at) = (text(args, 0)?, number(args, 1)?.ok_or(NO_OVERLOAD)?);
    let rest = &text[offset(text, at)?..];
    Ok(Value::text(rest.chars().next().map(String::from).unwrap_or_default()))
}

fn place(at: usize) -> Value<'static> {
    Value::Int(i64::try_from(at).unwrap_or(i64::MAX))
}

fn index_of<'a>(args: &[Value<'a>]) -> Res<'a> {
    let (text, part, from) = (text(args, 0)?, text(args, 1)?, number(args, 2)?.unwrap_or(0));
    let start = usize::try_from(from).map_err(|_| out_of_range(from))?;
    let all = length(text);
    if part.is_empty() {
        return Ok(place(start.min(all)));
    }
    if start >= all {
        return Ok(Value::Int(-1));
    }
    let skipped = offset(text, from)?;
    Ok(text[skipped..].find(part).map_or(Value::Int(-1), |at| place(length(&text[..skipped + at]))))
}

fn last_index_of<'a>(args: &[Value<'a>]) -> Res<'a> {
    let (text, part, before) = (text(args, 0)?, text(args, 1)?, number(args, 2)?);
    let all = length(text);
    if part.is_empty() && before.is_none() {
        return Ok(place(all));
    }
    let before = match before {
        None if text.len() < part.len() => return Ok(Value::Int(-1)),
        None => i64::try_from(all).unwrap_or(i64::MAX) - 1,
        Some(before) => before,
    };
    let last = usize::try_from(before).map_err(|_| out_of_range(before))?;
    if part.is_empty() {
        return Ok(place(last.min(all)));
    }
    if last >= all {
        return Ok(Value::Int(-1));
    }
    // A match may begin at `last`, and end behind it.
    let end = (offset(text, before)? + part.len()).min(text.len());
    let end = (end..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
    let found = text[..end].rfind(part).map(|at| length(&text[..at])).filter(|at| *at <= last);
    Ok(found.map_or(Value::Int(-1), place))
}

fn replace<'a>(args: &[Value<'a>]) -> Res<'a> {
    let (text, old, new) = (text(args, 0)?, text(args, 1)?, text(args, 2)?);
    Ok(Value::text(match number(args, 3)?.map(usize::try_from) {
        None | Some(Err(_)) => text.replace(old, new),
        Some(Ok(count)) => text.replacen(old, new, count),
    }))
}

fn split<'a>(args: &[Value<'a>]) -> Res<'a> {
    let (text, separator) = (text(args, 0)?, text(args, 1)?);
    let most = match number(args, 2)?.map(usize::try_from) {
        None | Some(Err(_)) => usize::MAX,
        Some(Ok(0)) => return Ok(Value::list(Vec::new())),
        Some(Ok(most)) => most,
    };
    if !separator.is_empty() {
        return Ok(Value::texts(text.splitn(most, separator).map(str::to_owned)));
    }
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if parts.len() + 1 == most {
            break;
        }
        parts.push(String::from(c));
        rest = &rest[c.len_utf8()..];
    }
    if !rest.is_empty() {
        parts.push(rest.to_owned());
    }
    Ok(Value::texts(parts))
}

fn substring<'a>(args: &[Value<'a>]) -> Res<'a> {
    let (text, start, end) = (text(args, 0)?, number(args, 1)?.ok_or(NO_OVERLOAD)?, number(args, 2)?);
    let Some(end) = end else { return Ok(Value::text(&text[offset(text, start)?..])) };
    if start > end {
        return Err(failure(format!("invalid substring range. start: {start}, end: {end}")));
    }
    let start = offset(text, start)?;
    Ok(Value::text(&text[start..offset(text, end)?]))
}

/// Go's `unicode.IsSpace`.
fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace())
}

fn join<'a>(args: &[Value<'a>]) -> Res<'a> {
    let Value::List(list) = &args[0] else { return Err(NO_OVERLOAD) };
    let separator = if args.len() > 1 { text(args, 1)? } else { "" };
    let mut out = String::new();
    for (at, item) in list.iter().enumerate() {
        if at > 0 {
            out += separator;
        }
        match item? {
            Value::String(part) => out += &part,
            other => return Err(failure(format!("join: invalid input: {}", crate::show::plain(&other)))),
        }
    }
    Ok(Value::text(out))
}
