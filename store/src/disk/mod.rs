//! How a member keeps its log and its state: RocksDB, one writer, and what is read back.
//!
//! Not here: what the bytes of the state mean (see `kontiki-state`).

pub(crate) mod db;
mod directory;
pub(crate) mod dump;
pub(crate) mod entry;
pub(crate) mod failure;
pub(crate) mod history;
pub(crate) mod install;
mod options;
pub(crate) mod past;
mod sorted;
pub(crate) mod space;
pub(crate) mod stream;
mod wal;
pub(crate) mod writer;

pub use directory::identity;
