//! The master, assembled: certificates, joining, the gateway of node sessions, the virtual
//! address, and what the leader alone does.
//!
//! Invariants
//! - Everything that changes cluster state goes through `kontiki-api` or the store; nothing here
//!   holds state that would be lost with the process.
//! - Only the Raft leader runs controllers and the scheduler, and holds the virtual address.

pub mod api_options;
pub mod audit_log;
mod availability;
mod basics;
pub mod config;
mod datadir;
mod flowcontrol;
mod gateway;
mod join;
mod kubeconfig;
mod lifecycle;
mod logging;
pub mod pki;
mod rescue;
mod revoked;
mod rotation;
mod rpc;
mod run;
pub mod sealing;
mod servers;
mod signer;
mod status;
mod tls;
pub mod token;
mod trust;
mod vip;
mod watchdog;

pub use config::{Config, ConfigError, Join};
pub use rescue::restore;
pub use run::run;
