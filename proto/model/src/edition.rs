//! Editions of objects that every cluster begins with and that are the cluster's own: a server that knows a later one
//! brings the object up to date; one that knows only earlier ones leaves it alone.

use serde_json::Value;

/// Annotation: which edition an object is. Anything but a number says that it is somebody's own.
pub const ANNOTATION: &str = "kontiki.dev/edition";

/// Which edition an object is: 0 if it does not say. `None`: it is somebody's own, and stays as it is.
#[must_use]
pub fn edition(object: &Value) -> Option<u32> {
    match &object["metadata"]["annotations"][ANNOTATION] {
        Value::String(text) => text.parse().ok(),
        _ => Some(0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn editions_are_numbers() {
        for (annotations, expect) in [
            (json!(null), Some(0)),
            (json!({"a": "b"}), Some(0)),
            (json!({ANNOTATION: "7"}), Some(7)),
            (json!({ANNOTATION: "own"}), None),
            (json!({ANNOTATION: ""}), None),
        ] {
            assert_eq!(edition(&json!({"metadata": {"annotations": annotations}})), expect);
        }
    }
}
