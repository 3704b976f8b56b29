//! Compiles `proto/` with protox, so that no `protoc` is needed on the machine.

use std::io;

const FILES: [&str; 2] = ["proto/orp.proto", "proto/control.proto"];

fn main() -> io::Result<()> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["proto"]).map_err(io::Error::other)?;
    prost_build::Config::new().compile_fds(descriptors)
}
