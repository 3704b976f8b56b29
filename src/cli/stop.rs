//! SIGTERM and SIGINT; and SIGHUP, for what reloads.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Caught from its making on: a signal that comes while the program starts is not lost.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Catches both signals.
    ///
    /// # Errors
    /// When the system does not let it.
    pub fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for either; its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// SIGHUP, caught from its making on.
///
/// # Errors
/// When the system does not let it.
pub fn reload_signal() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}
