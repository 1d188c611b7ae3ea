//! Compiles the protos in pure Rust (no protoc needed), and keeps their descriptors for server reflection.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::{env, fs};

use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::Type;

const ROOT: &str = "proto";
const USER: &str = ".kith.v1.User";

fn main() -> Result<(), Box<dyn Error>> {
    // tonic-prost-build prints no `rerun-if-changed` of its own.
    println!("cargo:rerun-if-changed={ROOT}");
    println!("cargo:rerun-if-changed=migrations");
    let mut files = Vec::new();
    collect(Path::new(ROOT), &mut files)?;
    files.sort();
    let mut compiler = protox::Compiler::new([ROOT])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    let target = env::var("OUT_DIR")?;
    let target = Path::new(&target);
    fs::write(target.join("kith.binpb"), compiler.encode_file_descriptor_set())?;

    let protos = compiler.file_descriptor_set();
    let of_server = with_encoded_users(protos.clone());
    tonic_prost_build::configure().build_server(false).compile_fds(protos)?;
    let target = target.join("server");
    fs::create_dir_all(&target)?;
    tonic_prost_build::configure().build_client(false).bytes(".").out_dir(target).compile_fds(of_server)?;
    Ok(())
}

/// The same protos, with each user in an answer as bytes. On the wire a message within another one is just that: its
/// bytes, with their length before them. So the server can write a user that was encoded before, as it is.
fn with_encoded_users(mut protos: FileDescriptorSet) -> FileDescriptorSet {
    let methods = protos.file.iter().flat_map(|file| &file.service).flat_map(|service| &service.method);
    let asked: BTreeSet<String> = methods.map(|method| method.input_type().to_owned()).collect();
    for file in &mut protos.file {
        let package = file.package().to_owned();
        let answers = |name: &str| !asked.contains(&format!(".{package}.{name}"));
        for message in file.message_type.iter_mut().filter(|message| answers(message.name())) {
            for field in message.field.iter_mut().filter(|field| field.type_name() == USER) {
                field.set_type(Type::Bytes);
                field.type_name = None;
            }
        }
    }
    protos
}

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
