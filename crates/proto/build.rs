//! Generates the gRPC code with protox, a protobuf compiler in Rust: no `protoc` is needed to build.

use std::{env, fs, path::PathBuf};

use prost::Message;

/// etcd's own interface (see NOTICE there): its packages find each other as sibling modules.
const ETCD: [&str; 4] = [
    "etcdserverpb/raft_internal.proto",
    "leasepb/lease.proto",
    "v3lockpb/v3lock.proto",
    "v3electionpb/v3election.proto",
];
/// What the members of an embedded etcd cluster say to each other: no public interface, so not in the reflection.
const RAFT: [&str; 1] = ["goulette/raft/v1/raft.proto"];
const FILES: [&str; 4] = [
    "goulette/v1/common.proto",
    "goulette/v1/sentinel.proto",
    "goulette/v1/broker.proto",
    "goulette/v1/replication.proto",
];

#[allow(clippy::disallowed_methods, reason = "a build script writes its output")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("goulette.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    let etcd = protox::compile(ETCD, ["proto/etcd"])?;
    fs::write(out.join("etcd.bin"), etcd.encode_to_vec())?;
    // These two by hand: transactions nest deeper than prost reads.
    tonic_prost_build::configure()
        .bytes(".")
        .extern_path(".etcdserverpb.RequestOp", "crate::nesting::RequestOp")
        .extern_path(".etcdserverpb.ResponseOp", "crate::nesting::ResponseOp")
        .compile_fds(etcd)?;
    tonic_prost_build::configure().bytes(".").compile_fds(protox::compile(RAFT, ["proto"])?)?;
    Ok(())
}
