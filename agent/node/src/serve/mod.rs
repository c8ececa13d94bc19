//! What the node answers when it is asked: logs, exec, attach, port-forward, statistics, health.
//!
//! Invariants
//! - Nothing here changes a pod or tells the masters anything.
//! - Clients come through a master's tunnels; the one port of the agent is [`health`]'s, on loopback.

mod containers;
pub(crate) mod health;
mod logs;
mod stats;
mod streams;
mod tunnelled;

pub use tunnelled::Server;
