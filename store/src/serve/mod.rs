//! What clients of this member see: the state, and its changes.

pub(crate) mod hub;
pub(crate) mod view;
pub(crate) mod watch;
