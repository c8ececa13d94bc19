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

mod aggregate;
mod api;
pub mod audit;
mod auth;
mod behind;
mod body;
mod budget;
mod call;
mod client;
pub mod clock;
mod codec;
pub mod config;
mod convert;
mod corrupt;
mod deadline;
pub mod dial;
mod discovery;
mod documents;
mod encode;
pub mod fairness;
mod forwarded;
mod health;
mod http;
pub mod issuers;
mod kinds;
pub mod leader;
mod ledger;
mod metrics;
mod negotiate;
pub mod node_proxy;
pub mod object;
mod objects;
mod openapi;
pub mod outbound;
mod owners;
mod pages;
mod params;
mod pipeline;
mod proxies;
mod recent;
pub mod recorder;
mod route;
mod select;
mod server;
mod spdy;
mod specs;
mod state;
mod sub;
mod trail;
pub mod usage;
mod verbs;
mod websocket;
pub mod witness;
pub mod writes;
mod zpages;

pub use aggregate::Looked;
pub use api::Api;
pub use auth::keys::KeyError;
pub use client::{Client, Written};
pub use config::{Aggregation, Config, DeleteOptions, PatchKind, Propagation, Target};
pub use kontiki_machinery::access::User;
pub use kontiki_machinery::x509;
pub use kontiki_machinery::{Registry, Status};
pub use metrics::Source as MetricsSource;
pub use node_proxy::{NodeProxy, NodeProxyError, NodeStream};
pub use outbound::Outbound;
pub use proxies::{Proxies, RemoteHeaders};
pub use writes::{Effect, Writer, Writes};
