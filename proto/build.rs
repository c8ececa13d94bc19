//! Compiles the contracts in `proto/` without a protoc binary.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["proto/node.proto", "proto/raft.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".kontiki.raft.v1").compile_fds(files)?;
    Ok(())
}
