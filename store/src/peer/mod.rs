//! Talking to the other members: mTLS, HTTP/2, gRPC.

mod client;
mod followers;
mod link;
mod server;
mod simulated;
mod tls;
mod wire;

pub(crate) use client::{Factory, ForwardError, Peers};

pub(crate) use server::{Call, Listener, Service};
pub(crate) use tls::Identity;
