//! gRPC contracts between masters and agents, between masters, and etcd's. The .proto files in
//! `proto/proto` are the documentation; most of these modules are generated from them.

mod encoded;
pub mod flow;

pub use encoded::EncodedWatchResponse;
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

/// etcd's v3 API (`etcd.proto`).
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod etcd {
    tonic::include_proto!("etcdserverpb");
}

/// The server side of etcd's services whose watch answers are [`EncodedWatchResponse`]s.
#[allow(clippy::all, clippy::pedantic, missing_docs, dead_code, unused_imports)]
pub mod etcd_encoded {
    include!(concat!(env!("OUT_DIR"), "/encoded/etcdserverpb.rs"));
}
