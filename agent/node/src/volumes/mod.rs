//! A pod's volumes on this machine.
//!
//! - [`plugin`] is what every kind of volume is behind; [`plugins`] the table of kinds. A kind is one file and its row.
//! - [`pod_volumes`] puts a pod's volumes in place, brings them up to date and takes them down.
//! - [`mount`], [`atomic`], [`files`], [`subpath`], [`credentials`] are what kinds share; [`tokens`] and
//!   [`certificates`] (with [`keys`]) are what credentials there are.
//!
//! Invariants
//! - Setting up is idempotent: it makes what is missing and updates what changed, also after a restart of the agent.
//! - Secrets and tokens are written to tmpfs only.
//! - Nothing is deleted through a mount: a directory is removed only once the kernel shows no mount below it.
//! - A kind that has no row is an error, never an empty directory.

mod atomic;
mod certificates;
pub(crate) mod credentials;
mod empty_dir;
mod files;
mod host_path;
mod image;
mod keys;
mod mount;
mod plugin;
mod plugins;
pub(crate) mod pod_volumes;
mod subpath;
mod tokens;
pub(crate) mod volume_mounts;

pub use mount::mounts_below;
pub(crate) use mount::share;
