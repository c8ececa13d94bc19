//! Walking a value along its type: what is wrong with it, and what upstream would make of it.

use std::fmt::{self, Write};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use super::{Presence, Schema, Type, quantity, time};
use crate::{decode::type_name, wire::union_of};

/// How many unknown fields are listed, which is more than any answer shows, and how much of the path of each.
pub(super) const MAX_UNKNOWN: usize = 101;
const MAX_PATH: usize = 256;

/// What a typed decoder would say.
#[derive(Debug, Default)]
pub struct Problems {
    /// Paths of fields that the type does not have.
    pub unknown: Vec<String>,
    /// The first value of a wrong type.
    pub error: Option<TypeError>,
}

impl Problems {
    /// `unknown field "spec.foo"` for each.
    #[must_use]
    pub fn unknown_fields(&self) -> Vec<String> {
        self.unknown.iter().map(|path| format!("unknown field {}", crate::field_error::quote(path))).collect()
    }
}

/// A value that does not fit its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeError {
    /// Go type whose field it is, with the path of names to it: `ObjectMeta.metadata.labels`.
    field: String,
    /// What was found: `string`, `number 1.5`.
    found: String,
    /// The Go type that was expected.
    expected: String,
    /// A sentence of the type's own parser, where it has one.
    detail: Option<String>,
}

impl fmt::Display for TypeError {
    /// As Go's JSON decoder says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.detail {
            Some(detail) => f.write_str(detail),
            None => write!(
                f,
                "json: cannot unmarshal {} into Go struct field {} of type {}",
                self.found, self.field, self.expected
            ),
        }
    }
}

impl TypeError {
    /// The same of metadata within an object: that of an object in it is called by its path.
    pub(super) fn of_metadata(path: &str, metadata: &Value, error: &Self) -> Self {
        let inner = (path != "metadata")
            .then(|| crate::FieldError::invalid(path, metadata.clone(), error.to_string()).to_string());
        Self { detail: inner.or_else(|| error.detail.clone()), ..error.clone() }
    }

    /// As upstream's converter from free-form maps says it: the wording of a strategic merge patch
    /// whose result does not fit.
    #[must_use]
    pub fn converted(&self) -> String {
        if let Some(detail) = &self.detail {
            return detail.clone();
        }
        let found = match self.found.split(' ').next().unwrap_or_default() {
            "object" => "map",
            "array" => "slice",
            "number" if self.found.contains('.') => "float64",
            "number" => "int64",
            other => other,
        };
        match self.expected.as_str() {
            list if list.starts_with("[]") => format!("cannot restore slice from {found}"),
            map if map.starts_with("map[") => format!("cannot restore map from {found}"),
            plain if ["string", "bool", "int32", "int64", "float64"].contains(&plain) => {
                format!("cannot convert {found} to {plain}")
            }
            _ => format!("cannot restore struct from: {found}"),
        }
    }
}

pub(super) fn check(value: &Value, schema: &Schema) -> Problems {
    let mut walk = Check { path: String::new(), names: Vec::new(), problems: Problems::default() };
    match value {
        Value::Object(map) => walk.fields(map, schema),
        Value::Null => {}
        other => walk.mismatch(other, schema.short_name().to_owned(), schema.short_name()),
    }
    walk.problems
}

struct Check<'a> {
    /// With indices, as strict validation names fields.
    path: String,
    /// Names only, as Go's decoder names fields.
    names: Vec<&'a str>,
    problems: Problems,
}

impl<'a> Check<'a> {
    fn fields(&mut self, map: &'a Map<String, Value>, schema: &Schema) {
        for (key, value) in map {
            let keep = self.path.len();
            if keep > 0 {
                self.path.push('.');
            }
            self.path.push_str(key);
            match schema.field(key) {
                None if self.problems.unknown.len() >= MAX_UNKNOWN => {}
                None => self.problems.unknown.push(self.path[..self.path.floor_char_boundary(MAX_PATH)].to_owned()),
                Some(field) => {
                    self.names.push(key);
                    self.value(value, &field.ty, schema.short_name());
                    self.names.pop();
                }
            }
            self.path.truncate(keep);
        }
    }

    fn value(&mut self, value: &'a Value, ty: &Type, owner: &str) {
        match (value, ty) {
            (Value::Null, _) | (_, Type::Any) => {}
            (Value::Object(map), Type::Struct(schema)) => self.fields(map, schema),
            (Value::Object(map), Type::Map(item)) => map.values().for_each(|value| self.value(value, item, owner)),
            (Value::Array(items), Type::List(item)) => {
                let keep = self.path.len();
                for (index, value) in items.iter().enumerate() {
                    let _ = write!(self.path, "[{index}]"); // a String takes all
                    self.value(value, item, owner);
                    self.path.truncate(keep);
                }
            }
            _ if self.problems.error.is_some() => {}
            _ => match scalar(value, ty) {
                Ok(true) => {}
                Ok(false) => self.mismatch(value, go_type(ty), owner),
                Err(detail) => {
                    self.mismatch(value, go_type(ty), owner);
                    if let Some(error) = &mut self.problems.error {
                        error.detail = Some(detail);
                    }
                }
            },
        }
    }

    fn mismatch(&mut self, value: &Value, expected: String, owner: &str) {
        let found = match value {
            Value::Number(number) if expected.starts_with("int") => format!("number {number}"),
            other => type_name(other).to_owned(),
        };
        let field = format!("{owner}.{}", self.names.join("."));
        self.problems.error.get_or_insert(TypeError { field, found, expected, detail: None });
    }
}

/// Whether a scalar fits. An error is the sentence of the type's own parser.
fn scalar(value: &Value, ty: &Type) -> Result<bool, String> {
    Ok(match (ty, value) {
        (Type::Bool, value) => value.is_boolean(),
        (Type::Int32, value) => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
        (Type::Int64, value) => value.as_i64().is_some(),
        (Type::Float, value) => value.is_number(),
        (Type::String, value) => value.is_string(),
        (Type::Bytes, Value::String(text)) => bytes(text).map(|_| true)?,
        (Type::Time, Value::String(text)) => time::seconds(text).map(|_| true)?,
        (Type::MicroTime, Value::String(text)) => time::micros(text).map(|_| true)?,
        (Type::Quantity, Value::String(text)) => quantity::canonical(text.trim()).map(|_| true)?,
        (Type::Quantity, other) => quantity::canonical(&other.to_string()).map(|_| true)?,
        (Type::IntOrString, Value::String(_)) => true,
        (Type::IntOrString, Value::Number(number)) => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
        _ => false,
    })
}

/// Base64 as Go decodes it: line breaks are skipped.
fn bytes(text: &str) -> Result<String, String> {
    let clean: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match STANDARD.decode(&clean) {
        Ok(_) => Ok(clean),
        Err(base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _)) => {
            Err(format!("illegal base64 data at input byte {at}"))
        }
        Err(_) => Err(format!("illegal base64 data at input byte {}", clean.len())),
    }
}

fn go_type(ty: &Type) -> String {
    match ty {
        Type::Any => "interface {}".into(),
        Type::Bool => "bool".into(),
        Type::Int32 => "int32".into(),
        Type::Int64 => "int64".into(),
        Type::Float => "float64".into(),
        Type::String | Type::Time | Type::MicroTime => "string".into(),
        Type::Bytes => "[]uint8".into(),
        Type::Quantity => "resource.Quantity".into(),
        Type::IntOrString => "intstr.IntOrString".into(),
        Type::List(item) => format!("[]{}", go_type(item)),
        Type::Map(item) => format!("map[string]{}", go_type(item)),
        Type::Struct(schema) => {
            let mut parts = schema.name().rsplit('.');
            let (name, package) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            format!("{package}.{name}")
        }
    }
}

pub(super) fn normalize_struct(value: &mut Value, schema: &Schema) {
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(map) = value else { return };
    map.retain(|key, value| match schema.field(key) {
        None => false,
        Some(field) => {
            if value.is_null() || is_no_time(value, &field.ty) {
                return false;
            }
            match (union_of(schema.name(), key), &mut *value) {
                (None, value) => normalize(value, &field.ty),
                (Some(_), Value::Object(values)) if matches!(field.ty, Type::Map(_)) => {
                    values.values_mut().for_each(|value| normalize_union(value, schema));
                }
                (Some(_), value) => normalize_union(value, schema),
            }
            keep(value, field.presence, &field.ty)
        }
    });
    for (name, field) in schema.fields() {
        if map.contains_key(name) {
            continue;
        }
        match field.presence {
            Presence::Always => map.insert(name.clone(), zero(&field.ty)),
            Presence::Null => map.insert(name.clone(), Value::Null),
            Presence::Set | Presence::NotZero => None,
        };
    }
}

/// A schema, a list of schemas, or something else.
fn normalize_union(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(_) => normalize_struct(value, schema),
        Value::Array(items) => {
            items.iter_mut().filter(|item| item.is_object()).for_each(|item| normalize_struct(item, schema));
        }
        _ => {}
    }
}

/// Go's zero time stands for none.
fn is_no_time(value: &Value, ty: &Type) -> bool {
    const ZERO: &str = "0001-01-01T00:00:00Z";
    let text = value.as_str().filter(|text| text.starts_with('0') && matches!(ty, Type::Time | Type::MicroTime));
    text.is_some_and(|text| time::unix(text) == time::unix(ZERO))
}

fn keep(value: &mut Value, presence: Presence, ty: &Type) -> bool {
    let empty = match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty() && matches!(ty, Type::Map(_)),
        Value::String(text) => text.is_empty() && (matches!(ty, Type::Bytes) || presence == Presence::NotZero),
        Value::Bool(set) => !*set && presence == Presence::NotZero,
        Value::Number(number) => presence == Presence::NotZero && number.as_f64() == Some(0.0),
        Value::Null => true,
    };
    if empty && presence == Presence::Always && (value.is_array() || value.is_object()) {
        // What is stored has no empty lists: they read back as null.
        *value = Value::Null;
    }
    !empty || presence == Presence::Always
}

/// What a field that is always printed shows when it is not set.
fn zero(ty: &Type) -> Value {
    match ty {
        Type::Bool => false.into(),
        Type::Int32 | Type::Int64 | Type::Float | Type::IntOrString => 0.into(),
        Type::String => "".into(),
        Type::Quantity => "0".into(),
        Type::Any | Type::Bytes | Type::Time | Type::MicroTime | Type::List(_) | Type::Map(_) => Value::Null,
        Type::Struct(schema) => {
            let mut value = Value::Object(Map::new());
            normalize_struct(&mut value, schema);
            value
        }
    }
}

/// What null means as an item of a list or map.
fn item_zero(ty: &Type) -> Value {
    if matches!(ty, Type::Bytes) { "".into() } else { zero(ty) }
}

fn normalize(value: &mut Value, ty: &Type) {
    match (&mut *value, ty) {
        (Value::Object(_), Type::Struct(schema)) => normalize_struct(value, schema),
        (Value::Object(map), Type::Map(item)) => map.values_mut().for_each(|value| normalize_item(value, item)),
        (Value::Array(items), Type::List(item)) => items.iter_mut().for_each(|value| normalize_item(value, item)),
        (Value::String(text), _) => {
            let canonical = match ty {
                Type::Bytes => bytes(text).ok(),
                Type::Time => time::seconds(text).ok(),
                Type::MicroTime => time::micros(text).ok(),
                Type::Quantity => quantity::canonical(text.trim()).ok(),
                _ => None,
            };
            if let Some(canonical) = canonical {
                *text = canonical;
            }
        }
        (Value::Number(number), Type::Quantity) => {
            if let Ok(canonical) = quantity::canonical(&number.to_string()) {
                *value = canonical.into();
            }
        }
        _ => {}
    }
}

fn normalize_item(value: &mut Value, ty: &Type) {
    if value.is_null() {
        *value = item_zero(ty);
    } else {
        normalize(value, ty);
    }
}
