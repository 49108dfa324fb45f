//! Compiles the proto to Rust without a system protoc, and keeps the descriptor set for reflection.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/credway/v1/credential_service.proto"], ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("credway_descriptor.bin"), descriptors.encode_to_vec())?;
    // Its derived Debug would print the value; `grpc/mod.rs` writes one that does not.
    tonic_prost_build::configure().skip_debug(["credway.v1.ConfigEntry"]).compile_fds(descriptors)?;
    Ok(())
}
