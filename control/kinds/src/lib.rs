//! The kinds that the master serves: one row per kind, and everything that can be said about an
//! object without a store, a clock or a socket.
//!
//! Invariants
//! - Pure: no tokio, no I/O, no clock; `now` is an argument. Nothing panics on outside bytes.
//! - Objects are `serde_json::Value`s that have passed [`schema::Schema::normalize`]: every field
//!   has the type of its schema, unknown fields are gone, and what upstream's typed round trip
//!   would drop (nulls, empty optional fields) is absent. Strategies rely on that.
//! - A kind is one [`ResourceDef`] row plus its [`Strategy`]; everything generic (discovery,
//!   OpenAPI, decoding, patches, tables) reads the row and the schema.

pub mod decode;
pub mod field_error;
pub mod meta;
pub mod openapi;
pub mod patch;
pub mod rows;
pub mod schema;
pub mod status;
pub mod strategy;
pub mod table;

pub use field_error::{Bad, FieldError, FieldErrorKind, Path};
pub use kontiki_model::{GroupResource, GroupVersionKind};
pub use status::Status;
pub use strategy::{ResourceDef, Scope, Strategy, Subresource, validate_create, validate_update};

/// All kinds, in discovery order: the core group first, then the groups as upstream lists them.
#[must_use]
pub fn resources() -> &'static [&'static ResourceDef] {
    rows::all()
}

/// The row that serves `plural` in `group`/`version`.
#[must_use]
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static ResourceDef> {
    resources().iter().copied().find(|def| def.group == group && def.version == version && def.plural == plural)
}

/// The row of a kind.
#[must_use]
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static ResourceDef> {
    resources().iter().copied().find(|def| def.group == group && def.version == version && def.kind == kind)
}

/// The row whose stored form is `resource`: the one to decode what the store holds.
#[must_use]
pub fn find_stored(resource: GroupResource<'_>) -> Option<&'static ResourceDef> {
    resources().iter().copied().find(|def| def.storage == resource && def.group == resource.group)
}
