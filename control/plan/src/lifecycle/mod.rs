//! How objects come and go: owners, namespaces and what each of them has, join tokens.

pub mod api_availability;
pub mod authentication_config;
pub mod bootstrap_token;
pub mod clusterrole_aggregation;
pub mod custom_kinds;
pub mod gc;
pub mod namespace;
pub mod rbac_defaults;
pub mod resource_quota;
pub mod root_ca;
pub mod service_account;
pub mod system_objects;
pub mod ttl_after_finished;
