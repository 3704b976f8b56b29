//! The admin socket: protocol, server, client.

pub mod client;
pub mod draw;
pub mod protocol;
pub mod server;
