//! The relay on its supervision tree.

pub mod admin;
pub mod audit;
pub mod ingress;
pub mod policy;
pub mod registry;
pub mod splices;
pub mod tree;
