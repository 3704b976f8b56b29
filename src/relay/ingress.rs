//! Where agents come in: the listener, and the connections that it made.

pub mod connections;
pub mod quic_listener;
