//! Keeps streams that nobody reads from using up what their connection may receive (architecture: flow and memory).
//!
//! QUIC gives credit for a connection back only when data is read. A pump that cannot write does not read, so a few such
//! streams would hold the whole connection window, and every other stream of the connection, its control stream included,
//! would stand still. So the window grows by one stream's window for each stream that is stalled, up to a maximum. Beyond
//! that the stream that has been stalled for longest is cut, once that is long enough to be no mere backpressure.
//!
//! What is left for streams that flow must not become small beside the whole: quinn tells the peer of credit only once it is
//! an eighth of the window, so with less than that left, nothing would ever be told, and they would stand still.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::VarInt;

use crate::config::quic::QuicConfig;

/// See the module's documentation. One for each connection; cheap to clone.
#[derive(Debug, Clone)]
pub struct ReceiveWindow(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    quic: quinn::Connection,
    /// What is left for streams that flow, in bytes.
    base: u64,
    /// What one stalled stream may hold, in bytes.
    per_stream: u64,
    /// The window never grows beyond this, in bytes.
    max: u64,
    /// No stream is cut before it has been stalled for this long.
    patience: Duration,
    stalled: Mutex<Stalled>,
}

#[derive(Debug, Default)]
struct Stalled {
    next: u64,
    /// By the order in which they stalled.
    streams: BTreeSet<u64>,
}

impl ReceiveWindow {
    /// For a connection whose transport has the settings of `config`.
    #[must_use]
    pub fn new(quic: quinn::Connection, config: &QuicConfig) -> Self {
        Self(Arc::new(Inner {
            quic,
            base: config.connection_window,
            per_stream: config.stream_window,
            max: config.connection_window_max,
            patience: config.stall_deadline,
            stalled: Mutex::default(),
        }))
    }

    /// One of the connection's streams is not read any more, until the result is dropped.
    pub fn stall(&self) -> Stall {
        let mut stalled = self.0.lock();
        let id = stalled.next;
        stalled.next += 1;
        stalled.streams.insert(id);
        self.0.adjust(&stalled);
        Stall { window: Arc::clone(&self.0), id }
    }

    /// How many streams are stalled.
    #[must_use]
    pub fn stalled(&self) -> usize {
        self.0.lock().streams.len()
    }
}

impl Inner {
    /// What all need together: more than the maximum when there are too many.
    fn wanted(&self, stalled: &Stalled) -> u64 {
        let held = self.per_stream.saturating_mul(stalled.streams.len() as u64);
        // A third of it beside it is a quarter of the whole.
        held.saturating_add(self.base.max(held / 3))
    }

    fn adjust(&self, stalled: &Stalled) {
        let window = VarInt::from_u64(self.wanted(stalled).min(self.max)).unwrap_or(VarInt::MAX);
        self.quic.set_receive_window(window);
    }

    fn must_cut(&self, id: u64) -> bool {
        let stalled = self.lock();
        self.wanted(&stalled) > self.max && stalled.streams.first() == Some(&id)
    }

    fn lock(&self) -> MutexGuard<'_, Stalled> {
        self.stalled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that is stalled.
#[derive(Debug)]
#[must_use = "the stream counts as stalled until this is dropped"]
pub struct Stall {
    window: Arc<Inner>,
    id: u64,
}

impl Stall {
    /// Resolves when the stream must be cut: it has been stalled for longest, and for long, and the others need what it
    /// holds.
    pub async fn cut(&self) {
        tokio::time::sleep(self.window.patience).await;
        while !self.window.must_cut(self.id) {
            tokio::time::sleep(self.window.patience / 10).await;
        }
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        let mut stalled = self.window.lock();
        stalled.streams.remove(&self.id);
        self.window.adjust(&stalled);
    }
}
