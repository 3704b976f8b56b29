//! The agent against a scripted relay, over real QUIC on loopback. What the two projects' ends do together is in `tests/it`.

mod admin;
mod consumer;
mod credentials;
mod goaway;
mod harness;
mod legacy;
mod provider;
mod resume;
mod resume_ends;
mod session;
