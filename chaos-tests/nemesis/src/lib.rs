//! Faults on real store processes, and checkers of what clients saw.
//!
//! Two halves that meet in a file, the [`history`]:
//! - the run: a [`group`] of store processes in network namespaces, clients ([`clients`], [`watching`],
//!   [`leasing`]) that record all they ask and are told, and the [`faults`] that a seeded schedule
//!   ([`run`]) does to the group meanwhile, or [`upgrade`]s to another build and back;
//! - the checkers, which know nothing of the run: [`linear`] and [`order`] for reads and writes,
//!   [`watches`], [`leases`].
//!
//! The store under test is `kontiki store` or etcd, which takes the same flags: a checker that finds
//! fault with etcd, or none with a client that lies, is wrong itself.

pub mod clients;
pub mod disk;
pub mod faults;
pub mod group;
pub mod history;
pub mod leases;
pub mod leasing;
pub mod linear;
pub mod network;
pub mod order;
pub mod run;
pub mod tool;
pub mod upgrade;
pub mod verdict;
pub mod watches;
pub mod watching;
pub mod wire;

pub use history::History;
pub use verdict::{Verdict, Violation};

/// Every checker on one history.
#[must_use]
pub fn check(history: &History) -> Verdict {
    let (mut verdict, journal) = order::check(history);
    verdict.join(linear::check(&history.ops));
    verdict.join(watches::check(history, &journal));
    verdict.join(leases::check(history, &journal));
    verdict
}
