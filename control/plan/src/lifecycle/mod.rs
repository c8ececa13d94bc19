//! How objects come and go: owners, namespaces and what each of them has, join tokens.

pub mod bootstrap_token;
pub mod gc;
pub mod namespace;
pub mod root_ca;
pub mod service_account;
pub mod system_objects;
