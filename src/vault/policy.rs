//! The published rules. Readers never wait: a snapshot is swapped in whole.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;

use crate::core::policy::Snapshot;

/// Rules as they were published.
#[derive(Debug)]
pub struct Published {
    /// The rules. Empty before the first publication: closed world.
    pub snapshot: Snapshot,
    /// When; `None` before the first publication.
    pub at: Option<SystemTime>,
    /// What is odd about them, or why newer ones are not in force.
    pub warnings: Vec<String>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct PolicyStore(ArcSwap<Published>);

impl Default for PolicyStore {
    fn default() -> Self {
        Self(ArcSwap::from_pointee(Published { snapshot: Snapshot::default(), at: None, warnings: Vec::new() }))
    }
}

impl PolicyStore {
    /// The rules in force now.
    #[must_use]
    pub fn current(&self) -> Arc<Published> {
        self.0.load_full()
    }

    /// Puts `snapshot` in force.
    pub fn publish(&self, snapshot: Snapshot, at: SystemTime, warnings: Vec<String>) {
        self.0.store(Arc::new(Published { snapshot, at: Some(at), warnings }));
    }
}
