//! How long to wait before the next attempt. Pure: chance is a parameter.

use std::time::Duration;

use crate::config::agent::Backoff;

/// The wait after `failures` in a row: none after the first, then `initial`, doubling up to `max`.
///
/// `chance` is from 0 up to 1: it takes away up to half, so that agents that lost the same relay do not come back all at once.
#[must_use]
pub fn wait(backoff: &Backoff, failures: u32, chance: f64) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
    let longest = backoff.initial.saturating_mul(2_u32.saturating_pow(doublings)).min(backoff.max);
    shortened(longest, chance)
}

/// Pauses as those of `backoff`, none longer than `longest`. It is cut before chance takes its part, not after: else all waits that
/// are cut would be the same.
#[must_use]
pub fn at_most(backoff: &Backoff, longest: Duration) -> Backoff {
    Backoff { initial: backoff.initial.min(longest), max: backoff.max.min(longest), ..backoff.clone() }
}

/// `pause` without up to half of it, so that those who wait for the same do not come back all at once. `chance` is from 0 up to 1.
#[must_use]
pub fn shortened(pause: Duration, chance: f64) -> Duration {
    pause.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0)
}

/// Counts failures, and says how long to wait after each.
#[derive(Debug, Default)]
pub struct Failures(u32);

impl Failures {
    /// One more: the wait before the next attempt.
    pub fn next_wait(&mut self, backoff: &Backoff) -> Duration {
        let wait = wait(backoff, self.0, rand::random());
        self.0 = self.0.saturating_add(1);
        wait
    }

    /// It went well: the next failure is the first again.
    pub fn forget(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(initial_ms: u64, max_ms: u64) -> Backoff {
        Backoff { initial: Duration::from_millis(initial_ms), max: Duration::from_millis(max_ms), ..Backoff::default() }
    }

    #[test]
    fn the_first_wait_is_none_and_the_others_double_to_the_longest() {
        let waits: Vec<_> = (0..6).map(|failures| wait(&backoff(200, 1000), failures, 0.0).as_millis()).collect();
        assert_eq!(waits, [0, 200, 400, 800, 1000, 1000]);
    }

    #[test]
    fn chance_takes_away_at_most_half() {
        assert_eq!(wait(&backoff(200, 1000), 1, 1.0), Duration::from_millis(100));
        assert_eq!(wait(&backoff(200, 1000), 9, 0.5), Duration::from_millis(750));
    }

    #[test]
    fn pauses_that_are_cut_short_differ_as_others_do() {
        for (initial_ms, failures) in [(200, 9), (5_000, 1)] {
            let cut = at_most(&backoff(initial_ms, 10_000), Duration::from_secs(1));
            let waits = [0.0, 0.5, 1.0].map(|chance| wait(&cut, failures, chance).as_millis());
            assert_eq!(waits, [1000, 750, 500]);
        }
    }

    #[test]
    fn a_very_long_outage_does_not_overflow() {
        assert_eq!(wait(&backoff(200, 10_000), u32::MAX, 0.0), Duration::from_secs(10));
    }
}
