//! How often a child may fail before it is given up, and how long it waits before it is started again. Pure:
//! time is a parameter.

use std::collections::VecDeque;
use std::time::Duration;

/// The limits of one child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// More failures than this within `window`, and the child is given up.
    pub failures: usize,
    /// Failures older than this are forgotten.
    pub window: Duration,
    /// The wait before the second restart; the first is immediate, and each further wait doubles.
    pub backoff: Duration,
    /// No wait is longer.
    pub backoff_max: Duration,
}

impl Limits {
    /// Ten failures in ten seconds; waits of 10 ms doubling to 1 s, so that ten fit into the window.
    pub const DEFAULT: Self = Self {
        failures: 10,
        window: Duration::from_secs(10),
        backoff: Duration::from_millis(10),
        backoff_max: Duration::from_secs(1),
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What follows a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Start it again after this wait; zero for at once.
    RestartAfter(Duration),
    /// Too often: give it up.
    GiveUp,
}

/// The failures of one child. Holds at most `limits.failures` of them.
#[derive(Debug)]
pub struct Intensity {
    limits: Limits,
    failures: VecDeque<Duration>,
}

impl Intensity {
    /// Nothing failed yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, failures: VecDeque::new() }
    }

    /// Records a failure at `now`, a time since any fixed start, and says what follows.
    pub fn failed(&mut self, now: Duration) -> Next {
        while self.failures.front().is_some_and(|&at| now.saturating_sub(at) > self.limits.window) {
            self.failures.pop_front();
        }
        if self.failures.len() >= self.limits.failures {
            return Next::GiveUp;
        }
        let earlier = self.failures.len();
        self.failures.push_back(now);
        Next::RestartAfter(match u32::try_from(earlier) {
            Ok(0) => Duration::ZERO,
            Ok(n) => self.limits.backoff.saturating_mul(2_u32.saturating_pow(n - 1)).min(self.limits.backoff_max),
            Err(_) => self.limits.backoff_max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_first_restart_is_immediate_and_the_next_wait_doubles_to_the_maximum() {
        let mut child =
            Intensity::new(Limits { failures: 10, window: secs(100), backoff: secs(1), backoff_max: secs(5) });
        let waits: Vec<_> = (0..6).map(|n| child.failed(secs(n))).collect();
        assert_eq!(waits, [0, 1, 2, 4, 5, 5].map(|n| Next::RestartAfter(secs(n))));
    }

    #[test]
    fn one_failure_more_than_the_limit_within_the_window_gives_the_child_up() {
        let mut child = Intensity::new(Limits { failures: 2, window: secs(10), ..Limits::default() });
        assert_ne!(child.failed(secs(0)), Next::GiveUp);
        assert_ne!(child.failed(secs(10)), Next::GiveUp);
        assert_eq!(child.failed(secs(10)), Next::GiveUp);
    }

    #[test]
    fn failures_older_than_the_window_are_forgotten_and_the_backoff_with_them() {
        let mut child = Intensity::new(Limits { failures: 1, window: secs(10), ..Limits::default() });
        assert_eq!(child.failed(secs(0)), Next::RestartAfter(Duration::ZERO));
        assert_eq!(child.failed(secs(11)), Next::RestartAfter(Duration::ZERO));
        assert_eq!(child.failed(secs(12)), Next::GiveUp);
    }

    #[test]
    fn a_long_run_of_failures_neither_overflows_nor_grows() {
        let limits = Limits { failures: 200, window: secs(1000), backoff: secs(1), backoff_max: secs(60) };
        let mut child = Intensity::new(limits);
        for n in 0..200 {
            let Next::RestartAfter(wait) = child.failed(secs(n)) else { panic!("given up at {n}") };
            assert!(wait <= secs(60));
        }
        assert_eq!(child.failures.len(), 200);
    }
}
