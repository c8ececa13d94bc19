//! Bodies of requests: JSON, YAML, protobuf and CBOR into values, hostile ones into errors.
//!
//! Invariants
//! - Never panics and never recurses deeper than [`MAX_DEPTH`], whatever the bytes are.
//! - Memory is bounded by a constant times the body: YAML aliases are expanded under a budget.
//! - A repeated key keeps its last value and is reported, so that strict validation can refuse it.
//!
//! Not here: the limit on the size of a body, which the HTTP side enforces while reading it.

mod cbor;
mod json;
mod protobuf;
mod yaml;

pub use crate::wire::message_fields;

use std::fmt;

use serde_json::{Map, Value};

use crate::schema::{Problems, Schema};
pub(crate) use cbor::half;
pub(crate) use yaml::is_special as yaml_resolves;

/// How deep lists and maps may nest. Far beyond any kind's needs, far below what a stack holds, and less than the depth at
/// which serde_json stops to read (128): what is stored can be read again.
pub const MAX_DEPTH: usize = 120;

/// How many findings of strict validation are listed, as upstream's decoder does.
const MAX_FINDINGS: usize = 100;

/// How much of a path or key a finding shows.
const MAX_PATH: usize = 256;

/// What was written twice, as far as it is listed: a body of a few megabytes may repeat a key a million times.
#[derive(Default)]
struct Repeats(Vec<String>);

impl Repeats {
    fn add(&mut self, text: impl FnOnce() -> String) {
        if self.0.len() < MAX_FINDINGS {
            self.0.push(text());
        }
    }
}

/// As much of a path or key as a finding shows.
fn clipped(path: &str) -> &str {
    &path[..path.floor_char_boundary(MAX_PATH)]
}

/// Why a body could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(String);

impl DecodeError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// A body as a value.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// The value.
    pub value: Value,
    /// What was written twice: paths (`metadata.name`) for JSON, whole sentences for YAML.
    pub duplicates: Vec<String>,
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    /// The text, to list findings in the order in which they stand there.
    Json(Box<[u8]>),
    Yaml,
    /// It can neither repeat a field nor name an unknown one.
    Protobuf,
    /// A repeated key makes it invalid.
    Cbor,
}

/// Reads one JSON document.
///
/// # Errors
/// The first thing that is not JSON, or nesting that is too deep.
pub fn decode_json(body: &[u8]) -> Result<Decoded, DecodeError> {
    let mut duplicates = Repeats::default();
    let value = json::parse(body)?.into_value(&json::Place::Root, &mut duplicates);
    Ok(Decoded { value, duplicates: duplicates.0, source: Source::Json(body.into()) })
}

/// Reads the first YAML document as JSON would hold it, by YAML 1.1's rules as upstream does
/// (`yes` is a boolean). An empty document is null.
///
/// # Errors
/// The first thing that is not YAML, or has no form in JSON.
pub fn decode_yaml(body: &[u8]) -> Result<Decoded, DecodeError> {
    let mut duplicates = Repeats::default();
    let value = yaml::parse(body, &mut duplicates)?;
    Ok(Decoded { value, duplicates: duplicates.0, source: Source::Yaml })
}

/// Reads an object in Kubernetes' protobuf form (`application/vnd.kubernetes.protobuf`).
///
/// # Errors
/// The body is not in that form.
pub fn decode_protobuf(body: &[u8]) -> Result<Decoded, DecodeError> {
    Ok(Decoded { value: protobuf::parse(body)?, duplicates: Vec::new(), source: Source::Protobuf })
}

/// Reads one CBOR data item (RFC 8949) as JSON would hold it.
///
/// # Errors
/// The body is not one data item, or has what JSON cannot hold: NaN, big integers, keys that are no strings, a key twice.
pub fn decode_cbor(body: &[u8]) -> Result<Decoded, DecodeError> {
    Ok(Decoded { value: cbor::parse(body)?, duplicates: Vec::new(), source: Source::Cbor })
}

impl Decoded {
    /// The value as an object. A null body is an empty object, as upstream takes it.
    ///
    /// # Errors
    /// The body is a list, a string, a number or a boolean.
    pub fn into_object(mut self) -> Result<Self, DecodeError> {
        match self.value {
            Value::Object(_) => Ok(self),
            Value::Null => {
                self.value = Value::Object(Map::new());
                Ok(self)
            }
            other => Err(DecodeError(format!(
                "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type struct",
                type_name(&other)
            ))),
        }
    }

    /// `(apiVersion, kind)` of the object; empty where absent.
    ///
    /// # Errors
    /// One of them is not a string, or the version is malformed.
    pub fn type_meta(&self) -> Result<(&str, &str), DecodeError> {
        let read = |field: &str| match self.value.get(field) {
            None | Some(Value::Null) => Ok(""),
            Some(Value::String(text)) => Ok(text.as_str()),
            Some(other) => Err(DecodeError(format!(
                "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go struct field .{field} of type string",
                type_name(other)
            ))),
        };
        let (version, kind) = (read("apiVersion")?, read("kind")?);
        if version.matches('/').count() > 1 {
            return Err(DecodeError(format!("unexpected GroupVersion string: {version}")));
        }
        Ok((version, kind))
    }

    /// What strict validation against `schema` finds: repeated and unknown fields. `problems`: what the schema has said of
    /// the value.
    #[must_use]
    pub fn findings(&self, schema: &Schema, problems: &Problems) -> Findings {
        if schema.structural().is_some() {
            // Such a type says what is unknown after everything has been read.
            let mut findings = self.duplicate_findings();
            findings.extend(Findings::of_fields(problems.unknown_fields()));
            return findings;
        }
        let unknown = || problems.unknown_fields();
        match &self.source {
            Source::Yaml => Findings { yaml: self.duplicates.clone(), fields: unknown() },
            Source::Protobuf => Findings::default(),
            Source::Cbor => Findings { yaml: Vec::new(), fields: unknown() },
            Source::Json(text) => {
                let fields = match (problems.unknown.len(), self.duplicates.is_empty()) {
                    (0, true) => Vec::new(),
                    (1, true) => unknown(),
                    // Several findings are listed as they stand in the text, which a map forgets.
                    _ => json::parse(text).map_or_else(|_| unknown(), |tree| tree.findings(schema)),
                };
                Findings { yaml: Vec::new(), fields }
            }
        }
    }

    /// What is written twice in a body without a schema of its own (a merge patch).
    #[must_use]
    pub fn duplicate_findings(&self) -> Findings {
        match self.source {
            Source::Yaml => Findings { yaml: self.duplicates.clone(), fields: Vec::new() },
            Source::Protobuf | Source::Cbor => Findings::default(),
            Source::Json(_) => {
                let fields =
                    self.duplicates.iter().take(MAX_FINDINGS).map(|path| format!("duplicate field {}", quote(path)));
                Findings { yaml: Vec::new(), fields: fields.collect() }
            }
        }
    }
}

fn quote(path: &str) -> String {
    crate::field_error::quote(path)
}

/// What strict validation found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    yaml: Vec<String>,
    fields: Vec<String>,
}

impl Findings {
    /// Findings given as sentences.
    #[must_use]
    pub fn of_fields(fields: Vec<String>) -> Self {
        Self { yaml: Vec::new(), fields }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.yaml.is_empty() && self.fields.is_empty()
    }

    /// Adds the findings of another stage, dropping repeats.
    pub fn extend(&mut self, other: Self) {
        for (mine, theirs) in [(&mut self.yaml, other.yaml), (&mut self.fields, other.fields)] {
            for text in theirs {
                if !mine.contains(&text) {
                    mine.push(text);
                }
            }
        }
    }

    /// One text per finding: the warnings of `fieldValidation=Warn`.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.yaml.iter().chain(&self.fields).cloned().collect()
    }

    /// The error of `fieldValidation=Strict`, if there is anything to say.
    #[must_use]
    pub fn strict_error(&self) -> Option<String> {
        let mut parts = Vec::new();
        if !self.yaml.is_empty() {
            parts.push(format!("yaml: unmarshal errors:\n  {}", self.yaml.join("\n  ")));
        }
        parts.extend(self.fields.iter().cloned());
        (!parts.is_empty()).then(|| format!("strict decoding error: {}", parts.join(", ")))
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.warnings().join(", "))
    }
}

/// JSON's name for the type of a value, as Go's decoder says it.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn json_reads_as_upstream_takes_it() {
        for (text, value) in [
            (r#"{"a": [1, -2, 3.5, true, null, "x"]}"#, json!({"a": [1, -2, 3.5, true, null, "x"]})),
            (" \n\t{} ", json!({})),
            (r#"{"a":"\u00e9\ud83d\ude00\n\/"}"#, json!({"a": "é😀\n/"})),
            (r#"{"a":"\ud83d","b":"\ud83dx"}"#, json!({"a": "\u{fffd}", "b": "\u{fffd}x"})),
            (r#"{"a":1,"a":2}"#, json!({"a": 2})),
            ("18446744073709551615", json!(18_446_744_073_709_551_615u64)),
            ("1e3", json!(1000.0)),
        ] {
            assert_eq!(decode_json(text.as_bytes()).map(|d| d.value), Ok(value), "{text}");
        }
        for text in [
            "",
            "{",
            "{\"a\":1,}",
            "[1,]",
            "{}{}",
            "{a:1}",
            "01",
            "1.",
            "-",
            "nul",
            "\"\u{1}\"",
            "\u{feff}{}",
            "\"\\x\"",
            "1e999",
        ] {
            assert!(decode_json(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(decode_json(deep(MAX_DEPTH).as_bytes()).is_ok());
        assert!(decode_json(deep(MAX_DEPTH + 1).as_bytes()).is_err());
        assert!(decode_json("[".repeat(1_000_000).as_bytes()).is_err());
        assert!(decode_yaml("[".repeat(100_000).as_bytes()).is_err());
        assert!(decode_yaml("- ".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn repeats_are_named_by_path() {
        let decoded = decode_json(br#"{"a":{"b":1,"b":2},"c":[{"d":1,"d":1}],"c":[]}"#).expect("JSON");
        assert_eq!(decoded.duplicates, ["a.b", "c[0].d", "c"]);
    }

    #[test]
    fn yaml_reads_as_upstream_takes_it() {
        for (text, value) in [
            (
                "a: 1\nb: 'x'\nc: [1.5, ~, yes, \"yes\", 0x10, 010, 1_000]\n",
                json!({"a": 1, "b": "x", "c": [1.5, null, true, "yes", 16, 8, 1000]}),
            ),
            ("---\na: b\n---\nc: d\n", json!({"a": "b"})),
            ("# nothing\n", json!(null)),
            ("a: &l {x: q}\nb: *l\n", json!({"a": {"x": "q"}, "b": {"x": "q"}})),
            (
                "base: &l {x: q, z: 1}\nb:\n  <<: *l\n  z: 2\n",
                json!({"base": {"x": "q", "z": 1}, "b": {"x": "q", "z": 2}}),
            ),
            ("n: 1\n1: 2\n", json!({"false": 1, "1": 2})),
            ("a: |\n  two\n  lines\nb: >-\n  folded\n  text\n", json!({"a": "two\nlines\n", "b": "folded text"})),
            ("a: !!str 1\nb: !!binary AAEC\n", json!({"a": "1", "b": "\u{0}\u{1}\u{2}"})),
            (
                "t: 2001-01-01T00:00:00Z\nm: 1e3\nv: 1.10.0\n",
                json!({"t": "2001-01-01T00:00:00Z", "m": 1000, "v": "1.10.0"}),
            ),
            ("{\"a\": [1]}", json!({"a": [1]})),
            ("# one\na: 1 # two\n# three\nb:\n  # four\n  - 2\n# five\n", json!({"a": 1, "b": [2]})),
        ] {
            assert_eq!(decode_yaml(text.as_bytes()).map(|d| d.value), Ok(value), "{text}");
        }
        for text in ["a: b: c", "kind:\tX\nmetadata:\n\tname: j\n", "*x", "{", "? [a]\n: b\n"] {
            assert!(decode_yaml(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn comments_do_not_count() {
        let text = format!("a: 1\n{}b: 2\n", "# more\n".repeat(1000));
        assert_eq!(decode_yaml(text.as_bytes()).map(|d| d.value), Ok(json!({"a": 1, "b": 2})));
    }

    #[test]
    fn aliases_cannot_explode() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let refs = vec![format!("*a{}", level - 1); 10].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
        }
        assert!(decode_yaml(bomb.as_bytes()).is_err());
    }

    #[test]
    fn what_is_copied_for_anchors_is_bounded() {
        let text = "x".repeat(1 << 20);
        let uses = |count: usize| format!("a: &a {text}\nb: [{}]\n", vec!["*a"; count].join(","));
        let nested = |depth: usize| format!("{}{text}{}", "[&a ".repeat(depth), "]".repeat(depth));
        for (what, body, expect) in [
            ("a few aliases of a megabyte", uses(10), true),
            ("as many as fill the memory", uses(20), false),
            ("few anchors around it", nested(10), true),
            ("an anchor at each level around it", nested(20), false),
        ] {
            assert_eq!(decode_yaml(body.as_bytes()).is_ok(), expect, "{what}");
        }
    }

    #[test]
    fn a_body_full_of_repeats_is_reported_within_bounds() {
        let deep = "\"".to_owned() + &"k".repeat(100_000) + "\"";
        let json = format!("{{{deep}:{{{}}}}}", vec!["\"a\":1"; 10_000].join(","));
        let yaml = format!("a:\n{}", " ? b\n : 1\n".repeat(10_000));
        for decoded in [decode_json(json.as_bytes()), decode_yaml(yaml.as_bytes())] {
            let repeats = decoded.expect("a document").duplicates;
            assert_eq!(repeats.len(), MAX_FINDINGS);
            assert!(repeats.iter().all(|text| text.len() < 2 * MAX_PATH), "{}", repeats[0].len());
        }
    }

    #[test]
    fn yaml_repeats_name_their_line() {
        let decoded = decode_yaml(b"data:\n  a: '1'\n  a: '2'\n").expect("YAML");
        assert_eq!(decoded.duplicates, ["line 3: key \"a\" already set in map"]);
        assert_eq!(decoded.value, json!({"data": {"a": "2"}}));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = decode_json(&bytes);
            let _ = decode_yaml(&bytes);
        }

        #[test]
        fn any_text_is_answered(text in "[\\[\\]{}:,\"a-f0-9 \n\\-&*!|>%?\\\\]{0,96}") {
            let _ = decode_json(text.as_bytes());
            let _ = decode_yaml(text.as_bytes());
        }
    }
}
