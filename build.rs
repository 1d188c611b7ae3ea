//! Compiles the protos without protoc, and writes their descriptors for server reflection.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::{env, fs};

use prost_types::field_descriptor_proto::Type;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

const ROOT: &str = "proto";
const USER: &str = ".kith.v1.User";

fn main() -> Result<(), Box<dyn Error>> {
    // `compile_fds` prints no `rerun-if-changed`.
    println!("cargo:rerun-if-changed={ROOT}");
    println!("cargo:rerun-if-changed=migrations");
    let mut files = Vec::new();
    collect(Path::new(ROOT), &mut files)?;
    files.sort();
    let mut compiler = protox::Compiler::new([ROOT])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    let out_dir = env::var("OUT_DIR")?;
    let out_dir = Path::new(&out_dir);
    fs::write(out_dir.join("kith.binpb"), compiler.encode_file_descriptor_set())?;

    let protos = compiler.file_descriptor_set();
    let server_protos = with_encoded_users(protos.clone());
    tonic_prost_build::configure().build_server(false).compile_fds(protos)?;
    let server_dir = out_dir.join("server");
    fs::create_dir_all(&server_dir)?;
    tonic_prost_build::configure().build_client(false).bytes(".").out_dir(server_dir).compile_fds(server_protos)?;
    Ok(())
}

/// Returns the same protos, with each user inside a response declared as `bytes`.
///
/// A nested message is encoded like a `bytes` field: its length, then its content. So the server can copy a user that
/// is already encoded into a response. Messages that are part of requests too are left as they are.
fn with_encoded_users(mut protos: FileDescriptorSet) -> FileDescriptorSet {
    let inputs = inputs(&protos);
    for file in &mut protos.file {
        let package = file.package().to_owned();
        let is_output = |name: &str| !inputs.contains(&format!(".{package}.{name}"));
        for message in file.message_type.iter_mut().filter(|message| is_output(message.name())) {
            for field in message.field.iter_mut().filter(|field| field.type_name() == USER) {
                field.set_type(Type::Bytes);
                field.type_name = None;
            }
        }
    }
    protos
}

/// The names of all messages of requests, with those that they contain: a server has to look into them.
fn inputs(protos: &FileDescriptorSet) -> BTreeSet<String> {
    let methods = protos.file.iter().flat_map(|file| &file.service).flat_map(|service| &service.method);
    let mut left: Vec<String> = methods.map(|method| method.input_type().to_owned()).collect();
    let mut inputs = BTreeSet::new();
    while let Some(name) = left.pop() {
        let of_file = |file: &FileDescriptorProto| format!(".{}.", file.package());
        let messages = protos.file.iter().flat_map(|file| file.message_type.iter().map(move |it| (of_file(file), it)));
        let found = messages.filter(|(package, message)| name.strip_prefix(package) == Some(message.name()));
        left.extend(found.flat_map(|(_, message)| &message.field).map(|field| field.type_name().to_owned()));
        inputs.insert(name);
        left.retain(|name| !inputs.contains(name));
    }
    inputs
}

/// Adds the protos below `directory` to `files`, as paths relative to [`ROOT`].
fn collect(directory: &Path, files: &mut Vec<std::path::PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path.strip_prefix(ROOT).unwrap_or(&path).to_owned());
        }
    }
    Ok(())
}
