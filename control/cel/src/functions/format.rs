//! `string.format`, as cel-go had it before version 4 of its string extension: numbers with a point are printed for
//! `en_US`.

use super::{convert, go};
use crate::value::{EvalError, List, Value, failure};

const PRECISION: usize = 6;

/// A clause of a format.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Clause {
    String,
    Decimal,
    Fixed(usize),
    Scientific(usize),
    Binary,
    Hex { upper: bool },
    Octal,
}

pub(crate) enum Piece<'f> {
    Text(&'f str),
    Clause(Clause),
}

/// Takes a format apart. `arguments`: how many there are.
///
/// # Errors
/// Upstream's sentence, where no argument or no clause is.
pub(crate) fn pieces<'f>(
    format: &'f str,
    arguments: usize,
    see: &mut dyn FnMut(Piece<'f>) -> Result<(), EvalError>,
) -> Result<usize, EvalError> {
    let (mut rest, mut used) = (format, 0);
    while let Some(at) = rest.find('%') {
        see(Piece::Text(&rest[..at]))?;
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('%') {
            see(Piece::Text("%"))?;
            rest = after;
            continue;
        }
        if used >= arguments {
            return Err(failure(format!("index {used} out of range")));
        }
        if after.is_empty() {
            return Err(failure("unexpected end of string".to_owned()));
        }
        let (clause, length) =
            clause(after).map_err(|error| failure(format!("could not parse formatting clause: {error}")))?;
        see(Piece::Clause(clause))?;
        used += 1;
        rest = &after[length..];
    }
    see(Piece::Text(rest))?;
    Ok(used)
}

fn clause(text: &str) -> Result<(Clause, usize), String> {
    let (precision, read) = precision(text).map_err(|error| format!("error while parsing precision: {error}"))?;
    let letter = text[read..].chars().next().unwrap_or(' ');
    let precise = precision.unwrap_or(PRECISION);
    let clause = match letter {
        's' => Clause::String,
        'd' => Clause::Decimal,
        'f' => Clause::Fixed(precise),
        'e' => Clause::Scientific(precise),
        'b' => Clause::Binary,
        'x' | 'X' => Clause::Hex { upper: letter == 'X' },
        'o' => Clause::Octal,
        other => {
            // Upstream looks at a byte.
            let shown = if other.is_ascii() { other } else { char::from(text.as_bytes()[read]) };
            return Err(format!("unrecognized formatting clause \"{shown}\""));
        }
    };
    Ok((clause, read + 1))
}

fn precision(text: &str) -> Result<(Option<usize>, usize), String> {
    let Some(digits) = text.strip_prefix('.') else { return Ok((None, 0)) };
    let length = digits.find(|c: char| !c.is_ascii_digit()).ok_or("could not find end of precision specifier")?;
    let number = &digits[..length];
    let wrong = |why: &str| {
        format!("error while converting precision to integer: strconv.Atoi: parsing {}: {why}", go::quote(number))
    };
    if number.is_empty() {
        return Err(wrong("invalid syntax"));
    }
    let precision: u64 = number.parse().map_err(|_| wrong("value out of range"))?;
    // Digits that no machine prints: the memory would end before them.
    let precision = usize::try_from(precision).unwrap_or(usize::MAX).min(10_000);
    Ok((Some(precision), length + 1))
}

/// The text of a format with its arguments filled in.
///
/// # Errors
/// Upstream's sentence.
pub(crate) fn format(format: &str, arguments: &List<'_>) -> Result<String, EvalError> {
    let (mut out, mut at) = (String::new(), 0);
    pieces(format, arguments.len(), &mut |piece| {
        match piece {
            Piece::Text(text) => out += text,
            Piece::Clause(clause) => {
                let argument = arguments.get(at).unwrap_or(Ok(Value::Null))?;
                at += 1;
                let text = apply(clause, &argument);
                out += &text.map_err(|error| failure(format!("error during formatting: {error}")))?;
            }
        }
        Ok(())
    })?;
    Ok(out)
}

/// Why a clause does not take a type.
pub(crate) fn refusal(clause: Clause, given: &str) -> String {
    match clause {
        Clause::String => format!(
            "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps, was given {given}"
        ),
        Clause::Decimal => format!("decimal clause can only be used on integers, was given {given}"),
        Clause::Fixed(_) => format!("fixed-point clause can only be used on doubles, was given {given}"),
        Clause::Scientific(_) => format!("scientific clause can only be used on doubles, was given {given}"),
        Clause::Binary => format!("only integers and bools can be formatted as binary, was given {given}"),
        Clause::Hex { .. } => {
            format!("only integers, byte buffers, and strings can be formatted as hex, was given {given}")
        }
        Clause::Octal => format!("octal clause can only be used on integers, was given {given}"),
    }
}

fn apply(clause: Clause, argument: &Value<'_>) -> Result<String, String> {
    let refused = || refusal(clause, &argument.type_name());
    Ok(match (clause, argument) {
        (Clause::String, value) => string(value)?,
        (Clause::Decimal, Value::Int(value)) => value.to_string(),
        (Clause::Decimal, Value::Uint(value)) => value.to_string(),
        (Clause::Binary, Value::Int(value)) => signed(*value, |value| format!("{value:b}")),
        (Clause::Binary, Value::Uint(value)) => format!("{value:b}"),
        (Clause::Binary, Value::Bool(value)) => u8::from(*value).to_string(),
        (Clause::Octal, Value::Int(value)) => signed(*value, |value| format!("{value:o}")),
        (Clause::Octal, Value::Uint(value)) => format!("{value:o}"),
        (Clause::Hex { upper }, value) => {
            let hex = hex(value).ok_or_else(refused)?;
            if upper { hex.to_uppercase() } else { hex }
        }
        (Clause::Fixed(precision), value) => fixed(double(value).ok_or_else(refused)?, precision),
        (Clause::Scientific(precision), value) => scientific(double(value).ok_or_else(refused)?, precision),
        _ => return Err(refused()),
    })
}

fn signed(value: i64, print: fn(u64) -> String) -> String {
    let sign = if value < 0 { "-" } else { "" };
    format!("{sign}{}", print(value.unsigned_abs()))
}

fn hex(value: &Value<'_>) -> Option<String> {
    let bytes = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(match value {
        Value::Int(value) => signed(*value, |value| format!("{value:x}")),
        Value::Uint(value) => format!("{value:x}"),
        Value::String(text) => bytes(text.as_bytes()),
        Value::Bytes(content) => bytes(content),
        _ => return None,
    })
}

fn double(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Double(value) => Some(*value),
        Value::String(text) => match &**text {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn special(value: f64) -> Option<String> {
    if value.is_nan() {
        return Some("NaN".to_owned());
    }
    value.is_infinite().then(|| if value > 0.0 { "∞" } else { "-∞" }.to_owned())
}

/// With commas between thousands.
fn fixed(value: f64, precision: usize) -> String {
    if let Some(text) = special(value) {
        return text;
    }
    let text = format!("{:.precision$}", value.abs());
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(a, b)| (a, Some(b)));
    let mut out = String::from(if value.is_sign_negative() { "-" } else { "" });
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out += fraction;
    }
    out
}

/// `1.234568×10⁰⁴`. Upstream takes the precision for a width.
fn scientific(value: f64, width: usize) -> String {
    let text = special(value).unwrap_or_else(|| powers_of_ten(value));
    let padding = width.saturating_sub(text.chars().count());
    format!("{}{text}", " ".repeat(padding))
}

fn powers_of_ten(value: f64) -> String {
    let text = format!("{value:.PRECISION$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let mut out = format!("{mantissa}×10");
    if exponent < 0 {
        out.push('⁻');
    }
    for digit in format!("{:02}", exponent.abs()).bytes() {
        out.push(['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'][usize::from(digit - b'0')]);
    }
    out
}

/// `%s`
fn string(value: &Value<'_>) -> Result<String, String> {
    Ok(match value {
        Value::List(list) => {
            let items: Result<Vec<String>, String> =
                list.iter().map(|item| inner(&item.map_err(|error| error.to_string())?)).collect();
            format!("[{}]", items?.join(", "))
        }
        Value::Map(map) => {
            let mut pairs = Vec::new();
            for (key, value) in map.entries().map_err(|error| error.to_string())? {
                if !matches!(key, Value::String(_) | Value::Bool(_) | Value::Int(_) | Value::Uint(_)) {
                    return Err(format!("no formatting function for map key of type {}", key.type_name()));
                }
                pairs.push((inner(&key)?, inner(&value)?));
            }
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            let pairs: Vec<String> = pairs.into_iter().map(|(key, value)| format!("{key}:{value}")).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        Value::Optional(_) | Value::Extension(_) | Value::Preserved(_) | Value::Lazy(_) => {
            return Err(refusal(Clause::String, &value.type_name()));
        }
        value => match convert::text(value) {
            Ok(text) => text.to_string(),
            Err(error) => {
                return Err(format!("could not convert argument {} to string", go::quote(&error.to_string())));
            }
        },
    })
}

/// Within a list or map: as it would be written in an expression.
fn inner(value: &Value<'_>) -> Result<String, String> {
    Ok(match value {
        Value::String(text) => go::quote(text),
        Value::Bytes(bytes) => format!("b{}", go::quote(&String::from_utf8_lossy(bytes))),
        Value::Timestamp(time) => format!("timestamp({})", go::quote(&time.text())),
        Value::Duration(nanos) => format!("duration({})", go::quote(&super::duration::seconds_text(*nanos))),
        Value::Double(value) if value.is_nan() => "\"NaN\"".to_owned(),
        Value::Double(value) if value.is_infinite() => go::quote(&go::float(*value)),
        Value::Double(value) => format!("{value:.6}"),
        Value::Optional(_) | Value::Extension(_) | Value::Preserved(_) | Value::Lazy(_) => {
            return Err(format!("no formatting function for {}", value.type_name()));
        }
        value => string(value)?,
    })
}
