//! How many bidirectional streams one connection may have: few at first, grown as they are used.
//!
//! quinn allocates for the whole limit at once (35 KiB for 100 streams, 369 KiB for 4096), so an idle connection
//! starts small. What the peer may open doubles when three quarters are in use, up to a cap; streams in both
//! directions together never exceed the cap.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts the streams of one connection, and raises what its peer may open. Cheap to clone.
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

    /// One more stream, whoever opens it; it counts until the result is dropped. `None` at the cap.
    #[must_use]
    pub fn take(&self) -> Option<StreamUse> {
        let taken = self
            .0
            .in_use
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |in_use| (in_use < self.0.cap).then_some(in_use + 1));
        let in_use = taken.ok()? + 1;
        self.grow(in_use);
        Some(StreamUse(Arc::clone(&self.0)))
    }

    /// Streams in use, and how many the peer may open.
    #[must_use]
    pub fn usage(&self) -> (u32, u32) {
        (self.0.in_use.load(Ordering::Relaxed), self.0.limit.load(Ordering::Relaxed))
    }

    fn grow(&self, in_use: u32) {
        let limit = self.0.limit.load(Ordering::Relaxed);
        let wanted = limit.saturating_mul(2).min(self.0.cap);
        let crowded = u64::from(in_use) * 4 >= u64::from(limit) * 3;
        if crowded
            && wanted > limit
            && self.0.limit.compare_exchange(limit, wanted, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.0.quic.set_max_concurrent_bi_streams(wanted.into());
        }
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
