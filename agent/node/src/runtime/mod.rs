//! The container runtime: containerd, spoken to through CRI, and what is kept in its words.
//!
//! Invariants
//! - Every call to the runtime goes through [`cri`], which gives each a deadline.
//! - Configurations ([`sandbox_config`], [`container_config`]) are made from values, without asking anybody.
//! - Nothing here knows the masters, or decides what a pod needs next.

pub mod archive;
pub(crate) mod container_config;
pub mod cri;
mod dns;
pub(crate) mod events;
pub(crate) mod images;
pub(crate) mod labels;
pub(crate) mod log_files;
pub(crate) mod log_rotation;
pub mod pause;
pub(crate) mod sandbox_config;
pub(crate) mod sandbox_image;
pub(crate) mod security;
pub(crate) mod settings;
pub(crate) mod snapshots;
pub(crate) mod usage;
pub(crate) mod watchers;

pub(crate) use dns::hostname;
