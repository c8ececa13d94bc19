//! Findings of validation, in upstream's words (`apimachinery/pkg/util/validation/field`).

use std::fmt;

use serde_json::Value;

/// What kind of finding it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldErrorKind {
    /// Something named is not there.
    NotFound,
    /// Must be set.
    Required,
    /// Must be unique.
    Duplicate,
    /// Malformed or out of bounds.
    Invalid,
    /// Not one of the known values.
    NotSupported,
    /// Well formed, but not allowed here.
    Forbidden,
    /// Too many bytes.
    TooLong,
    /// Too many items.
    TooMany,
    /// The check itself failed.
    Internal,
    /// Wrong type.
    TypeInvalid,
}

impl FieldErrorKind {
    /// The words that start the message.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }

    /// The reason of the cause in a Status.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

/// The offending value, as the message shows it.
#[derive(Clone, PartialEq, Debug)]
pub enum Bad {
    /// Not shown.
    Omitted,
    /// Shown as JSON; strings quoted.
    Json(Value),
    /// Shown as it is: for values that upstream prints in another shape (its internal types).
    Raw(String),
}

impl<T: Into<Value>> From<T> for Bad {
    fn from(value: T) -> Self {
        Self::Json(value.into())
    }
}

/// One finding.
#[derive(Clone, PartialEq, Debug)]
pub struct FieldError {
    /// What kind.
    pub kind: FieldErrorKind,
    /// Where: `spec.containers[0].name`.
    pub path: String,
    /// The offending value.
    pub bad: Bad,
    /// What is wrong with it; may be empty.
    pub detail: String,
}

impl FieldError {
    fn new(kind: FieldErrorKind, path: impl AsRef<str>, bad: Bad, detail: impl Into<String>) -> Self {
        Self { kind, path: path.as_ref().to_owned(), bad, detail: detail.into() }
    }

    /// Something that must be set is not.
    pub fn required(path: impl AsRef<str>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Required, path, Bad::Omitted, detail)
    }

    /// A value is malformed or out of bounds.
    pub fn invalid(path: impl AsRef<str>, bad: impl Into<Bad>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Invalid, path, bad.into(), detail)
    }

    /// A value has the wrong type.
    pub fn type_invalid(path: impl AsRef<str>, bad: impl Into<Bad>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::TypeInvalid, path, bad.into(), detail)
    }

    /// A value is none of `supported`, which are shown in the order given.
    pub fn not_supported<S: AsRef<str>>(path: impl AsRef<str>, bad: impl Into<Bad>, supported: &[S]) -> Self {
        let values: Vec<String> = supported.iter().map(|s| quote(s.as_ref())).collect();
        let detail = if values.is_empty() { String::new() } else { format!("supported values: {}", values.join(", ")) };
        Self::new(FieldErrorKind::NotSupported, path, bad.into(), detail)
    }

    /// A value appears twice.
    pub fn duplicate(path: impl AsRef<str>, bad: impl Into<Bad>) -> Self {
        Self::new(FieldErrorKind::Duplicate, path, bad.into(), "")
    }

    /// Not allowed under these circumstances.
    pub fn forbidden(path: impl AsRef<str>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Forbidden, path, Bad::Omitted, detail)
    }

    /// More than `max` bytes.
    pub fn too_long(path: impl AsRef<str>, max: usize) -> Self {
        let unit = if max == 1 { "byte" } else { "bytes" };
        Self::new(FieldErrorKind::TooLong, path, Bad::Omitted, format!("may not be more than {max} {unit}"))
    }

    /// More than `max` items.
    pub fn too_many(path: impl AsRef<str>, actual: usize, max: usize) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        Self::new(FieldErrorKind::TooMany, path, Bad::from(actual), format!("must have at most {max} {unit}"))
    }

    /// A name refers to nothing.
    pub fn not_found(path: impl AsRef<str>, bad: impl Into<Bad>) -> Self {
        Self::new(FieldErrorKind::NotFound, path, bad.into(), "")
    }

    /// The check itself failed.
    pub fn internal(path: impl AsRef<str>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Internal, path, Bad::Omitted, detail)
    }

    /// The message without the path: what a cause in a Status says.
    #[must_use]
    pub fn body(&self) -> String {
        let mut out = self.kind.text().to_owned();
        match &self.bad {
            Bad::Omitted => {}
            Bad::Raw(text) => {
                out.push_str(": ");
                out.push_str(text);
            }
            Bad::Json(value) => {
                out.push_str(": ");
                out.push_str(&show(value));
            }
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        other => other.to_string(),
    }
}

/// A string as Go's `%q` prints it.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() || c == '\u{feff}' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A path under construction: `Path::new("spec").child("ports").index(0).child("name")`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Path(String);

impl Path {
    /// A path of one field. Empty for the object itself.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// A field of the object at this path.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// An item of the list at this path.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// An entry of the map at this path.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Path {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn findings_read_as_upstream_prints_them() {
        let path = Path::new("spec").child("ports").index(0).child("name");
        for (error, text) in [
            (FieldError::required(&path, ""), "spec.ports[0].name: Required value"),
            (FieldError::required("a", "must be set"), "a: Required value: must be set"),
            (FieldError::invalid("a", "x\"y", "bad"), r#"a: Invalid value: "x\"y": bad"#),
            (FieldError::invalid("a", -1, "bad"), "a: Invalid value: -1: bad"),
            (FieldError::invalid("a", Value::Null, "bad"), "a: Invalid value: null: bad"),
            (FieldError::invalid("a", json!({"app": "x"}), "bad"), r#"a: Invalid value: {"app":"x"}: bad"#),
            (
                FieldError::not_supported("a", "x", &["A", "B"]),
                r#"a: Unsupported value: "x": supported values: "A", "B""#,
            ),
            (FieldError::duplicate(Path::new("a").key("k"), "v"), r#"a[k]: Duplicate value: "v""#),
            (FieldError::forbidden("a", "no"), "a: Forbidden: no"),
            (FieldError::too_long("a", 63), "a: Too long: may not be more than 63 bytes"),
            (FieldError::too_many("a", 5, 3), "a: Too many: 5: must have at most 3 items"),
            (FieldError::not_found("a", "x"), r#"a: Not found: "x""#),
            (FieldError::internal("a", "x"), "a: Internal error: x"),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }
}
