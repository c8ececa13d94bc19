//! gRPC contracts between masters and agents, and nothing else. The .proto files in `proto/proto`
//! are the documentation; these modules are generated from them.

pub use kontiki_model as model;

/// Node sessions and joining (`node.proto`).
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod node {
    tonic::include_proto!("kontiki.node.v1");
}

/// Peers of the Raft group (`raft.proto`).
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod raft {
    tonic::include_proto!("kontiki.raft.v1");
}
