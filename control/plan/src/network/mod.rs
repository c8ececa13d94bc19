//! Services: the addresses behind them; Ingresses: the nodes that serve them.

pub mod announcing;
pub mod cluster_dns;
pub mod concerned;
pub mod endpoints;
pub mod endpointslice;
mod hints;
pub mod ingress;
pub mod kubernetes_service;
pub mod load_balancer;
pub mod mirroring;
pub mod pools;
pub mod service_cidr;
pub mod service_ip;
pub mod serving;
