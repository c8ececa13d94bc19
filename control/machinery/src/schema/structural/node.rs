//! A schema, compiled: what restricts and shapes values, and nothing that only documents need.

use std::sync::OnceLock;

use kontiki_regexp::{Regex, RegexpError};
use serde_json::Value;

/// How large a compiled pattern may become, in bytes.
const LARGEST: usize = 4 << 20;

/// Types that a value may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Types(u8);

impl Types {
    const WORDS: [&'static str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

    fn bit(word: &str) -> u8 {
        Self::WORDS.iter().position(|known| *known == word).map_or(0, |at| 1 << at)
    }

    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the type of this name is among them.
    #[must_use]
    pub fn has(self, word: &str) -> bool {
        self.0 & Self::bit(word) != 0
    }

    /// Their names, as upstream lists them.
    #[must_use]
    pub fn text(self) -> String {
        Self::WORDS.into_iter().filter(|word| self.has(word)).collect::<Vec<_>>().join(",")
    }

    /// The one type, where it is one.
    pub(super) fn only(self) -> Option<&'static str> {
        (self.0.count_ones() == 1).then(|| Self::WORDS[self.0.trailing_zeros() as usize])
    }
}

/// What may lie at keys that are no properties.
#[derive(Debug, Default)]
pub enum Additional {
    /// Nothing is said.
    #[default]
    Unsaid,
    /// Anything, or nothing.
    Allowed(bool),
    /// Values of this schema.
    Of(Box<Node>),
}

/// How the items of a list are told apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum Lists {
    /// Nothing is said.
    #[default]
    Unsaid,
    /// Not at all.
    Atomic,
    /// By their values.
    Set,
    /// By what they have at these keys.
    Map(Box<[Box<str>]>),
}

/// A schema.
#[derive(Debug, Default)]
pub struct Node {
    /// Types of its values; empty: any.
    pub types: Types,
    /// Whether null is a value of it.
    pub nullable: bool,
    /// Whether fields that are not specified are kept.
    pub preserve: bool,
    /// Whether its values are objects with type and metadata.
    pub embedded: bool,
    /// Whether a map is one value to those who own parts of what it is in.
    pub atomic: bool,
    /// Whether something below has a default.
    pub defaulted: bool,
    /// Whether it, or something below, has rules (`x-kubernetes-validations`).
    pub ruled: bool,
    /// How its items are told apart.
    pub lists: Lists,
    /// Sorted by name.
    properties: Box<[(Box<str>, Self)]>,
    /// At other keys.
    pub additional: Additional,
    /// Of its items.
    pub items: Option<Box<Self>>,
    /// What it is when it is not there.
    pub default: Option<Box<Value>>,
    /// What else restricts its values.
    pub limits: Option<Box<Limits>>,
}

/// What restricts values beside their type.
#[derive(Debug, Default)]
pub struct Limits {
    pub(super) format: Box<str>,
    pub(super) maximum: Option<f64>,
    pub(super) minimum: Option<f64>,
    pub(super) above: bool,
    pub(super) below: bool,
    pub(super) multiple_of: Option<f64>,
    pub(super) length: Bounds,
    pub(super) items: Bounds,
    pub(super) properties: Bounds,
    pub(super) unique: bool,
    pub(super) pattern: Option<Pattern>,
    pub(super) one_of_values: Box<[Value]>,
    pub(super) required: Box<[Box<str>]>,
    pub(super) all_of: Box<[Node]>,
    pub(super) any_of: Box<[Node]>,
    pub(super) one_of: Box<[Node]>,
    pub(super) not: Option<Box<Node>>,
}

/// How much there may be of something.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Bounds {
    pub least: Option<u64>,
    pub most: Option<u64>,
}

/// A pattern, compiled when it is first asked.
#[derive(Debug)]
pub(super) struct Pattern {
    pub text: Box<str>,
    compiled: OnceLock<Result<Regex, RegexpError>>,
}

impl Pattern {
    pub fn regex(&self) -> Result<&Regex, &RegexpError> {
        self.compiled.get_or_init(|| kontiki_regexp::compile(&self.text, LARGEST)).as_ref()
    }
}

fn on(schema: &Value, field: &str) -> bool {
    schema[field].as_bool() == Some(true)
}

fn texts(list: &Value) -> Box<[Box<str>]> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(Into::into).collect()
}

fn nodes(list: &Value) -> Box<[Node]> {
    list.as_array().into_iter().flatten().map(Node::of).collect()
}

impl Node {
    /// The schema that JSON says.
    #[must_use]
    pub fn of(schema: &Value) -> Self {
        let mut types = Types(schema["type"].as_str().map_or(0, Types::bit));
        if on(schema, "x-kubernetes-int-or-string") {
            types = Types(Types::bit("integer") | Types::bit("string"));
        }
        let mut properties: Vec<(Box<str>, Self)> = Vec::new();
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            properties.push((name.as_str().into(), Self::of(inner)));
        }
        properties.sort_by(|a, b| a.0.cmp(&b.0));
        let mut node = Self {
            types,
            nullable: on(schema, "nullable"),
            preserve: on(schema, "x-kubernetes-preserve-unknown-fields"),
            embedded: on(schema, "x-kubernetes-embedded-resource"),
            atomic: schema["x-kubernetes-map-type"] == "atomic",
            lists: lists(schema),
            properties: properties.into(),
            additional: match &schema["additionalProperties"] {
                Value::Bool(allowed) => Additional::Allowed(*allowed),
                inner @ Value::Object(_) => Additional::Of(Box::new(Self::of(inner))),
                _ => Additional::Unsaid,
            },
            items: schema["items"].is_object().then(|| Box::new(Self::of(&schema["items"]))),
            default: schema.get("default").filter(|value| !value.is_null()).map(|value| Box::new(value.clone())),
            limits: limits(schema).map(Box::new),
            ..Self::default()
        };
        node.defaulted = node.default.is_some() || node.below().any(|inner| inner.defaulted);
        let rules = schema["x-kubernetes-validations"].as_array().is_some_and(|rules| !rules.is_empty());
        node.ruled = rules || node.below().any(|inner| inner.ruled);
        node
    }

    /// The schemas right below it.
    fn below(&self) -> impl Iterator<Item = &Self> {
        let additional = match &self.additional {
            Additional::Of(inner) => Some(inner.as_ref()),
            _ => None,
        };
        self.properties.iter().map(|(_, inner)| inner).chain(additional).chain(self.items.as_deref())
    }

    /// The property called `name`.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&Self> {
        let at = self.properties.binary_search_by(|(known, _)| known.as_ref().cmp(name)).ok()?;
        Some(&self.properties[at].1)
    }

    /// All properties, sorted by name.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.properties.iter().map(|(name, inner)| (name.as_ref(), inner))
    }

    /// The schema of what lies at a key that is no property.
    #[must_use]
    pub fn other(&self) -> Option<&Self> {
        match &self.additional {
            Additional::Of(inner) => Some(inner),
            _ => None,
        }
    }

    /// The schema of what lies at `key`.
    #[must_use]
    pub fn at(&self, key: &str) -> Option<&Self> {
        self.property(key).or_else(|| self.other())
    }
}

fn lists(schema: &Value) -> Lists {
    match schema["x-kubernetes-list-type"].as_str() {
        Some("atomic") => Lists::Atomic,
        Some("set") => Lists::Set,
        Some("map") => Lists::Map(texts(&schema["x-kubernetes-list-map-keys"])),
        _ => Lists::Unsaid,
    }
}

/// What else a schema says of values; `None`: nothing.
fn limits(schema: &Value) -> Option<Limits> {
    const FIELDS: [&str; 19] = [
        "format",
        "maximum",
        "minimum",
        "multipleOf",
        "maxLength",
        "minLength",
        "maxItems",
        "minItems",
        "maxProperties",
        "minProperties",
        "uniqueItems",
        "pattern",
        "enum",
        "required",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "exclusiveMaximum",
    ];
    FIELDS.iter().any(|field| schema.get(field).is_some()).then_some(())?;
    let bounds = |least: &str, most: &str| Bounds { least: schema[least].as_u64(), most: schema[most].as_u64() };
    let pattern = schema["pattern"].as_str().filter(|text| !text.is_empty());
    // What says "integer or string" of such a value has been said by its types.
    let either = on(schema, "x-kubernetes-int-or-string");
    Some(Limits {
        format: schema["format"].as_str().unwrap_or_default().into(),
        maximum: schema["maximum"].as_f64(),
        minimum: schema["minimum"].as_f64(),
        above: on(schema, "exclusiveMinimum"),
        below: on(schema, "exclusiveMaximum"),
        multiple_of: schema["multipleOf"].as_f64(),
        length: bounds("minLength", "maxLength"),
        items: bounds("minItems", "maxItems"),
        properties: bounds("minProperties", "maxProperties"),
        unique: on(schema, "uniqueItems"),
        pattern: pattern.map(|text| Pattern { text: text.into(), compiled: OnceLock::new() }),
        one_of_values: schema["enum"].as_array().into_iter().flatten().cloned().collect(),
        required: texts(&schema["required"]),
        all_of: nodes(&schema["allOf"]),
        any_of: if either && is_either(&schema["anyOf"]) { Box::default() } else { nodes(&schema["anyOf"]) },
        one_of: nodes(&schema["oneOf"]),
        not: schema["not"].is_object().then(|| Box::new(Node::of(&schema["not"]))),
    })
}

fn is_either(choices: &Value) -> bool {
    let types = choices.as_array().into_iter().flatten().map(|choice| choice["type"].as_str());
    types.eq([Some("integer"), Some("string")])
}
