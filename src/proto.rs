//! The wire: code generated from `proto/`, and the descriptors that server reflection tells.

/// Package `kith.v1`, as a client has it.
pub mod v1 {
    tonic::include_proto!("kith.v1");
}

/// Package `kith.v1`, as the server has it: the same on the wire, but each user within an answer is bytes, encoded
/// before. A page of requests names 40 users; to build and encode them anew would be most of the work of answering.
pub mod server {
    include!(concat!(env!("OUT_DIR"), "/server/kith.v1.rs"));
}

/// The descriptors of all our protos and what they import, as an encoded `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kith.binpb"));
