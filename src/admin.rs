//! The admin socket: protocol, server, client.

pub mod actors;
pub mod client;
pub mod draw;
pub mod protocol;
pub mod server;
