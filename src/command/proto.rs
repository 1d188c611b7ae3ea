//! `kith proto`: prints the descriptors of the API.

use std::io::{IsTerminal, stdout};

use super::{Failure, print};
use crate::config::Proto;
use crate::proto::FILE_DESCRIPTOR_SET;

/// Writes a `google.protobuf.FileDescriptorSet` with all files that the API imports, and with comments.
///
/// protoc (`--descriptor_set_in`), buf, grpcurl (`-protoset`) and other tools read it instead of the protos.
pub(super) fn run(args: &Proto) -> Result<(), Failure> {
    match &args.file {
        Some(file) => {
            std::fs::write(file, FILE_DESCRIPTOR_SET).map_err(|error| format!("{}: {error}", file.display()))?;
            Ok(())
        }
        None if stdout().is_terminal() => Err("the descriptors are binary, and standard output is a terminal; \
             name a file, as in: kith proto kith.binpb"
            .into()),
        None => print(FILE_DESCRIPTOR_SET),
    }
}
