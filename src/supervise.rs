//! Supervision over ractor.

pub mod dynamic;
pub mod fault;
pub mod intensity;
pub mod node;
pub mod one_for_one;
pub mod report;
pub mod slot;
pub mod spec;
pub mod task;
