//! (to be written)

pub mod connection;
