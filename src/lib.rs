//! outrelay: an outbound-only relay on a supervision tree.
//!
//! Start at [`relay`] (the tree), [`vault`] (what outlives actors) and [`core`] (the protocol without I/O).

pub mod admin;
pub mod agent;
pub mod bench;
pub mod cli;
pub mod clock;
pub mod config;
pub mod core;
pub mod directory;
pub mod metrics;
pub mod net;
pub mod pki;
pub mod relay;
pub mod supervise;
pub mod telemetry;
pub mod throttle;
pub mod vault;

/// Protobuf types generated from `proto/`.
pub mod proto {
    /// `outrelay.orp.v1`: the payloads of frames (wire.md §2, §9).
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod orp {
        include!(concat!(env!("OUT_DIR"), "/outrelay.orp.v1.rs"));
    }
}
