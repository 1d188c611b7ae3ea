//! Generates the client from the protos.

use std::error::Error;

const PROTOS: &str = "../../proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTOS}");
    let services = ["connection", "connection_request", "event", "user"];
    let files = services.map(|service| format!("kith/v1/{service}_service.proto"));
    let descriptors = protox::compile(files, [PROTOS])?;
    tonic_prost_build::configure().build_server(false).compile_fds(descriptors)?;
    Ok(())
}
