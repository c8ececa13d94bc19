//! Values as JSON, as upstream's own conversion to `google.protobuf.Value` has them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value as Json};

use crate::functions::{convert, duration};
use crate::value::{EvalError, Value, failure};

/// Whole numbers up to this one can be told apart as floating point numbers.
const EXACT: u64 = (1 << 53) - 1;

impl Value<'_> {
    /// The value as JSON. Whole numbers that a floating point number cannot hold are texts.
    ///
    /// # Errors
    /// It has no such form.
    pub fn to_json(&self) -> Result<Json, EvalError> {
        Ok(match self {
            Self::Null => Json::Null,
            Self::Bool(value) => (*value).into(),
            Self::Int(value) if value.unsigned_abs() <= EXACT => (*value).into(),
            Self::Uint(value) if *value <= EXACT => (*value).into(),
            Self::Int(_) | Self::Uint(_) | Self::Timestamp(_) => convert::text(self)?.as_ref().into(),
            Self::Double(value) => double(*value)?,
            Self::String(text) => (&**text).into(),
            Self::Bytes(bytes) => STANDARD.encode(bytes).into(),
            Self::Duration(nanos) => duration::seconds_text(*nanos).into(),
            Self::List(list) => {
                let items = list.iter().map(|item| item?.to_json());
                Json::Array(items.collect::<Result<_, _>>()?)
            }
            Self::Map(map) => {
                let mut object = Map::new();
                for (key, value) in map.entries()? {
                    let key = key.as_str().ok_or_else(|| none(&key))?.to_owned();
                    object.insert(key, value.to_json()?);
                }
                Json::Object(object)
            }
            Self::Optional(Some(inner)) => inner.to_json()?,
            Self::Preserved(json) => (*json).clone(),
            Self::Optional(None) | Self::Type(_) | Self::Extension(_) | Self::Lazy(_) => return Err(none(self)),
        })
    }

    /// Whether the objects within an object have the types that the names of their fields say: `Object.spec` is the type of
    /// the field `spec` of an `Object`. What lists and maps hold has the type of the field that they are.
    ///
    /// # Errors
    /// One that has another, in upstream's words.
    pub fn check_types(&self) -> Result<(), String> {
        let Self::Map(map) = self else { return Ok(()) };
        let mut wrong = Vec::new();
        check(self, map.object_type().unwrap_or_default(), &mut wrong);
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }
}

fn check(value: &Value<'_>, place: &str, wrong: &mut Vec<String>) {
    match value {
        Value::Map(map) => {
            let name = map.object_type();
            if let Some(name) = name.filter(|name| *name != place) {
                wrong.push(format!(
                    "unexpected type name {name:?}, expected {place:?}, which matches field name path from root Object type"
                ));
            }
            for (key, inner) in map.entries().unwrap_or_default() {
                match key.as_str().filter(|_| name.is_some()) {
                    Some(field) => check(&inner, &format!("{place}.{field}"), wrong),
                    None => check(&inner, place, wrong),
                }
            }
        }
        Value::List(list) => list.iter().flatten().for_each(|item| check(&item, place, wrong)),
        _ => {}
    }
}

fn double(value: f64) -> Result<Json, EvalError> {
    // What is whole is written without a point.
    if value.fract() == 0.0 && value.abs() <= EXACT as f64 {
        return Ok((value as i64).into());
    }
    let number = Number::from_f64(value);
    number.map(Json::Number).ok_or_else(|| failure(format!("unsupported number in JSON: {value}")))
}

fn none(value: &Value<'_>) -> EvalError {
    failure(format!("type conversion error from '{}' to 'google.protobuf.Value'", value.type_name()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{Activation, Env, PER_CALL_LIMIT, Type};

    /// An expression of a mutation: its type, its value as JSON, what is wrong with its types.
    fn made(text: &str) -> Result<(String, serde_json::Value, Result<(), String>), String> {
        let env = Env::new(37).with_patches().variable("object", Type::Dyn);
        let program = env.compile(text).map_err(|why| why.to_string())?;
        let object = json!({"n": [1, 2.5], "m": {"a": null}});
        let activation = Activation::new().json("object", &object, None);
        let value = program.evaluate(&activation, PER_CALL_LIMIT).0.map_err(|why| why.to_string())?;
        let json = value.to_json().map_err(|why| why.to_string())?;
        Ok((program.result_type().full(), json, value.check_types()))
    }

    #[test]
    fn objects_and_patches_become_json() {
        let wrong = |got: &str, want: &str| {
            Err(format!(
                "unexpected type name \"{got}\", expected \"{want}\", which matches field name path from root Object type"
            ))
        };
        for (text, ty, json, types) in [
            ("Object{}", "Object", json!({}), Ok(())),
            (
                "Object{spec: Object.spec{replicas: 3, paused: true, on: ['a'], by: {'x/y': 1.0}}}",
                "Object",
                json!({"spec": {"replicas": 3, "paused": true, "on": ["a"], "by": {"x/y": 1}}}),
                Ok(()),
            ),
            (
                "Object{a: object.n, ?b: optional.none(), ?c: optional.of(1)}",
                "Object",
                json!({"a": [1, 2.5], "c": 1}),
                Ok(()),
            ),
            ("Object{a: [Object.a{b: 1}]}", "Object", json!({"a": [{"b": 1}]}), Ok(())),
            ("Object{a: Object.b{}}", "Object", json!({"a": {}}), wrong("Object.b", "Object.a")),
            ("Object{a: [Object.a.item{}]}", "Object", json!({"a": [{}]}), wrong("Object.a.item", "Object.a")),
            ("Object.spec{a: 9007199254740993}", "Object.spec", json!({"a": "9007199254740993"}), Ok(())),
            ("Object{a: 1}.a", "dyn", json!(1), Ok(())),
            ("Object{a: Object.a{b: 1}} == Object{a: Object.a{b: 1}}", "bool", json!(true), Ok(())),
            (
                "[JSONPatch{op: 'add', path: '/a/' + jsonpatch.escapeKey('b/c'), value: {'d': object.m}}]",
                "list(JSONPatch)",
                json!([{"op": "add", "path": "/a/b~1c", "value": {"d": {"a": null}}}]),
                Ok(()),
            ),
            (
                "[timestamp('2001-02-03T04:05:06Z')]",
                "list(google.protobuf.Timestamp)",
                json!(["2001-02-03T04:05:06Z"]),
                Ok(()),
            ),
            ("b'abc'", "bytes", json!("YWJj"), Ok(())),
        ] {
            assert_eq!(made(text), Ok((ty.into(), json, types)), "{text}");
        }
    }

    #[test]
    fn types_of_patches_are_checked() {
        for (text, expect) in [
            ("Nothing{}", "undeclared reference to 'Nothing'"),
            ("Objects{}", "undeclared reference to 'Objects'"),
            ("JSONPatch{op: 1}", "expected type of field 'op' is 'string' but provided type is 'int'"),
            ("JSONPatch{oops: 1}", "undefined field 'oops'"),
        ] {
            let found = made(text).expect_err(text);
            assert!(found.contains(expect), "{text}: {found}");
        }
        assert!(Env::new(37).compile("Object{}").is_err(), "only mutations have such types");
    }
}
