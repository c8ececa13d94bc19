//! The Kubernetes API of a master: one generic pipeline over the resource table.
//!
//! Every request, over HTTP or from the in-process [`Client`], walks the same road, whose phases are listed in
//! `pipeline`. Handlers exist per verb, never per kind: what is special about a kind sits in its table row, in a step of
//! admission or in an authorizer, all of which come from outside ([`Config`]), as do time and chance ([`clock`]).
//!
//! Invariants
//! - Objects lie in the store as the JSON bytes a client gets, without `metadata.resourceVersion`;
//!   the store's revision is spliced in on the way out ([`object`]).
//! - Every write is a compare-and-put: nothing is overwritten unseen.
//! - A write that changes nothing is no write: its answer is the stored object with its version.
//! - An unknown outcome of a write is answered with 504, never with a failure that may be wrong.

#![allow(clippy::result_large_err, reason = "the error is the answer itself, and errors are not the hot path")]

mod api;
mod auth;
mod body;
mod call;
mod client;
pub mod clock;
mod codec;
pub mod config;
mod deadline;
mod discovery;
mod documents;
mod encode;
mod health;
mod http;
pub mod leader;
mod metrics;
mod negotiate;
pub mod node_proxy;
pub mod object;
mod pages;
mod params;
mod pipeline;
pub mod recorder;
mod route;
mod select;
mod server;
mod state;
mod sub;
mod verbs;
pub mod writes;

pub use api::Api;
pub use auth::keys::KeyError;
pub use client::Client;
pub use config::{Config, DeleteOptions, PatchKind, Propagation, Target};
pub use kontiki_machinery::access::User;
pub use kontiki_machinery::{Registry, Status};
pub use node_proxy::{NodeProxy, NodeProxyError, NodeStream};
pub use writes::{Effect, Writer, Writes};
