//! What outlives actors.

pub mod audit;
pub mod connections;
pub mod policy;
pub mod streams;
