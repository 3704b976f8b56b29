//! The published rules. Readers never wait: a snapshot is swapped in whole.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;

use crate::config::Problems;
use crate::core::policy::Snapshot;

/// Rules as they were published.
#[derive(Debug)]
pub struct Published {
    /// The rules. Empty before the first publication: closed world.
    pub snapshot: Arc<Snapshot>,
    /// When; `None` before the first publication.
    pub at: Option<SystemTime>,
    /// What is odd about them, or why newer ones are not in force.
    pub warnings: Vec<String>,
    /// Since when newer ones cannot be used; `None`: these are the newest.
    pub outdated: Option<Instant>,
}

impl Published {
    /// Whether newer rules could not be used for longer than `most`; zero: however long.
    #[must_use]
    pub fn is_too_old(&self, most: Duration) -> bool {
        !most.is_zero() && self.outdated.is_some_and(|since| since.elapsed() > most)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct PolicyStore(ArcSwap<Published>);

impl Default for PolicyStore {
    fn default() -> Self {
        let (snapshot, warnings) = (Arc::default(), Vec::new());
        Self(ArcSwap::from_pointee(Published { snapshot, at: None, warnings, outdated: None }))
    }
}

impl PolicyStore {
    /// The rules in force now.
    #[must_use]
    pub fn current(&self) -> Arc<Published> {
        self.0.load_full()
    }

    /// Newer rules cannot be used, for these reasons: the ones in force stay, and say so. Whether that is news.
    pub fn not_replaced(&self, problems: &Problems) -> bool {
        let current = self.current();
        let mut warnings: Vec<_> = problems.0.iter().map(|problem| format!("not in force: {problem}")).collect();
        warnings.extend(current.warnings.iter().filter(|warning| !warning.starts_with("not in force: ")).cloned());
        let is_news = warnings != current.warnings;
        let (snapshot, outdated) = (current.snapshot.clone(), current.outdated.or_else(|| Some(Instant::now())));
        self.0.store(Arc::new(Published { snapshot, at: current.at, warnings, outdated }));
        is_news
    }

    /// Puts `snapshot` in force.
    pub fn publish(&self, snapshot: Snapshot, at: SystemTime, warnings: Vec<String>) {
        self.0.store(Arc::new(Published { snapshot: Arc::new(snapshot), at: Some(at), warnings, outdated: None }));
    }
}
