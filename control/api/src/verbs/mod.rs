//! The verbs: one module each, for every kind alike.

pub(crate) mod apply;
pub(crate) mod change;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod list;
pub(crate) mod measure;
mod past;
pub(crate) mod patch;
pub(crate) mod read;
mod unsafe_delete;
pub(crate) mod update;
pub(crate) mod watch;
