//! Schemas: what is known of an object, and how its JSON reads as values.
//!
//! Invariants
//! - A value is read when it is touched, never before: what no expression looks at may be anything.
//! - Without properties and additional properties an object has no fields for expressions.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use serde_json::Value as Json;

use crate::escape::{escape, unescape};
use crate::functions::{duration, time};
use crate::value::{Res, Text, Value, fail, failure};

/// `type` of a schema.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Kind {
    #[default]
    Unset,
    Object,
    Array,
    String,
    Number,
    Integer,
    Boolean,
}

/// `x-kubernetes-list-type`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    Map,
}

/// A structural schema: of a custom resource or of a built-in type.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    pub kind: Kind,
    pub format: String,
    pub nullable: bool,
    pub int_or_string: bool,
    pub preserve_unknown: bool,
    /// With `kind`, `apiVersion` and `metadata` among its properties.
    pub embedded: bool,
    pub properties: Option<BTreeMap<String, Arc<Schema>>>,
    pub additional: Option<Arc<Schema>>,
    pub items: Option<Arc<Schema>>,
    pub list_type: ListType,
    pub list_map_keys: Vec<String>,
    pub required: Vec<String>,
    pub has_default: bool,
    /// The longest of the texts in `enum`.
    pub longest_enum: Option<u64>,
    pub max_length: Option<i64>,
    pub max_items: Option<i64>,
    pub max_properties: Option<i64>,
    /// Any JSON, as an identity provider writes it: all numbers are floating point ones, and fields may be named by
    /// identifiers that stand for them.
    pub open: bool,
}

impl Schema {
    /// Reads a schema of OpenAPI v3. What is not understood is left out.
    #[must_use]
    pub fn from_openapi(schema: &Json) -> Self {
        let text = |key: &str| schema[key].as_str().unwrap_or_default();
        let flag = |key: &str| schema[key].as_bool().unwrap_or_default();
        let texts = |key: &str| -> Vec<String> {
            let list = schema[key].as_array().map_or(&[] as &[Json], Vec::as_slice);
            list.iter().filter_map(Json::as_str).map(str::to_owned).collect()
        };
        let inner = |key: &str| schema[key].is_object().then(|| Arc::new(Self::from_openapi(&schema[key])));
        let properties = schema["properties"].as_object().map(|properties| {
            properties.iter().map(|(name, of)| (name.clone(), Arc::new(Self::from_openapi(of)))).collect()
        });
        let read = Self {
            kind: kind(text("type")),
            format: text("format").to_owned(),
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            properties,
            additional: inner("additionalProperties"),
            items: inner("items"),
            list_type: match text("x-kubernetes-list-type") {
                "set" => ListType::Set,
                "map" => ListType::Map,
                _ => ListType::Atomic,
            },
            list_map_keys: texts("x-kubernetes-list-map-keys"),
            required: texts("required"),
            has_default: schema.get("default").is_some_and(|default| !default.is_null()),
            longest_enum: longest(&schema["enum"]),
            max_length: schema["maxLength"].as_i64(),
            max_items: schema["maxItems"].as_i64(),
            max_properties: schema["maxProperties"].as_i64(),
            open: false,
        };
        if read.embedded { read.with_type_and_meta() } else { read }
    }

    /// Of what nobody describes: see [`Schema::open`].
    #[must_use]
    pub fn any_json() -> Self {
        Self { open: true, ..Self::default() }
    }

    /// With the fields that each resource has: `kind`, `apiVersion`, `metadata.name`, `metadata.generateName`.
    #[must_use]
    pub fn with_type_and_meta(mut self) -> Self {
        let text = Arc::new(Self { kind: Kind::String, ..Self::default() });
        let named =
            |of: &BTreeMap<String, Arc<Schema>>, name: &str| of.get(name).is_some_and(|of| of.kind == Kind::String);
        let mut properties = self.properties.take().unwrap_or_default();
        let meta = properties.get("metadata").and_then(|meta| meta.properties.as_ref());
        let whole = named(&properties, "kind")
            && named(&properties, "apiVersion")
            && meta.is_some_and(|meta| named(meta, "name") && named(meta, "generateName"));
        if !whole {
            let of_meta = ["name", "generateName"].map(|name| (name.to_owned(), text.clone()));
            let meta = Self { kind: Kind::Object, properties: Some(BTreeMap::from(of_meta)), ..Self::default() };
            properties.insert("kind".to_owned(), text.clone());
            properties.insert("apiVersion".to_owned(), text);
            properties.insert("metadata".to_owned(), Arc::new(meta));
        }
        self.properties = Some(properties);
        self.kind = Kind::Object;
        self
    }

    /// What is known of a property, by its name in JSON.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&Schema> {
        match &self.properties {
            Some(properties) => properties.get(name).map(Arc::as_ref),
            None => self.additional.as_deref(),
        }
    }

    /// A field by its identifier, and what is known of it. A null is no field of an object.
    pub(crate) fn field<'a>(
        &'a self,
        map: &'a serde_json::Map<String, Json>,
        name: &str,
    ) -> Option<(&'a Json, &'a Schema)> {
        if self.open {
            return Some((map.get(unescape(name).as_deref().unwrap_or(name))?, self));
        }
        if self.properties.is_none() {
            return Some((map.get(name)?, self.property(name)?));
        }
        let name = unescape(name)?;
        let value = map.get(&*name).filter(|value| !value.is_null())?;
        Some((value, self.property(&name)?))
    }

    /// How a property is spelled as a key; `None` if expressions do not see it.
    pub(crate) fn key<'a>(&self, name: &'a str) -> Option<Value<'a>> {
        if self.open {
            return Some(Value::String(Text::Lent(name)));
        }
        self.property(name)?;
        if self.properties.is_none() {
            return Some(Value::String(Text::Lent(name)));
        }
        Some(match escape(name) {
            Some(escaped) if escaped != name => Value::text(escaped),
            _ => Value::String(Text::Lent(name)),
        })
    }

    /// A value of this schema.
    ///
    /// # Errors
    /// It is none of this schema.
    pub fn read<'a>(&'a self, value: &'a Json) -> Res<'a> {
        if self.open {
            return Ok(match value {
                Json::Object(map) => Value::of_object(map, self),
                Json::Array(items) => Value::of_array(items, self, ListType::Atomic),
                Json::Number(number) => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
                other => Value::of_json(other),
            });
        }
        if value.is_null() {
            return match self.nullable {
                true => Ok(Value::Null),
                false => Err(fail("invalid data, got null for schema with nullable=false")),
            };
        }
        if self.int_or_string {
            return match value {
                Json::String(text) => Ok(Value::String(Text::Lent(text))),
                Json::Number(number) if number.as_i64().is_some() => Ok(Value::of_json(value)),
                _ => Err(fail("invalid data, expected XIntOrString value to be either a string or integer")),
            };
        }
        match self.kind {
            Kind::Object => match value {
                Json::Object(map) => Ok(Value::of_object(map, self)),
                _ => Err(fail("invalid data, expected a map for the provided schema with type=object")),
            },
            Kind::Array => match value {
                Json::Array(_) if self.items.is_none() => {
                    Err(fail("invalid array type, expected Items with a non-empty Schema"))
                }
                Json::Array(items) => Ok(Value::of_array(items, self, self.list_type)),
                _ => Err(fail("invalid data, expected an array for the provided schema with type=array")),
            },
            Kind::Unset if self.preserve_unknown => Ok(Value::Preserved(value)),
            _ => self.scalar(value),
        }
    }

    fn scalar<'a>(&self, value: &'a Json) -> Res<'a> {
        let wrong = |wanted: &str| Err(failure(format!("invalid data, expected {wanted}, got {}", go_type(value))));
        match (self.kind, value) {
            (Kind::String, Json::String(text)) => self.text(text),
            (Kind::String, _) => wrong("string"),
            (Kind::Number, Json::Number(number)) => Ok(Value::Double(number.as_f64().unwrap_or(f64::NAN))),
            (Kind::Number, _) => wrong("float"),
            (Kind::Integer, Json::Number(number)) => number.as_i64().map(Value::Int).map_or_else(|| wrong("int"), Ok),
            (Kind::Integer, _) => wrong("int"),
            (Kind::Boolean, Json::Bool(value)) => Ok(Value::Bool(*value)),
            (Kind::Boolean, _) => wrong("bool"),
            _ => Err(fail(
                "invalid type, expected object, array, number, integer, boolean or string, or no type with x-kubernetes-int-or-string or x-kubernetes-preserve-unknown-fields is true, got ",
            )),
        }
    }

    fn text<'a>(&self, text: &'a str) -> Res<'a> {
        match self.format.as_str() {
            "duration" => duration::lenient(text)
                .map(Value::Duration)
                .map_err(|error| failure(format!("Invalid duration {text}: {error}"))),
            "date" => time::date(text)
                .map(Value::Timestamp)
                .ok_or_else(|| failure(format!("Invalid date formatted string {text}: cannot parse"))),
            "date-time" => time::lenient(text)
                .map(Value::Timestamp)
                .ok_or_else(|| failure(format!("Invalid date-time formatted string {text}: cannot parse"))),
            "byte" => base64::engine::general_purpose::STANDARD
                .decode(text)
                .map(|bytes| Value::Bytes(bytes.into()))
                .map_err(|error| failure(format!("Invalid byte formatted string {text}: {error}"))),
            _ => Ok(Value::String(Text::Lent(text))),
        }
    }
}

fn kind(name: &str) -> Kind {
    match name {
        "object" => Kind::Object,
        "array" => Kind::Array,
        "string" => Kind::String,
        "number" => Kind::Number,
        "integer" => Kind::Integer,
        "boolean" => Kind::Boolean,
        _ => Kind::Unset,
    }
}

fn longest(values: &Json) -> Option<u64> {
    let values = values.as_array().filter(|values| !values.is_empty())?;
    Some(values.iter().filter_map(Json::as_str).map(|text| text.len() as u64).max().unwrap_or(0))
}

/// What Go calls the type of a decoded value.
fn go_type(value: &Json) -> &'static str {
    match value {
        Json::Null => "<nil>",
        Json::Bool(_) => "bool",
        Json::Number(number) if number.as_i64().is_some() => "int64",
        Json::Number(_) => "float64",
        Json::String(_) => "string",
        Json::Array(_) => "[]interface {}",
        Json::Object(_) => "map[string]interface {}",
    }
}
