//! Talking to the other members: mTLS, HTTP/2, gRPC.

mod client;
mod followers;
mod link;
mod rpc;
mod server;
mod simulated;
mod tls;
mod wire;

pub(crate) use client::{Factory, Peers};
pub(crate) use rpc::{Call, ForwardError};
pub(crate) use server::{Listener, Service};
pub(crate) use tls::Identity;
