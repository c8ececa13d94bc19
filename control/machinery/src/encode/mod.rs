//! Objects into the forms that clients ask for beside JSON: protobuf, CBOR and YAML; OpenAPI documents in
//! protobuf.
//!
//! Invariants
//! - Never panics. Text that is not JSON where it matters is an [`EncodeError`].
//! - Protobuf is made from JSON text by the type's compiled plan, without a value in between.

pub mod cbor;
pub mod openapi;
mod plan;
pub mod protobuf;
mod text;
pub mod yaml;

/// Why something has no other form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The text is not JSON at this offset.
    #[error("not JSON at byte {0}")]
    NotJson(usize),
    /// A string has an escape that JSON does not know.
    #[error("a string has an escape that is none")]
    Escape,
    /// A value is not what its type says.
    #[error("a value does not fit its type {0}")]
    Type(&'static str),
    /// The type has no protobuf form.
    #[error("the type has no protobuf form")]
    NoMessage,
    /// Nested too deeply.
    #[error("nested too deeply")]
    Depth,
}
