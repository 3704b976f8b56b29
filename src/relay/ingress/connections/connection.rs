//! (to be written)

pub mod control;
pub mod handshake;
