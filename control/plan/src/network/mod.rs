//! Services: the addresses behind them.

pub mod concerned;
pub mod endpoints;
pub mod endpointslice;
pub mod kubernetes_service;
