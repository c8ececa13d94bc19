//! Values as upstream's errors show them (Go's `%v`).

use crate::functions::{duration, go};
use crate::value::Value;

/// A value within a sentence.
pub(crate) fn plain(value: &Value<'_>) -> String {
    match value {
        Value::Null => "NULL_VALUE".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => go::float(*value),
        Value::String(text) => text.to_string(),
        Value::Bytes(bytes) => format!("{bytes:?}").replace(',', ""),
        Value::Duration(nanos) => format!("{{{}}}", duration::go_text(*nanos)),
        Value::Timestamp(time) => format!("{{{}}}", time.text()),
        Value::List(list) => {
            let items: Vec<String> =
                list.iter().map(|item| item.map_or_else(|e| e.to_string(), |v| plain(&v))).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(map) => {
            let entries = map.entries().unwrap_or_default();
            let pairs: Vec<String> =
                entries.iter().map(|(key, value)| format!("{}: {}", plain(key), plain(value))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        Value::Optional(Some(inner)) => format!("optional({})", plain(inner)),
        Value::Optional(None) => "optional.none()".to_owned(),
        Value::Type(name) => name.to_string(),
        other => other.type_name().to_string(),
    }
}
