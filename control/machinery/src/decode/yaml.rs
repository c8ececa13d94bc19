//! YAML 1.1 as upstream reads it (go-yaml v2): its booleans, octals, merge keys and string forms
//! of keys. Only the first document counts.

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Number, Value};

use super::{DecodeError, MAX_DEPTH, Repeats, clipped, json};

/// How many nodes a document may have once its aliases are expanded.
const MAX_NODES: usize = 1_000_000;
/// Bytes that may be copied for anchors and aliases, and what a node costs beside its text.
const MAX_COPIED: usize = 16 << 20;
const NODE: usize = 64;

/// Reads the first document.
pub(super) fn parse(body: &[u8], duplicates: &mut Repeats) -> Result<Value, DecodeError> {
    let text = String::from_utf8_lossy(body);
    let parser = Parser::new_from_str(&text);
    let mut loader = Loader { parser, anchors: HashMap::new(), spent: Cost::default(), copied: 0, duplicates };
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
            Event::Scalar(text, style, anchor, tag) => (anchor, scalar(&text, style, tag.as_deref())?),
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
        let mut map = Map::new();
        let mut merged = Vec::new();
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
            let key = key_text(key)?;
            if map.contains_key(&key) {
                let line = span.start.line();
                self.duplicates.add(|| format!("line {line}: key {} already set in map", super::quote(clipped(&key))));
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
        Some("null") => Ok(Value::Null),
        Some(kind @ ("int" | "float" | "bool")) => match resolve(text) {
            value @ (Value::Number(_) | Value::Bool(_)) => Ok(value),
            _ => Err(fail(&format!("cannot decode !!str `{text}` as a !!{kind}"))),
        },
        _ if style == ScalarStyle::Plain && tag.is_none() => Ok(resolve(text)),
        _ => Ok(text.into()),
    }
}

/// A plain scalar by YAML 1.1's implicit types.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return true.into(),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => return false.into(),
        _ => {}
    }
    number(text).map_or_else(|| text.into(), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return None;
    }
    let plain = text.replace('_', "");
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
        .or_else(|| radix("0o", 8))
        .or_else(|| radix("0", 8));
    if let Some(value) = based {
        return Some(value.into());
    }
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return json::number(&format!("{sign}{digits}"), true);
    }
    is_float(digits).then(|| json::number(&format!("{sign}{digits}"), false)).flatten()
}

/// `[0-9]*.?[0-9]+([eE][-+][0-9]+)?`, the floats of go-yaml v2 (an exponent needs its sign).
fn is_float(text: &str) -> bool {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let good_exponent = exponent.is_none_or(|e| e.len() > 1 && e.starts_with(['+', '-']) && all_digits(&e[1..]));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or(("", mantissa));
    good_exponent && !fraction.is_empty() && all_digits(whole) && all_digits(fraction)
}
