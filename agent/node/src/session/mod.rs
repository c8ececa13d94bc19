//! What this node and the masters tell each other.
//!
//! - [`stream`] keeps one stream to a master. What arrives goes to [`objects`]; what must be told waits in [`outbox`].
//! - [`recorder`] and [`node_status`] make what the outbox carries besides the statuses of pods.
//! - [`tunnels`] are byte streams inside the session; who answers in them is not known here.
//!
//! Invariants
//! - Losing the session loses nothing: objects stay, and the outbox sends again.
//! - Nothing here decides about pods.

pub(crate) mod node_status;
pub(crate) mod objects;
pub(crate) mod outbox;
pub(crate) mod recorder;
pub(crate) mod stream;
pub mod tunnels;
