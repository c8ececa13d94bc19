//! The API in process: one program, as each is dear to link.

#![allow(clippy::unwrap_used)] // a test may panic

mod access;
mod aggregation;
mod apply;
mod audit;
mod besides;
mod common;
mod conversion;
mod custom;
mod disruption;
mod fairness;
mod hostile;
mod measured;
mod mutating;
mod past;
mod pipeline;
mod proxy;
mod quiet;
mod quota;
mod representations;
mod sealed;
mod steps;
mod streams;
mod table;
mod trust;
mod walk;
mod webhooks;
