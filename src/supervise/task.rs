//! A task owned by an actor: it ends with its owner, and reports to it, its own panic included.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use ractor::Message;
use tokio_util::task::AbortOnDropHandle;

use super::slot::Slot;

/// A running task; dropping it aborts the task.
#[derive(Debug)]
pub struct Owned(AbortOnDropHandle<()>);

impl Owned {
    /// Waits for the task to end; `Err` when it panicked or was aborted.
    ///
    /// # Errors
    /// The runtime's word on how it ended.
    pub async fn join(self) -> Result<(), tokio::task::JoinError> {
        self.0.await
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

/// A task panicked; this is what it said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a task panicked: {0}")]
pub struct Panicked(pub String);

/// Runs `work`, and tells its owner how it ended. When the owner is gone, the outcome is dropped, and what it
/// owns with it.
#[must_use]
pub fn owned<T, M>(
    owner: &Slot<M>,
    work: impl Future<Output = T> + Send + 'static,
    report: impl FnOnce(Result<T, Panicked>) -> M + Send + 'static,
) -> Owned
where
    T: Send + 'static,
    M: Message,
{
    let owner = owner.clone();
    // Not an async block: one that awaits what it captured has room for it twice, and most of these tasks live long.
    run(AssertUnwindSafe(work).catch_unwind().map(move |outcome| {
        owner.tell(report(outcome.map_err(|panic| Panicked(panic_text(panic.as_ref())))));
    }))
}

/// Runs `work` until it ends or the result is dropped, with nobody to report to.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "the one place that spawns: what it spawns has an owner")]
pub fn run(work: impl Future<Output = ()> + Send + 'static) -> Owned {
    Owned(AbortOnDropHandle::new(tokio::spawn(work)))
}

/// What a panic said.
#[must_use]
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "(no text)".to_owned())
}
