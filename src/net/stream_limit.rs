//! How many bidirectional streams the peer of a connection may have open: few at first, grown as they are used.
//!
//! quinn allocates for the whole limit at once (35 KiB for 100 streams, 369 KiB for 4096), so an idle connection
//! starts small. The limit doubles when three quarters are in use, up to a cap.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts the streams that the peer opened on one connection, and raises its limit. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StreamLimit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    quic: quinn::Connection,
    in_use: AtomicU32,
    limit: AtomicU32,
    cap: u32,
}

impl StreamLimit {
    /// For a connection whose transport starts with `initial` streams and may grow to `cap`.
    #[must_use]
    pub fn new(quic: quinn::Connection, initial: u32, cap: u32) -> Self {
        Self(Arc::new(Inner { quic, in_use: AtomicU32::new(0), limit: AtomicU32::new(initial), cap }))
    }

    /// The peer opened a stream; it counts until the result is dropped.
    pub fn opened(&self) -> StreamUse {
        let in_use = self.0.in_use.fetch_add(1, Ordering::Relaxed) + 1;
        let limit = self.0.limit.load(Ordering::Relaxed);
        let wanted = limit.saturating_mul(2).min(self.0.cap);
        let crowded = u64::from(in_use) * 4 >= u64::from(limit) * 3;
        if crowded
            && wanted > limit
            && self.0.limit.compare_exchange(limit, wanted, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.0.quic.set_max_concurrent_bi_streams(wanted.into());
        }
        StreamUse(Arc::clone(&self.0))
    }

    /// Streams in use, and how many the peer may have.
    #[must_use]
    pub fn usage(&self) -> (u32, u32) {
        (self.0.in_use.load(Ordering::Relaxed), self.0.limit.load(Ordering::Relaxed))
    }
}

/// One stream in use.
#[derive(Debug)]
#[must_use = "the stream counts until this is dropped"]
pub struct StreamUse(Arc<Inner>);

impl Drop for StreamUse {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}
