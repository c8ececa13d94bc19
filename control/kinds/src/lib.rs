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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn facts(text: &str) -> Value {
        serde_json::from_str(text).expect("the facts are JSON")
    }

    #[test]
    fn rows_agree_with_upstreams_discovery() {
        let facts = facts(include_str!("../data/discovery.json"));
        for def in resources() {
            let served = &facts[def.api_version()]["resources"];
            let known = &served[def.plural];
            let list = |field: &str| known[field].as_array().cloned().unwrap_or_default();
            assert_eq!(known["kind"], def.kind, "{}", def.plural);
            assert_eq!(known["singularName"], def.singular, "{}", def.plural);
            assert_eq!(known["namespaced"], def.namespaced(), "{}", def.plural);
            assert_eq!(json!(list("verbs")), json!(def.verbs), "{}", def.plural);
            assert_eq!(json!(list("shortNames")), json!(def.short), "{}", def.plural);
            assert_eq!(json!(list("categories")), json!(def.categories), "{}", def.plural);
            for sub in def.subresources {
                let known = &served[format!("{}/{}", def.plural, sub.name)];
                assert_eq!(
                    (&known["kind"], &known["verbs"]),
                    (&json!(sub.kind), &json!(sub.verbs)),
                    "{}/{}",
                    def.plural,
                    sub.name
                );
            }
        }
    }

    #[test]
    fn rows_select_by_upstreams_fields() {
        let facts = facts(include_str!("../data/field-selectors.json"));
        for def in resources() {
            let fields = facts[format!("{} {}", def.api_version(), def.kind)].as_array().cloned().unwrap_or_default();
            for path in fields.iter().filter_map(Value::as_str).filter(|path| !path.starts_with("metadata.")) {
                assert!(def.strategy.field(&json!({}), path).is_some(), "{} {path}", def.kind);
            }
            assert_eq!(def.strategy.field(&json!({}), "spec.nothing"), None, "{}", def.kind);
        }
    }
}
