//! Compiles the contracts in `proto/` without a protoc binary.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["proto/node.proto", "proto/raft.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".kontiki.raft.v1").compile_fds(files)?;
    let etcd = protox::compile(["proto/etcd.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".etcdserverpb").compile_fds(etcd.clone())?;
    // The watch service once more, with answers that were encoded before (`EncodedWatchResponse`).
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?).join("encoded");
    std::fs::create_dir_all(&out)?;
    tonic_prost_build::configure()
        .build_client(false)
        .out_dir(out)
        .extern_path(".etcdserverpb.WatchResponse", "crate::EncodedWatchResponse")
        .extern_path(".etcdserverpb", "crate::etcd")
        .compile_fds(etcd)?;
    Ok(())
}
