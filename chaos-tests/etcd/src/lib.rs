//! The etcd API judged by other people's clients, and by etcd itself.
//!
//! - [`binaries`], [`pki`], [`client`], [`group`]: etcd or `kontiki store` as real processes with mTLS.
//! - [`differential`]: random operations on both, whose answers must be the same.
//! - [`process`]: servers as processes, and what they use of the machine.
//! - [`load`]: figures of both in one run; the program `store-load` prints them.
//! - [`select`]: what a command line asks for by words.
//! - [`wait`]: conditions with a deadline.

pub mod binaries;
pub mod client;
pub mod differential;
pub mod group;
pub mod load;
pub mod pki;
pub mod process;
pub mod select;
pub mod wait;
