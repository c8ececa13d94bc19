//! What the node answers when it is asked: logs, exec, attach, port-forward, connections to
//! pods, statistics, health.
//!
//! Invariants
//! - Nothing here changes a pod or tells the masters anything.
//! - Clients come through a master's tunnels; the one port of the agent is [`health`]'s, on loopback.

mod containers;
mod dial;
pub(crate) mod health;
mod http;
mod joined;
mod logs;
mod metrics;
mod stats;
mod streams;
mod tunnelled;

pub use tunnelled::Server;
