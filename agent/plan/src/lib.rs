//! What a node decides, as pure functions: no tokio, no clock, no I/O.
//!
//! - [`step`]: the next thing to do for one pod, from what is wanted and what is seen.
//! - [`status`]: the `status` of a pod, as kubelet would report it.
//! - [`probe`], [`backoff`]: thresholds and delays.
//! - [`env`], [`field`], [`volumes`], [`resources`]: what a container is given.
//! - [`services`]: what the service proxy must forward.

pub mod backoff;
pub mod env;
pub mod field;
pub mod observed;
pub mod probe;
pub mod resources;
pub mod rules;
pub mod services;
pub mod status;
pub mod step;
pub mod volumes;

#[cfg(test)]
mod testing;
