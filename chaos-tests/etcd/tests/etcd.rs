//! The etcd API as other people's clients see it, and as etcd itself answers.
//!
//! The stories tell of `kontiki store`; `STORE=etcd-3.4` or `etcd-3.7` tells the same of that etcd, which
//! proves the stories.
//! `cargo test --workspace --test etcd [WORD…]`; `SEED` and `OPS` choose what [`differential`] runs,
//! `TRACE=1` prints it all.

#[path = "etcd/access.rs"]
mod access;
#[path = "etcd/client_crate.rs"]
mod client_crate;
#[path = "etcd/differential.rs"]
mod differential;
#[path = "etcd/etcdctl.rs"]
mod etcdctl;
#[path = "etcd/leases.rs"]
mod leases;
#[path = "etcd/newer.rs"]
mod newer;
#[path = "etcd/range_stream.rs"]
mod range_stream;
#[path = "etcd/support.rs"]
mod support;
