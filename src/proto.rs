//! The wire: code generated from `proto/`, and the descriptors that server reflection tells.

/// Package `kith.v1`.
pub mod v1 {
    tonic::include_proto!("kith.v1");
}

/// The descriptors of all our protos and what they import, as an encoded `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kith.binpb"));
