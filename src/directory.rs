//! Who is registered where, and which rules apply.

pub mod audit_log;
pub mod embedded;
pub mod rules;
