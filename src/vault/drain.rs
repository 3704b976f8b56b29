//! Whether the relay is draining: it takes nothing new, and lets what lives come to its end.

use tokio::sync::watch;
use tokio::time::Instant;

/// See the module's documentation. Draining never ends but with the relay.
#[derive(Debug)]
pub struct Drain(watch::Sender<Option<Instant>>);

impl Default for Drain {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Drain {
    /// Begins, with `deadline` for live streams. A second call changes nothing.
    pub fn begin(&self, deadline: Instant) {
        self.0.send_if_modified(|begun| {
            let first = begun.is_none();
            begun.get_or_insert(deadline);
            first
        });
    }

    /// Whether it has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits until it has begun; the deadline for live streams.
    pub async fn begun(&self) -> Instant {
        let mut begun = self.0.subscribe();
        match begun.wait_for(Option::is_some).await {
            Ok(deadline) => deadline.unwrap_or_else(Instant::now),
            // The sender is in `self`, so it cannot be gone.
            Err(_) => Instant::now(),
        }
    }
}
