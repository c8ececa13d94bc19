//! The three patch formats. Each takes the current object and answers the patched one; checking
//! the result against its schema and writing it are the pipeline's work.
//!
//! Errors carry the code and wording that upstream answers. Where upstream answers 500 to a patch
//! that contradicts itself, the code here is 422: no input may cause a 5xx.

mod json;
mod merge;
mod strategic;

pub use json::{json_patch, json_patch_findings};
pub use merge::merge_patch;
use serde_json::Value;
pub use strategic::strategic_merge;

use crate::{FieldError, GroupVersionKind, Status};

/// Why a patch could not be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is not of its format: 400.
    #[error("error decoding patch: {0}")]
    Malformed(String),
    /// The directives of a strategic patch are malformed: 400, in upstream's words.
    #[error("{0}")]
    BadFormat(String),
    /// A JSON patch does not apply to this object: 422 without details, as upstream does.
    #[error("the server rejected our request due to an error in our request")]
    Rejected(String),
    /// A strategic patch contradicts itself or its type: 422.
    #[error("{0}")]
    Unprocessable(String),
    /// Too many operations: 413.
    #[error("{0}")]
    TooMany(String),
}

impl PatchError {
    /// Whether an operation `test` did not hold.
    #[must_use]
    pub fn is_failed_test(&self) -> bool {
        matches!(self, Self::Rejected(why) if why.starts_with(json::UNTRUE))
    }

    /// The answer to the client.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Malformed(_) | Self::BadFormat(_) => Status::bad_request(self.to_string()),
            Self::Rejected(_) => {
                Status::failure(422, "Invalid", self.to_string()).with_details(crate::status::StatusDetails::default())
            }
            Self::Unprocessable(_) => Status::failure(422, "Invalid", self.to_string()),
            Self::TooMany(text) => Status::too_large(text),
        }
    }
}

/// 422: the patched object does not fit its type, or strict validation found something in it.
/// `shown` is the document that upstream shows: the whole patched object for JSON and merge
/// patches (as JSON), the patch itself for a strategic one (as Go prints maps).
#[must_use]
pub fn unfit(shown: &str, detail: impl Into<String>) -> Status {
    Status::invalid("", "", "", &[FieldError::invalid("patch", shown, detail)])
}

/// Why a patched object is no longer of the kind it was: what a patch made of `apiVersion` and
/// `kind` must still name it. `served` tells whether there is a kind. The answer is the detail for [`unfit`].
#[must_use]
pub fn kind_changed(
    served: impl Fn(&GroupVersionKind) -> bool,
    patched: &Value,
    api_version: &str,
    kind: &str,
) -> Option<String> {
    let text = |field: &str, own: &str| match patched[field].as_str() {
        None | Some("") => own.to_owned(),
        Some(text) => text.to_owned(),
    };
    let (new_version, new_kind) = (text("apiVersion", api_version), text("kind", kind));
    if new_version == api_version && new_kind == kind {
        return None;
    }
    let gvk = GroupVersionKind::new(&new_version, &new_kind);
    if !served(&gvk) {
        return Some(format!("no kind {new_kind:?} is registered for version {new_version:?} in scheme \"kontiki\""));
    }
    let package = match api_version.split_once('/') {
        None => "core",
        Some((group, _)) => group.split('.').next().unwrap_or(group),
    };
    Some(format!("converting ({}.{new_kind}) to ({package}.{kind}): unknown conversion", gvk.version))
}

/// A value as Go's `%v` prints it: `map[a:1 b:[x y]]`.
#[must_use]
pub fn go_print(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_print).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let fields: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", go_print(value))).collect();
            format!("map[{}]", fields.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_print_as_go_prints_them() {
        assert_eq!(go_print(&json!({"b": [1, "x", null], "a": {"c": true}})), "map[a:map[c:true] b:[1 x <nil>]]");
    }

    #[test]
    fn an_object_stays_what_it_is() {
        for (patched, expect) in [
            (json!({"apiVersion": "v1", "kind": "ConfigMap"}), None),
            (json!({}), None),
            (json!({"kind": "Secret"}), Some("converting (v1.Secret) to (core.ConfigMap): unknown conversion")),
            (
                json!({"apiVersion": "v2"}),
                Some("no kind \"ConfigMap\" is registered for version \"v2\" in scheme \"kontiki\""),
            ),
        ] {
            let served = |gvk: &GroupVersionKind| gvk.version == "v1";
            assert_eq!(kind_changed(served, &patched, "v1", "ConfigMap").as_deref(), expect, "{patched}");
        }
    }

    #[test]
    fn answers_have_upstreams_codes() {
        for (error, code, message) in [
            (PatchError::Malformed("x".into()), 400, "error decoding patch: x"),
            (PatchError::Rejected("x".into()), 422, "the server rejected our request due to an error in our request"),
            (PatchError::Unprocessable("x".into()), 422, "x"),
            (PatchError::TooMany("x".into()), 413, "Request entity too large: x"),
        ] {
            let status = error.status();
            assert_eq!((status.code, status.message.as_str()), (code, message));
        }
        assert_eq!(unfit("map[foo:1]", "x").message, r#" "" is invalid: patch: Invalid value: "map[foo:1]": x"#);
    }
}
