//! Code generated from `proto/`, the descriptors that server reflection serves, and the JSON form of messages.

pub mod json;

/// Package `kith.v1` for clients.
#[expect(clippy::large_enum_variant, reason = "an item of an export is read once, and dropped")]
pub mod v1 {
    tonic::include_proto!("kith.v1");
}

/// Package `kith.v1` for the server, where a user inside a response is its encoded bytes.
///
/// The encoding is the same as that of [`v1`]. A page of 20 requests contains 40 users, and encoding them for each
/// response would be most of its cost. The server encodes a user once and copies the bytes.
pub mod server {
    include!(concat!(env!("OUT_DIR"), "/server/kith.v1.rs"));
}

/// The encoded `google.protobuf.FileDescriptorSet` of Kith's protos and their imports.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kith.binpb"));
