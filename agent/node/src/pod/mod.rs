//! One pod's life: from its assignment to the moment when nothing of it is left.
//!
//! - [`workers`] gives each pod a worker of its own, also those that nobody wants any more.
//! - [`sync`] is what a worker does: it looks, asks kontiki-agent-plan for one step, performs it, and looks again.
//! - [`worker`] is what all of it works on; the other modules are one duty each, and know nothing of the loop.
//!
//! Invariants
//! - One worker per pod uid; it alone changes the pod in the runtime and on the disk.
//! - What may take long (pulls, stops, hooks, volumes) runs beside the loop and reports back.
//! - A worker that is dropped leaves its containers running; the next one adopts them.
//! - No decision about what to do next, and no delay, is made here.

mod admission;
mod check;
mod cleanup;
mod containers;
mod disk;
mod hooks;
mod images;
mod mounts;
mod observe;
mod probes;
mod resize;
mod sandbox;
mod status;
mod stopping;
mod sync;
mod volumes;
mod worker;
pub(crate) mod workers;
