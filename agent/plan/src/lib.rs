//! What a node decides, as pure functions: no tokio, no clock, no I/O.
//!
//! - [`step`]: the next thing to do for one pod, from what is wanted and what is seen.
//! - [`status`]: the `status` of a pod, as kubelet would report it, and when it is sent; [`node_status`]: the Node's.
//! - [`probe`], [`probes`], [`image`], [`backoff`], [`start_failure`]: thresholds, and delays after failures.
//! - [`admission`]: whether the node takes a pod.
//! - [`termination`], [`disk`], [`housekeeping`]: ends of pods, and what is left of them.
//! - [`relist`], [`remount`], [`rotation`], [`log_rotation`], [`session`]: what is done again, and when.
//! - [`env`], [`field`], [`volumes`], [`resources`]: what a container is given; [`resize`], [`granted`]: what of it changes.
//! - [`trust`], [`certificates`]: anchors of trust and certificates in a pod's volumes.
//! - [`services`]: what the service proxy must forward; [`policy`]: what NetworkPolicies allow; [`dns`]: what the
//!   cluster's names stand for.

pub mod admission;
pub mod backoff;
pub mod certificates;
pub mod disk;
pub mod dns;
pub mod env;
pub mod field;
pub mod granted;
pub mod housekeeping;
pub mod image;
pub mod load_balancer;
pub mod log_rotation;
pub mod node_status;
pub mod observed;
pub mod policy;
pub mod probe;
pub mod probes;
pub mod relist;
pub mod remount;
pub mod resize;
pub mod resources;
pub mod rotation;
pub mod rules;
pub mod services;
pub mod session;
pub mod start_failure;
pub mod status;
pub mod step;
pub mod termination;
mod time;
pub mod trust;
pub mod volumes;

#[cfg(test)]
mod testing;
