//! The supervisor of all splices: pure, no logic. Killing it cuts every stream, with a reset.

use std::time::Duration;

use crate::supervise::dynamic::DynamicHandle;
use crate::supervise::slot::{Down, Slot};
use crate::supervise::spec::ChildSpec;

pub mod splice;

/// A splice stops by dropping its halves; this only bounds a mistake.
pub(super) const SPLICE_SHUTDOWN: Duration = Duration::from_millis(500);

/// The only caller of the supervisor of splices.
#[derive(Debug, Clone)]
pub struct SplicesHandle(DynamicHandle);

impl Default for SplicesHandle {
    fn default() -> Self {
        Self(DynamicHandle::new("splices", ""))
    }
}

impl SplicesHandle {
    /// The supervisor's handle.
    #[must_use]
    pub fn supervisor(&self) -> &DynamicHandle {
        &self.0
    }

    /// Hands a paired stream over to a splice of its own.
    ///
    /// # Errors
    /// [`Down`] when the supervisor is between two lives: both halves are reset, with their drop codes.
    pub fn start(&self, pair: splice::Pair) -> Result<(), Down> {
        let slot = Slot::new("splice", pair.stream_id.to_string());
        let args = splice::SpliceArgs { slot: slot.clone(), pair };
        self.0.start(ChildSpec::once(&slot, SPLICE_SHUTDOWN, splice::Splice, args))
    }
}
