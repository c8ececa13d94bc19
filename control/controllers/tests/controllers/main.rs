//! Controllers in process, on a store and an API of their own: one program, as each is dear to link.

#![allow(clippy::unwrap_used)] // a test may panic

mod autoscaling;
mod certificates;
mod custom;
mod ingress;
mod jobs;
mod load_balancer;
mod policies;
mod quiet;
mod quota;
mod scheduling;
mod sets;
mod story;
mod support;
