//! What all rings of an agent may hold together beyond their minima.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of bytes that rings share. Clones are the same allowance.
#[derive(Debug, Clone)]
pub struct Allowance(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: usize,
    granted: AtomicUsize,
}

impl Allowance {
    /// An allowance of `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Shared { limit, granted: AtomicUsize::new(0) }))
    }

    /// How much is granted at present, in bytes.
    #[must_use]
    pub fn granted(&self) -> usize {
        // A figure on its own: nothing is read on the strength of it, so no ordering is needed, here and below.
        self.0.granted.load(Ordering::Relaxed)
    }

    /// A grant of nothing, to be extended.
    pub(super) fn nothing(&self) -> Grant {
        Grant { from: self.clone(), bytes: 0 }
    }
}

impl Default for Allowance {
    /// 256 MiB (architecture §6).
    fn default() -> Self {
        Self::new(256 * 1024 * 1024)
    }
}

/// What one ring was granted; given back on drop.
#[derive(Debug)]
pub(super) struct Grant {
    from: Allowance,
    bytes: usize,
}

impl Grant {
    /// Asks for `more` bytes; all or nothing. Returns whether they were granted.
    pub(super) fn extend(&mut self, more: usize) -> bool {
        let Shared { limit, granted } = &*self.from.0;
        let within = |sum: usize| sum.checked_add(more).filter(|sum| sum <= limit);
        let is_granted = granted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok();
        if is_granted {
            self.bytes += more;
        }
        is_granted
    }

    /// Gives back `less` bytes, or all there are.
    pub(super) fn reduce(&mut self, less: usize) {
        let less = less.min(self.bytes);
        self.bytes -= less;
        self.from.0.granted.fetch_sub(less, Ordering::Relaxed);
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.reduce(self.bytes);
    }
}
