//! Functions: what is declared to the checker, and what runs.

pub(crate) mod authz;
pub(crate) mod convert;
pub(crate) mod duration;
pub(crate) mod extension;
pub(crate) mod format;
pub(crate) mod go;
pub(crate) mod kubernetes;
pub(crate) mod lists;
pub(crate) mod named;
pub(crate) mod net;
pub(crate) mod operators;
pub mod re2;
pub(crate) mod semver;
pub(crate) mod standard;
pub(crate) mod strings;
pub(crate) mod table;
pub(crate) mod time;
pub(crate) mod times;
pub(crate) mod url;
