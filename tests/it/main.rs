//! One integration binary, a file per behaviour: real relays, real agents, real QUIC on loopback, in this process.
#![allow(unreachable_pub, reason = "one binary")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, clippy::disallowed_methods, reason = "tests")]

mod crowd;
mod harness;
mod program;

mod admin;
mod agents;
mod audit;
mod bench;
mod bulk;
mod deadlines;
mod descriptors;
mod docs;
mod drain;
mod early_bytes;
mod ends;
mod extensions;
mod fault;
mod floods;
mod frames;
mod identity;
mod limits;
mod logs;
mod matrix;
mod opening;
mod operate;
mod operator;
mod reconnect;
mod refusals;
mod reload;
mod resume;
mod signals;
mod singletons;
mod soak;
mod survival;
mod tickets;
