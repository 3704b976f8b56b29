//! A warning that would come once per refused connection comes once per second, with a count.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

const PERIOD: Duration = Duration::from_secs(1);

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<Muted>);

#[derive(Debug, Default)]
struct Muted {
    said_at: Option<Instant>,
    unsaid: u64,
}

impl Throttle {
    /// Whether to say it now; if so, how often it was not said since the last time.
    pub fn due(&self) -> Option<u64> {
        let mut muted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if muted.said_at.is_some_and(|at| now.duration_since(at) < PERIOD) {
            muted.unsaid += 1;
            return None;
        }
        muted.said_at = Some(now);
        Some(std::mem::take(&mut muted.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_said_once_per_second_with_what_was_left_out() {
        let throttle = Throttle::default();
        assert_eq!(throttle.due(), Some(0));
        assert_eq!((throttle.due(), throttle.due()), (None, None));
        tokio::time::advance(PERIOD).await;
        assert_eq!(throttle.due(), Some(2));
    }
}
