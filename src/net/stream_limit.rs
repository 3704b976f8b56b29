//! How many bidirectional streams one connection may have: few at first, grown as they are used.
//!
//! quinn allocates for the whole limit at once (35 KiB for 100 streams, 369 KiB for 4096), so an idle connection
//! starts small. What the peer may open doubles when three quarters are in use, up to a cap; streams in both
//! directions together never exceed the cap.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts the streams of one connection, and raises what its peer may open. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StreamLimit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    quic: quinn::Connection,
    in_use: AtomicU32,
    limit: AtomicU32,
    growing: Mutex<()>,
    cap: AtomicU32,
}

impl StreamLimit {
    /// For a connection whose transport starts with `initial` streams and may grow to `cap`.
    #[must_use]
    pub fn new(quic: quinn::Connection, initial: u32, cap: u32) -> Self {
        Self(Arc::new(Inner {
            quic,
            in_use: AtomicU32::new(0),
            limit: AtomicU32::new(initial),
            growing: Mutex::default(),
            cap: AtomicU32::new(cap),
        }))
    }

    /// One more stream, whoever opens it; it counts until the result is dropped. `None` at the cap.
    #[must_use]
    pub fn take(&self) -> Option<StreamUse> {
        let cap = self.0.cap.load(Ordering::Relaxed);
        let taken = self
            .0
            .in_use
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |in_use| (in_use < cap).then_some(in_use + 1));
        let in_use = taken.ok()? + 1;
        self.grow(in_use, cap);
        Some(StreamUse(Arc::clone(&self.0)))
    }

    /// As [`StreamLimit::take`], with `cap` from now on. Under a lower one streams that live go on, and no new one begins meanwhile.
    #[must_use]
    pub fn take_of(&self, cap: usize) -> Option<StreamUse> {
        self.set_cap(cap);
        self.take()
    }

    /// From now on up to `cap`. A peer that has used up what it may open is told of more.
    pub fn allow(&self, cap: usize) {
        let cap = self.set_cap(cap);
        self.grow(self.0.in_use.load(Ordering::Relaxed), cap);
    }

    fn set_cap(&self, cap: usize) -> u32 {
        let cap = u32::try_from(cap).unwrap_or(u32::MAX);
        self.0.cap.store(cap, Ordering::Relaxed);
        cap
    }

    /// Streams in use, and how many the peer may open.
    #[must_use]
    pub fn usage(&self) -> (u32, u32) {
        (self.0.in_use.load(Ordering::Relaxed), self.0.limit.load(Ordering::Relaxed))
    }

    fn grow(&self, in_use: u32, cap: u32) {
        let crowded = |limit: u32| u64::from(in_use) * 4 >= u64::from(limit) * 3 && limit < cap;
        // The lock is taken by the few that may grow it: the number and what quinn is told must not part.
        if !crowded(self.0.limit.load(Ordering::Relaxed)) {
            return;
        }
        let _growing = self.0.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = self.0.limit.load(Ordering::Relaxed);
        if crowded(limit) {
            let wanted = limit.saturating_mul(2).min(cap);
            self.0.limit.store(wanted, Ordering::Relaxed);
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
