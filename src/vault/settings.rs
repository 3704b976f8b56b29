//! The configuration in use. It is swapped whole on a reload: whoever acts on a limit reads it then.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::config::Problems;
use crate::config::relay::RelayConfig;
use crate::config::reload::{Changes, take_over};

/// See the module's documentation.
#[derive(Debug)]
pub struct Settings(ArcSwap<RelayConfig>);

impl Settings {
    /// What the relay is started with.
    #[must_use]
    pub fn new(config: RelayConfig) -> Self {
        Self(ArcSwap::from_pointee(config))
    }

    /// The configuration now, for a moment: not to be kept, nor held across an await.
    #[must_use]
    pub fn now(&self) -> Guard<Arc<RelayConfig>> {
        self.0.load()
    }

    /// The configuration now, to be kept.
    #[must_use]
    pub fn get(&self) -> Arc<RelayConfig> {
        self.0.load_full()
    }

    /// Goes on with what of `loaded` a running relay can take over. One reload at a time.
    ///
    /// # Errors
    /// As [`take_over`].
    pub fn replace(&self, loaded: &RelayConfig) -> Result<Changes, Problems> {
        let (config, changes) = take_over(&self.now(), loaded)?;
        self.0.store(Arc::new(config));
        Ok(changes)
    }
}
