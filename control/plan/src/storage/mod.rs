//! Storage: which claim has which volume, and what may not go while it is used.

pub mod binder;
pub mod ephemeral;
pub mod protection;
