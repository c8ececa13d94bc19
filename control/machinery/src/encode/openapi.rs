//! OpenAPI documents in protobuf, as clients of `/openapi/v2` and `/openapi/v3` may ask for them: the messages of gnostic,
//! whose fields and numbers are facts (`data/openapi-wire.json`). A message under `|` is one of its fields; `{}T` is a map,
//! `*` any key, `x-*` an extension.

use std::{collections::HashMap, sync::OnceLock};

use serde_json::{Map, Value};

use super::{
    EncodeError,
    protobuf::{bytes, close, key, open, varint},
    yaml,
};
use crate::decode::MAX_DEPTH;

const FACTS: &str = include_str!("../../data/openapi-wire.json");
const ANY_KEY: &str = "*";
const EXTENSION: &str = "x-*";

/// Number and type of a field.
type Fields = HashMap<String, (u32, String)>;

struct Message {
    fields: Fields,
    /// It is one of its fields.
    choice: bool,
}

/// A document (`swagger` or `openapi` of it says its version) in protobuf.
///
/// # Errors
/// It is nested too deeply.
pub fn document(value: &Value) -> Result<Vec<u8>, EncodeError> {
    let version = if value.get("swagger").is_some() { "v2" } else { "v3" };
    let mut writer = Writer { version, out: Vec::with_capacity(1 << 20) };
    writer.message("Document", value, 0)?;
    Ok(writer.out)
}

fn message(version: &str, name: &str) -> Option<&'static Message> {
    static TABLE: OnceLock<HashMap<String, Message>> = OnceLock::new();
    let load = || {
        let facts: HashMap<String, Fields> = serde_json::from_str(FACTS).expect("the facts are JSON");
        let entry = |(name, fields): (String, Fields)| match name.strip_prefix('|') {
            Some(name) => (name.to_owned(), Message { fields, choice: true }),
            None => (name, Message { fields, choice: false }),
        };
        facts.into_iter().map(entry).collect()
    };
    TABLE.get_or_init(load).get(&format!("{version}.{name}"))
}

struct Writer {
    version: &'static str,
    out: Vec<u8>,
}

impl Writer {
    /// A message without its key and length.
    fn message(&mut self, name: &str, value: &Value, depth: usize) -> Result<(), EncodeError> {
        if depth > MAX_DEPTH {
            return Err(EncodeError::Depth);
        }
        if name == "Any" {
            bytes(&mut self.out, 2, yaml::to_text(value).as_bytes());
            return Ok(());
        }
        let Some(message) = message(self.version, name) else { return Err(EncodeError::NoMessage) };
        match value {
            _ if message.choice => match chosen(&message.fields, value) {
                Some((number, ty)) => self.field(*number, ty, value, depth),
                None => Ok(()),
            },
            Value::Object(map) if !is_list(name) => self.fields(&message.fields, map, depth),
            // `type`, `items` and the like: one or several.
            _ => message.fields.values().try_for_each(|(number, ty)| self.field(*number, ty, value, depth)),
        }
    }

    fn fields(&mut self, fields: &Fields, map: &Map<String, Value>, depth: usize) -> Result<(), EncodeError> {
        for (name, value) in map {
            let extension = || name.starts_with("x-").then(|| fields.get(EXTENSION)).flatten();
            let field = fields.get(name).or_else(extension).or_else(|| fields.get(ANY_KEY));
            let Some((number, ty)) = field else { continue };
            let Some(item) = ty.strip_prefix("{}") else {
                self.field(*number, ty, value, depth)?;
                continue;
            };
            let entry = open(&mut self.out, *number);
            bytes(&mut self.out, 1, name.as_bytes());
            self.field(2, item, value, depth)?;
            close(&mut self.out, entry);
        }
        Ok(())
    }

    fn field(&mut self, number: u32, ty: &str, value: &Value, depth: usize) -> Result<(), EncodeError> {
        if let Some(item) = ty.strip_prefix("[]") {
            let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            return items.iter().try_for_each(|value| self.field(number, item, value, depth));
        }
        match ty {
            "string" => bytes(&mut self.out, number, value.as_str().unwrap_or_default().as_bytes()),
            "bool" => {
                key(&mut self.out, number, 0);
                self.out.push(u8::from(value.as_bool().unwrap_or_default()));
            }
            "int64" => {
                key(&mut self.out, number, 0);
                varint(&mut self.out, value.as_i64().unwrap_or_default().cast_unsigned());
            }
            "double" => {
                key(&mut self.out, number, 1);
                self.out.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
            }
            name => {
                let inner = open(&mut self.out, number);
                self.message(name, value, depth + 1)?;
                close(&mut self.out, inner);
            }
        }
        Ok(())
    }
}

/// Messages that stand for a list.
fn is_list(name: &str) -> bool {
    matches!(name, "ItemsItem" | "TypeItem" | "StringArray")
}

/// Which of its fields a value is.
fn chosen<'f>(fields: &'f Fields, value: &Value) -> Option<&'f (u32, String)> {
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    let reference = |ty: &str| matches!(ty, "Reference" | "JsonReference");
    let is = |number: u32| fields.values().find(|(known, _)| *known == number);
    if fields.values().any(|(_, ty)| reference(ty)) {
        let refers = value.get("$ref").is_some();
        return fields.values().find(|(_, ty)| reference(ty) == refers);
    }
    match value {
        Value::Bool(_) => fields.get("boolean"),
        Value::Number(_) => fields.get("number"),
        Value::String(_) => fields.get("string"),
        _ if fields.contains_key("bodyParameter") => is(if text("in") == "body" { 1 } else { 2 }),
        _ if fields.contains_key("headerParameterSubSchema") => is(match text("in") {
            "header" => 1,
            "formData" => 2,
            "query" => 3,
            _ => 4,
        }),
        _ if fields.contains_key("apiKeySecurity") => is(match (text("type"), text("flow")) {
            ("basic", _) => 1,
            ("apiKey", _) => 2,
            (_, "implicit") => 3,
            (_, "password") => 4,
            (_, "application") => 5,
            _ => 6,
        }),
        _ if fields.contains_key("boolean") && !fields.contains_key("number") => is(1),
        // A default that is an object or list says nothing there.
        _ if fields.contains_key("number") => None,
        _ => is(1),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_have_gnostics_form() {
        for (value, bytes) in [
            (json!({"swagger": "2.0"}), &b"\x0a\x032.0"[..]),
            (
                json!({"definitions": {"A": {"type": "object", "x-k": 1}}, "swagger": ""}),
                b"\x4a\x20\x0a\x1e\x0a\x01A\x12\x19\xb2\x01\x08\x0a\x06object\xfa\x01\x0b\x0a\x03x-k\x12\x04\x12\x021\n\x0a\x00",
            ),
            (
                json!({"components": {"schemas": {"A": {"$ref": "B"}}}, "openapi": "3"}),
                b"\x2a\x0e\x0a\x0c\x0a\x0a\x0a\x01A\x12\x05\x12\x03\x0a\x01B\x0a\x013",
            ),
        ] {
            assert_eq!(document(&value).expect("a document"), bytes, "{value}");
        }
    }

    #[test]
    fn every_type_that_a_field_names_is_there() {
        let facts: HashMap<String, Fields> = serde_json::from_str(FACTS).expect("JSON");
        for (name, fields) in &facts {
            let version = &name.trim_start_matches('|')[..2];
            for (_, ty) in fields.values() {
                let ty = ty.trim_start_matches("[]").trim_start_matches("{}");
                let scalar = ["string", "bool", "int64", "double", "Any", "Expression"].contains(&ty);
                assert!(scalar || message(version, ty).is_some(), "{name}: {ty}");
            }
        }
    }
}
