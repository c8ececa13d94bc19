//! Cells that many tables share.

use jiff::Timestamp;
use serde_json::Value;

use super::value::{get, text};
use crate::table;

/// Shown where a value is not set.
pub const NONE: &str = "<none>";

/// The text, or `<none>`.
#[must_use]
pub fn or_none(text: &str) -> Value {
    Value::from(if text.is_empty() { NONE } else { text })
}

/// Name of an object.
#[must_use]
pub fn name(obj: &Value) -> Value {
    Value::from(text(get(obj, "metadata"), "name"))
}

/// Age of an object.
#[must_use]
pub fn age(obj: &Value, now: Timestamp) -> Value {
    Value::from(table::age(obj, now))
}

/// Time since a moment; `<unknown>` without one.
#[must_use]
pub fn since(moment: &str, now: Timestamp) -> String {
    table::since(&Value::from(moment), now)
}
