//! Configuration files of relay and agent.

pub mod agent;
pub mod quic;
pub mod relay;
