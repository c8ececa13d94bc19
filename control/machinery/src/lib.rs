//! What upstream calls apimachinery: everything that can be said about an object of any kind without a store, a
//! clock or a socket. Which kinds there are is a value ([`Registry`]) that others fill.
//!
//! Invariants
//! - Pure: no tokio, no I/O, no clock; `now` and chance are arguments. Nothing panics on outside bytes.
//! - No kind is named here. A kind is one [`ResourceDef`] row plus its [`Strategy`]; everything generic (discovery,
//!   OpenAPI, decoding, patches, tables) reads the row and the schema.
//! - Objects are `serde_json::Value`s that have passed [`schema::Schema::normalize`]: every field has the type of its
//!   schema, unknown fields are gone, and what upstream's typed round trip would drop (nulls, empty optional fields)
//!   is absent. Strategies rely on that, and name the empty lists that they want to see ([`Strategy::tells_empty`]).

pub mod access;
pub mod admission;
pub mod allocation;
pub mod apply;
pub mod audit;
pub mod authentication;
pub mod conversion;
pub mod decode;
pub mod delegate;
mod empty;
pub mod encode;
pub mod field_error;
pub mod jsonpath;
pub mod key_pair;
pub mod measured;
pub mod meta;
pub mod openapi;
pub mod outcall;
pub mod ownership;
pub mod patch;
pub mod registry;
pub mod resource;
pub mod schema;
pub mod status;
pub mod subresource;
pub mod table;
pub mod verb;
mod wire;
pub mod x509;

pub use field_error::{Bad, FieldError, FieldErrorKind, Path};
pub use kontiki_model::{GroupResource, GroupVersionKind};
pub use ownership::Ownership;
pub use registry::{Registry, Source, Table};
pub use resource::{Name, ResourceDef, Scope, Strategy, validate_create, validate_update};
pub use status::Status;
pub use subresource::{Handler, Subresource};
pub use verb::{Verb, Verbs};
