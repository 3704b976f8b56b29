//! (to be written)

pub mod connections;
pub mod quic_listener;
