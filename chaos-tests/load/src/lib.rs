//! The Kubernetes API under load: kube-apiserver with one etcd beside masters of ours.
//!
//! - [`wire`]: HTTP/1.1 over TLS, cheap enough to share the machine with what it measures.
//! - [`objects`]: what is written.
//! - [`peer`]: what is compared, as real processes on the loopback.
//! - [`closed`]: clients that send one request after another; [`cases`] has the table of them.
//! - [`watches`], [`memory`], [`start`]: what takes more than that.
//! - [`controllers`]: what follows from writes, beside kube-controller-manager.
//! - [`compare`]: all of it in one run and one table; the program `api-load` prints it.

pub mod cases;
pub mod closed;
pub mod compare;
pub mod controllers;
pub mod memory;
pub mod objects;
pub mod peer;
pub mod start;
pub mod watches;
pub mod wire;
