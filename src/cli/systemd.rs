//! What systemd is told (sd_notify), where it runs us; silence elsewhere.

use std::sync::Arc;

use sd_notify::NotifyState;

use crate::supervise::node::{Node, Status};
use crate::supervise::task::{self, Owned};

/// Startup is finished; while the result lives, the watchdog, if one is asked for, is fed for as long as `root` answers.
#[must_use = "the watchdog is fed until this is dropped"]
pub fn ready(root: &Arc<Node>) -> Option<Owned> {
    tell(NotifyState::Ready);
    let period = sd_notify::watchdog_enabled()?;
    let root = Arc::clone(root);
    Some(task::run(async move {
        // A half, as sd_watchdog_enabled(3) advises.
        let mut beat = tokio::time::interval(period / 2);
        loop {
            beat.tick().await;
            // A root that hangs in a handler restarts nobody: then systemd must act.
            if root.status() == Status::Running && root.busy() < period {
                tell(NotifyState::Watchdog);
            }
        }
    }))
}

/// The service is stopping.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd was not told");
    }
}
