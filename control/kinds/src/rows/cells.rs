//! Cells that many tables share.

use serde_json::Value;

use super::value::{get, text};
pub use crate::table::Cell;

/// Shown where a value is not set.
pub const NONE: &str = "<none>";

/// A value.
pub fn of(value: impl Into<Value>) -> Cell {
    Cell::Fixed(value.into())
}

/// The text, or `<none>`.
#[must_use]
pub fn or_none(text: &str) -> Cell {
    of(if text.is_empty() { NONE } else { text })
}

/// Name of an object.
#[must_use]
pub fn name(obj: &Value) -> Cell {
    of(text(get(obj, "metadata"), "name"))
}

/// Age of an object.
#[must_use]
pub fn age(obj: &Value) -> Cell {
    Cell::since(text(get(obj, "metadata"), "creationTimestamp"))
}
