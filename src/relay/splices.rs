//! (to be written)

pub mod splice;
