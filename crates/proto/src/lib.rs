//! The wire: `goulette.v1` as generated code, and the conversions between it and [`goulette_types`].
//!
//! Generated types stop where the wire is spoken: the services parse a request once into the types of
//! `goulette-types`, and past that a bad name or a negative size cannot exist. The error table of the gRPC wire is in
//! [`status`].

pub mod convert;
mod nesting;
pub mod status;

/// The generated messages, clients and servers of `goulette.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated from the .proto files, which carry the comments"
)]
pub mod pb {
    tonic::include_proto!("goulette.v1");
}

/// The generated messages, clients and servers of etcd's v3 interface, one module per package of etcd's.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    rustdoc::all,
    reason = "generated from the .proto files, which carry the comments"
)]
pub mod etcd {
    pub mod mvccpb {
        tonic::include_proto!("mvccpb");
    }
    pub mod authpb {
        tonic::include_proto!("authpb");
    }
    pub mod membershippb {
        tonic::include_proto!("membershippb");
    }
    pub mod etcdserverpb {
        pub use crate::nesting::{NESTED_MAX, RequestOp, ResponseOp, request_op, response_op};

        tonic::include_proto!("etcdserverpb");
    }
    pub mod leasepb {
        tonic::include_proto!("leasepb");
    }
    pub mod v3lockpb {
        tonic::include_proto!("v3lockpb");
    }
    pub mod v3electionpb {
        tonic::include_proto!("v3electionpb");
    }

    /// The encoded file descriptors of these packages, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/etcd.bin"));
}

/// The generated messages, clients and servers of `goulette.raft.v1`: between the members of an embedded etcd cluster.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated from the .proto files, which carry the comments"
)]
pub mod raft {
    tonic::include_proto!("goulette.raft.v1");
}

/// The encoded file descriptors of `goulette.v1`, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/goulette.v1.bin"));

/// The version of the protocol that this binary speaks; peers of a newer major version are refused by name.
pub const PROTOCOL_VERSION: u32 = 1;
