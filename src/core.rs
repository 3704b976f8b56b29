//! The protocol without I/O: no sockets, no clock, no tasks.

pub mod frame;
pub mod glob;
pub mod identity;
pub mod ids;
pub mod open;
pub mod policy;
pub mod reject;
pub mod resume;
pub mod ring;
pub mod ticket;
