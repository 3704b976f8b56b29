//! Places of which only so many may be taken, with a limit that may change while they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Places(Arc<AtomicUsize>);

impl Places {
    /// One more, unless `limit` are taken.
    #[must_use]
    pub fn take(&self, limit: usize) -> Option<Place> {
        let more = |taken: usize| (taken < limit).then_some(taken + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Place(Arc::clone(&self.0)))
    }

    /// How many are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A place, taken until this is dropped.
#[derive(Debug)]
#[must_use = "the place is free again once this is dropped"]
pub struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_once_dropped_and_a_smaller_limit_takes_none_away() {
        let places = Places::default();
        let (one, two) = (places.take(2).unwrap(), places.take(2).unwrap());
        assert!(places.take(2).is_none());
        assert!(places.take(1).is_none());
        drop(one);
        assert!(places.take(1).is_none());
        drop(two);
        let _again = places.take(1).unwrap();
        assert_eq!(places.taken(), 1);
    }
}
