//! Talking to the other members: mTLS, HTTP/2, gRPC.

mod client;
mod followers;
mod grpc;
mod link;
mod rpc;
mod server;
mod tls;
mod wire;

pub(crate) use client::{Factory, Peers};
pub(crate) use rpc::ForwardError;
pub(crate) use server::{Listener, Service};
pub(crate) use tls::PeerIdentity;
