//! YAML 1.1 as upstream reads it (go-yaml v2): its booleans, octals, merge keys and string forms
//! of keys. Only the first document counts.

use std::{
    collections::{HashMap, HashSet},
    mem,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use granit_parser::{Event, Options, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Number, Value};

use super::{DecodeError, MAX_DEPTH, Repeats, clipped, json};

/// How many nodes a document may have once its aliases are expanded.
const MAX_NODES: usize = 1_000_000;
/// Bytes that may be copied for anchors and aliases, and what a node costs beside its text.
const MAX_COPIED: usize = 16 << 20;
const NODE: usize = 64;
/// From here on Go prints a float with an exponent.
const WHOLE_BELOW: f64 = 1e21;

/// Reads the first document.
pub(super) fn parse(body: &[u8], duplicates: &mut Repeats) -> Result<Value, DecodeError> {
    let text = String::from_utf8_lossy(body);
    // Comments would be events, of which only so many may follow each other.
    let mut options = Options::default();
    options.emit_comments = false;
    let (parser, source) = (Parser::new_from_str_with_options(&text, options), text.as_ref());
    let mut loader = Loader { parser, source, anchors: HashMap::new(), spent: Cost::default(), copied: 0, duplicates };
    loop {
        match loader.next()? {
            (Event::StreamEnd, _) => return Ok(Value::Null),
            (Event::DocumentStart(..), _) => break,
            _ => {}
        }
    }
    match loader.next()? {
        (Event::DocumentEnd | Event::StreamEnd, _) => Ok(Value::Null),
        (event, span) => loader.node(event, &span, 0),
    }
}

/// What a node and those below it take.
#[derive(Clone, Copy, Default)]
struct Cost {
    nodes: usize,
    bytes: usize,
}

/// An anchored node, and what it expands to.
type Anchor = (Value, Cost);

struct Loader<'a, I: Iterator> {
    parser: I,
    /// What is parsed, for what an event does not say.
    source: &'a str,
    anchors: HashMap<usize, Anchor>,
    /// By what has been read so far.
    spent: Cost,
    /// Bytes of copies.
    copied: usize,
    duplicates: &'a mut Repeats,
}

type Item<'i> = Result<(Event<'i>, Span), granit_parser::ScanError>;

impl<'i, I: Iterator<Item = Item<'i>>> Loader<'_, I> {
    fn next(&mut self) -> Result<(Event<'i>, Span), DecodeError> {
        match self.parser.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(DecodeError::new(format!("error converting YAML to JSON: yaml: {error}"))),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn count(&mut self, cost: Cost) -> Result<(), DecodeError> {
        self.spent.nodes = self.spent.nodes.saturating_add(cost.nodes);
        self.spent.bytes = self.spent.bytes.saturating_add(cost.bytes);
        if self.spent.nodes > MAX_NODES { Err(excessive()) } else { Ok(()) }
    }

    fn copy(&mut self, bytes: usize) -> Result<(), DecodeError> {
        self.copied = self.copied.saturating_add(bytes);
        if self.copied > MAX_COPIED { Err(excessive()) } else { Ok(()) }
    }

    /// What stands behind an alias.
    fn alias(&mut self, id: usize) -> Result<Value, DecodeError> {
        let (_, cost) = self.anchors.get(&id).ok_or_else(|| fail("unknown anchor"))?;
        let cost = *cost;
        self.copy(cost.bytes)?;
        self.count(cost)?;
        Ok(self.anchors[&id].0.clone())
    }

    fn node(&mut self, event: Event<'i>, span: &Span, depth: usize) -> Result<Value, DecodeError> {
        if depth > MAX_DEPTH {
            return Err(fail("exceeded max depth"));
        }
        let before = self.spent;
        let text = if let Event::Scalar(text, ..) = &event { text.len() } else { 0 };
        self.count(Cost { nodes: 1, bytes: NODE + text })?;
        let (anchor, value) = match event {
            Event::Alias(id) => (0, self.alias(id)?),
            Event::Scalar(text, style, anchor, tag) => {
                if style == ScalarStyle::DoubleQuoted {
                    self.check_escapes(span)?;
                }
                (anchor, scalar(&text, style, tag.as_deref())?)
            }
            Event::SequenceStart(_, anchor, _) => (anchor, self.sequence(depth)?),
            Event::MappingStart(_, anchor, _) => (anchor, self.mapping(depth)?),
            _ => return Err(fail(&format!("line {}: unexpected end of the document", span.start.line()))),
        };
        if anchor != 0 {
            let nodes = self.spent.nodes - before.nodes;
            let cost = Cost { nodes, bytes: self.spent.bytes - before.bytes };
            self.copy(cost.bytes)?;
            self.anchors.insert(anchor, (value.clone(), cost));
        }
        Ok(value)
    }

    /// YAML 1.1 has neither an escaped slash nor surrogate pairs.
    fn check_escapes(&self, span: &Span) -> Result<(), DecodeError> {
        let written = span.byte_range().and_then(|range| self.source.get(range)).unwrap_or_default();
        let mut chars = written.chars();
        while let Some(c) = chars.next() {
            if c != '\\' {
                continue;
            }
            match chars.next() {
                Some('/') => return Err(fail("found unknown escape character")),
                Some('u')
                    if matches!(
                        chars.as_str().as_bytes(),
                        [b'd' | b'D', b'8' | b'9' | b'a'..=b'f' | b'A'..=b'F', ..]
                    ) =>
                {
                    return Err(fail("found invalid Unicode character escape code"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, DecodeError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::Array(items)),
                (event, span) => items.push(self.node(event, &span, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, DecodeError> {
        let (mut map, mut merged, mut seen) = (Map::new(), Vec::new(), HashSet::new());
        loop {
            let (event, span) = match self.next()? {
                (Event::MappingEnd, _) => break,
                next => next,
            };
            let merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let key = self.node(event, &span, depth + 1)?;
            let (event, value_span) = self.next()?;
            let value = self.node(event, &value_span, depth + 1)?;
            if merge {
                merged.push(value);
                continue;
            }
            // `1` and `'1'` are two keys to YAML, and one to JSON.
            let (kind, shown) = (mem::discriminant(&key), key.is_string());
            let key = key_text(key)?;
            if !seen.insert((kind, key.clone())) {
                let (line, name) = (span.start.line(), clipped(&key));
                let name = if shown { super::quote(name) } else { name.to_owned() };
                self.duplicates.add(|| format!("line {line}: key {name} already set in map"));
            }
            map.insert(key, value);
        }
        for value in merged {
            merge_into(&mut map, value)?;
        }
        Ok(Value::Object(map))
    }
}

fn excessive() -> DecodeError {
    fail("document contains excessive aliasing")
}

fn fail(message: &str) -> DecodeError {
    DecodeError::new(format!("error converting YAML to JSON: yaml: {message}"))
}

/// A merge key's mapping, or list of mappings: what the map does not say itself.
fn merge_into(map: &mut Map<String, Value>, value: Value) -> Result<(), DecodeError> {
    match value {
        Value::Object(other) => {
            for (key, value) in other {
                map.entry(key).or_insert(value);
            }
            Ok(())
        }
        Value::Array(items) => items.into_iter().try_for_each(|item| match item {
            Value::Object(_) => merge_into(map, item),
            _ => Err(fail("map merge requires map or sequence of maps as the value")),
        }),
        _ => Err(fail("map merge requires map or sequence of maps as the value")),
    }
}

fn key_text(key: Value) -> Result<String, DecodeError> {
    match key {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(value) => Ok(value.to_string()),
        other => Err(fail(&format!("unsupported map key of type: {}", super::type_name(&other)))),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, DecodeError> {
    let core = tag.and_then(|tag| tag.suffix_in_namespace("tag:yaml.org,2002:"));
    match core.as_deref() {
        Some("binary") => {
            let compact: String = text.split_whitespace().collect();
            let bytes = STANDARD.decode(compact).map_err(|_| fail("!!binary value contains invalid base64 data"))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned().into())
        }
        Some("str") => Ok(text.into()),
        Some(kind @ ("null" | "int" | "float" | "bool")) => {
            let value = resolve(text)?;
            let fits = match &value {
                Value::Null => kind == "null",
                Value::Bool(_) => kind == "bool",
                Value::Number(number) => kind == "float" || kind == "int" && !number.is_f64(),
                _ => false,
            };
            if fits { Ok(value) } else { Err(fail(&format!("cannot decode !!str `{text}` as a !!{kind}"))) }
        }
        _ if style == ScalarStyle::Plain && tag.is_none() => resolve(text),
        _ => Ok(text.into()),
    }
}

/// A plain scalar by YAML 1.1's implicit types.
fn resolve(text: &str) -> Result<Value, DecodeError> {
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => true.into(),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => false.into(),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Err(unsupported("+Inf")),
        "-.inf" | "-.Inf" | "-.INF" => return Err(unsupported("-Inf")),
        ".nan" | ".NaN" | ".NAN" => return Err(unsupported("NaN")),
        _ => number(text).map_or_else(|| text.into(), Value::Number),
    })
}

/// Whether a plain scalar would be read as something else than a string, be it a timestamp.
pub(crate) fn is_special(text: &str) -> bool {
    let day = text.as_bytes().get(..10).is_some_and(|day| {
        day.iter().enumerate().all(|(at, byte)| if at == 4 || at == 7 { *byte == b'-' } else { byte.is_ascii_digit() })
    });
    day || !matches!(resolve(text), Ok(Value::String(_)))
}

/// JSON has no such number.
fn unsupported(what: &str) -> DecodeError {
    DecodeError::new(format!("error converting YAML to JSON: json: unsupported value: {what}"))
}

fn number(text: &str) -> Option<Number> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return None;
    }
    let plain = if text.starts_with('.') { text.to_owned() } else { text.replace('_', "") };
    let (sign, digits) = match plain.as_bytes().first()? {
        b'-' => ("-", &plain[1..]),
        b'+' => ("", &plain[1..]),
        _ => ("", plain.as_str()),
    };
    let radix = |prefix: &str, base| {
        let rest = digits.strip_prefix(prefix)?;
        let starts = rest.starts_with(|c: char| c.is_ascii_hexdigit());
        starts.then(|| i64::from_str_radix(&format!("{sign}{rest}"), base).ok()).flatten()
    };
    let based = radix("0x", 16)
        .or_else(|| radix("0X", 16))
        .or_else(|| radix("0b", 2))
        .or_else(|| radix("0B", 2))
        .or_else(|| radix("0o", 8))
        .or_else(|| radix("0O", 8))
        .or_else(|| radix("0", 8));
    if let Some(value) = based {
        return Some(value.into());
    }
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return json::number(&format!("{sign}{digits}"), true);
    }
    // Upstream prints what it read, and a whole number has no point then.
    let float: f64 = is_float(digits).then(|| format!("{sign}{digits}").parse().ok()).flatten()?;
    if float.fract() == 0.0 && float.abs() < WHOLE_BELOW {
        return json::number(&format!("{float}"), true);
    }
    Number::from_f64(float)
}

/// `(.[0-9]+|[0-9]+(.[0-9]*)?)([eE][-+]?[0-9]+)?`, the floats of go-yaml v2.
fn is_float(text: &str) -> bool {
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.strip_prefix(['-', '+']).unwrap_or(exponent)),
        None => (text, "0"),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let some = !whole.is_empty() || !fraction.is_empty();
    some && !exponent.is_empty() && all_digits(exponent) && all_digits(whole) && all_digits(fraction)
}
